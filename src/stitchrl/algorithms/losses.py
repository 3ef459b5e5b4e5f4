"""Losses that several algorithms share, on plain arrays; B transitions, A actions, C critics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.types import Array

__all__ = ["apply_gradients", "expectile_loss", "polyak", "td_loss"]


def expectile_loss(error: Float[Array, " B"], expectile: float) -> Float[Array, " B"]:
    """|expectile - 1(error < 0)| error^2 (Kostrikov et al. 2021, eq. 5); error = target - prediction.

    At 0.5 it is half the squared error (the mean); towards 1 its minimiser rises to the largest target.
    """
    weight = jnp.where(error < 0, 1.0 - expectile, expectile)
    return weight * error**2


def td_loss(q: Float[Array, "C B"], td_target: Float[Array, " B"], td_weight: Float[Array, " B"]) -> Float[Array, ""]:
    """Sum over critics of the mean squared TD error; rows without a target have td_weight 0."""
    error = q - jax.lax.stop_gradient(td_target)[None, :]
    return jnp.sum(jnp.mean(td_weight[None, :] * error**2, axis=1))


def polyak(target: Any, online: Any, target_rate: float) -> Any:
    """Slow copy: target + target_rate (online - target)."""
    return jax.tree.map(lambda slow, fast: slow + target_rate * (fast - slow), target, online)


def apply_gradients(
    optimizer: optax.GradientTransformation, gradients: Any, optimizer_state: Any, parameters: Any
) -> tuple[Any, Any]:
    """One optimiser step: (new parameters, new optimiser state)."""
    # Optax raises a Python float to an int32 count, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        changes, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
    return optax.apply_updates(parameters, changes), optimizer_state
