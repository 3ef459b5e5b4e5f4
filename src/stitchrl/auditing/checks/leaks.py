"""Checks for observation columns that hold what could not be known when the action was chosen.

Only near-exact matches count (a correlation above .999, or a perfect separation of two outcomes): a velocity that
correlates at 0.9 with the reward is physics, while a column that equals the reward is an error of the export.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import stats

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.leaked_action import equal_to_action
from stitchrl.auditing.regression import same_up_to_unit
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["leaks_action", "leaks_cost", "leaks_future_reward", "leaks_outcome", "leaks_reward", "leaks_time_left"]

SEPARATED = 0.999
"""Area under the ROC curve from which on a column separates two outcomes."""
LEAST_EACH = 10
"""Episodes needed of each outcome: chance separates ten of each in one of 180,000 columns."""
LEAST_ROWS = 200


def leaks_reward(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that equals the reward of its own row, which comes after the action."""
    sample = facts.sample
    if len(sample) < LEAST_ROWS or (np.diff(log.episode_start) == 1).all():
        return
    found = np.flatnonzero(same_up_to_unit(sample.observation, sample.reward))
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-reward",
            "warning",
            found,
            ("equals", "equal", "the reward of the same row, up to unit and offset"),
            "Unless this reward was already known before the action, drop the column.",
        )


def leaks_cost(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that equals a cost of its own row, which comes after the action."""
    sample = facts.sample
    if log.cost is None or len(sample) < LEAST_ROWS or (np.diff(log.episode_start) == 1).all():
        return
    named = log.schema.columns["cost"]
    for j, name in enumerate((named,) if isinstance(named, str) else named):
        cost = log.cost[sample.rows, j].astype(np.float64)
        found = np.flatnonzero(same_up_to_unit(sample.observation, np.where(np.isfinite(cost), cost, 0)))
        if len(found):
            yield _finding(
                facts,
                "observation-leaks-cost",
                "warning",
                found,
                ("equals", "equal", f"the cost {name} of the same row, up to unit and offset"),
                "Unless this cost was already known before the action, drop the column.",
            )


def leaks_outcome(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column whose first value in an episode already gives the return of the episode."""
    first = facts.first_rows
    returns = facts.scan.returns[first.episode]
    if len(first) < 2 * LEAST_EACH or first.observation.shape[1] == 0:
        return
    values, counts = np.unique(returns, return_counts=True)
    if len(values) == 2:
        if counts.min() < LEAST_EACH:
            return
        found = np.flatnonzero(_separates(first.observation, returns == values[1]))
        how = ("separates", "separate", "the two outcomes of an episode without error, from its first row on")
    else:
        if len(first) < LEAST_ROWS // 2:
            return
        found = np.flatnonzero(same_up_to_unit(first.observation, returns))
        how = ("gives", "give", "the exact return of an episode from its first row on")
    # In one-step episodes the outcome is the reward of the row, which may rightly be a part of the context.
    one_step = bool((np.diff(log.episode_start) == 1).all())
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-outcome",
            "warning" if one_step else "error",
            found,
            how,
            "Unless the reward was already known before the action, drop the column."
            if one_step
            else "Drop what was filled in afterwards: a policy in use will not have it.",
        )


def leaks_future_reward(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that equals the reward of the next row, and not that of its own."""
    sample = facts.sample
    inner = sample.position + 1 < sample.length
    if inner.sum() < LEAST_ROWS:
        return
    following = log.reward[sample.rows[inner] + 1].astype(np.float64)
    following = np.where(np.isfinite(following), following, 0)
    here = sample.observation[inner]
    found = np.flatnonzero(same_up_to_unit(here, following) & ~same_up_to_unit(here, sample.reward[inner]))
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-future",
            "error",
            found,
            ("equals", "equal", "the reward of the next row, up to unit and offset"),
            "Drop what was filled in from a later row, or shift it back.",
        )


def leaks_action(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that equals the action of its own row. A behaviour that follows one column looks the same, so the finding asks
    which of the two it is."""
    for found in equal_to_action(facts):
        which = "the action" if log.num_actions is not None else f"number {found.number} of the action"
        unit = "" if found.exactly else ", up to unit and offset"
        yield _finding(
            facts,
            "observation-leaks-action",
            "warning",
            found.columns,
            ("equals", "equal", f"{which} of the same row{unit}"),
            "If it was filled in after the action, drop it: imitation would read the answer from it. If it is a rule that "
            "the behaviour follows, the log has tried nothing else.",
        )


def leaks_time_left(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that counts down to the end of the episode, which nobody can know yet."""
    sample = facts.sample
    long = sample.length >= 3
    if long.sum() < LEAST_ROWS or len(np.unique(sample.length[long])) < 3:
        return  # with a single length, the steps left are a clock
    here = sample.observation[long]
    left = (sample.length - sample.position)[long].astype(np.float64)
    done = sample.position[long].astype(np.float64)
    length = sample.length[long].astype(np.float64)
    clock = same_up_to_unit(here, done)
    found = np.flatnonzero(
        (same_up_to_unit(here, left) | same_up_to_unit(here, length) | same_up_to_unit(here, done / length)) & ~clock
    )
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-time-left",
            "error",
            found,
            ("gives", "give", "the number of steps until the episode ends"),
            "Drop it: while an episode runs nobody knows when it will end.",
        )


def _separates(columns: NumpyArray, positive: NumpyArray) -> NumpyArray:
    """(D,) whether the area under the ROC curve of each column, for the positives, is nearly 1 or 0."""
    ranks = stats.rankdata(columns, axis=0)
    many, few = int(positive.sum()), int((~positive).sum())
    area = (ranks[positive].sum(0) - many * (many + 1) / 2) / (many * few)
    return np.asarray(np.abs(area - 0.5) > SEPARATED - 0.5)


def _finding(
    facts: Facts, code: str, severity: str, columns: NumpyArray, seen: tuple[str, str, str], action: str
) -> Finding:
    """A finding about columns; `seen` is a verb in the singular, in the plural, and the rest of the sentence."""
    one, several, rest = seen
    return Finding(
        code,
        severity,
        f"observation: {facts.columns(columns)}",
        f"{len(columns)} columns {several} {rest}" if len(columns) > 1 else f"1 column {one} {rest}",
        "observations of what was known before the action",
        action,
    )
