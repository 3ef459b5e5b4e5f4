"""The rows that the history check looks at: stretches of episodes, each row with the columns of its past.

The past of a row are the observations, actions and rewards one and two steps back, the means of the actions and rewards of
up to eight steps back, and the step number. Rows without a step before them have no past and are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.row_hashes import hash_words, words
from stitchrl.types import NumpyArray

__all__ = ["PastRows", "past_rows"]

ROWS = 2**14
"""At most about this many rows are looked at."""
STRETCH = 40
"""Rows taken from one episode, more where there are few episodes."""
MEAN_STEPS = 8
"""Steps that the means of past actions and rewards cover."""
MOST_COLUMNS = 100
"""At most this many observation columns are looked at, evenly spaced among those that vary."""
MOST_ACTIONS = 50
"""The commonest actions have a class of their own; all others share one."""
MOST_STATES, LEAST_ROWS_PER_STATE = 1024, 4
"""Observations that repeat are states when there are at most so many of them, with so many rows each on average."""


@dataclasses.dataclass(frozen=True)
class PastRows:
    """Some rows of a log that have a past, n of them.

    Attributes:
        rows: (n,) their numbers in the log, ascending.
        cluster: (n,) the episode of each row, or its group where the log has groups; clusters are independent.
        half: (n,) True in a random half of the clusters.
        observation: (n, D) standardised, with a column of 0 and 1 for each column that has missing values.
        columns: the names of the D columns.
        state: (n,) a number for each distinct observation where observations repeat; None where they do not.
        action: (n,) the class of a discrete action, or (n, k) standardised numbers.
        classes: how many classes of discrete actions there are; 0 for continuous actions.
        allowed: (n, classes) which classes the action mask allows; None without a mask.
        reward: (n,) received after the action.
        change: (n, D) next observation minus observation; 0 where `change_known` is False.
        change_known: (n,) whether the next observation is known.
        ended: (n,) whether the episode terminated.
        end_known: (n,) False in the last row of the longest episodes: there a clock may have ended them.
        past: (n, J) the columns of the past, standardised; where a second step back is missing it is 0.
        past_names: the name of each column of the past.
    """

    rows: NumpyArray
    cluster: NumpyArray
    half: NumpyArray
    observation: NumpyArray
    columns: tuple[str, ...]
    state: NumpyArray | None
    action: NumpyArray
    classes: int
    allowed: NumpyArray | None
    reward: NumpyArray
    change: NumpyArray
    change_known: NumpyArray
    ended: NumpyArray
    end_known: NumpyArray
    past: NumpyArray
    past_names: tuple[str, ...]

    def every(self, nth: int) -> PastRows:
        """Every nth of the rows."""
        names = (field.name for field in dataclasses.fields(self))
        arrays: dict[str, Any] = {
            name: value[::nth] for name in names if isinstance(value := getattr(self, name), np.ndarray)
        }
        return dataclasses.replace(self, **arrays)


def past_rows(log: Dataset, *, first_steps: bool = False) -> PastRows:
    """The rows of a log whose observations are columns of numbers; there may be none.

    Args:
        log: the log.
        first_steps: whether the first steps of episodes are among them, although nothing precedes them.
    """
    rows = _chosen_rows(log, first_steps)
    episode = np.searchsorted(log.episode_start, rows, "right") - 1
    cluster = episode if log.group is None else np.unique(log.group, return_inverse=True)[1][episode]
    cluster = np.unique(cluster, return_inverse=True)[1]
    of_cluster = draws(5).permutation(cluster.max(initial=-1) + 1) % 2 == 0

    kept, names = _kept_columns(log, rows)
    now = log.observation_table[log.observation_index[rows]]
    following = log.next_observation_index[rows]
    known = following != NO_OBSERVATION
    table = _Standard(now[:, kept])
    observation = table(now[:, kept])
    after = table(log.observation_table[np.where(known, following, 0)][:, kept])
    change = np.where(known[:, None], after - observation, 0.0)

    discrete = log.num_actions is not None
    common, values = _action_values(log, rows)
    past, past_names = _past(log, rows, table, kept, names, common, values)
    action = _classes(log.action[rows], common) if discrete else values(rows)
    allowed = None
    if log.action_mask is not None:
        mask = log.action_mask[rows]
        others = np.ones(mask.shape[1], bool)
        others[common] = False
        allowed = np.concatenate([mask[:, common], mask[:, others].any(1, keepdims=True)], 1)
        allowed[np.arange(len(rows)), action] = True  # an action outside its mask is another check's finding
    return PastRows(
        rows,
        cluster,
        of_cluster[cluster],
        observation,
        tuple(names) + tuple(f"{names[j]} missing" for j in table.missing),
        _states(log, rows, now),
        action,
        len(common) + 1 if discrete else 0,
        allowed,
        _finite(log.reward[rows]),
        change,
        known & ~log.terminated[rows],
        log.terminated[rows].astype(np.float64),
        rows - log.episode_start[episode] + 1 < log.episode_lengths.max(),
        past,
        past_names,
    )


def _chosen_rows(log: Dataset, first_steps: bool) -> NumpyArray:
    """Stretches of randomly chosen episodes, ascending, without rows after a gap and, unless they are wanted, first steps."""
    rng = draws(4)
    order = rng.permutation(log.num_episodes)
    stretch = max(STRETCH, -(-ROWS // max(log.num_episodes, 1)))
    before = 0 if first_steps else 1
    taken = np.minimum(log.episode_lengths[order] - before, stretch)
    order = order[: int(np.searchsorted(np.cumsum(taken), ROWS)) + 1]
    taken = taken[: len(order)]
    spare = log.episode_lengths[order] - before - taken
    first = log.episode_start[order] + before + (rng.random(len(order)) * (spare + 1)).astype(np.int64)
    ends = np.cumsum(taken)
    rows = np.sort(np.repeat(first - ends + taken, taken) + np.arange(taken.sum()))
    follows = log.continues[np.maximum(rows - 1, 0)] | np.isin(rows, log.episode_start[:-1]) if len(rows) else rows
    chosen: NumpyArray = rows[follows] if len(rows) else rows
    return chosen


def _kept_columns(log: Dataset, rows: NumpyArray) -> tuple[NumpyArray, list[str]]:
    """The observation columns that vary in these rows, `MOST_COLUMNS` at most, and their names."""
    table = log.observation_table[log.observation_index[rows]].astype(np.float64)
    spread = np.nan_to_num(table, nan=0.0, posinf=0.0, neginf=0.0).std(0) if len(rows) else np.zeros(table.shape[1])
    vary = np.flatnonzero(spread > 0)
    kept = vary[np.unique(np.linspace(0, len(vary) - 1, min(len(vary), MOST_COLUMNS)).round().astype(int))]
    given = tuple(log.observation_names)
    named = len(given) == table.shape[1]
    return kept, [given[j] if named else f"observation[{j}]" for j in kept]


class _Standard:
    """Standardises columns by the mean and spread of these values; missing values become the mean and are marked."""

    def __init__(self, values: NumpyArray) -> None:
        finite = np.isfinite(values)
        count = np.maximum(finite.sum(0), 1)
        values = np.where(finite, values, 0).astype(np.float64)
        self.mean = values.sum(0) / count
        spread = np.sqrt((np.where(finite, values - self.mean, 0) ** 2).sum(0) / count)
        self.spread = np.where(spread > 0, spread, 1.0)
        self.missing = np.flatnonzero(~finite.all(0))

    def __call__(self, values: NumpyArray) -> NumpyArray:
        finite = np.isfinite(values)
        standard = np.where(finite, (np.where(finite, values, 0) - self.mean) / self.spread, 0)
        return np.concatenate([standard.clip(-10, 10), ~finite[:, self.missing]], 1).astype(np.float64)


def _action_values(log: Dataset, rows: NumpyArray) -> tuple[NumpyArray, Callable[[NumpyArray], NumpyArray]]:
    """The commonest actions, and a function from row numbers to their actions as columns."""
    if log.num_actions is None:
        raw = _finite(log.action[rows]).reshape(len(rows), -1)
        standard = _Standard(raw)
        return np.zeros(0, np.int64), lambda at: standard(_finite(log.action[at]).reshape(len(at), -1))
    counts = np.bincount(log.action[rows].clip(0, log.num_actions - 1), minlength=log.num_actions)
    most = min(MOST_ACTIONS, int((counts > 0).sum()))
    common = np.sort(np.argsort(-counts, kind="stable")[:most])
    return common, lambda at: (log.action[at][:, None] == common).astype(np.float64)


def _classes(action: NumpyArray, common: NumpyArray) -> NumpyArray:
    """(n,) the place of each action among the common ones; `len(common)` for all others."""
    place = np.searchsorted(common, action).clip(0, max(len(common) - 1, 0))
    found: NumpyArray = np.where(common[place] == action, place, len(common)) if len(common) else np.zeros_like(action)
    return found


def _past(
    log: Dataset,
    rows: NumpyArray,
    table: _Standard,
    kept: NumpyArray,
    names: list[str],
    common: NumpyArray,
    values: Callable[[NumpyArray], NumpyArray],
) -> tuple[NumpyArray, tuple[str, ...]]:
    """The columns of the past, standardised, and their names."""
    acts = [f"action {_action_name(log, int(a))}" for a in common] if log.num_actions is not None else []
    reward = _Standard(_finite(log.reward[rows])[:, None])
    parts: list[NumpyArray] = []
    labels: list[str] = []
    unbroken = np.ones(len(rows), bool)
    total: NumpyArray | None = None
    count = np.zeros((len(rows), 1))
    for back in range(1, MEAN_STEPS + 1):
        at = np.maximum(rows - back, 0)
        unbroken = unbroken & (rows >= back) & log.continues[at]
        here = unbroken[:, None]
        action = values(at)
        acts = acts or [f"action[{k}]" for k in range(action.shape[1])]
        received = reward(_finite(log.reward[at])[:, None])
        both = np.where(here, np.concatenate([action, received], 1), 0)
        total = both if total is None else total + both
        count += here
        if back > 2:
            continue
        where = "one step back" if back == 1 else "two steps back"
        seen = table(log.observation_table[log.observation_index[at]][:, kept])
        parts += [np.where(here, seen, 0), both]
        shown = [*names, *(f"{names[j]} missing" for j in table.missing), *acts, "reward"]
        labels += [f"{name} {where}" for name in shown]
        if back == 2:
            parts.append(here.astype(np.float64))
            labels.append("whether there was a second step back")
    assert total is not None
    parts.append(total / np.maximum(count, 1))
    labels += [f"{name} on average over the last {MEAN_STEPS} steps" for name in (*acts, "reward")]
    position = rows - log.episode_start[np.searchsorted(log.episode_start, rows, "right") - 1]
    position = position.astype(np.float64)[:, None]
    parts += [position, np.sqrt(position), position**2]
    labels += ["the step number"] * 3
    past = np.concatenate(parts, 1)
    spread = past.std(0) if len(past) else np.zeros(past.shape[1])
    vary = spread > 1e-9
    past = ((past[:, vary] - past[:, vary].mean(0)) / spread[vary]).clip(-6, 6) if len(past) else past[:, vary]
    return past, tuple(label for label, keep in zip(labels, vary, strict=True) if keep)


def _action_name(log: Dataset, action: int) -> str:
    names = log.schema.action_names
    return names[action] if action < len(names) else str(action)


def _states(log: Dataset, rows: NumpyArray, now: NumpyArray) -> NumpyArray | None:
    """(n,) a number for each distinct observation, where they repeat."""
    content = log.observation_id[rows] if log.observation_id is not None else hash_words(words(now))
    distinct, state = np.unique(content, return_inverse=True)
    repeat = len(distinct) <= MOST_STATES and len(distinct) * LEAST_ROWS_PER_STATE <= len(rows)
    return state if repeat else None


def _finite(values: NumpyArray) -> NumpyArray:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
