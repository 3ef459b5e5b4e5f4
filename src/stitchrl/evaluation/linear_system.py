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
ROWS_AT_ONCE = 16_384
"""Rows whose products are added at once."""
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
        return self.features @ carry, imbalance

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
    psi = fitted["psi"].astype(np.float64)
    instrument = fitted["instrument"].astype(np.float64) if "instrument" in fitted else psi
    return _solve(log, fitted, instrument, psi, ratio * log.can_bootstrap, gamma=gamma)


def solve_without_ratios(log: Dataset, fitted: dict[str, Matrix], *, gamma: float) -> Solved:
    """The equations of `refit.refit_without_ratios`, solved; arguments as in that function. Features may be sparse."""
    phi = fitted["phi"].astype(np.float64)
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
    """Equation (2): `features` times `ratio` are the instruments, `here` what theta corrects Q(s_t, a_t) by."""
    n, start = log.num_episodes, log.episode_start[:-1]
    go_on = log.discount(gamma)
    first_psi = fitted["psi"][start].astype(np.float64)
    change = _change(here, fitted["next_psi"], go_on)
    delta = log.reward + go_on * fitted["next_v"] - fitted["q"]

    scale = _sum_of_squares(features) / (n * features.shape[1])
    balance = _product(features, ratio, change) / n
    ridge = RIDGE * min(1.0, float(1.0 - go_on.mean()) / SHORT)
    matrix = balance + ridge * scale * np.eye(features.shape[1])
    theta = solved_system(matrix, features.T @ (ratio * delta) / n)
    first = fitted["v"][start] + first_psi @ theta
    return Solved(matrix, balance, features, ratio, first_psi, first, delta - change @ theta, start)


# An (N, H) array is most of an evaluation's memory: what follows makes no copy of one that is not kept.


def _change(here: Matrix, after: Matrix, go_on: Float[NumpyArray, " N"]) -> Matrix:
    """here - go_on * after, row by row."""
    gone = scaled(after, go_on)
    return np.subtract(here, gone, out=gone) if isinstance(gone, np.ndarray) else here - gone


def _sum_of_squares(rows: Matrix) -> float:
    return float(np.vdot(rows, rows)) if isinstance(rows, np.ndarray) else float((rows**2).sum())


def _product(left: Matrix, factor: Float[NumpyArray, " N"], right: Matrix) -> Float[NumpyArray, "H H"]:
    """The sum over rows of factor * left^T right."""
    if not isinstance(left, np.ndarray):
        return dense(scaled(left, factor).T @ right)
    found = np.zeros((left.shape[1], right.shape[1]))
    for first in range(0, len(left), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        found += (left[rows] * factor[rows, None]).T @ right[rows]
    return found


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
