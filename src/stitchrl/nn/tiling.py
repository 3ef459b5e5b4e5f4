"""Gradients of a large batch computed tile by tile, so that intermediate arrays stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from stitchrl.jax_types import Array

__all__ = ["tile_count", "tiled_value_and_grad"]


def tiled_value_and_grad(
    loss: Callable[[Any, Any], tuple[Array, Any]], parameters: Any, batch: Any, tiles: int
) -> tuple[tuple[Array, Any], Any]:
    """As `jax.value_and_grad(loss, has_aux=True)(parameters, batch)`, computed on one part of the batch after another.

    It is the same sum in another order. Activations of a part stay in the processor's cache, which makes it faster on a CPU
    where a loss values many actions per observation (benchmarks/throughput.py, "parts of a batch").

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

    It is one part where the processor is not a CPU, and where the number of rows has no divisor that gives parts of a useful
    size.
    """
    if jax.default_backend() != "cpu":
        return 1
    fitting = (t for t in range(1, rows + 1) if rows % t == 0 and rows // t * evaluations <= max(at_once, evaluations))
    tiles = next(fitting)
    return tiles if 4 * (rows // tiles * evaluations) >= at_once else 1
