"""The linear system behind a corrected Q, equations (1) and (2) of `evaluation/refit.py`, solved once for many groups.

The matrix does not depend on which first states the value is asked for; only the right-hand side E[psi_0] does. For a group g
of first states it is E[1_g psi_0], and the result, divided by the share of the group, is the value of the policy for the
episodes that start there. Over groups that do not overlap and cover all episodes, the contributions add up to those of the
whole log.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["Matrix", "Solved", "dense", "scaled", "solve_with_ratios", "solve_without_ratios"]

Matrix = Any
"""A NumPy array or a sparse array of SciPy."""

RIDGE = 1e-2
"""Ridge of (2), as a share of the mean diagonal of E[sum_t psi_t psi_t^T]."""
ROWS_AT_ONCE = 8192
"""Rows of features that are float64 at once."""
SHORT = 0.1
"""Where a smaller share of a value than this is lost from step to step, by the discount and by ends, the ridge shrinks in
proportion to that share. The eigenvalues of A shrink in the same way, and a ridge of their size would pull the value towards
the network's."""


@dataclasses.dataclass(frozen=True, eq=False)
class Solved:
    """Equation (2) of `refit.py`, solved: the values of all first states, or of any group of them, can be read off it.

    Attributes:
        matrix: (H, H) A.
        balance: (H, H) A without its ridge.
        features: (N, H) the features in which the weights of the transitions are linear.
        ratio: (N,) what these weights are multiplied by.
        first_psi: (n, H) features of the first states.
        first: (n,) values of the first states, V(s_0) + psi_0^T theta.
        residual: (N,) the TD error that the correction leaves.
        start: (n,) first row of each episode.
    """

    matrix: Float[NumpyArray, "H H"]
    balance: Float[NumpyArray, "H H"]
    features: Matrix
    ratio: Float[NumpyArray, " N"]
    first_psi: Matrix
    first: Float[NumpyArray, " n"]
    residual: Float[NumpyArray, " N"]
    start: Int[NumpyArray, " n"]

    def visits(self, member: Float[NumpyArray, " n"] | None = None) -> tuple[Float[NumpyArray, " N"], float]:
        """w_t of each transition, and how far the weights fail to carry the features of the first states through the log.

        The second is `Refit.imbalance`; it is 1 where the first states have no features at all, so that nothing is carried.

        Args:
            member: how much each episode counts as a start; None: all count once. With 1 for the episodes of a group and 0
                for the others, w_t is the share of the group among the first states times its ratio of state visits.
        """
        first = self.first_psi.mean(0) if member is None else member @ self.first_psi / len(self.first)
        carry = solved_system(self.matrix.T, first)
        size = float(np.linalg.norm(first))
        imbalance = float(np.linalg.norm(first - self.balance.T @ carry)) / size if size > 0 else 1.0
        weights = [self.features[rows].astype(np.float64) @ carry for rows in _pieces(self.features)]
        return np.concatenate(weights), imbalance

    def contributions(
        self, visits: Float[NumpyArray, " N"], member: Float[NumpyArray, " n"] | None = None
    ) -> Float[NumpyArray, " n"]:
        """(n,) c_i of equation (4) of `refit.py`.

        Args:
            visits: (N,) w_t, as `visits(member)` gives it.
            member: (n,) how much each episode counts as a start; None: all count once.
        """
        first = self.first if member is None else member * self.first
        return first + np.add.reduceat(visits * self.ratio * self.residual, self.start)


def solve_with_ratios(
    log: Dataset, fitted: dict[str, NumpyArray], ratio: Float[NumpyArray, " N"], *, gamma: float
) -> Solved:
    """The equations of `refit.refit`, solved; arguments as in that function."""
    features = fitted.get("instrument", fitted["psi"])
    return _solve(log, fitted, features, fitted["psi"], ratio * log.can_bootstrap, gamma=gamma)


def solve_without_ratios(log: Dataset, fitted: dict[str, Matrix], *, gamma: float) -> Solved:
    """The equations of `refit.refit_without_ratios`, solved; arguments as in that function. Features may be sparse."""
    phi = fitted["phi"]
    return _solve(log, fitted, phi, phi, log.can_bootstrap.astype(np.float64), gamma=gamma)


def _solve(
    log: Dataset,
    fitted: dict[str, Matrix],
    features: Matrix,
    here: Matrix,
    ratio: Float[NumpyArray, " N"],
    *,
    gamma: float,
) -> Solved:
    """Equation (2): `features` times `ratio` are the instruments, `here` what theta corrects Q(s_t, a_t) by.

    Features are most of an evaluation's memory: they stay as they are, and become float64 a piece at a time.
    """
    n, width, start = log.num_episodes, features.shape[1], log.episode_start[:-1]
    go_on = log.discount(gamma)
    delta = log.reward + go_on * fitted["next_v"] - fitted["q"]

    def change(rows: slice) -> Matrix:
        return here[rows].astype(np.float64) - scaled(fitted["next_psi"][rows], go_on[rows])

    balance, moment, squares = np.zeros((width, width)), np.zeros(width), 0.0
    for rows in _pieces(features):
        instruments = features[rows].astype(np.float64)
        squares += (instruments**2).sum()
        moment += instruments.T @ (ratio[rows] * delta[rows])
        balance += dense(scaled(instruments, ratio[rows]).T @ change(rows))
    balance /= n
    ridge = RIDGE * min(1.0, float(1.0 - go_on.mean()) / SHORT)
    matrix = balance + ridge * (squares / (n * width)) * np.eye(width)
    theta = solved_system(matrix, moment / n)
    first_psi = fitted["psi"][start].astype(np.float64)
    first = fitted["v"][start] + first_psi @ theta
    residual = delta - np.concatenate([change(rows) @ theta for rows in _pieces(features)])
    return Solved(matrix, balance, features, ratio, first_psi, first, residual, start)


def _pieces(rows: Matrix) -> list[slice]:
    """Some rows at a time; all of a sparse matrix, which is small."""
    if not isinstance(rows, np.ndarray):
        return [slice(0, rows.shape[0])]
    return [slice(k, k + ROWS_AT_ONCE) for k in range(0, len(rows), ROWS_AT_ONCE)]


def solved_system(matrix: Float[NumpyArray, "H H"], target: Float[NumpyArray, " H"]) -> Float[NumpyArray, " H"]:
    """The solution of matrix @ x = target.

    Where one ratio outweighs all others so much that the matrix has no inverse in float64, it is the shortest least-squares
    solution; an estimate from such weights fails its health checks.
    """
    try:
        return np.linalg.solve(matrix, target)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, target)[0]


def scaled(rows: Matrix, factor: Float[NumpyArray, " N"]) -> Matrix:
    """Each row times a number of its own."""
    return rows * factor[:, None] if isinstance(rows, np.ndarray) else rows.multiply(factor[:, None]).tocsr()


def dense(matrix: Matrix) -> NumpyArray:
    """The matrix as a NumPy array."""
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
