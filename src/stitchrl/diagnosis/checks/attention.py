"""Checks of what a policy acts by: the columns that it follows, the last action, and how it departs from the behaviour."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.departure_table import departure_table, moved_numbers
from stitchrl.diagnosis.first_departures import column_name, distinguishing_columns
from stitchrl.diagnosis.importance import importance_of, importance_of_behavior
from stitchrl.diagnosis.subject import NotLookedAtError, Subject
from stitchrl.diagnosis.support import check_acts_alone
from stitchrl.evaluation.behavior import fitted_propensities
from stitchrl.types import NumpyArray

__all__ = ["attention_numbers", "departure_numbers", "follows_one_column", "repeats_last_action"]

ONE_COLUMN = 0.7
"""`Importance.alone` from which one column decides nearly everything: more than twice as much as all others together. Sound
imitation of the clinicians reaches 0.55 in their most important column."""
LEAST_COLUMNS = 3
"""With fewer columns there is little else to act by."""
LEAST_IMPORTANCE = 0.05
"""Importance of the most important column below which a policy acts the same everywhere."""
OF_BEHAVIOR = 0.5
"""`Importance.alone` of the same column for the behaviour from which it is natural to follow it, unless it tells the action."""
TOLD = 0.9
"""Mean probability of the logged actions under a model of the behaviour, above which the observation tells the action."""
TOLD_ABOVE = 0.1
"""The same where there are logged propensities: by how much it exceeds their mean."""
REPEATS = 0.9
"""Share of decisions that repeat the last action from which it is nearly all of them."""
CHANGES = 0.5
"""Where the behaviour repeats itself too, it is a finding only if the policy changes its action at most this much as often."""
MORE_OFTEN = 0.25
"""By how much the policy's share of repeats exceeds the behaviour's where it repeats far more often."""
TELLS = 0.95
"""Correlation of a column with the last action from which it tells it."""
LEAST_ROWS = 30
SAME = 0.25
"""Distance, in standard deviations of the logged actions, up to which continuous actions are the same."""
MOST_SHOWN = 10


class Repeats(NamedTuple):
    """How often an action is the last logged one, over the decisions that follow one and leave a choice.

    Attributes:
        rows: how many decisions these are.
        policy, behavior: the share of repeats of the policy, and of what was logged.
    """

    rows: int
    policy: float
    behavior: float


def repeats_of(subject: Subject) -> Repeats:
    """How often the policy takes the last logged action, and how often the log itself does."""
    check_acts_alone(subject)
    log = subject.rows
    now = np.flatnonzero(log.continues) + 1
    if subject.mask is not None:
        now = now[subject.mask[now].sum(1) > 1]
    if len(now) == 0:
        return Repeats(0, 0.0, 0.0)
    before = log.action[now - 1]
    if log.num_actions is not None:
        policy = np.take_along_axis(subject.probs[now], before[:, None].astype(np.int64), 1)[:, 0]
        return Repeats(len(now), float(policy.mean(dtype=np.float64)), float((log.action[now] == before).mean()))
    # Draws of a density repeat nothing; what the policy would usually do can.
    usual = subject.actions if hasattr(subject.member.policy, "mode") else subject.drawn
    return Repeats(len(now), _same(log.action, usual[now], before), _same(log.action, log.action[now], before))


def repeats_last_action(subject: Subject) -> Iterator[Finding]:
    """The policy takes the last action again, where the behaviour chooses."""
    found = subject.once(repeats_of)
    if found.rows < LEAST_ROWS:
        return
    nearly_all = found.policy > REPEATS and 1 - found.policy <= CHANGES * (1 - found.behavior)
    column = _column_of_last_action(subject)
    if not nearly_all and found.policy <= found.behavior + MORE_OFTEN and column is None:
        return
    yield Finding(
        "repeats-last-action",
        "warning",
        f"{found.rows:,} decisions that follow another one",
        f"the policy takes the last logged action again in {found.policy:.1%} of them, and the behaviour does in "
        f"{found.behavior:.1%}{'' if column is None else f'; it acts almost by {column} alone, which tells the last action'}",
        "about as many repeats as the behaviour has, and a policy that looks at the state",
        "It may copy the last action where it should act by the state. Leave columns that tell the last action (a running "
        "dose, a device setting) out of the observation, or compare with a policy that is trained without them.",
    )


def _column_of_last_action(subject: Subject) -> str | None:
    """The column by which the policy acts almost alone, if it tells the last action; None otherwise."""
    try:
        found = subject.once(importance_of)
    except NotLookedAtError:
        return None
    log, name = subject.rows, found.names[found.top]
    if found.values[found.top] < LEAST_IMPORTANCE or found.alone < ONE_COLUMN:
        return None
    now = np.flatnonzero(log.continues) + 1
    columns = [j for j in range(log.observation_table.shape[1]) if column_name(log, j) == name]
    last = np.reshape(log.action[now - 1], (len(now), -1)).astype(np.float64)
    for told in (subject.obs[now, j].astype(np.float64) for j in columns):
        if any(abs(_correlation(told, number)) >= TELLS for number in last.T):
            return name
    return None


def _correlation(a: NumpyArray, b: NumpyArray) -> float:
    spread = float(a.std() * b.std())
    return 0.0 if spread == 0 else float(((a - a.mean()) * (b - b.mean())).mean() / spread)


def follows_one_column(subject: Subject) -> Iterator[Finding]:
    """The policy's actions depend on one column nearly alone, and the behaviour's do not.

    It is a warning where that column tells the action or the last one; else a note, since one column may truly decide.
    """
    found = subject.once(importance_of)
    top, value = found.names[found.top], float(found.values[found.top])
    if len(found.names) < LEAST_COLUMNS or value < LEAST_IMPORTANCE or found.alone < ONE_COLUMN:
        return
    told = False
    with contextlib.suppress(NotLookedAtError):
        told = _tells_the_action(subject)
        behavior = subject.shared.once(importance_of_behavior)
        if not told and behavior.top == found.top and behavior.alone >= OF_BEHAVIOR:
            return
    last = _column_of_last_action(subject) == top
    if told:
        remark = ". The log lets the action be told from the observation nearly without fail"
    else:
        remark = ". That column tells the last action" if last else ""
    yield Finding(
        "follows-one-column",
        "warning" if told or last else "info",
        top,
        f"the policy acts almost by {top} alone: shuffling it over the rows changes {_change(subject, value)}, and shuffling all "
        f"other {len(found.names) - 1:,} columns together {_change(subject, found.others)}{remark}",
        "actions that depend on several columns, unless one truly decides",
        "See whether this column tells what was done or what will happen (the audit's findings on leaks), whether it is scaled "
        "like the others, and whether a policy trained without it does as well. "
        + (
            "It tells an action, so leave it out of the observation."
            if told or last
            else "If one column truly decides, nothing is wrong."
        ),
    )


def _tells_the_action(subject: Subject) -> bool:
    """Whether the observation gives the logged action away: a model of the behaviour knows it better than it can be known.

    Raises `NotLookedAtError` where no behaviour can be fitted.
    """
    log, shared = subject.rows, subject.shared
    if log.num_actions is None:
        return False
    mean = float(np.exp(fitted_propensities(shared.behavior_model, log).log_prob).mean())
    if log.behavior_log_prob is not None:
        return mean > float(np.exp(log.behavior_log_prob).mean()) + TOLD_ABOVE
    return mean > TOLD


def attention_numbers(subject: Subject) -> dict[str, Any]:
    """The most important columns and the repeats as plain numbers."""
    repeats = subject.once(repeats_of)
    found: dict[str, Any] = {"repeats": repeats._asdict()}
    try:
        importance = subject.once(importance_of)
    except NotLookedAtError as why:
        return found | {"importance_missing": str(why)}
    behavior = subject.shared.once(importance_of_behavior).values if subject.shared.has_behavior_model else None
    found |= {"most_important": importance.names[importance.top], "decides_alone": importance.alone}
    order = np.argsort(-importance.values, kind="stable")[:MOST_SHOWN]
    found["columns"] = [
        {
            "name": importance.names[j],
            "importance": float(importance.values[j]),
            "share": float(importance.shares[j]),
            "behavior": None if behavior is None else float(behavior[j]),
        }
        for j in order
    ]
    return found


def departure_numbers(subject: Subject) -> dict[str, Any]:
    """How and where the policy departs from the behaviour, as plain numbers."""
    check_acts_alone(subject)
    log = subject.rows
    if log.num_actions is None:
        return {"numbers": moved_numbers(log, subject.drawn.astype(np.float64))}
    behavior = subject.shared.behavior.probs
    if behavior is None:
        raise NotLookedAtError("It is not known how probable the behaviour's other actions were.")
    usual = np.take_along_axis(subject.probs, behavior.argmax(1)[:, None], 1)[:, 0]
    where = distinguishing_columns(log, np.arange(len(usual)), usual < 0.5, usual >= 0.5)
    return {
        "share": float(1 - usual.mean(dtype=np.float64)),
        "table": [departure._asdict() for departure in departure_table(log, subject.probs, behavior)],
        "where": [column._asdict() for column in where],
    }


def _same(logged: NumpyArray, action: NumpyArray, before: NumpyArray) -> float:
    spread = logged.astype(np.float64).std(0)
    apart = (action - before) / np.where(spread > 0, spread, 1.0)
    return float((np.linalg.norm(apart, axis=1) / np.sqrt(apart.shape[1]) <= SAME).mean())


def _change(subject: Subject, value: float) -> str:
    if subject.rows.num_actions is not None:
        return f"{value:.0%} of its choices"
    return f"its actions by {value:.2g} standard deviations"
