"""Intervals of statistics of episodes: the percentile bootstrap, and standard errors from influence values.

What is resampled is independent: episodes, or whole groups where several episodes are of one patient or machine
(the cluster bootstrap, Davison and Hinkley 1997, section 3.8). Resampling such episodes one by one would count what one
group shares as often as the group has episodes, and give intervals that are too narrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.statistic import Statistic
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["Interval", "Resampler"]

COUNTS_AT_ONCE = 2_000_000
"""Numbers of one piece of the resamples: 16 MB of them."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its standard error and two-sided interval."""

    value: float
    standard_error: float
    lower: float
    upper: float


class Resampler:
    """One set of resamples of a log's units, shared by every estimate on it, so that comparisons are paired.

    Args:
        units: what is resampled: episodes, or whole groups of them.
        resamples: how many bootstrap replicates are drawn.
        confidence: two-sided coverage aimed at, in (0, 1).
        seed: of the draw.
    """

    def __init__(self, units: Units, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> None:
        if not 0 < confidence < 1:
            raise ConfigurationError(f"`confidence` must be in (0, 1); got {confidence}. 0.95 is usual.")
        self.units, self.resamples, self.confidence, self._seed = units, resamples, confidence, seed

    def interval(self, statistic: Statistic) -> Interval:
        """Interval of a single estimate; see `intervals`."""
        return self.intervals([statistic])[0]

    def intervals(self, statistics: Sequence[Statistic]) -> list[Interval]:
        """Percentile bootstrap of statistics of the same episodes.

        All see the same resamples. The quantiles are of the replicates; the standard error is the spread of the
        influence values, summed by unit. Source: Efron and Tibshirani 1993, chapter 13.
        """
        replicates: list[list[NumpyArray]] = [[] for _ in statistics]
        for counts in self._counts():
            for found, statistic in zip(replicates, statistics, strict=True):
                found.append(statistic.replicate(counts))
        tail = (1 - self.confidence) / 2
        intervals = []
        for found, statistic in zip(replicates, statistics, strict=True):
            lower, upper = np.quantile(np.concatenate(found), [tail, 1 - tail])
            intervals.append(Interval(statistic.value(), self.standard_error(statistic), float(lower), float(upper)))
        return intervals

    def standard_error(self, statistic: Statistic) -> float:
        """Spread of the influence values of independent units; 0 where there is one unit only."""
        n = self.units.count
        influence = self.units.sums(statistic.influence()) * (n / self.units.episodes)
        return float(influence.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0

    def _counts(self) -> Iterator[Float[NumpyArray, "R n"]]:
        """How often each episode is in each resample, a piece of the resamples at a time."""
        n, rng = self.units.count, np.random.default_rng(self._seed)
        at_once = max(1, COUNTS_AT_ONCE // self.units.episodes)
        for start in range(0, self.resamples, at_once):
            rows = min(at_once, self.resamples - start)
            drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
            counts = np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n).astype(np.float64)
            yield self.units.spread(counts)
