"""Checks for observation columns that know what could not be known when the action was chosen.

Only near-exact matches count (|r| above `EXACT`, or a perfect separation of two outcomes): a velocity that correlates at
0.9 with the reward is physics, a column that equals it is an error of the export.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import stats

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.regression import correlations
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["leaks_action", "leaks_future_reward", "leaks_outcome", "leaks_reward", "leaks_time_left"]

EXACT = 0.999
"""|r| at which 99.8% of a number is known from the other."""
SEPARATED = 0.999
"""Area under the ROC curve at which two outcomes are told apart."""
LEAST_EACH = 10
"""Episodes of each outcome: by chance ten of each are separated once in 180,000 columns."""
LEAST_ROWS = 200


def leaks_reward(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column equal to the reward of its own row, which comes after the action."""
    sample = facts.sample
    if len(sample) < LEAST_ROWS or (np.diff(log.episode_start) == 1).all():
        return
    found = np.flatnonzero(_exact(sample.observation, sample.reward))
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-reward",
            "warning",
            found,
            "equal the reward of the same row, up to unit",
            "If the reward is not itself a part of the state before the action, drop the column.",
        )


def leaks_outcome(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column whose first value in an episode already gives the episode's return."""
    first = facts.first_rows
    returns = facts.scan.returns[first.episode]
    if len(first) < 2 * LEAST_EACH or first.observation.shape[1] == 0:
        return
    values, counts = np.unique(returns, return_counts=True)
    if len(values) == 2:
        if counts.min() < LEAST_EACH:
            return
        found = np.flatnonzero(_separates(first.observation, returns == values[1]))
        how = "tell the two outcomes of an episode apart from its first row on"
    else:
        if len(first) < LEAST_ROWS // 2:
            return
        found = np.flatnonzero(_exact(first.observation, returns))
        how = "give an episode's return from its first row on"
    # With one step an episode the outcome is the row's reward, and that may be a part of the context by right.
    one_step = bool((np.diff(log.episode_start) == 1).all())
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-outcome",
            "warning" if one_step else "error",
            found,
            f"{how}, without a doubt",
            "If the reward is not itself a part of what was known before the action, drop the column."
            if one_step
            else "They were filled in afterwards: drop them, a policy will not have them.",
        )


def leaks_future_reward(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column equal to the reward of the next row (and not to that of its own)."""
    sample = facts.sample
    inner = sample.position + 1 < sample.length
    if inner.sum() < LEAST_ROWS:
        return
    following = log.reward[sample.rows[inner] + 1].astype(np.float64)
    following = np.where(np.isfinite(following), following, 0)
    here = sample.observation[inner]
    found = np.flatnonzero(_exact(here, following) & ~_exact(here, sample.reward[inner]))
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-future",
            "error",
            found,
            "equal the reward of the next row, up to unit",
            "They were filled in from later rows: drop them, or shift them back.",
        )


def leaks_action(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that is the action taken in its own row. A behaviour that follows one column looks the same, so it is asked,
    not said."""
    sample = facts.sample
    if len(sample) < LEAST_ROWS:
        return
    actions = sample.action[:, None] if log.num_actions is not None else sample.action
    for j, action in enumerate(actions.T.astype(np.float64)):
        if len(np.unique(action)) < 3:  # with two actions a simple rule of one column looks the same
            continue
        same = (sample.observation == action[:, None]).all(0)
        found = np.flatnonzero(same | _exact(sample.observation, action))
        if len(found):
            which = "the action" if log.num_actions is not None else f"number {j} of the action"
            unit = "" if same[found].any() else ", up to unit"
            yield _finding(
                facts,
                "observation-leaks-action",
                "warning",
                found,
                f"equal{'s' if len(found) == 1 else ''} {which}{unit}: a rule the behaviour follows, or a leak?",
                "If filled in after the action, drop it: imitation will read the answer. If a rule, nothing else was tried.",
            )


def leaks_time_left(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that counts down to an end nobody knows yet."""
    sample = facts.sample
    long = sample.length >= 3
    if long.sum() < LEAST_ROWS or len(np.unique(sample.length[long])) < 3:
        return  # with one length, steps left is a clock
    here = sample.observation[long]
    left = (sample.length - sample.position)[long].astype(np.float64)
    done = sample.position[long].astype(np.float64)
    length = sample.length[long].astype(np.float64)
    clock = _exact(here, done)
    found = np.flatnonzero((_exact(here, left) | _exact(here, length) | _exact(here, done / length)) & ~clock)
    if len(found):
        yield _finding(
            facts,
            "observation-leaks-time-left",
            "error",
            found,
            "give the steps that are left until the episode ends",
            "Drop them: when an episode will end is not known while it runs.",
        )


def _exact(columns: NumpyArray, target: NumpyArray) -> NumpyArray:
    """(D,) columns that are the target up to unit and offset: in their values and, against lone wild ones, in their ranks
    for the middle of the rows."""
    if not len(target) or target.min() == target.max():
        return np.zeros(columns.shape[1], bool)
    close = np.abs(correlations(columns, target)) > EXACT
    if close.any():
        low, high = np.quantile(target, [0.01, 0.99])
        middle = (target >= low) & (target <= high)
        if target[middle].min() < target[middle].max():
            close &= np.abs(correlations(columns[middle], target[middle])) > EXACT
    return np.asarray(close)


def _separates(columns: NumpyArray, positive: NumpyArray) -> NumpyArray:
    """(D,) columns whose area under the ROC curve for the positives is 1 or 0, nearly."""
    ranks = stats.rankdata(columns, axis=0)
    many, few = int(positive.sum()), int((~positive).sum())
    area = (ranks[positive].sum(0) - many * (many + 1) / 2) / (many * few)
    return np.asarray(np.abs(area - 0.5) > SEPARATED - 0.5)


def _finding(facts: Facts, code: str, severity: str, columns: NumpyArray, seen: str, action: str) -> Finding:
    return Finding(
        code,
        severity,
        f"observation: columns {facts.labels(columns)}",
        f"{len(columns)} column{'s' if len(columns) > 1 else ''} {seen}",
        "observations made before the action, of what was known then",
        action,
    )
