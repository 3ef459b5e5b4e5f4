"""Steps of an optimiser, and slow copies of parameters."""

from __future__ import annotations

from typing import Any

import jax
import optax

from stitchrl.jax_types import Scalar

__all__ = ["apply_gradients", "polyak"]


def polyak(target: Any, online: Any, target_rate: Scalar) -> Any:
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
