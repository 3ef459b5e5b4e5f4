"""Weighted distributions of returns, and the numbers that are read off them: mean, spread, quantiles, the worst share.

A distribution has masses p_k at ascending returns x_k. With F its cumulative sum,

    (1)  quantile(u) = least x_k with F_k >= u
    (2)  worst mean(u) = (1 / u) sum_k x_k min(p_k, max(u - F_{k-1}, 0)),   F_0 = 0

(2) is the mean of the worst share u of the returns (CVaR, expected shortfall; Rockafellar and Uryasev 2000).

The masses of logged returns are their episodes' weights (importance weights, or 1), divided by the sum of weights of the
sample or resample at hand. Weights are never negative, so F is ascending and ends at 1 in every resample, and needs
neither clipping nor rearrangement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from stitchrl.errors import ConfigurationError
from stitchrl.types import NumpyArray

__all__ = ["QUANTILES", "WeightedReturns", "check_tail_share", "grid_of", "names_of", "read_off", "spans"]

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Quantiles that are shown."""
GRID = 41
"""The most returns at which the distribution function is shown."""
ROUNDING = 1e-9
"""A cumulative mass that falls short of a share by no more than this counts as reaching it."""


def check_tail_share(tail: float) -> None:
    """Raise ConfigurationError where `tail` is not in (0, 1)."""
    if not 0 < tail < 1:
        raise ConfigurationError(
            f"`tail` must be in (0, 1), the share of the worst episodes; got {tail}. 0.1 is usual."
        )


def names_of(tail: float) -> tuple[str, ...]:
    """Names of the numbers that `read_off` gives before the distribution function, in its order."""
    return ("mean", "standard deviation", f"worst {tail * 100:g}%", *(f"quantile {level:g}" for level in QUANTILES))


def read_off(
    x: Float[NumpyArray, " K"], mass: Float[NumpyArray, "R K"], grid: Float[NumpyArray, " G"], tail: float
) -> Float[NumpyArray, "R Q"]:
    """(R, Q) the numbers of `names_of`, followed by the distribution function at each point of a grid, for R distributions.

    Args:
        x: (K,) ascending returns.
        mass: (R, K) their masses; each row sums to 1.
        grid: (G,) ascending returns at which the distribution function is read.
        tail: which share of the episodes counts as the worst, in (0, 1).
    """
    mean, square = mass @ x, mass @ x**2
    until = np.cumsum(mass, axis=1)
    found = [mean, np.sqrt(np.maximum(square - mean**2, 0.0))]
    found.append(np.clip(tail - (until - mass), 0.0, mass) @ x / tail)
    last = len(x) - 1
    for level in QUANTILES:
        found.append(x[np.minimum((until < level - ROUNDING).sum(1), last)])
    place = np.searchsorted(x, grid + ROUNDING * max(float(np.abs(x).max()), 1.0), side="right")
    with_none = np.concatenate([np.zeros((len(mass), 1)), until], axis=1)
    return np.concatenate([np.stack(found, axis=1), with_none[:, place]], axis=1)


def grid_of(returns: Float[NumpyArray, " n"]) -> Float[NumpyArray, " G"]:
    """The distinct returns where they are at most `GRID`, else as many equally spaced points."""
    distinct = np.unique(returns)
    return distinct if len(distinct) <= GRID else np.linspace(float(distinct[0]), float(distinct[-1]), GRID)


@dataclasses.dataclass(frozen=True, eq=False)
class WeightedReturns:
    """The distribution of n logged returns with weights.

    Attributes:
        returns: (n,) return of each episode.
        weight: (n,) weight of each episode, at least 0, some above 0; on any scale.
    """

    returns: Float[NumpyArray, " n"]
    weight: Float[NumpyArray, " n"]

    @cached_property
    def x(self) -> Float[NumpyArray, " K"]:
        """The distinct returns, ascending."""
        return self._sorted[1]

    @cached_property
    def _sorted(self) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """The order of the episodes by their returns, the distinct ones, and where in the order each begins."""
        order = np.argsort(self.returns, kind="stable")
        ascending = self.returns[order]
        first = np.flatnonzero(np.append(True, np.diff(ascending) != 0))
        return order, ascending[first], first

    def mass(self, counts: Float[NumpyArray, "R n"] | None = None) -> Float[NumpyArray, "R K"]:
        """(R, K) masses where episode i counts `counts[r, i]` times; None counts each once.

        In a resample without any weight all episodes count the same.
        """
        order, _, first = self._sorted
        once = np.ones((1, len(order))) if counts is None else counts
        scaled = self.weight / self.weight.max()
        weighted = np.add.reduceat(once[:, order] * scaled[order], first, axis=1)
        total = weighted.sum(1, keepdims=True)
        if not (total > 0).all():
            weighted = np.where(total > 0, weighted, np.add.reduceat(once[:, order], first, axis=1))
            total = weighted.sum(1, keepdims=True)
        return weighted / total

    def worst(self, tail: float) -> Float[NumpyArray, " n"]:
        """(n,) weights of the episodes in the worst share, those at its edge included; 0 for the others."""
        edge = self.x[min(int((np.cumsum(self.mass()[0]) < tail - ROUNDING).sum()), len(self.x) - 1)]
        return np.where(self.returns <= edge, self.weight, 0.0)

    def influence_on_worst(self, tail: float) -> Float[NumpyArray, " n"]:
        """(n,) influence value of each episode on the worst mean of a share u.

        It is w_i / mean(w) * ((min(G_i, q) - q) / u + q - worst mean), with G_i the return and q the quantile at u.
        """
        mass = self.mass()
        until = np.cumsum(mass, axis=1)
        edge = self.x[min(int((until[0] < tail - ROUNDING).sum()), len(self.x) - 1)]
        mean = float((np.clip(tail - (until - mass), 0.0, mass) @ self.x)[0]) / tail
        share = self.weight / self.weight.mean()
        return share * ((np.minimum(self.returns, edge) - edge) / tail + edge - mean)


def spans(numbers: Sequence[NumpyArray], confidence: float) -> tuple[Float[NumpyArray, " Q"], Float[NumpyArray, " Q"]]:
    """The ends of the middle `confidence` of the replicates of Q numbers, which come in arrays (R, Q)."""
    middle = (1 - confidence) / 2
    lower, upper = np.quantile(np.concatenate(numbers), [middle, 1 - middle], axis=0)
    return lower, upper
