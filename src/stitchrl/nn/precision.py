"""The product x @ weight of a layer, where nearly all arithmetic of an update is: in float32, or with operands in
bfloat16.

With bfloat16, the operands of the three products of a layer are rounded (its output, and the gradients by its input and
its weight); sums, biases, activations between layers, gradients and the weights themselves stay in float32. bfloat16
has the range of float32, so that the loss needs no scaling (Micikevicius et al. 2018, arXiv 1710.03740; Kalamkar et al.
2019, arXiv 1905.12322).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array

__all__ = ["NARROWEST", "check_supported", "product", "products_in"]

NARROWEST = 32
"""Layers with fewer inputs or outputs are not rounded: they gain no speed, and small vectors (values, most actions, many
observations) keep their digits."""
BLOCK = 16


def products_in(precision: str) -> AbstractContextManager[None]:
    """Traced inside it, `product` computes in "bfloat16"; "float32" leaves JAX's own setting as it is."""
    # JAX's own context is part of the key by which it caches compiled functions; a variable of ours would not be.
    return nullcontext() if precision == "float32" else jax.default_matmul_precision(precision)


@cache
def check_supported(precision: str) -> None:
    """Raises ConfigurationError where XLA has no such products for this processor."""
    if precision == "float32":
        return
    weights = jnp.zeros((2, NARROWEST, NARROWEST), jnp.float32)
    try:
        with products_in(precision):
            jax.block_until_ready(jax.jit(jax.grad(lambda w: jnp.sum(jax.vmap(product, (None, 0))(w[0], w))))(weights))
    except jax.errors.JaxRuntimeError as error:
        raise ConfigurationError(
            f'`precision` must be "float32" on this processor; got "{precision}", of which XLA says: {error}.'
        ) from None


def product(
    x: Float[Array, "*batch in"], weight: Float[Array, "in out"], *, narrowest: int | None = None
) -> Float[Array, "*batch out"]:
    """x @ weight, in the precision of the context it is traced in.

    In bfloat16 it has reverse-mode derivatives only, and second derivatives by `x` only.

    Args:
        x: rows.
        weight: of a layer, or of a part of its inputs.
        narrowest: the smaller of the numbers of inputs and outputs of the layer, where `weight` is only a part of it.
    """
    precision = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009 - has no type
    if precision != "bfloat16" or x.ndim < 2 or (narrowest or min(weight.shape)) < NARROWEST:
        return x @ weight
    # One axis of rows: XLA's fast bfloat16 kernels take plain matrices.
    rows = _rounded_product(x.reshape(-1, x.shape[-1]), weight)
    return rows.reshape(*x.shape[:-1], weight.shape[1])


@jax.custom_vjp
def _rounded_product(x: Float[Array, "B in"], weight: Float[Array, "in out"]) -> Float[Array, "B out"]:
    return _dot(_round(x), _round(weight))


def _forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    x, weight = _round(x), _round(weight)
    return _dot(x, weight), (x, weight)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = kept
    gradient = _round(gradient)
    by_x = _dot(gradient, weight, along=1)
    if x.shape[0] % BLOCK or x.shape[1] % BLOCK:  # the same numbers, slower
        return by_x, x.astype(jnp.float32).T @ gradient.astype(jnp.float32)
    return by_x, _dot(_transposed(x), gradient)


_rounded_product.defvjp(_forward, _backward)


def _round(x: Array) -> Array:
    return x.astype(jnp.bfloat16)


def _dot(left: Array, right: Array, *, along: int = 0) -> Array:
    """left @ right, or left @ right.T with `along` 1: as one product, which XLA's CPU compiler makes faster."""
    return jax.lax.dot_general(left, right, (((1,), (along,)), ((), ())), preferred_element_type=jnp.float32)


def _transposed(x: Float[Array, "B in"]) -> Float[Array, "in B"]:
    """x.T as an array of its own. XLA's CPU compiler folds a plain transpose into the product, which is half as fast or fails."""
    rows, columns = x.shape
    blocks = x.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return jax.lax.optimization_barrier(blocks.transpose(2, 3, 0, 1).reshape(columns, rows))
