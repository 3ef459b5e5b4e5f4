"""Means of many columns in two logs, compared with a stated rate of false alarms.

The rows of an episode are correlated, so standard errors count episodes; p-values are of Student's t with Satterthwaite's degrees
of freedom. `changed` keeps the chance of any false alarm among all columns of a family at `RATE` (Holm 1979).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from stitchrl.types import NumpyArray

__all__ = ["RATE", "Comparison", "Side", "changed", "compare", "interval_of_ratio"]

RATE = 0.01
"""The probability that a comparison of a whole family of columns finds a change where there is none."""


class Side(NamedTuple):
    """Rows of one log, those of an episode next to each other.

    Attributes:
        values: (n, k) columns.
        episode: (n,) ascending numbers of episodes.
        weight: (n,) weight of each row, above 0 for some; None weights all alike.
    """

    values: Float[NumpyArray, "n k"]
    episode: Int[NumpyArray, " n"]
    weight: Float[NumpyArray, " n"] | None = None


class Comparison(NamedTuple):
    """The means of k columns in two logs.

    Attributes:
        before, after: (k,) means of the older and of the newer log.
        error: (k,) standard error of their difference.
        freedom: (k,) its degrees of freedom.
        p: (k,) two-sided p-value of no difference; 1 for columns that are constant and equal.
    """

    before: Float[NumpyArray, " k"]
    after: Float[NumpyArray, " k"]
    error: Float[NumpyArray, " k"]
    freedom: Float[NumpyArray, " k"]
    p: Float[NumpyArray, " k"]


def compare(old: Side, new: Side, *, same_spread: bool = False) -> Comparison:
    """Compare the means of two logs, column by column.

    Args:
        old, new: the logs.
        same_spread: whether the newer columns are taken to spread at least as far as the older ones, which is so if nothing
            changed. Columns that are nearly always 0 need it: where a rare event never occurs in a short newer log, its own
            spread would be about 0, and every such log would look changed.
    """
    (before, one, few), (after, other, many) = _mean(old), _mean(new)
    if same_spread:
        other = np.maximum(other, one * few / many)
    variance = one + other
    error = np.sqrt(variance)
    difference = np.abs(after - before)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(variance > 0, variance**2 / (one**2 / few + other**2 / many), 1.0)
        t = np.where(error > 0, difference / error, np.where(difference > 1e-9 * np.abs(before), np.inf, 0.0))
    return Comparison(before, after, error, freedom, np.asarray(2 * stats.t.sf(t, freedom)))


def changed(p: Float[NumpyArray, " k"]) -> Bool[NumpyArray, " k"]:
    """Which of many columns changed, by their p-values: Holm's procedure."""
    order = np.argsort(p)
    passed = p[order] <= RATE / np.arange(len(p), 0, -1)
    found = np.zeros(len(p), bool)
    found[order[: len(p) if passed.all() else int(np.argmin(passed))]] = True
    return found


def interval_of_ratio(found: Comparison, column: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """after / before of one column, whose mean before is above 0, with its interval; the mean before counts as known."""
    before = max(float(found.before[column]), 1e-300)
    half = float(stats.t.ppf((1 + confidence) / 2, found.freedom[column]) * found.error[column])
    ratio = float(found.after[column]) / before
    return ratio, ratio - half / before, ratio + half / before


def _mean(side: Side) -> tuple[Float[NumpyArray, " k"], Float[NumpyArray, " k"], float]:
    """Means of the columns, their squared standard errors, and the degrees of freedom."""
    weight = np.ones(len(side.values)) if side.weight is None else side.weight
    start = np.flatnonzero(np.diff(side.episode, prepend=side.episode[0] - 1))
    total = weight.sum()
    mean = weight @ side.values / total
    parts = np.add.reduceat(weight[:, None] * (side.values - mean), start, axis=0) / total
    share = np.add.reduceat(weight, start) / total
    episodes = 1 / float((share**2).sum())  # those that count under the weights
    return mean, (parts**2).sum(0) * episodes / max(episodes - 1, 1e-9), max(episodes - 1, 1.0)
