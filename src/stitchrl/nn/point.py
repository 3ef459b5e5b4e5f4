"""The distribution of a deterministic policy: one vector, taken for certain."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key, Metrics
from stitchrl.nn.distributions import Distribution

__all__ = ["PointAction"]


class PointAction(Distribution):
    """One vector per row, taken for certain; it has no density."""

    action: Float[Array, "B action"]

    def log_prob(self, action: Shaped[AnyArray, "B action"]) -> Float[Array, " B"]:
        raise TypeError("An action that is taken for certain has no density (`has_density` is False).")

    def mode(self) -> Float[Array, "B action"]:
        return self.action

    def sample(self, *, key: Key) -> Float[Array, "B action"]:
        return self.action

    def metrics(self, action: Shaped[AnyArray, "B action"]) -> Metrics:
        """policy/mode_error: root mean squared distance of the action, per action dimension."""
        return {"policy/mode_error": jnp.sqrt(jnp.mean((self.action - action) ** 2))}
