"""A policy that turns noise into an action in one step, by one network."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.networks import MLP, Network, Start

__all__ = ["OneStepPolicy"]


class OneStepPolicy(ContinuousPolicy):
    """What a network makes of an observation and standard normal noise, kept in [-1, 1].

    Its mode is the action of noise 0, which is not always a likely action.

    Attributes:
        network: of (observation, noise) side by side; as many outputs as an action has numbers, which is also the size of
            the noise.
    """

    has_density: ClassVar[bool] = False

    network: MLP

    @classmethod
    def create(
        cls, observation_size: int, action_size: int, network: Network, *, key: Key, start: Start = "orthogonal"
    ) -> OneStepPolicy:
        """A policy with fresh weights."""
        return cls(MLP.create(observation_size + action_size, network, action_size, key=key, start=start))

    def unbounded(self, obs: Float[AnyArray, "B D"], noise: Float[AnyArray, "B action"]) -> Float[Array, "B action"]:
        """(B, action) the outputs of the network, before they are kept in [-1, 1]."""
        return self.network(jnp.concatenate([obs, noise], axis=-1))

    def action(self, obs: Float[AnyArray, "B D"], noise: Float[AnyArray, "B action"]) -> Float[Array, "B action"]:
        """(B, action) the actions that standard normal noise stands for."""
        return jnp.clip(self.unbounded(obs, noise), -1.0, 1.0)

    @property
    def _action_size(self) -> int:
        return self.network.biases[-1].shape[-1]

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        _refuse_mask(action_mask)
        return self.action(obs, jnp.zeros((obs.shape[0], self._action_size), jnp.float32))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        _refuse_mask(action_mask)
        return self.action(obs, jax.random.normal(key, (obs.shape[0], self._action_size)))

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        raise TypeError(
            "Actions that a network makes of noise have no density in closed form (`has_density` is False)."
        )


def _refuse_mask(action_mask: Bool[AnyArray, "B _"] | None) -> None:
    if action_mask is not None:
        raise TypeError("A policy over continuous actions takes no `action_mask`; got one.")
