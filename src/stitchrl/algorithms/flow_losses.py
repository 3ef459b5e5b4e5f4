"""Losses that FQL and Q-chunking share, on plain arrays; B transitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import Array

__all__ = ["distillation_loss", "flow_matching_loss", "q_loss"]


def flow_matching_loss(
    velocity: Float[Array, "B action"],
    noise: Float[Array, "B action"],
    action: Float[Array, "B action"],
    weight: Float[Array, "B action"] | None = None,
) -> Float[Array, ""]:
    """E[ weight (v - (action - noise))^2 ], the mean over rows and numbers, with v at (1 - t) noise + t action.

    The weight is 1 by default.
    """
    square = (velocity - (action - noise)) ** 2
    return jnp.mean(square if weight is None else weight * square)


def distillation_loss(one_step: Float[Array, "B action"], flow_action: Float[Array, "B action"]) -> Float[Array, ""]:
    """E[ (mu(s, z) - F(s, z))^2 ], the mean over rows and numbers; the flow's action F(s, z) is a constant."""
    return jnp.mean((one_step - jax.lax.stop_gradient(flow_action)) ** 2)


def q_loss(q: Float[Array, " B"], normalize_q: bool) -> Float[Array, ""]:
    """-lambda E[ q ], with lambda 1 or 1 / mean |q|, a constant; q = mean_i Q_i(s, mu(s, z))."""
    if not normalize_q:
        return -jnp.mean(q)
    # The floor keeps 0 / 0 out of the policy where all values are 0.
    return -jnp.mean(q) / jnp.maximum(jax.lax.stop_gradient(jnp.mean(jnp.abs(q))), 1e-8)
