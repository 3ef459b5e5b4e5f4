"""Saved policies that turn noise into actions, in NumPy alone; `nn/flow.py`, `nn/one_step.py` and `nn/diffusion.py` compute
the same."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from stitchrl.deployment.numpy_continuous import NumpyContinuousPolicy
from stitchrl.deployment.numpy_networks import NumpyMLP, NumpyResidualNetwork
from stitchrl.types import NumpyArray

__all__ = ["NumpyDiffusionPolicy", "NumpyFlowPolicy", "NumpyFromNoisePolicy", "NumpyOneStepPolicy"]


class NumpyFromNoisePolicy(NumpyContinuousPolicy):
    """A policy that turns standard normal numbers into an action in [-1, 1]; its mode is the action of zeros."""

    noise_size: int

    @abstractmethod
    def unbounded(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        """(..., action) the actions that noise (..., noise_size) becomes, before they are clipped to [-1, 1]."""

    def candidates(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        """(K, B, action) the actions of K rows of noise for every observation."""
        return self._action(np.broadcast_to(obs, (len(noise), *obs.shape)), noise)

    @property
    def has_density(self) -> bool:
        return False

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return self._action(obs, np.zeros((len(obs), self.noise_size), np.float32))

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        return self._action(obs, rng.standard_normal((len(obs), self.noise_size), np.float32))

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        raise TypeError(
            f"The actions of a {type(self).__name__} have no density in closed form (`has_density` is False)."
        )

    def _action(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        return np.clip(self.unbounded(obs, noise), np.float32(-1), np.float32(1))


class NumpyFlowPolicy(NumpyFromNoisePolicy):
    """Noise that moves for a time of 1 with the velocity that a network gives, in steps of Euler's method."""

    def __init__(self, network: NumpyMLP, steps: int) -> None:
        self.network, self.steps = network, steps
        self.noise_size = len(network.layers[-1][1])

    def unbounded(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        point = noise
        for k in range(self.steps):
            time = np.full((*noise.shape[:-1], 1), k / self.steps, np.float32)
            point = point + self.network(np.concatenate([obs, point, time], axis=-1)) / np.float32(self.steps)
        return point


class NumpyOneStepPolicy(NumpyFromNoisePolicy):
    """The output of a network for an observation and noise."""

    def __init__(self, network: NumpyMLP) -> None:
        self.network = network
        self.noise_size = len(network.layers[-1][1])

    def unbounded(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        made: NumpyArray = self.network(np.concatenate([obs, noise], axis=-1))
        return made


LEAST_RATE, MOST_RATE = 0.1, 10.0
"""Ends of the rate of noise of the schedule."""


class NumpyDiffusionPolicy(NumpyFromNoisePolicy):
    """Removes from noise, step by step, the noise that a network predicts in it; the equations are in `nn/diffusion.py`."""

    def __init__(self, frequencies: NumpyArray, condition: NumpyMLP, network: NumpyResidualNetwork, steps: int) -> None:
        self.frequencies, self.condition, self.network, self.steps = frequencies, condition, network, steps
        self.noise_size = steps * len(network.last.layers[-1][1])

    def unbounded(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        parts = noise.reshape(*noise.shape[:-1], self.steps, -1)
        rate = (
            LEAST_RATE / self.steps + 0.5 * (MOST_RATE - LEAST_RATE) * (2 * np.arange(self.steps) + 1) / self.steps**2
        )
        betas, kepts = -np.expm1(-rate).astype(np.float32), np.exp(-np.cumsum(rate)).astype(np.float32)
        point: NumpyArray = parts[..., 0, :]
        for step in reversed(range(self.steps)):
            beta, kept = betas[step], kepts[step]
            point = (point - beta / np.sqrt(1 - kept) * self._predicted(obs, point, step)) / np.sqrt(1 - beta)
            if step:
                point = point + np.sqrt(beta) * parts[..., self.steps - step, :]
            point = np.clip(point, np.float32(-1), np.float32(1))
        return point

    def _predicted(self, obs: NumpyArray, point: NumpyArray, step: int) -> NumpyArray:
        angle = np.float32(2 * np.pi * step) * self.frequencies
        condition = self.condition(np.concatenate([np.cos(angle), np.sin(angle)]))
        condition = np.broadcast_to(condition, (*point.shape[:-1], len(condition)))
        return self.network(np.concatenate([obs, point, condition], axis=-1))
