"""A small nonlinear world of two observations and one action, any part of which can be changed after logging."""

from __future__ import annotations

import numpy as np

import stitchrl as st

__all__ = ["shifting_log"]


def shifting_log(
    seed: int,
    episodes: int = 40,
    steps: int = 12,
    *,
    discrete: bool = False,
    start: float = 0.0,
    spread: float = 1.0,
    effect: float = 0.4,
    habit: float = 0.8,
    bonus: float = 0.0,
    noise: float = 0.3,
    end: float = 0.02,
) -> st.Dataset:
    """Episodes of the world; each keyword is what one part of it depends on.

    Args:
        seed: of the draws.
        episodes, steps: how many, and after how many steps they are cut.
        discrete: whether the action is 0 or 1.
        start, spread: of the first observations.
        effect: of the action on what follows.
        habit: how the behaviour reacts to the first observation.
        bonus: added to every reward.
        noise: in what follows.
        end: chance that a step ends the episode.
    """
    rng = np.random.default_rng(seed)
    x, person = rng.normal(start, spread, (episodes, 2)), rng.normal(0, 0.3, episodes)
    parts, running = [], np.ones(episodes, bool)
    for step in range(steps):
        action = -habit * x[:, 0] + person + rng.normal(0, 0.7, episodes)
        action = (action > 0).astype(float) if discrete else action
        reward = -0.3 * x[:, 0] ** 2 + 0.2 * action + bonus + rng.normal(0, 0.3, episodes)
        moved = np.stack([effect * action, -0.2 * action * x[:, 1]], 1)
        following = 0.7 * x + 0.3 * np.sin(2 * x[:, ::-1]) + moved + noise * rng.normal(size=(episodes, 2))
        ended = rng.random(episodes) < end
        cut = ~ended & (step == steps - 1)
        columns = (np.arange(episodes), np.full(episodes, step), *x.T, action, reward, *following.T, ended, cut)
        parts.append(np.stack(columns, 1)[running])
        running, x = running & ~ended, following
    rows = np.concatenate(parts)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    given = {
        "episode": rows[:, 0].astype(int),
        "step": rows[:, 1].astype(int),
        "observation": rows[:, 2:4].astype(np.float32),
        "action": rows[:, 4].astype(int) if discrete else rows[:, 4:5].astype(np.float32),
        "reward": rows[:, 5].astype(np.float32),
        "next_observation": rows[:, 6:8].astype(np.float32),
        "terminated": rows[:, 8] > 0,
        "truncated": rows[:, 9] > 0,
    }
    return st.read(given, st.Schema.infer(list(given), num_actions=2 if discrete else None))
