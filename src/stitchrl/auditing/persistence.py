"""How well the last action predicts the next one, and the last reward the next reward, beside a model of the observation.

Where the last action alone does as well as everything that was observed, the log shows a habit rather than decisions: what
imitation learns from it is to go on as before, and what is observed says little about what is done.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stitchrl.auditing.behavior_rows import behavior_rows
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.history_facts import rows_with_past
from stitchrl.auditing.history_models import mean_and_error
from stitchrl.auditing.history_rows import PastRows
from stitchrl.auditing.regression import features, residuals
from stitchrl.types import NumpyArray

__all__ = ["Persistence", "action_persistence", "reward_persistence"]

LEAST_ROWS, LEAST_CLUSTERS = 300, 20
ROWS = 2**13
"""Regressions look at at most about this many rows."""
LEAST_GAIN = 0.1
"""Nats per decision that the last action must gain over the shares of the actions, before it counts as a habit."""
LEAST_EXPLAINED = {"action": 0.5, "reward": 0.3}
"""Share of the variance of a number that its last value must explain."""
AS_GOOD = 0.9
"""The last value is as good as the observation where it gains at least this share of what the observation gains."""
ADDED = 0.1
"""Beside the last number the observation must explain less than this share of what the last one leaves."""
SHRINK = 5.0
"""The shares after each action count as if this many rows of the shares of all were added to them."""


class Persistence(NamedTuple):
    """How well the last value predicts the next one, held out.

    Attributes:
        last: of discrete actions the share that equal the last one; of numbers the share of the variance that the last explains.
        observed: the share of actions, or of the variance, that a model of the whole observation gets right.
        constant: the share that the commonest action has; 0 for numbers.
        as_good: whether the last value is as good as the observation, by likelihoods and not by these shares alone.
    """

    last: float
    observed: float
    constant: float
    as_good: bool


def action_persistence(facts: Facts) -> Persistence | None:
    """How well the last action predicts the next one; None where too little is known, or where it hardly does."""
    return facts.once(_discrete if facts.log.num_actions is not None else _continuous)


def _discrete(facts: Facts) -> Persistence | None:
    log, rows = facts.log, behavior_rows(facts)
    if rows is None:
        return None
    numbers = rows.sample.rows
    after = np.flatnonzero((rows.sample.position > 0) & log.continues[np.maximum(numbers - 1, 0)])
    episode = rows.sample.episode[after]
    if len(after) < LEAST_ROWS or len(np.unique(episode)) < LEAST_CLUSTERS:
        return None
    classes = len(rows.common) + 1
    last = log.action[numbers[after] - 1]
    place = np.searchsorted(rows.common, last).clip(0, len(rows.common) - 1)
    last = np.where(rows.common[place] == last, place, len(rows.common))
    taken, half = rows.choice[after], rows.half[after]
    allowed = np.ones((len(after), classes)) if rows.allowed is None else rows.allowed[after].astype(np.float64)
    at = np.arange(len(after)), taken
    likelihood = {"last": np.zeros(len(after)), "constant": np.zeros(len(after))}
    for train in (half, ~half):
        if train.all() or not train.any():
            return None
        counts = np.zeros((classes, classes))
        np.add.at(counts, (last[train], taken[train]), 1)
        shares = (counts.sum(0) + 0.5) / (counts.sum() + 0.5 * classes)
        tables = {"last": (counts + SHRINK * shares)[last], "constant": np.broadcast_to(shares, allowed.shape)}
        for name, table in tables.items():
            fitted = table * allowed
            likelihood[name][~train] = np.log(fitted[at] / fitted.sum(1))[~train]
    observed = rows.probabilities[after]
    gain, error = mean_and_error(
        likelihood["last"] - likelihood["constant"], np.unique(episode, return_inverse=True)[1]
    )
    if gain - 3 * error < LEAST_GAIN:
        return None
    by_observation = float((np.log(np.maximum(observed[at], 1e-12)) - likelihood["constant"]).mean())
    return Persistence(
        float((taken == last).mean()),
        float((observed.argmax(1) == taken).mean()),
        float(np.bincount(taken).max() / len(taken)),
        gain >= AS_GOOD * by_observation,
    )


def _continuous(facts: Facts) -> Persistence | None:
    return _of_numbers(facts, "action")


def reward_persistence(facts: Facts) -> Persistence | None:
    """How well the last reward predicts the next one, beside the observation and the action; None as in `action_persistence`."""
    return facts.once(_reward)


def _reward(facts: Facts) -> Persistence | None:
    return _of_numbers(facts, "reward")


def _of_numbers(facts: Facts, target: str) -> Persistence | None:
    rows = rows_with_past(facts)
    if rows is None or len(rows.half) < LEAST_ROWS or int(rows.cluster.max(initial=-1)) + 1 < LEAST_CLUSTERS:
        return None
    thin = slice(None, None, max(1, len(rows.half) // ROWS))
    which = "action[" if target == "action" else "reward"
    before = [j for j, name in enumerate(rows.past_names) if name.startswith(which) and name.endswith(" one step back")]
    values = (rows.action if target == "action" else rows.reward[:, None])[thin].astype(np.float64)
    last, half = rows.past[thin][:, before], rows.half[thin]
    total = float(((values - values.mean(0)) ** 2).sum())
    if not before or total <= 0:
        return None
    by_last = residuals(np.concatenate([np.ones((len(last), 1)), last], 1), values, half)
    explained = 1 - float((by_last**2).sum()) / total
    if explained < LEAST_EXPLAINED[target]:
        return None
    seen = _seen(rows, thin, acted=target == "reward")
    x = features(seen)
    by_observation = 1 - float((residuals(x, values, half) ** 2).sum()) / total
    both = 1 - float((residuals(np.concatenate([x, last], 1), values, half) ** 2).sum()) / total
    as_good = explained >= AS_GOOD * by_observation and both - explained <= ADDED * (1 - explained)
    return Persistence(explained, by_observation, 0.0, as_good)


def _seen(rows: PastRows, thin: slice, *, acted: bool) -> NumpyArray:
    if not acted:
        return rows.observation[thin]
    action = np.eye(rows.classes)[rows.action[thin]] if rows.classes else rows.action[thin]
    return np.concatenate([rows.observation[thin], action], 1)
