"""A policy that gives every allowed action at least a small probability, for models that are too sure where they extrapolate."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array
from stitchrl.nn.policy import DiscretePolicy

__all__ = ["FlooredPolicy"]


class FlooredPolicy(DiscretePolicy):
    """With a small chance it takes any allowed action: (1 - share) policy + share uniform.

    Attributes:
        policy: the policy.
        share: in (0, 1).
    """

    policy: DiscretePolicy
    share: float = eqx.field(static=True)

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        probs = self.policy.probs(obs, action_mask=action_mask)
        allowed = jnp.ones_like(probs) if action_mask is None else jnp.asarray(action_mask).astype(probs.dtype)
        uniform = allowed / jnp.maximum(jnp.sum(allowed, axis=-1, keepdims=True), 1.0)
        return jnp.log((1.0 - self.share) * probs + self.share * jnp.maximum(uniform, 1e-30))
