"""A linear policy with normal noise, whose value in a linear system is known exactly (`mdp/linear_gaussian.py`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.distributions import Normal

__all__ = ["LinearPolicy"]


class LinearPolicy(ContinuousPolicy):
    """a ~ N(K s, std^2), in logged units; with std 0 it is deterministic and has no density."""

    gain: Float[Array, "action D"]
    std: Float[Array, " action"]

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """Whether there is noise in every action dimension."""
        return bool((np.asarray(self.std) > 0).all())

    @property
    def is_normal(self) -> bool:
        return self.has_density

    def normal(self, obs: Shaped[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Normal:
        mean = self.mode(obs)
        return Normal(mean, jnp.broadcast_to(jnp.log(self.std), mean.shape))

    def mode(
        self, obs: Shaped[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return jnp.asarray(obs) @ self.gain.T

    def sample(
        self, obs: Shaped[AnyArray, "B D"], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        mean = self.mode(obs)
        return mean + self.std[None, :] * jax.random.normal(key, mean.shape)

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B D"],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        return self.normal(obs).log_prob(action)
