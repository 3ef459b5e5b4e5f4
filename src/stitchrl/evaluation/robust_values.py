"""The value of a policy under the worst hidden cause in every decision, for a grid of strengths at once.

A hidden cause without memory changes the odds of every logged action by a factor of at most Lambda in either direction (Tan
2006). With z = b(a|s) / b(a|s, u), which then lies between alpha = b + (1 - b)/Lambda and b + Lambda (1 - b) and averages
1, the least value is that of robust fitted Q evaluation (Dorn and Guo 2023; Bruns-Smith and Zhou 2023)

    (1)  Q(s,a) = alpha E[Y] + (1 - alpha) CVaR_tau(Y),   tau = 1 / (Lambda + 1),   Y = r + gamma V(s')

with CVaR_tau the mean of the least share tau. As V = E_{a ~ policy} Q stands on both sides, a cause that acts in every
decision lowers the value by more than the sum of what causes in single decisions do.

The network of FQE stays as it is, and one linear layer theta on its state features psi is refitted for each Lambda, as in
`refit.py`. With Q(s,a) the network's and psi^T theta its correction, e = Y - Q - psi^T theta is a TD error, k its tau-quantile
within a group of like Q, and the target that is orthogonal to the error of that quantile leaves

    (2)  e_rob = e - (1 - alpha) (e - k + (k - e)_+ / tau)
    (3)  E[sum_t rho_t psi_t e_rob] = ridge theta

Equation (3) is solved by value iteration, with the matrix A of Lambda = 1 in every step. The grid of Lambda is an axis of all
arrays, from Lambda = 1 on, where (2) leaves e and (3) gives the refit of the primary estimate. So the drop from Lambda = 1
is a difference between members of one computation: it is 0 at 1, and the fit's own error cancels. Since neither k nor the
choice of z moves the value to first order, the influence of an episode is that of a refit with z e in place of e, whose
weights of states follow the worst cause: A_z^T carry = E[psi_0], A_z = E[sum_t rho_t psi_t (psi_t - gamma z_t psi_{t+1})^T].

A network smooths V, and what it smooths away is missing from the spread of Y: on the hospital log the drop comes out up to 13%
too small (benchmarks/results/hidden_strength.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.fit_data import Order
from stitchrl.evaluation.linear_system import RIDGE, SHORT
from stitchrl.types import NumpyArray

__all__ = ["GRID", "GROUPS", "RobustValues", "like_q", "robust_values"]

GRID = (1.0, 1.01, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)
"""Strengths of a hidden cause in every decision for which the value is computed; L of them, of which the first is no cause."""
GROUPS = 20
"""How many groups transitions with similar Q are put in; within a group outcomes are taken to have the same spread."""
ITERATIONS = 20
"""Steps of value iteration at most. A strength that needs more is taken to overturn every gain."""
ENOUGH = 1e-4
"""Value iteration ends with a step that changes no value by more than this share of the mean size of the TD errors."""
TIED = 1e-5
"""TD errors that differ by no more than this share of their mean size count as equal, as they come from sums in float32."""
ROWS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True, eq=False)
class RobustValues:
    """Values of a policy under the worst hidden cause of each strength of `GRID`, on n episodes.

    Attributes:
        contributions: (n, L) contributions of each episode: their mean is the value, their spread over sqrt(n) its standard
            error. They are NaN where value iteration did not converge.
    """

    contributions: Float[NumpyArray, "n L"]

    @classmethod
    def join(cls, parts: Sequence[RobustValues], order: Order) -> RobustValues:
        """Those of all folds, as of the whole log."""
        return cls(order.per_episode([part.contributions for part in parts]))

    @property
    def change(self) -> Float[NumpyArray, "n L"]:
        """(n, L) what each episode adds to the change of the value from no cause; 0 at no cause."""
        return self.contributions - self.contributions[:, :1]


def like_q(q: Float[NumpyArray, " N"]) -> Int[NumpyArray, " N"]:
    """(N,) the group of each transition, of `GROUPS` groups by Q with about equally many transitions in each."""
    edges = np.unique(np.quantile(q, np.linspace(0, 1, GROUPS + 1)[1:-1]))
    return np.searchsorted(edges, q).astype(np.int64)


def robust_values(
    log: Dataset,
    fitted: dict[str, NumpyArray],
    ratio: Float[NumpyArray, " N"],
    behavior: Float[NumpyArray, " N"],
    *,
    gamma: float,
    upwards: bool = False,
    grid: Sequence[float] = GRID,
) -> RobustValues:
    """The values under the worst hidden cause of each strength; with `upwards` under the one that raises the value most.

    Args:
        log: the episodes of the estimate, not those the network was fitted on.
        fitted: what `FittedQ.on` gives for this log.
        ratio: (N,) policy / behaviour probability of the logged action.
        behavior: (N,) the behaviour's probability of the logged action; 0 over continuous actions.
        gamma: discount.
        upwards: whether the largest value is sought, as for a baseline that the policy is compared with.
        grid: strengths, ascending from 1.
    """
    equations = _Equations(log, fitted, ratio, behavior, gamma, upwards, np.asarray(grid, np.float64))
    return RobustValues(equations.contributions())


class _Equations:
    """Equations (2) and (3) on the episodes of a log, L strengths at once. Features stay in float32, sums are float64."""

    def __init__(
        self,
        log: Dataset,
        fitted: dict[str, NumpyArray],
        ratio: NumpyArray,
        behavior: NumpyArray,
        gamma: float,
        upwards: bool,
        grid: NumpyArray,
    ) -> None:
        self.n, self.start = log.num_episodes, log.episode_start[:-1]
        self.sign = -1.0 if upwards else 1.0
        self.go_on = log.discount(gamma)
        self.psi, self.next_psi = (fitted[name].astype(np.float32, copy=False) for name in ("psi", "next_psi"))
        # Of drawn actions: features over other draws, as in `refit.py`.
        self.instrument = fitted.get("instrument", self.psi).astype(np.float32, copy=False)
        self.rho = ratio * log.can_bootstrap
        self.delta = log.reward + self.go_on * fitted["next_v"] - fitted["q"]
        self.first_v = fitted["v"][self.start]
        self.strengths, self.behavior = grid, behavior
        self.groups = _Groups(like_q(fitted["q"]), np.abs(self.rho) * (1.0 - behavior))
        features = self.psi.shape[1]
        scale = float(np.einsum("nh,nh->", self.instrument, self.instrument, dtype=np.float64)) / (self.n * features)
        self.ridge = RIDGE * min(1.0, float(1.0 - self.go_on.mean()) / SHORT) * scale
        self.first_psi = self.psi[self.start].astype(np.float64).mean(0)
        self.matrix = self._matrix() + self.ridge * np.eye(features)

    def contributions(self) -> Float[NumpyArray, "n L"]:
        """(n, L) contributions of each episode to the values."""
        theta, settled = self._solve()
        every = np.arange(len(self.strengths))
        visits = self._read(self.instrument, self._carry(self._worst_factors(theta, every)))
        first = self.first_v[:, None] + self._read(self.psi[self.start], theta)
        left = self._robust_error(theta, every)
        found = first + np.add.reduceat(visits * self.rho[:, None] * left, self.start)
        return np.where(settled, found, np.nan)

    def _error(self, theta: Float[NumpyArray, "H K"]) -> Float[NumpyArray, "N K"]:
        """The TD error that each correction leaves; its negative where the largest values are sought."""
        error = self.delta[:, None] + self.go_on[:, None] * self._read(self.next_psi, theta)
        return self.sign * (error - self._read(self.psi, theta))

    def _robust_error(self, theta: Float[NumpyArray, "H K"], of: Int[NumpyArray, " K"]) -> Float[NumpyArray, "N K"]:
        """Equation (2), for some of the strengths."""
        error, tau = self._error(theta), 1.0 / (self.strengths[of] + 1.0)
        below = self.groups.quantiles(error, tau) - error
        return self.sign * (error + self._free(of) * (below - np.maximum(below, 0.0) / tau))

    def _worst_factors(self, theta: Float[NumpyArray, "H K"], of: Int[NumpyArray, " K"]) -> Float[NumpyArray, "N K"]:
        """The factor z of each outcome under the worst cause; outcomes at the quantile share what is left, so that z averages
        1 in each group."""
        tau = 1.0 / (self.strengths[of] + 1.0)
        return 1.0 + self._free(of) * (self.groups.in_tail(self._error(theta), tau) / tau - 1.0)

    def _free(self, of: Int[NumpyArray, " K"]) -> Float[NumpyArray, "N K"]:
        """1 - alpha."""
        return np.outer(1.0 - self.behavior, 1.0 - 1.0 / self.strengths[of])

    def _solve(self) -> tuple[Float[NumpyArray, "H L"], NumpyArray]:
        """theta of equation (3), and for which strengths value iteration converged."""
        start = np.linalg.solve(self.matrix, self._sums(self.instrument, self.delta[:, None]))
        theta = np.repeat(start, len(self.strengths), axis=1)
        enough = ENOUGH * max(float(np.abs(self.delta).mean()), 1e-300)
        unsettled = np.arange(len(self.strengths))
        for _ in range(ITERATIONS):
            left = self._robust_error(theta[:, unsettled], unsettled)
            step = np.linalg.solve(self.matrix, self._sums(self.instrument, left) - self.ridge * theta[:, unsettled])
            theta[:, unsettled] += step
            unsettled = unsettled[np.abs(self.first_psi @ step) > enough]
            if not len(unsettled):
                break
        settled = np.ones(len(self.strengths), bool)
        settled[unsettled] = False
        return theta, settled

    def _carry(self, z: Float[NumpyArray, "N L"]) -> Float[NumpyArray, "H L"]:
        """The solution of A_z^T carry = E[psi_0], to second order in z - 1.

        With it the standard errors match the spread of the drops over bootstrap resamples. Higher orders need not converge.
        """
        target = np.repeat(self.first_psi[:, None], z.shape[1], axis=1)
        start = carry = np.linalg.solve(self.matrix.T, target)
        more = (z - 1.0) * self.go_on[:, None]
        for _ in range(2):
            met = self._sums(self.next_psi, more * self._read(self.instrument, carry))
            carry = start + np.linalg.solve(self.matrix.T, met)
        return carry

    def _matrix(self) -> Float[NumpyArray, "H H"]:
        """E[sum_t rho_t psi_t (psi_t - gamma psi_{t+1})^T], without the ridge."""
        total = np.zeros((self.psi.shape[1],) * 2)
        for rows in self._pieces():
            change = self.psi[rows] - self.go_on[rows, None].astype(np.float32) * self.next_psi[rows]
            total += (self.instrument[rows] * self.rho[rows, None].astype(np.float32)).T @ change
        return total / self.n

    def _sums(self, features: NumpyArray, of_row: Float[NumpyArray, "N L"]) -> Float[NumpyArray, "H L"]:
        """E[sum_t rho_t features_t of_row_t]."""
        total = np.zeros((features.shape[1], of_row.shape[1]))
        for rows in self._pieces():
            total += features[rows].T @ (self.rho[rows, None] * of_row[rows]).astype(np.float32)
        return total / self.n

    def _read(self, features: NumpyArray, layer: Float[NumpyArray, "H L"]) -> Float[NumpyArray, "rows L"]:
        return (features @ layer.astype(np.float32)).astype(np.float64)

    def _pieces(self) -> list[slice]:
        return [slice(k, k + ROWS_AT_ONCE) for k in range(0, len(self.psi), ROWS_AT_ONCE)]


class _Groups:
    """Quantiles within groups of transitions, each with a weight."""

    def __init__(self, group: Int[NumpyArray, " N"], weight: Float[NumpyArray, " N"]) -> None:
        order = np.argsort(group, kind="stable")
        self.rows = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        self.weight = [weight[rows] if weight[rows].any() else np.ones(len(rows)) for rows in self.rows]

    def quantiles(self, numbers: Float[NumpyArray, "N L"], share: Float[NumpyArray, " L"]) -> Float[NumpyArray, "N L"]:
        """(N, L) the quantile of each column at its own share, in the group of each row."""
        found = np.empty_like(numbers)
        for rows, weight in zip(self.rows, self.weight, strict=True):
            here = numbers[rows]
            order = np.argsort(here, axis=0)
            until = np.cumsum(weight[order], axis=0)
            place = np.minimum((until < share * until[-1]).sum(0), len(rows) - 1)
            column = np.arange(here.shape[1])
            found[rows] = here[order[place, column], column]
        return found

    def in_tail(self, numbers: Float[NumpyArray, "N L"], share: Float[NumpyArray, " L"]) -> Float[NumpyArray, "N L"]:
        """(N, L) which part of each row lies in the least share of its group: 1 below the quantile, 0 above, and at it what
        is left, the same for all rows there."""
        quantile = self.quantiles(numbers, share)
        near = TIED * np.abs(numbers).mean(axis=0)
        found = np.zeros_like(numbers)
        for rows, weight in zip(self.rows, self.weight, strict=True):
            gap = numbers[rows] - quantile[rows]
            below, at = gap < -near, np.abs(gap) <= near
            left = share * weight.sum() - weight @ below
            found[rows] = below + at * np.clip(left / np.maximum(weight @ at, 1e-300), 0.0, 1.0)
        return found
