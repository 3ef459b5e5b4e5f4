"""How much of each observation column the action of the same row accounts for, and how well a column alone tells the action.

An observation should hold what was known before the action. A column that was filled in afterwards, or computed from the
action (the dose of this window, a running total that already counts it, a severity score that a treatment raises), gives
itself away in two ways, both measured on rows that the fit did not see:

    made of the action     what the row before (and the other columns) leave of the column, the action accounts for
    decides the action     the column alone tells the action, as no decision that weighs several things would be told

A behaviour that follows an exact rule of the column looks the same, so findings from here ask which of the two it is.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.history_facts import rows_with_past
from stitchrl.auditing.nearest import told_by_column
from stitchrl.types import NumpyArray

__all__ = ["Treatment", "treatment"]

LEAST_ROWS, LEAST_CLUSTERS = 300, 20
"""With fewer rows, or fewer episodes, nothing is said."""
ROWS = 2**13
"""At most about this many rows are looked at."""
CUT = 10, 6
"""Standard deviations at which `PastRows` cuts observations and columns of the past."""
RIDGE = 1e-6
"""Penalty on standardised columns, relative to the number of rows."""
MOST_CLASSES, BINS = 100, 8
"""A discrete action has a column for each of its commonest values; a continuous one has these many bins beside its number."""


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What ties each of D observation columns to the action of its own row. Shares are of the column's variance, held out.

    Attributes:
        names: the columns' names.
        left: (2, D) the share that remains unexplained by the row before, and by the row before and the other columns.
        left_acted: (2, D) the same where the action of the row is known too.
        told: (D,) how well the column alone tells the action: the share of the actions' errors (or variance) that it avoids,
            compared with always guessing the commonest (or mean) action.
        has_past: whether a row before was there to be used; without one nothing takes its place.
    """

    names: tuple[str, ...]
    left: NumpyArray
    left_acted: NumpyArray
    told: NumpyArray
    has_past: bool


def treatment(facts: Facts) -> Treatment | None:
    """What ties the columns to the actions; None where the log is small or its observations are images."""
    return facts.once(_treatment)


def _treatment(facts: Facts) -> Treatment | None:
    rows = rows_with_past(facts)
    if rows is not None and _enough(rows.half, rows.cluster):
        thin = slice(None, None, max(1, len(rows.half) // ROWS))
        before = np.flatnonzero([name.endswith("one step back") for name in rows.past_names])
        here, past, half, names = rows.observation[thin], rows.past[thin][:, before], rows.half[thin], rows.columns
        action = rows.action[thin]
        # Numbers that were cut to a range are no longer those that a sum was made of.
        whole = (np.abs(here) < CUT[0]).all(1) & (np.abs(past) < CUT[1]).all(1)
        if whole.mean() > 0.5:
            here, past, half, action = here[whole], past[whole], half[whole], action[whole]
        discrete = rows.classes > 0
    else:
        sample = facts.sample
        if not facts.has_columns or sample.observation.shape[1] == 0 or not _enough(sample.rows, sample.episode):
            return None
        thin = slice(None, None, max(1, len(sample) // ROWS))
        vary = np.flatnonzero(sample.observation.std(0) > 0)[:100]
        here, past = (
            facts.standardised(sample.observation[thin])[:, vary].clip(-10, 10),
            np.zeros((len(sample.rows[thin]), 0)),
        )
        half, names = sample.episode[thin] % 2 == 0, tuple(facts.observation_names[j] for j in vary)
        action, discrete = sample.action[thin], facts.log.num_actions is not None
    if half.all() or not half.any() or here.shape[1] == 0:
        return None
    action = action.reshape(len(half), -1)
    acted = _action_columns(action, discrete)
    if acted.shape[1] == 0:
        return None
    return Treatment(
        tuple(names),
        *_shares_left(here, acted, past, half),
        told_by_column(here, action, half, discrete),
        past.shape[1] > 0,
    )


def _enough(rows: NumpyArray, cluster: NumpyArray) -> bool:
    return len(rows) >= LEAST_ROWS and len(np.unique(cluster)) >= LEAST_CLUSTERS


def _action_columns(action: NumpyArray, discrete: bool) -> NumpyArray:
    """(n, k) the action as columns for a regression: one for each value, or a number and the bins it falls into."""
    parts = []
    for values in action.T:
        found, counts = np.unique(values, return_counts=True)
        if discrete or len(found) <= MOST_CLASSES:
            common = found[np.argsort(-counts, kind="stable")[:MOST_CLASSES]]
            parts.append((values[:, None] == common[None, 1:]).astype(np.float64))
        else:
            edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
            binned = np.searchsorted(edges, values)
            spread = values.std() or 1.0
            size = np.abs(values - np.median(values)) if values.min() >= 0 else np.abs(values)
            parts.append(np.stack([(values - values.mean()) / spread, size / spread, (size / spread) ** 2], 1))
            parts.append((binned[:, None] == np.arange(1, len(edges) + 1)).astype(np.float64))
    return np.concatenate(parts, 1)


def _shares_left(
    here: NumpyArray, acted: NumpyArray, past: NumpyArray, half: NumpyArray
) -> tuple[NumpyArray, NumpyArray]:
    """(2, D) and (2, D): what stays unexplained of each column, without and with the action."""
    count = here.shape[1]
    both = np.concatenate([here, acted], 1)
    left, left_acted = np.zeros((2, 2, count))
    total = np.zeros(count)
    for train in (half, ~half):
        test = ~train
        centre = both[train].mean(0)
        fit, held = both[train] - centre, both[test] - centre
        total += (held[:, :count] ** 2).sum(0)
        if past.shape[1]:
            x = past[train] - past[train].mean(0)
            weight = np.linalg.solve(_gram(x), x.T @ fit)
            fit, held = fit - x @ weight, held - (past[test] - past[train].mean(0)) @ weight
        # What the row before leaves, alone and with the action.
        left[0] += (held[:, :count] ** 2).sum(0)
        u = fit[:, count:]
        weight = np.linalg.solve(_gram(u), u.T @ fit[:, :count])
        left_acted[0] += ((held[:, :count] - held[:, count:] @ weight) ** 2).sum(0)
        # The regression of each column on all others, for all columns at once: minus its row of the precision matrix, divided
        # by the diagonal entry.
        for size, into in ((count, left), (both.shape[1], left_acted)):
            precision = np.linalg.inv(_gram(fit[:, :size]))[:, :count]
            into[1] += ((held[:, :size] @ precision / np.diag(precision)) ** 2).sum(0)
    total = np.where(total > 0, total, 1.0)
    return left / total, left_acted / total


def _gram(x: NumpyArray) -> NumpyArray:
    gram = x.T @ x
    gram[np.diag_indices(len(gram))] += RIDGE * len(x)
    return np.asarray(gram)
