"""Intervals of statistics of episodes: analytic for averages, the percentile bootstrap for ratios of averages.

What counts as independent are episodes, or whole groups where several episodes are of one patient or machine (the
cluster bootstrap, Davison and Hinkley 1997, section 3.8). Taking such episodes one by one would count what one group
shares as often as the group has episodes, and give intervals that are too narrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.statistic import Difference, OfSums, Statistic, is_linear
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["RESAMPLES", "Interval", "Resampler"]

RESAMPLES = 10_000
"""Resamples of a bootstrap: with 1,000 the ends of an interval move by .08 standard errors from seed to seed."""
COUNTS_AT_ONCE = 2_000_000
"""Numbers of one piece of the resamples: 16 MB of them."""
DRAWN_AT_ONCE = 20_000
"""How many resamples are drawn and counted together: so few that they stay in the processor's cache."""


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
        units: what is independent: episodes, or whole groups of them.
        resamples: how many bootstrap replicates are drawn of statistics that are not plain averages.
        confidence: two-sided coverage that the intervals aim at, in (0, 1).
        seed: random seed of the resamples.

    Raises:
        ConfigurationError: `confidence` is not in (0, 1).
    """

    def __init__(self, units: Units, *, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0) -> None:
        if not 0 < confidence < 1:
            raise ConfigurationError(f"`confidence` must be in (0, 1); got {confidence}. 0.95 is usual.")
        self.units, self.resamples, self.confidence, self._seed = units, resamples, confidence, seed

    def interval(self, statistic: Statistic, expected: float | None = None) -> Interval:
        """Interval of a single estimate; see `intervals`."""
        return self.intervals([statistic], [expected])[0]

    def intervals(
        self,
        statistics: Sequence[Statistic],
        expected: Sequence[float | None] | None = None,
        added: Sequence[float] | None = None,
    ) -> list[Interval]:
        """Intervals of statistics of the same episodes.

        The standard error comes from the spread of the influence values, summed by unit, or from the expected variance where
        that is larger. The variance in `added` is added to its square. An average gets Student's interval from it. Other
        statistics get the quantiles of their replicates, all on the same resamples (Efron and Tibshirani 1993, chapter 13);
        these are stretched about the value by the ratio of the standard error to the spread of the influence values alone.

        Args:
            statistics: statistics of the same episodes.
            expected: the expected variance of each if its episodes were independent; None where it is not known.
            added: a further variance of each that does not come from these episodes, such as that of fits to other ones.
        """
        errors = [self.standard_error(one) for one in statistics]
        wide = self.errors(statistics, expected, added)
        resampled = [k for k, one in enumerate(statistics) if not is_linear(one)]
        ends = dict(zip(resampled, self._quantiles([statistics[k] for k in resampled]), strict=True))
        reach = float(stats.t.ppf((1 + self.confidence) / 2, max(self.units.count - 1, 1)))
        found = []
        for k, one in enumerate(statistics):
            value = one.value()
            lower, upper = ends.get(k, (value - reach * wide[k], value + reach * wide[k]))
            if errors[k] == 0:
                lower, upper = value - reach * wide[k], value + reach * wide[k]
            elif k in ends and wide[k] > errors[k]:
                stretch = wide[k] / errors[k]
                lower, upper = value - (value - lower) * stretch, value + (upper - value) * stretch
            found.append(Interval(value, wide[k], float(lower), float(upper)))
        return found

    def errors(
        self,
        statistics: Sequence[Statistic],
        expected: Sequence[float | None] | None = None,
        added: Sequence[float] | None = None,
    ) -> list[float]:
        """The standard errors that `intervals` makes its intervals from; arguments as in that method."""
        known = [None] * len(statistics) if expected is None else list(expected)
        wide = [
            max(self.standard_error(one), 0.0 if variance is None else float(np.sqrt(variance)) * self._grouping(one))
            for one, variance in zip(statistics, known, strict=True)
        ]
        if added is None:
            return wide
        return [float(np.hypot(error, np.sqrt(extra))) for error, extra in zip(wide, added, strict=True)]

    def standard_error(self, statistic: Statistic) -> float:
        """Spread of the influence values of independent units; 0 where there is one unit only."""
        n = self.units.count
        influence = self.units.sums(statistic.influence()) * (n / self.units.episodes)
        return float(influence.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0

    def _grouping(self, statistic: Statistic) -> float:
        """How many times larger groups make the standard error than independent episodes would; at least 1."""
        if self.units.count == self.units.episodes:
            return 1.0
        alone = float(statistic.influence().std(ddof=1)) / np.sqrt(self.units.episodes)
        return max(1.0, self.standard_error(statistic) / alone) if alone > 0 else 1.0

    def _quantiles(self, statistics: Sequence[Statistic]) -> list[tuple[float, float]]:
        """The ends of the middle `confidence` of the replicates of each."""
        replicates: list[list[NumpyArray]] = [[] for _ in statistics]
        sums = _Sums(statistics)
        for counts in self.counts() if statistics else ():
            done = sums.replicates(counts)
            for found, statistic in zip(replicates, statistics, strict=True):
                found.append(_replicate(statistic, counts, done))
        tail = (1 - self.confidence) / 2
        ends = [np.quantile(np.concatenate(found), [tail, 1 - tail]) for found in replicates]
        return [(float(lower), float(upper)) for lower, upper in ends]

    def counts(self) -> Iterator[Float[NumpyArray, "R n"]]:
        """How often each episode is in each resample, a piece of the resamples at a time."""
        n, rng = self.units.count, np.random.default_rng(self._seed)
        at_once, drawn = max(1, COUNTS_AT_ONCE // self.units.episodes), max(1, DRAWN_AT_ONCE // n)
        for start in range(0, self.resamples, at_once):
            counts = np.empty((min(at_once, self.resamples - start), n))
            for few in np.split(counts, range(drawn, len(counts), drawn)):
                places = rng.integers(0, n, size=few.shape) + np.arange(len(few))[:, None] * n
                few[:] = np.bincount(places.reshape(-1), minlength=few.size).reshape(few.shape)
            yield self.units.spread(counts)


class _Sums:
    """Sums over the episodes of everything that statistics need of each resample, by one product of matrices.

    Args:
        statistics: statistics of the same episodes; those that are not functions of sums over them are left out.
    """

    def __init__(self, statistics: Sequence[Statistic]) -> None:
        parts = (part for statistic in statistics for part in _parts(statistic))
        self._of = list({id(part): part for part in parts if isinstance(part, OfSums)}.values())
        # Columns lie in one piece each: the product takes a quarter of the time that it takes with rows in one piece.
        columns = [part.columns().T for part in self._of]
        self._columns = np.concatenate(columns) if columns else None
        self._ends = np.cumsum([len(one) for one in columns])

    def replicates(self, counts: Float[NumpyArray, "R n"]) -> dict[int, NumpyArray]:
        """Replicates of each statistic by its `id`."""
        if self._columns is None:
            return {}
        parts = np.split(counts @ self._columns.T, self._ends[:-1], axis=1)
        return {id(one): one.of_sums(sums) for one, sums in zip(self._of, parts, strict=True)}


def _parts(statistic: Statistic) -> Iterator[Statistic]:
    """A statistic, or both sides of a difference, and their parts."""
    if isinstance(statistic, Difference):
        yield from _parts(statistic.minuend)
        yield from _parts(statistic.subtrahend)
    else:
        yield statistic


def _replicate(statistic: Statistic, counts: Float[NumpyArray, "R n"], done: dict[int, NumpyArray]) -> NumpyArray:
    """Replicates of a statistic; both sides of a difference are computed once, though other differences share them."""
    if id(statistic) not in done:
        done[id(statistic)] = (
            _replicate(statistic.minuend, counts, done) - _replicate(statistic.subtrahend, counts, done)
            if isinstance(statistic, Difference)
            else statistic.replicate(counts)
        )
    return done[id(statistic)]
