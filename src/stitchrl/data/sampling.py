"""Rules for how often each row of a log is drawn. They give one weight for each row, in memory and when streaming."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.types import Float, Int, NumpyArray, Shaped

__all__ = [
    "EpisodeSampling",
    "Sampling",
    "StratifiedSampling",
    "TopFractionSampling",
    "UniformSampling",
    "WeightedSampling",
    "alias_table",
    "drawing_rule",
    "drawn_part",
    "share_of",
]

STRATA = ("source", "return")


class Sampling(ABC):
    """A rule for drawing rows with replacement.

    Subclasses are frozen dataclasses, because their text identifies a run.
    """

    @abstractmethod
    def weights(self, log: Dataset) -> Float[NumpyArray, " N"] | None:
        """The weights (N,) in proportion to which rows are drawn, at least 0 and not all 0. None draws all rows alike.

        Raises:
            DataError: the log lacks what the rule needs.
        """


@dataclasses.dataclass(frozen=True)
class UniformSampling(Sampling):
    """Draws every row equally often, so that long episodes count for more."""

    def weights(self, log: Dataset) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class EpisodeSampling(Sampling):
    """Draws an episode, then one of its rows, so that short episodes count as much as long ones."""

    def weights(self, log: Dataset) -> Float[NumpyArray, " N"]:
        return np.repeat(1.0 / log.episode_lengths, log.episode_lengths)


@dataclasses.dataclass(frozen=True)
class StratifiedSampling(Sampling):
    """Draws a stratum, then one of its rows, so that a small source or a rare return is seen as often as a common one.

    Attributes:
        by: what the strata are. "source": the values of the column `source`. "return": `buckets` of equal width in the
            return of the episode; empty ones do not count.
        buckets: how many there are, at least 1.

    Raises:
        ConfigurationError: another `by`, or no bucket.
    """

    by: str = "source"
    buckets: int = 10

    def __post_init__(self) -> None:
        if self.by not in STRATA:
            raise ConfigurationError(f"`by` of StratifiedSampling must be {' or '.join(STRATA)}; got {self.by!r}.")
        if self.buckets < 1:
            raise ConfigurationError(f"`buckets` of StratifiedSampling must be at least 1; got {self.buckets}.")

    def weights(self, log: Dataset) -> Float[NumpyArray, " N"]:
        if self.by == "return":
            returns = log.episode_returns()
            edges = np.linspace(returns.min(), returns.max(), self.buckets + 1)[1:-1]
            return _equal_strata(np.repeat(np.searchsorted(edges, returns, side="right"), log.episode_lengths))
        if log.source is None:
            raise DataError("StratifiedSampling by source needs a column with the role `source`; this log has none.")
        return _equal_strata(np.unique(log.source, return_inverse=True)[1].reshape(-1))


@dataclasses.dataclass(frozen=True)
class WeightedSampling(Sampling):
    """Draws rows in proportion to a column of the log: its `weight`, or the inverse probability of the logged action.

    Attributes:
        column: "weight", or "inverse propensity": 1 / exp(behavior_log_prob), which makes the log look as if drawn by
            a uniform policy.

    Raises:
        ConfigurationError: another column.
    """

    column: str = "weight"

    def __post_init__(self) -> None:
        if self.column not in ("weight", "inverse propensity"):
            raise ConfigurationError(
                f'`column` of WeightedSampling must be "weight" or "inverse propensity"; got {self.column!r}.'
            )

    def weights(self, log: Dataset) -> Float[NumpyArray, " N"]:
        held = log.weight if self.column == "weight" else log.behavior_log_prob
        if held is None:
            role = "weight" if self.column == "weight" else "behavior_log_prob"
            raise DataError(f"WeightedSampling needs a column with the role `{role}`; this log has none.")
        values = held.astype(np.float64)
        if self.column != "weight":
            # The scale of weights does not matter, so they are divided by the largest one, which cannot overflow.
            values = np.exp(-(values - values.min()))
        if not (np.isfinite(values).all() and values.sum() > 0):
            raise DataError("WeightedSampling needs finite weights of which one is above 0; this log's are not.")
        return values


@dataclasses.dataclass(frozen=True)
class TopFractionSampling(Sampling):
    """Draws only rows of the episodes with the highest returns, including all episodes tied with the last of them.

    Attributes:
        fraction: of the episodes, in (0, 1].

    Raises:
        ConfigurationError: a fraction outside.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigurationError(f"`fraction` of TopFractionSampling must be in (0, 1]; got {self.fraction}.")

    def weights(self, log: Dataset) -> Float[NumpyArray, " N"]:
        returns = log.episode_returns()
        threshold = np.sort(returns)[-share_of(self.fraction, len(returns))]
        return np.repeat((returns >= threshold).astype(np.float64), log.episode_lengths)


def share_of(fraction: float, count: int) -> int:
    """The smallest whole number that is at least this fraction of a count; 7% of 100 are 7, whatever floats say."""
    return max(1, math.ceil(round(fraction * count, 9)))


def drawing_rule(own: Sampling | None, asked: str | Sampling) -> Sampling:
    """The rule that draws rows.

    Args:
        own: the algorithm's own rule, which goes first; None where it has none.
        asked: what `fit` was asked for: a rule, or "uniform" or "shuffled", under both of which rows are equally likely.
    """
    if own is not None:
        return own
    return asked if isinstance(asked, Sampling) else UniformSampling()


def drawn_part(log: Dataset, rule: Sampling | None) -> Dataset:
    """The log of the episodes of which a rule ever draws a row, over which statistics for learning are taken."""
    weights = None if rule is None else rule.weights(log)
    if weights is None:
        return log
    seen = np.add.reduceat(weights > 0, log.episode_start[:-1]) > 0
    return log if seen.all() else log.select_episodes(np.flatnonzero(seen))


def _equal_strata(stratum: Int[NumpyArray, " N"]) -> Float[NumpyArray, " N"]:
    return 1.0 / np.bincount(stratum)[stratum]


def alias_table(weights: Shaped[NumpyArray, " N"]) -> tuple[Float[NumpyArray, " N"], Int[NumpyArray, " N"]]:
    """Walker's alias tables, for exact draws in constant time: draw i uniformly, keep it with probability keep[i], else
    take other[i].

    Built by one sweep (Huebschle-Schneider and Sanders 2022, arXiv 1903.00227, section 4.2): light rows, in order, are
    filled up by heavy ones, in order; a heavy row that is used up is filled by the next.

    Args:
        weights: at least 0, not all 0.

    Returns:
        keep: (N,) float32 in [0, 1].
        other: (N,) int32.
    """
    share = np.asarray(weights, np.float64)
    share = share * (len(share) / share.sum())
    light, heavy = np.flatnonzero(share < 1), np.flatnonzero(share >= 1)
    keep, other = np.ones(len(share)), np.arange(len(share))
    if not len(light) or not len(heavy):  # all weights are equal, up to rounding
        return keep.astype(np.float32), other.astype(np.int32)
    missing = np.cumsum(1 - share[light])
    spare = np.cumsum(share[heavy] - 1)
    # Each light row is filled up by the heavy row that still has something to spare when the sweep reaches it.
    before = np.concatenate([[0], missing[:-1]])
    keep[light] = share[light]
    other[light] = heavy[np.minimum(np.searchsorted(spare, before, side="right"), len(heavy) - 1)]
    # Every heavy row but the last gives away all it has to spare and a little more, which the next one gives back.
    filled = np.searchsorted(before, spare[:-1], side="left")
    used = np.concatenate([[0], missing])[filled]
    over = np.clip(used - spare[:-1], 0, 1)
    keep[heavy[:-1]] = 1 - over
    other[heavy[:-1]] = heavy[1:]
    return np.clip(keep, 0, 1).astype(np.float32), other.astype(np.int32)
