"""Saved policies that make actions of noise, in NumPy alone; `nn/flow.py` and `nn/one_step.py` compute the same."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from stitchrl.deployment.numpy_continuous import NumpyContinuousPolicy
from stitchrl.deployment.numpy_networks import NumpyMLP
from stitchrl.types import NumpyArray

__all__ = ["NumpyFlowPolicy", "NumpyOneStepPolicy"]


class _FromNoise(NumpyContinuousPolicy):
    """A policy that makes an action of as many standard normal numbers, kept in [-1, 1]; the mode is that of zeros."""

    network: NumpyMLP

    @abstractmethod
    def unbounded(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        """(B, action) what becomes of noise (B, action), before it is kept in [-1, 1]."""

    @property
    def has_density(self) -> bool:
        return False

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return self._action(obs, np.zeros(self._shape(obs), np.float32))

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        return self._action(obs, rng.standard_normal(self._shape(obs), np.float32))

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        raise TypeError(
            f"The actions of a {type(self).__name__} have no density in closed form (`has_density` is False)."
        )

    def _action(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        return np.clip(self.unbounded(obs, noise), np.float32(-1), np.float32(1))

    def _shape(self, obs: NumpyArray) -> tuple[int, int]:
        return len(obs), len(self.network.layers[-1][1])


class NumpyFlowPolicy(_FromNoise):
    """Noise that moves for a time of 1 with the velocity that a network gives, in steps of Euler's method."""

    def __init__(self, network: NumpyMLP, steps: int) -> None:
        self.network, self.steps = network, steps

    def unbounded(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        point = noise
        for k in range(self.steps):
            time = np.full((len(obs), 1), k / self.steps, np.float32)
            point = point + self.network(np.concatenate([obs, point, time], axis=-1)) / np.float32(self.steps)
        return point


class NumpyOneStepPolicy(_FromNoise):
    """What a network makes of an observation and noise."""

    def __init__(self, network: NumpyMLP) -> None:
        self.network = network

    def unbounded(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        made: NumpyArray = self.network(np.concatenate([obs, noise], axis=-1))
        return made
