"""Intervals from per-episode contributions: the percentile bootstrap, renormalised in each resample.

What is resampled is independent: episodes, or whole groups where several episodes are of one patient or machine
(the cluster bootstrap, Davison and Hinkley 1997, section 3.8). Resampling such episodes one by one would count what one
group shares as often as the group has episodes, and give intervals that are too narrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.contributions import Contributions
from stitchrl.types import NumpyArray

__all__ = ["Interval", "Resampler", "effective_sample_size", "minus"]

COUNTS_AT_ONCE = 2_000_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its standard error and two-sided interval."""

    value: float
    standard_error: float
    lower: float
    upper: float


class Resampler:
    """One set of resamples of n episodes, shared by every estimate on a log, so that comparisons are paired.

    Args:
        episodes: n.
        group: (n,) what each episode belongs to; whole groups are resampled. None: episodes are independent.
        resamples: bootstrap replicates.
        confidence: two-sided coverage aimed at, in (0, 1).
        seed: the draw.
    """

    def __init__(
        self,
        episodes: int,
        *,
        group: Shaped[NumpyArray, " n"] | None = None,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        if not 0 < confidence < 1:
            raise ConfigurationError(f"`confidence` must be in (0, 1); got {confidence}. 0.95 is usual.")
        self.episodes, self.resamples, self.confidence, self._seed = episodes, resamples, confidence, seed
        self.units = episodes
        """How many independent things there are: groups, or episodes."""
        self._by_group: tuple[NumpyArray, NumpyArray] | None = None  # order of the episodes, and each group's first
        if group is not None:
            unit = np.unique(group, return_inverse=True)[1].reshape(-1)
            order = np.argsort(unit, kind="stable")
            self._by_group = (order, np.flatnonzero(np.diff(unit[order], prepend=-1)))
            self.units = len(self._by_group[1])

    def per_unit(self, per_episode: Float[NumpyArray, "n ..."]) -> Float[NumpyArray, "units ..."]:
        """Sums over the episodes of each unit."""
        if self._by_group is None:
            return per_episode
        order, first = self._by_group
        return np.add.reduceat(per_episode[order], first, axis=0)

    def interval(self, contributions: Contributions) -> Interval:
        """Of one estimate; see `intervals`."""
        return self.intervals([contributions])[0]

    def intervals(self, estimates: Sequence[Contributions]) -> list[Interval]:
        """Percentile bootstrap of sum_k mean(numerator_k) / mean(denominator_k), ratios formed in each resample.

        All estimates see the same resamples. The quantiles are of resampled estimates; the standard error is the
        spread of the influence values, summed by unit. Source: Efron and Tibshirani 1993, chapter 13.
        """
        n, rng = self.units, np.random.default_rng(self._seed)
        values: list[list[NumpyArray]] = [[] for _ in estimates]
        sums = [(self.per_unit(e.numerator), self.per_unit(e.denominator)) for e in estimates]
        at_once = max(1, COUNTS_AT_ONCE // n)
        for start in range(0, self.resamples, at_once):
            rows = min(at_once, self.resamples - start)
            drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
            counts = np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n).astype(np.float64)
            for found, (of_unit, weight_of_unit) in zip(values, sums, strict=True):
                numerator, denominator = counts @ of_unit, counts @ weight_of_unit
                ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
                found.append(ratio.sum(1))
        tail = (1 - self.confidence) / 2
        intervals = []
        for found, estimate in zip(values, estimates, strict=True):
            lower, upper = np.quantile(np.concatenate(found), [tail, 1 - tail])
            influence = self.per_unit(estimate.influence) * (n / self.episodes)
            error = float(influence.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
            intervals.append(Interval(estimate.value, error, float(lower), float(upper)))
        return intervals


def minus(contributions: Contributions, other: Contributions) -> Contributions:
    """The difference of two estimates on the same episodes, paired."""
    return Contributions(
        np.concatenate([contributions.numerator, -other.numerator], axis=1),
        np.concatenate([contributions.denominator, other.denominator], axis=1),
    )


def effective_sample_size(weights: Float[NumpyArray, " n"]) -> float:
    """(sum |w|)^2 / sum w^2 (Kish 1965): how many equally weighted items the weights are worth; 0 when all are 0."""
    total = np.abs(weights).sum()
    return float(total**2 / (weights**2).sum()) if total > 0 else 0.0
