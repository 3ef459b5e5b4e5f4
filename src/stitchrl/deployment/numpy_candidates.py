"""Saved policies that choose among candidates, in NumPy alone; `nn/vae.py` and `nn/best_of.py` compute the same."""

from __future__ import annotations

import numpy as np

from stitchrl.deployment.numpy_continuous import NumpyContinuousPolicy, NumpySquashedGaussianPolicy
from stitchrl.deployment.numpy_flows import NumpyFromNoisePolicy
from stitchrl.deployment.numpy_networks import NumpyEnsemble, NumpyMLP
from stitchrl.types import NumpyArray

__all__ = ["NumpyBestOfPolicy", "NumpyPerturbedPolicy"]

LARGEST_LATENT = np.float32(0.5)
"""Latent numbers are cut at this size."""
AT_ONCE = 4096
"""The most candidates that are computed at once, so that the arrays inside a network stay small."""


class _WithoutDensity(NumpyContinuousPolicy):
    """A policy whose actions have no density in closed form."""

    @property
    def has_density(self) -> bool:
        return False

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        raise TypeError(
            f"The actions of a {type(self).__name__} have no density in closed form (`has_density` is False)."
        )


class NumpyPerturbedPolicy(_WithoutDensity):
    """Actions that a decoder generates, each moved by a network by at most `limit`, and kept in [-1, 1]."""

    def __init__(self, decoder: NumpyMLP, perturbation: NumpyMLP, limit: NumpyArray) -> None:
        self.decoder, self.perturbation, self.limit = decoder, perturbation, limit
        actions = len(perturbation.layers[-1][1])
        self.noise_size = decoder.layers[0][0].shape[0] - perturbation.layers[0][0].shape[0] + actions

    def candidates(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        """(K, B, action) the actions that standard normal noise (K, B, size), clipped to +-0.5, becomes."""
        generated = np.tanh(self.decoder(_beside(obs, np.clip(noise, -LARGEST_LATENT, LARGEST_LATENT))))
        moved = generated + self.limit * np.tanh(self.perturbation(_beside(obs, generated)))
        return np.clip(moved, np.float32(-1), np.float32(1))

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        found: NumpyArray = self.candidates(obs, np.zeros((1, len(obs), self.noise_size), np.float32))[0]
        return found

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        noise = rng.standard_normal((1, len(obs), self.noise_size), np.float32)
        drawn: NumpyArray = self.candidates(obs, noise)[0]
        return drawn


class NumpyBestOfPolicy(_WithoutDensity):
    """The best of K candidates of another policy, by one critic, or by the smallest or the mean of several. The mode has the same
    noise at every observation."""

    def __init__(
        self,
        proposal: NumpyPerturbedPolicy | NumpySquashedGaussianPolicy | NumpyFromNoisePolicy,
        critic: NumpyMLP | NumpyEnsemble,
        noise: NumpyArray,
        joined: str = "min",
    ) -> None:
        self.proposal, self.critic, self.noise, self.joined = proposal, critic, noise, joined

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return self._best(obs, np.repeat(self.noise[:, None], len(obs), axis=1))

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        return self._best(obs, rng.standard_normal((len(self.noise), len(obs), self.noise.shape[1]), np.float32))

    def _best(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        rows = max(1, AT_ONCE // len(noise))
        if len(obs) <= rows:
            return self._best_of_few(obs, noise)
        parts = [self._best_of_few(obs[i : i + rows], noise[:, i : i + rows]) for i in range(0, len(obs), rows)]
        return np.concatenate(parts)

    def _best_of_few(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        action = self.proposal.candidates(obs, noise)
        q = self.critic(_beside(obs, action))[..., 0]
        if isinstance(self.critic, NumpyEnsemble):
            q = q.min(0) if self.joined == "min" else q.mean(0)
        chosen: NumpyArray = action[q.argmax(0), np.arange(len(obs))]
        return chosen


def _beside(obs: NumpyArray, own: NumpyArray) -> NumpyArray:
    """(K, B, D + more): every observation beside each of its K completions."""
    return np.concatenate([np.broadcast_to(obs, (*own.shape[:2], obs.shape[1])), own], axis=-1)
