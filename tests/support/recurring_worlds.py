"""Logs in which different episodes are equal by coincidence, and ordinary changes of a log, for telling one from the other.

Each world is a function `(episodes, seed) -> Dataset`; each change is one of a dict of columns as `st.read` takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import stitchrl as st
from stitchrl.data.dataset import Dataset

__all__ = ["CHANGES", "bandit", "columns_of", "customers", "grid", "mixed", "one_step", "read"]

Columns = dict[str, Any]
STEPS, SIDE = ((0, 1), (1, 0), (0, -1), (-1, 0)), 5


def read(columns: Columns) -> Dataset:
    """The log of some columns."""
    return st.read(columns)


def columns_of(log: Dataset) -> Columns:
    """The columns of a log that count here."""
    return {
        "episode": np.repeat(np.arange(log.num_episodes), log.episode_lengths),
        "observation": np.asarray(log.observation),
        "action": np.asarray(log.action),
        "reward": np.asarray(log.reward),
        "terminated": np.asarray(log.terminated),
        "truncated": np.asarray(log.truncated),
    }


def one_step(context: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> Dataset:
    """Episodes of one row with the given contexts and actions, of which the second pays more often."""
    rows = len(context)
    return read(
        {
            "episode": np.arange(rows),
            "observation": np.asarray(context, np.float32).reshape(rows, -1),
            "action": action,
            "reward": (rng.random(rows) < 0.3 + 0.1 * action).astype(np.float32),
            "terminated": np.ones(rows, bool),
            "behavior_probs": np.full((rows, 2), 0.5, np.float32),
        }
    )


def bandit(contexts: int) -> Callable[[int, int], Dataset]:
    """Contexts drawn at random, two actions, rewards of 0 or 1."""

    def draw(episodes: int, seed: int) -> Dataset:
        rng = np.random.default_rng(seed)
        return one_step(rng.integers(0, contexts, episodes), rng.integers(0, 2, episodes), rng)

    return draw


def customers(episodes: int, seed: int) -> Dataset:
    """The same customers in each log, every one once, with the same features."""
    features = np.random.default_rng(7).normal(size=(episodes, 3))
    rng = np.random.default_rng(seed)
    return one_step(features, rng.integers(0, 2, episodes), rng)


def grid(episodes: int, seed: int) -> Dataset:
    """A walk from one of two corners of a grid to the opposite ones; one step of five goes anywhere."""
    rng, rows = np.random.default_rng(seed), []
    for episode in range(episodes):
        x, y = 0, int(rng.integers(0, 2)) * (SIDE - 1)
        goal = (SIDE - 1, SIDE - 1 - y)
        for step in range(30):
            sensible = [k for k, (dx, dy) in enumerate(STEPS) if (goal[0] - x) * dx > 0 or (goal[1] - y) * dy > 0]
            action = int(rng.integers(0, 4)) if rng.random() < 0.2 else int(rng.choice(sensible))
            u, v = (min(max(a + b, 0), SIDE - 1) for a, b in zip((x, y), STEPS[action], strict=True))
            over = (u, v) == goal
            rows.append((episode, x, y, goal[1], action, float(over), over, step == 29 and not over))
            x, y = u, v
            if over:
                break
    table = np.array(rows, np.float64)
    return read(
        {
            "episode": table[:, 0].astype(int),
            "observation": table[:, 1:4].astype(np.float32),
            "action": table[:, 4].astype(int),
            "reward": table[:, 5],
            "terminated": table[:, 6] > 0,
            "truncated": table[:, 7] > 0,
        }
    )


def _rows(columns: Columns, kept: np.ndarray) -> Columns:
    """Some of the rows; episodes that lost their last row end with the one before."""
    found = {name: column[kept] for name, column in columns.items()}
    last = np.append(found["episode"][1:] != found["episode"][:-1], True)
    return found | {"terminated": last & ~found["truncated"]}


def _first(columns: Columns) -> np.ndarray:
    episode = columns["episode"]
    return np.append(True, episode[1:] != episode[:-1])


def _last(columns: Columns) -> np.ndarray:
    return np.append(_first(columns)[1:], True)


def _without(columns: Columns, gone: np.ndarray) -> Columns:
    """Without some rows, but for those of episodes that have one row alone."""
    return _rows(columns, ~gone | (_first(columns) & _last(columns)))


def _reversed(columns: Columns) -> Columns:
    turned = {name: column[::-1] for name, column in columns.items()}
    return _rows(turned | {"truncated": np.zeros(len(turned["reward"]), bool)}, np.ones(len(turned["reward"]), bool))


def _rounded(columns: Columns) -> Columns:
    observation = columns["observation"].copy()
    observation[:, 0] = observation[:, 0].round(1) + np.float32(0.0)
    return columns | {"observation": observation}


def _merged(columns: Columns) -> Columns:
    joined = columns | {"episode": columns["episode"] // 2, "truncated": np.zeros(len(columns["reward"]), bool)}
    return _rows(joined, np.ones(len(columns["reward"]), bool))


CHANGES: dict[str, Callable[[Columns], Columns]] = {
    "the very log": lambda c: c,
    "rows reversed": _reversed,
    "one row less": lambda c: _rows(c, np.arange(len(c["reward"])) != 1),
    "reward + 1": lambda c: c | {"reward": c["reward"] + 1},
    "reward * 100": lambda c: c | {"reward": c["reward"] * 100},
    "first rows dropped": lambda c: _without(c, _first(c)),
    "last rows dropped": lambda c: _without(c, _last(c)),
    "two episodes joined": _merged,
    "half of the episodes": lambda c: _rows(c, c["episode"] % 2 == 0),
    "a column rounded": _rounded,
}
"""What people do to a log, by name."""


def mixed(known: Columns, fresh: Columns, share: float) -> Columns:
    """A fresh log of which a share of the episodes is replaced by known ones."""
    count = int(share * (known["episode"][-1] + 1))
    old, new = (
        {name: column[chosen] for name, column in one.items()}
        for one, chosen in ((known, known["episode"] < count), (fresh, fresh["episode"] >= count))
    )
    shifted = new | {"episode": new["episode"] + known["episode"][-1] + 1}
    return {name: np.concatenate([old[name], shifted[name]]) for name in old}
