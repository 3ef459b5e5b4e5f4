"""What changed between a log and a newer one: the observations, and what follows from them (actions, rewards, what comes next).

Observations are compared column by column: by their place (the mean rank in both logs together), and by the share that
lies outside the range that holds 90% of the older values.

The rest is compared given what it follows from. A ridge regression on linear and quadratic features is fitted to each
half of the older episodes; it predicts the other half, and newer rows are predicted by one fit or the other. The older
rows are weighted so that they look like the newer ones (`matching`). If nothing but the observations changed, the
errors of both have the same mean, the same mean among the rows of each action, the same correlation with observations,
and the same size. Each of these is a column of the comparison, and all columns of a kind share one rate of false alarms
(`two_samples`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.auditing.regression import RIDGE, features
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.matching import effective_share, matching_weights
from stitchrl.diagnosis.two_samples import Comparison, Side, changed, compare, interval_of_ratio
from stitchrl.types import NumpyArray

__all__ = [
    "ERRORS",
    "LEAST_EPISODES",
    "OUTSIDE",
    "ColumnShift",
    "Rows",
    "Shift",
    "mechanism_shift",
    "observation_shift",
]

CLIPPED = 5.0
"""Standard deviations at which observations and errors are cut off, so that one wild row decides nothing."""
FULL_QUADRATIC = 8
"""With at most this many columns the features hold all products; with more, only the squares."""
LEAST_SHARE = 0.05
"""Effective share of the older rows, weighted to look like the newer ones, below which the two are not comparable."""
LEAST_EPISODES = 20
"""The fewest episodes of each log; with fewer, a change cannot be told from chance."""
ROWS_A_FEATURE = 20
"""Rows that a regression must have for each feature; without them there are no quadratic ones."""
OUTSIDE, ERRORS = "outside", "errors"
OUTER = (0.05, 0.95)
"""The quantiles of the older log that hold 90% of its values."""


@dataclasses.dataclass(frozen=True)
class ColumnShift:
    """One column that changed.

    Attributes:
        target: what changed, such as an observation column.
        within: where it changed, such as "after action 3"; "" everywhere; `OUTSIDE` or `ERRORS` if not the mean changed, but
            the share outside the older range, or the size of a model's errors.
        size: how much, in standard deviations (of the column, or of what a model leaves unexplained of it).
        before, after: means of the column, or of what a model leaves unexplained of it; shares `OUTSIDE` of the older range; or
            mean squared `ERRORS`, relative to those of the older log.
    """

    target: str
    within: str
    size: float
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Shift:
    """What a comparison of two logs found.

    Attributes:
        found: the columns that changed, the largest change first.
        compared: how many columns were compared.
        matched: effective share of the older rows, weighted to look like the newer ones; 1 where nothing was weighted.
        error_ratio: of newer to older squared errors of the model, with its 95% interval; None where there is no model.
    """

    found: tuple[ColumnShift, ...]
    compared: int
    matched: float = 1.0
    error_ratio: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a log as whole episodes, in float64.

    Attributes:
        episode: (n,) ascending.
        observation: (n, D).
        action: (n, A) indicators of discrete actions, or the continuous ones.
    """

    episode: NumpyArray
    observation: NumpyArray
    action: NumpyArray

    @classmethod
    def of(cls, log: Dataset, actions: Sequence[int]) -> Rows:
        """The rows of a log; of discrete actions, those named have an indicator."""
        observation = log.observation_table[log.observation_index].astype(np.float64)
        action = np.asarray(log.action, np.float64)
        if log.num_actions is not None:
            action = (log.action[:, None] == np.asarray(actions, np.int64)).astype(np.float64)
        return cls(log.episode_of_transition, observation, action)

    def take(self, rows: NumpyArray) -> Rows:
        """Some of the rows."""
        return Rows(self.episode[rows], self.observation[rows], self.action[rows])


def observation_shift(old: Rows, new: Rows, names: Sequence[str]) -> Shift:
    """The observation columns whose values lie elsewhere, or spread differently."""
    both = np.concatenate([old.observation, new.observation])
    rank = (stats.rankdata(both, axis=0) - 0.5) / len(both)
    low, high = np.quantile(old.observation, OUTER, axis=0)
    outside = ((both < low) | (both > high)).astype(np.float64)
    count, columns = len(old.observation), np.concatenate([rank, outside], axis=1)
    found = compare(Side(columns[:count], old.episode), Side(columns[count:], new.episode))
    sure = changed(found.p)
    width = len(names)
    shifts = []
    for column in np.flatnonzero(sure).tolist():
        j = column % width
        if column < width:  # the chance that a newer value is above an older one, as a difference of two normals
            above = np.clip(0.5 + found.after[column] - found.before[column], 0.001, 0.999)
            size = float(np.sqrt(2) * stats.norm.ppf(above))
            before, after = float(old.observation[:, j].mean()), float(new.observation[:, j].mean())
            shifts.append(ColumnShift(names[j], "", size, before, after))
        else:
            before, after = float(found.before[column]), float(found.after[column])
            size = (after - before) / np.sqrt(max(before * (1 - before), 0.01))
            shifts.append(ColumnShift(names[j], OUTSIDE, float(size), before, after))
    return Shift(_ordered(shifts), len(found.p))


def mechanism_shift(
    old: Rows,
    new: Rows,
    given: tuple[NumpyArray, NumpyArray],
    targets: tuple[NumpyArray, NumpyArray],
    target_names: Sequence[str],
    instruments: tuple[NumpyArray, NumpyArray],
    instrument_names: Sequence[str],
) -> Shift | None:
    """What changed of some targets given what they follow from; None where the two logs cannot be made comparable.

    Args:
        old, new: the rows of the two logs.
        given: (n, g) and (m, g) what the targets follow from.
        targets: (n, t) and (m, t).
        target_names: t names.
        instruments: (n, k) and (m, k) the columns that errors are correlated with, beside their mean.
        instrument_names: k descriptions, such as "after action 3".
    """
    if not targets[0].shape[1] or min(len(np.unique(rows.episode)) for rows in (old, new)) < LEAST_EPISODES:
        return None
    x = _features(*given)
    count = len(given[0])
    weight = matching_weights(np.clip(x[:count, 1:], -CLIPPED, CLIPPED), np.clip(x[count:, 1:], -CLIPPED, CLIPPED))
    if effective_share(weight) < LEAST_SHARE:
        return None
    errors = _errors(x, np.concatenate(targets), np.concatenate([old.episode, new.episode + 1]), count)
    spread = np.sqrt(weight @ errors[:count] ** 2 / weight.sum())
    errors = np.clip(errors / np.where(spread > 0, spread, 1.0), -CLIPPED, CLIPPED)
    z = np.concatenate([np.ones((len(x), 1)), np.concatenate(instruments)], axis=1)
    names = ["", *instrument_names]
    # The spread of what is 0 or 1 follows from its mean.
    squared = np.where(np.isin(np.concatenate(targets), (0.0, 1.0)).all(0), 0.0, errors**2)
    parts = [
        _compared(np.concatenate([z * errors[:, [j]], squared[:, [j]]], axis=1), old, new, weight)
        for j in range(errors.shape[1])
    ]
    total = _compared((errors**2).mean(1, keepdims=True), old, new, weight)
    sure = changed(np.concatenate([part.p for part in parts])).reshape(len(parts), -1)
    root = np.sqrt(np.maximum(weight @ z[:count] ** 2 / weight.sum(), 1e-12))
    shifts = []
    for j, k in np.argwhere(sure).tolist():
        change = parts[j].after[k] - parts[j].before[k]
        if k < len(names):
            scale = float(spread[j]) / max(float(root[k]) ** 2, 1e-12)
            before, after = float(parts[j].before[k]) * scale, float(parts[j].after[k]) * scale
            shifts.append(ColumnShift(target_names[j], names[k], float(change / root[k]), before, after))
        else:
            before, after = float(parts[j].before[k]), float(parts[j].after[k])
            shifts.append(ColumnShift(target_names[j], ERRORS, float(change) / 2, before, after))
    return Shift(_ordered(shifts), sure.size, effective_share(weight), interval_of_ratio(total, 0))


def _ordered(shifts: Sequence[ColumnShift]) -> tuple[ColumnShift, ...]:
    """The largest first; means over all rows before what is harder to put in words."""
    return tuple(sorted(shifts, key=lambda one: (one.within in (OUTSIDE, ERRORS), one.within != "", -abs(one.size))))


def _compared(columns: NumpyArray, old: Rows, new: Rows, weight: NumpyArray) -> Comparison:
    count = len(old.episode)
    return compare(Side(columns[:count], old.episode, weight), Side(columns[count:], new.episode), same_spread=True)


def _features(old: NumpyArray, new: NumpyArray) -> Float[NumpyArray, "r f"]:
    """Features of the rows of both logs, on one scale; the first is the constant."""
    both = np.concatenate([old, new])
    x = features(both, full_up_to=FULL_QUADRATIC)
    if len(old) < ROWS_A_FEATURE * x.shape[1]:
        x = x[:, : 1 + int((both.std(0) > 0).sum())]
    return x


def _errors(x: NumpyArray, y: NumpyArray, episode: NumpyArray, count: int) -> Float[NumpyArray, "r t"]:
    """Errors of all rows; the first `count` rows are those that models are fitted to."""
    half = episode % 2 == 0
    found = np.array(y, np.float64)
    for side in (half, ~half):
        fitted = x[:count][~side[:count]]
        gram = fitted.T @ fitted
        gram[np.diag_indices(len(gram))] += RIDGE * len(fitted)
        found[side] -= x[side] @ np.linalg.solve(gram, fitted.T @ y[:count][~side[:count]])
    return found
