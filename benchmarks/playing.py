"""Episodes side by side, for the workers of peers: needs numpy and gymnasium, and nothing of stitchrl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

__all__ = ["play"]


def play(act: Callable[[Any], Any], environment: str, seeds: list[int]) -> list[float]:
    """The return of one episode for each reset seed, all side by side, each to its end.

    Args:
        act: (B, ...) observations -> (B, D) actions, which are clipped to the bounds of a box, or (B,) numbers of actions.
        environment: the id of an environment.
        seeds: one for each episode.
    """
    envs = [gymnasium.make(environment) for _ in seeds]
    space, returns = envs[0].action_space, np.zeros(len(seeds))
    obs = {k: env.reset(seed=seed)[0] for k, (env, seed) in enumerate(zip(envs, seeds, strict=True))}
    while obs:
        actions = act(np.stack(list(obs.values())))
        if isinstance(space, gymnasium.spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        for k, action in zip(list(obs), actions, strict=True):
            obs[k], reward, terminated, truncated, _ = envs[k].step(action)
            returns[k] += reward
            if terminated or truncated:
                del obs[k]
    return list(map(float, returns))
