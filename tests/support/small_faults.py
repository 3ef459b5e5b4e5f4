"""Small faults planted by hand in a clean log, one or more for each check that the corpus does not cover."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from worlds import bandit_log, random_log

import stitchrl as st

__all__ = ["SMALL_FAULTS", "changed", "counted"]


def changed(log: st.Dataset, name: str, change: Callable[[np.ndarray], Any]) -> st.Dataset:
    """The log with one array copied and changed in place (or replaced by what `change` returns)."""
    column = getattr(log, name).copy()
    returned = change(column)
    return dataclasses.replace(log, **{name: column if returned is None else returned})


def mask_forbids(log: st.Dataset) -> st.Dataset:
    def forbid(mask: np.ndarray) -> None:
        mask[[5, 9], log.action[[5, 9]]] = False

    return changed(log, "action_mask", forbid)


def mask_empty(log: st.Dataset) -> st.Dataset:
    return changed(log, "action_mask", lambda mask: mask.__setitem__(7, False))


def no_propensities(log: st.Dataset) -> st.Dataset:
    return dataclasses.replace(log, behavior_log_prob=None, behavior_probs=None)


def impossible(log: st.Dataset) -> st.Dataset:
    return changed(log, "behavior_log_prob", lambda column: column.__setitem__(3, -np.inf))


def above_one(log: st.Dataset) -> st.Dataset:
    return changed(log, "behavior_log_prob", lambda column: column.__setitem__(3, 0.5))


def disagreeing(log: st.Dataset) -> st.Dataset:
    def halve(column: np.ndarray) -> None:
        column[int(column.argmax())] -= 1.0

    return changed(log, "behavior_log_prob", halve)


def uncalibrated(log: st.Dataset) -> st.Dataset:
    # Each row's probabilities handed on to the next action.
    return changed(log, "behavior_probs", lambda probs: np.roll(probs, 1, axis=1))


def handed_over(log: st.Dataset) -> st.Dataset:
    # All of action 7's probability given to action 8.
    def hand_over(probs: np.ndarray) -> None:
        probs[:, 8] += probs[:, 7]
        probs[:, 7] = 0

    return changed(log, "behavior_probs", hand_over)


def unused(log: st.Dataset) -> st.Dataset:
    return changed(log, "action", lambda action: np.where(action == 4, 5, action).astype(action.dtype))


def rare(log: st.Dataset) -> st.Dataset:
    def leave_one(action: np.ndarray) -> None:
        action[action == 4] = 5
        action[11] = 4

    return changed(log, "action", leave_one)


def constant_observation(log: st.Dataset) -> st.Dataset:
    return changed(log, "observation_table", lambda table: table.__setitem__((slice(None), 6), 2.0))


def constant_return(log: st.Dataset) -> st.Dataset:
    return changed(log, "reward", lambda reward: reward.fill(0))


def cut(log: st.Dataset) -> st.Dataset:
    last = log.episode_start[1] - 1
    ended = changed(log, "terminated", lambda column: column.__setitem__(last, False))
    return changed(ended, "truncated", lambda column: column.__setitem__(last, True))


def copies(log: st.Dataset) -> st.Dataset:
    return log.select_episodes([*range(log.num_episodes - 20), *range(20)])


def gap(log: st.Dataset) -> st.Dataset:
    """A row is followed, it says, by what some other row saw."""
    rows = np.flatnonzero(log.continues)
    following = log.next_observation_index.copy()
    other = np.flatnonzero(log.observation_index != following[rows[0]])[0]
    following[rows[0]] = log.observation_index[other]
    return dataclasses.replace(log, next_observation_index=following)


def step_lost(log: st.Dataset) -> st.Dataset:
    """In the first episode of three rows or more, the last step comes two later."""
    last = log.episode_start[1:][np.diff(log.episode_start) >= 3][0] - 1
    return changed(log, "step", lambda step: step.__setitem__(last, step[last - 1] + 3))


def time_back(log: st.Dataset) -> st.Dataset:
    time = np.arange(log.num_transitions)
    second = log.episode_start[:-1][np.diff(log.episode_start) >= 2][0] + 1
    time[second] -= 2
    return dataclasses.replace(log, time=time)


def bins_left_out(log: st.Dataset) -> st.Dataset:
    """Times of whole hours of which every tenth is skipped."""
    hours = log.position + np.cumsum(np.arange(log.num_transitions) % 10 == 0)
    return dataclasses.replace(log, time=np.datetime64("2026-01-01T00") + hours.astype("timedelta64[h]"))


def irregular_times(log: st.Dataset) -> st.Dataset:
    """Waits between ten minutes and ten hours, in a log that discounts nothing."""
    waits = 600 * 60 ** np.random.default_rng(0).random(log.num_transitions)
    time = np.datetime64("2026-01-01") + np.cumsum(waits).astype("timedelta64[s]")
    return dataclasses.replace(log, time=time)


def cost_among_features(log: st.Dataset) -> st.Dataset:
    """A column that is the cost of its own row."""
    cost = np.random.default_rng(0).exponential(size=log.num_transitions).astype(np.float32)
    table = np.concatenate([log.observation, 2 * cost[:, None] + 1], 1)
    following = np.append(np.arange(1, log.num_transitions), -1)
    following[log.episode_start[1:] - 1] = -1
    return dataclasses.replace(
        log,
        observation_table=table,
        observation_index=np.arange(log.num_transitions, dtype=np.int32),
        next_observation_index=following.astype(np.int32),
        observation_id=None,
        cost=cost[:, None],
        schema=dataclasses.replace(log.schema, columns={**log.schema.columns, "cost": "bill"}),
    )


def last_observation_missing(log: st.Dataset) -> st.Dataset:
    """The last row is cut, and what came after it has a NaN that no row of the log observed."""
    return dataclasses.replace(
        cut_last(log),
        observation_table=np.concatenate([log.observation_table, np.full_like(log.observation_table[:1], np.nan)]),
        next_observation_index=np.append(log.next_observation_index[:-1], len(log.observation_table)).astype(np.int32),
    )


def last_observation_infinite(log: st.Dataset) -> st.Dataset:
    log = last_observation_missing(log)
    return changed(log, "observation_table", lambda table: np.where(np.isnan(table), np.inf, table))


def cut_last(log: st.Dataset) -> st.Dataset:
    ended = changed(log, "terminated", lambda column: column.__setitem__(-1, False))
    return changed(ended, "truncated", lambda column: column.__setitem__(-1, True))


def weighed(log: st.Dataset) -> st.Dataset:
    return dataclasses.replace(log, weight=np.ones(log.num_transitions, np.float32))


def grouped(log: st.Dataset) -> st.Dataset:
    """One patient in ten comes back once."""
    return dataclasses.replace(log, group=np.arange(log.num_episodes) * 10 // 11)


def few_groups(log: st.Dataset) -> st.Dataset:
    """All episodes are of a hundred patients."""
    return dataclasses.replace(log, group=np.arange(log.num_episodes) % 100)


def one_large_group(log: st.Dataset) -> st.Dataset:
    """A tenth of the episodes is one machine's."""
    return dataclasses.replace(log, group=np.maximum(np.arange(log.num_episodes) - log.num_episodes // 10, 0))


def counted(step: list[int], time: list[float] | None = None) -> st.Dataset:
    """Nine rows, episodes of five and four, with these steps and times."""
    log = random_log(2).select_episodes([0])
    count = len(step)
    index = np.zeros(count, np.int32)
    return dataclasses.replace(
        log,
        observation_index=index,
        next_observation_index=index,
        action=index,
        reward=np.zeros(count, np.float32),
        terminated=np.zeros(count, bool),
        truncated=np.zeros(count, bool),
        action_mask=None,
        step=np.array(step),
        time=None if time is None else np.array(time),
        episode_start=np.array([0, 5, 9]),
        episode_id=np.array([1, 2]),
    )


SMALL_FAULTS: list[tuple[str, Callable[[st.Dataset], st.Dataset], str, str]] = [
    ("logged_action_outside_mask", mask_forbids, "action-outside-mask", "error"),
    ("empty_mask", mask_empty, "empty-mask", "error"),
    ("propensities_missing", no_propensities, "propensities-missing", "info"),
    ("propensities_impossible", impossible, "propensity-impossible", "error"),
    ("propensities_impossible", above_one, "propensity-impossible", "error"),
    ("propensities_disagree", disagreeing, "propensities-disagree", "error"),
    ("propensities_uncalibrated", uncalibrated, "propensities-uncalibrated", "error"),
    ("actions_unused", unused, "action-unused", "info"),
    (
        "actions_unused",
        lambda log: dataclasses.replace(unused(log), action_mask=None),
        "action-unused",
        "warning",
    ),
    ("actions_unused", rare, "action-rare", "info"),
    ("observation_constant", constant_observation, "observation-constant", "warning"),
    ("returns_constant", constant_return, "returns-constant", "error"),
    ("cut_without_next", cut, "cut-without-next-observation", "warning"),
    ("episodes_of_one_step", lambda log: bandit_log(), "episodes-of-one-step", "warning"),
    ("few_episodes", lambda log: log.select_episodes(range(99)), "few-episodes", "warning"),
    ("duplicated_episodes", copies, "episodes-duplicated", "warning"),
    ("rows_missing", gap, "rows-missing", "warning"),
    ("steps_missing", step_lost, "steps-missing", "warning"),
    ("time_backwards", time_back, "time-backwards", "warning"),
    ("steps_binned", bins_left_out, "steps-binned", "warning"),
    ("leaks_cost", cost_among_features, "observation-leaks-cost", "warning"),
    (
        "time_irregular",
        irregular_times,
        "time-irregular",
        "info",
    ),
    ("missing_values", last_observation_missing, "missing-values", "error"),
    ("infinite_values", last_observation_infinite, "infinite-values", "error"),
    ("weights_unused", weighed, "weight-unused", "warning"),
    ("groups_of_several_episodes", grouped, "episodes-in-groups", "info"),
    ("groups_of_several_episodes", few_groups, "episodes-in-groups", "warning"),
    ("groups_of_several_episodes", one_large_group, "episodes-in-groups", "warning"),
]
"""The check, the fault, and the code and severity of the finding that must tell it."""
