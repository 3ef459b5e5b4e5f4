"""A policy that turns noise into an action in one step, by one network."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.from_noise import FromNoisePolicy
from stitchrl.nn.networks import MLP, Network, Start

__all__ = ["OneStepPolicy"]


class OneStepPolicy(FromNoisePolicy):
    """The output of a network for an observation and standard normal noise, clipped to [-1, 1].

    Attributes:
        network: of (observation, noise) side by side; as many outputs as an action has numbers, which is also the size of
            the noise.
    """

    network: MLP

    @classmethod
    def create(
        cls, observation_size: int, action_size: int, network: Network, *, key: Key, start: Start = "orthogonal"
    ) -> OneStepPolicy:
        """A policy with fresh weights."""
        return cls(MLP.create(observation_size + action_size, network, action_size, key=key, start=start))

    def unbounded(
        self, obs: Float[AnyArray, "*batch D"], noise: Float[AnyArray, "*batch action"]
    ) -> Float[Array, "*batch action"]:
        """The outputs of the network, before they are clipped to [-1, 1]."""
        return self.network(jnp.concatenate([obs, noise], axis=-1))

    def action(
        self, obs: Float[AnyArray, "*batch D"], noise: Float[AnyArray, "*batch action"]
    ) -> Float[Array, "*batch action"]:
        """The actions that standard normal noise becomes."""
        return jnp.clip(self.unbounded(obs, noise), -1.0, 1.0)

    @property
    def noise_size(self) -> int:
        return self.network.biases[-1].shape[-1]
