"""A tiny game of images: a ball falls, and a paddle in the lowest row catches it or does not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

__all__ = ["Catch", "CatchInBytes", "best"]

SIDE = 6


class Catch(gym.Env[Any, Any]):
    """Five steps; the paddle goes left, stays or goes right; 1 where it ends under the ball, else -1.

    Observations are truth values of (6, 6, 2): the ball, and the paddle. The best return is 1; a paddle that stays wherever
    it begins, under one of six columns alike, returns -2 / 3 on average.
    """

    observation_space: gym.Space[Any] = gym.spaces.Box(0, 1, (SIDE, SIDE, 2), np.bool_)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(SIDE)), int(self.np_random.integers(SIDE))
        return self._image(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.paddle = min(max(self.paddle + int(action) - 1, 0), SIDE - 1)
        self.row += 1
        over = self.row == SIDE - 1
        reward = 0.0 if not over else 1.0 if self.ball == self.paddle else -1.0
        return self._image(), reward, over, False, {}

    def _image(self) -> Any:
        image = np.zeros((SIDE, SIDE, 2), bool)
        image[self.row, self.ball, 0] = image[SIDE - 1, self.paddle, 1] = True
        return image


class CatchInBytes(Catch):
    """The same in bytes, without an axis of channels: the ball is 255, the paddle 100."""

    observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE), np.uint8)

    def _image(self) -> Any:
        truth = super()._image()
        return np.maximum(truth[..., 0] * np.uint8(255), truth[..., 1] * np.uint8(100))


def best(obs: Any) -> Any:
    """(n,) what catches the ball, of the bytes that a log of `Catch` holds."""
    ball, paddle = (obs[..., k].max(1).argmax(1) for k in range(2))
    return 1 + np.sign(ball - paddle)
