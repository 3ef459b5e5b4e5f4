"""The base of policies that turn standard normal numbers into actions: flows, diffusions, one-step networks, decoders."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy, refuse_mask

__all__ = ["FromNoisePolicy"]


class FromNoisePolicy(ContinuousPolicy):
    """A policy that turns standard normal numbers into an action in [-1, 1]. Its actions have no density.

    Its mode is the action of noise 0, which is not always a likely action.
    """

    has_density: ClassVar[bool] = False

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """How many numbers of noise one action needs."""

    @abstractmethod
    def action(
        self, obs: Float[AnyArray, "*batch D"], noise: Float[AnyArray, "*batch noise"]
    ) -> Float[Array, "*batch action"]:
        """The action that each row of noise becomes."""

    def candidates(
        self, obs: Float[AnyArray, "B D"], noise: Float[AnyArray, "K B noise"]
    ) -> Float[Array, "K B action"]:
        """(K, B, action) the actions of K rows of noise for every observation."""
        return self.action(jnp.broadcast_to(jnp.asarray(obs), (noise.shape[0], *obs.shape)), noise)

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        refuse_mask(action_mask)
        return self.action(obs, jnp.zeros((obs.shape[0], self.noise_size), jnp.float32))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        refuse_mask(action_mask)
        return self.action(obs, jax.random.normal(key, (obs.shape[0], self.noise_size)))

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        raise TypeError(
            f"The actions of a {type(self).__name__} have no density in closed form (`has_density` is False)."
        )
