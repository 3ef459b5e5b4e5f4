"""Losses that several algorithms share, on plain arrays; B transitions, A actions, C critics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.types import Array, Scalar

__all__ = [
    "apply_gradients",
    "expectile_loss",
    "polyak",
    "soft_actor_loss",
    "td_loss",
    "temperature_loss",
    "tile_count",
    "tiled_value_and_grad",
]


def expectile_loss(error: Float[Array, " B"], expectile: Scalar) -> Float[Array, " B"]:
    """|expectile - 1(error < 0)| error^2 (Kostrikov et al. 2021, eq. 5); error = target - prediction.

    At 0.5 it is half the squared error (the mean); towards 1 its minimiser rises to the largest target.
    """
    weight = jnp.where(error < 0, 1.0 - expectile, expectile)
    return weight * error**2


def td_loss(q: Float[Array, "C B"], td_target: Float[Array, " B"], td_weight: Float[Array, " B"]) -> Float[Array, ""]:
    """Sum over critics of the mean squared TD error; rows without a target have td_weight 0."""
    error = q - jax.lax.stop_gradient(td_target)[None, :]
    return jnp.sum(jnp.mean(td_weight[None, :] * error**2, axis=1))


def soft_actor_loss(log_prob: Float[Array, " B"], q: Float[Array, " B"], temperature: Scalar) -> Float[Array, ""]:
    """E[temperature log pi(a|s) - Q(s, a)], a ~ pi (Haarnoja et al. 2018, arXiv 1812.05905)."""
    return jnp.mean(temperature * log_prob - q)


def temperature_loss(log_temperature: Scalar, log_prob: Float[Array, " B"], entropy_target: float) -> Float[Array, ""]:
    """-log_temperature E[log pi(a|s) + entropy_target]: the temperature rises while entropy is below its target.

    Haarnoja et al. 2018 (arXiv 1812.05905) have the temperature itself here; its logarithm is what the official code of
    CQL has. Only the temperature is moved by it.
    """
    return -log_temperature * jnp.mean(jax.lax.stop_gradient(log_prob) + entropy_target)


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


def tiled_value_and_grad(
    loss: Callable[[Any, Any], tuple[Array, Any]], parameters: Any, batch: Any, tiles: int
) -> tuple[tuple[Array, Any], Any]:
    """As `jax.value_and_grad(loss, has_aux=True)(parameters, batch)`, computed on one part of the batch after another.

    The same sum in another order: activations of a part stay in the processor's cache, which pays on a CPU where a loss
    asks for many actions an observation (benchmarks/throughput.py, "parts of a batch").

    Args:
        loss: (parameters, part) -> (loss, aux), both means over the rows of the part.
        parameters: what to differentiate by.
        batch: pytree whose leaves have the rows on axis 0.
        tiles: number of parts, a divisor of the rows.
    """
    if tiles == 1:
        return jax.value_and_grad(loss, has_aux=True)(parameters, batch)
    parts = jax.tree.map(lambda leaf: leaf.reshape(tiles, leaf.shape[0] // tiles, *leaf.shape[1:]), batch)
    gradient = jax.value_and_grad(loss, has_aux=True)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, parameters, jax.tree.map(lambda leaf: leaf[0], parts)),
    )

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(parameters, part)), None

    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda leaf: leaf / tiles, total)


def tile_count(rows: int, evaluations: int, *, at_once: int = 1024) -> int:
    """Parts of equal size for `tiled_value_and_grad`: the fewest with at most `at_once` network evaluations each.

    One part where there is no cache to keep to (not a CPU), and where the rows only divide into slivers.
    """
    if jax.default_backend() != "cpu":
        return 1
    fitting = (t for t in range(1, rows + 1) if rows % t == 0 and rows // t * evaluations <= max(at_once, evaluations))
    tiles = next(fitting)
    return tiles if 4 * (rows // tiles * evaluations) >= at_once else 1
