"""Whether what is left unexplained of actions and outcomes is related across the rows of an episode: a hint of a hidden cause.

Where the observation is the whole state, what it leaves of an action is chance, and so is what observation and action leave of
the reward and of the next observation. Then the chance of one row has nothing to do with that of another row of the same
episode, in either direction:

    earlier outcomes, later actions    related where the decision maker reacts to outcomes that the observation forgets, where a
                                       lasting cause moves the actions alone, or where it moves both
    earlier actions, later outcomes    related where an action has effects that the observation does not carry on, or where a
                                       lasting cause moves both

The first alone is a reaction or a preference and the second alone a late effect, and neither needs a common cause. Both at once
are what a lasting hidden cause of both would leave. It is a hint and no proof: a reaction to outcomes together with a late
effect looks the same. The relation of action and outcome in the same row says nothing, since the effect of the action is in it.
A cause without memory, or one that the observation soon takes up, leaves no such trace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from stitchrl.auditing.history import unexplained
from stitchrl.auditing.history_models import mean_and_error
from stitchrl.auditing.history_rows import PastRows
from stitchrl.types import NumpyArray

__all__ = ["CommonCause", "common_cause"]

CONFIDENCE = 0.999
"""Each of the two directions must be beyond chance at this one-sided level."""


class CommonCause(NamedTuple):
    """How unexplained actions and outcomes of different rows of an episode are related: each direction in the combination of
    columns that a random half of the episodes chose, measured on the other half.

    Attributes:
        reaction: the correlation of earlier outcomes with later actions.
        late: the correlation of earlier actions with later outcomes.
        hinted: whether both are above 0 beyond chance.
    """

    reaction: float
    late: float
    hinted: bool


def common_cause(rows: PastRows) -> CommonCause | None:
    """The relation of unexplained actions and outcomes across the rows of an episode; None where one of them does not vary."""
    action, outcome = unexplained(rows)
    action, outcome = action[:, action.std(0) > 1e-6], outcome[:, outcome.std(0) > 1e-6].clip(-5, 5)
    if not action.shape[1] or not outcome.shape[1]:
        return None
    # A cause may make one action better and another worse: the first outcome, the reward, counts by action too.
    acted = np.eye(rows.classes)[rows.action] if rows.classes else rows.action
    acted = acted - acted.mean(0)
    outcome = np.concatenate([outcome, outcome[:, :1] * acted], 1)
    outcome = outcome[:, outcome.std(0) > 1e-6]
    earlier, later = _sums_within(outcome, rows.cluster)
    number = _sums_within(np.ones((len(outcome), 1)), rows.cluster)
    found, beyond = [], []
    for sums, count in ((earlier, number[0]), (later, number[1])):
        products = np.zeros(len(action))
        for chosen in (rows.half, ~rows.half):
            together = action[chosen].T @ sums[chosen]
            left, _, right = np.linalg.svd(together, full_matrices=False)
            a, e, other = left[:, 0], right[0], ~chosen
            scale = (action @ a)[other].std() * (outcome @ e)[other].std()
            products[other] = (action @ a * (sums @ e))[other] / max(scale, 1e-12)
        mean, error = mean_and_error(products, rows.cluster)
        found.append(mean / max(float(count.mean()), 1e-12))
        beyond.append(error > 0 and mean > float(stats.norm.ppf(CONFIDENCE)) * error)
    return CommonCause(found[0], found[1], all(beyond))


def _sums_within(values: NumpyArray, cluster: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """(n, m) the sums of the values of the earlier rows of each row's cluster, and of the later ones; rows are ascending."""
    order = np.argsort(cluster, kind="stable")
    sorted_values = values[order]
    running = np.cumsum(sorted_values, 0)
    start = np.flatnonzero(np.append(True, np.diff(cluster[order]) != 0))
    lengths = np.diff(np.append(start, len(order)))
    before = np.repeat(running[start] - sorted_values[start], lengths, axis=0)
    total = np.repeat(np.add.reduceat(sorted_values, start, axis=0), lengths, axis=0)
    earlier, later = np.empty_like(values, np.float64), np.empty_like(values, np.float64)
    earlier[order] = running - before - sorted_values
    later[order] = total - (running - before)
    return earlier, later
