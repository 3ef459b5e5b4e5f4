"""Small sound logs, and harm planted in some of their episodes: what a ranking of episodes must find, and must not invent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema

__all__ = ["HARMS", "recall", "vector_log"]

Harm = Callable[[Dataset, float, int], tuple[Dataset, np.ndarray]]


@cache
def vector_log(episodes: int = 300, seed: int = 0, *, actions: int | None = None, cut: float = 0.0) -> Dataset:
    """Three numbers that drift to 0 and are pushed by an action that counters the first; the reward is lost by distance.

    Args:
        episodes: how many, of 8 to 14 steps.
        seed: of all draws.
        actions: how many numbered pushes there are; None: any push, a vector of one number.
        cut: share of the episodes that are cut, half of these without their last observation.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[object]] = {name: [] for name in ("episode", "observation", "action", "reward", "terminated")}
    rows |= {"truncated": [], "next_observation": []}
    for episode in range(episodes):
        here, steps, ends = 0.7 * rng.normal(size=3), int(rng.integers(8, 15)), rng.random() >= cut
        for step in range(steps):
            wish = -1.5 * here[0] + 0.2 * rng.normal()
            push = wish if actions is None else int(np.clip(np.round(wish + actions // 2), 0, actions - 1))
            size = float(push) if actions is None else push - actions // 2
            after = 0.8 * here + 0.3 * size * np.array([1.0, 0.5, 0.0]) + 0.2 * rng.normal(size=3)
            last = step == steps - 1
            lost = last and not ends and rng.random() < 0.5
            for name, value in {
                "episode": episode,
                "observation": here,
                "action": [push] if actions is None else push,
                "reward": 1.0 - 0.3 * float(here @ here) + 0.1 * rng.normal(),
                "terminated": last and ends,
                "truncated": last and not ends,
                "next_observation": np.full(3, np.nan) if lost else after,
            }.items():
                rows[name].append(value)
            here = after
    columns = {name: np.asarray(values) for name, values in rows.items()}
    if not cut:
        del columns["truncated"]
    for name in ("observation", "next_observation", *(("action",) if actions is None else ())):
        columns[name] = columns[name].astype(np.float32)
    return st.read(columns, Schema.infer(list(columns), num_actions=actions, gamma=0.9))


def _some(log: Dataset, share: float, seed: int) -> np.ndarray:
    """(episodes,) which ones are harmed, at least one."""
    found = np.zeros(log.num_episodes, bool)
    count = max(1, round(share * log.num_episodes))
    found[np.random.default_rng(seed).choice(log.num_episodes, count, replace=False)] = True
    return found


def rewards_flipped(log: Dataset, share: float, seed: int) -> tuple[Dataset, np.ndarray]:
    """The rewards of some episodes have the other sign."""
    harmed = _some(log, share, seed)
    sign = np.where(harmed[log.episode_of_transition], -1, 1).astype(np.float32)
    return dataclasses.replace(log, reward=log.reward * sign), harmed


def rewards_of_another_unit(log: Dataset, share: float, seed: int) -> tuple[Dataset, np.ndarray]:
    """The rewards of some episodes are ten times what they are."""
    harmed = _some(log, share, seed)
    factor = np.where(harmed[log.episode_of_transition], 10, 1).astype(np.float32)
    return dataclasses.replace(log, reward=log.reward * factor), harmed


def actions_shuffled(log: Dataset, share: float, seed: int) -> tuple[Dataset, np.ndarray]:
    """The actions of some episodes are those of other rows of these episodes."""
    harmed = _some(log, share, seed)
    rows = np.flatnonzero(harmed[log.episode_of_transition])
    action = log.action.copy()
    action[rows] = action[np.random.default_rng(seed).permutation(rows)]
    return dataclasses.replace(log, action=action), harmed


def column_of_another_unit(log: Dataset, share: float, seed: int) -> tuple[Dataset, np.ndarray]:
    """The first column of some episodes is a hundred times what it is."""
    harmed = _some(log, share, seed)
    table, shift = np.concatenate([log.observation_table] * 2), len(log.observation_table)
    table[shift:, 0] *= 100
    rows = harmed[log.episode_of_transition]
    here, after = log.observation_index.copy(), log.next_observation_index.copy()
    here[rows] += shift
    after[rows & (after >= 0)] += shift
    changed = dataclasses.replace(
        log, observation_table=table, observation_index=here, next_observation_index=after, observation_id=None
    )
    return changed.compact(), harmed


HARMS: dict[str, tuple[Harm, float]] = {
    "rewards of the other sign": (rewards_flipped, 0.02),
    "actions of other rows": (actions_shuffled, 0.02),
    "rewards of another unit": (rewards_of_another_unit, 0.003),
    "a column of another unit": (column_of_another_unit, 0.003),
}
"""What is planted, and in which share of the episodes."""


def recall(order: tuple[object, ...], log: Dataset, harmed: np.ndarray, count: int | None = None) -> float:
    """The share of the harmed episodes among the worst `count`; by default among as many as were harmed."""
    names = set(log.episode_id[harmed].tolist())
    return len(names & set(order[: count or len(names)])) / len(names)
