"""Multilayer perceptrons on batches, single and in ensembles. Arrays are the only leaves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.precision import product

__all__ = ["MLP", "Ensemble", "Start", "standardized"]

Start = Literal["orthogonal", "uniform"]
"""How fresh weights are drawn, see `MLP`."""


def standardized(
    raw: Float[AnyArray, "B size"], mean: Float[Array, " size"], std: Float[Array, " size"]
) -> Float[Array, "B size"]:
    """(raw - mean) / std, column by column: how raw observations and logged actions enter a network."""
    return (jnp.asarray(raw) - mean[None, :]) / std[None, :]


class MLP(eqx.Module):
    """ReLU perceptron on the last axis; any leading axes are batch axes.

    Fresh weights are "orthogonal" with gain sqrt(2) (the last layer: `final_gain`) and biases zero; or, "uniform",
    both within 1 / sqrt(inputs) of zero, PyTorch's default for a linear layer.
    """

    weights: tuple[Float[Array, "..."], ...]
    biases: tuple[Float[Array, "..."], ...]

    @classmethod
    def create(
        cls,
        in_size: int,
        hidden_sizes: Sequence[int],
        out_size: int,
        *,
        key: Key,
        final_gain: float = 1.0,
        start: Start = "orthogonal",
    ) -> MLP:
        """Fresh weights."""
        sizes = [in_size, *hidden_sizes, out_size]
        keys = jax.random.split(key, len(sizes) - 1)
        if start == "uniform":
            layers = [_uniform(k, a, b) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
            return cls(tuple(weight for weight, _ in layers), tuple(bias for _, bias in layers))
        gains = [2.0**0.5] * len(hidden_sizes) + [final_gain]
        weights = tuple(
            gain * _orthogonal(k, a, b) for k, gain, a, b in zip(keys, gains, sizes[:-1], sizes[1:], strict=True)
        )
        return cls(weights, tuple(jnp.zeros(size, jnp.float32) for size in sizes[1:]))

    def hidden(self, x: Float[AnyArray, "*batch in"]) -> Float[Array, "*batch width"]:
        """Output of the last hidden layer, after its ReLU."""
        x = jnp.asarray(x)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = _affine(x, weight, bias)
            x = jax.nn.relu(x)
        return x

    def __call__(self, x: Float[AnyArray, "*batch in"]) -> Float[Array, "*batch out"]:
        return _affine(self.hidden(x), self.weights[-1], self.biases[-1])


@partial(jax.jit, static_argnums=(1, 2))
def _orthogonal(key: Key, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """Compiled once a shape. Never under vmap: batched QR has been seen to hang XLA's CPU thread pool."""
    return jax.nn.initializers.orthogonal()(key, (rows, columns), jnp.float32)


@partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: Key, rows: int, columns: int) -> tuple[Float[Array, "rows columns"], Float[Array, " columns"]]:
    weight_key, bias_key = jax.random.split(key)
    most = rows**-0.5
    weight = jax.random.uniform(weight_key, (rows, columns), jnp.float32, -most, most)
    return weight, jax.random.uniform(bias_key, (columns,), jnp.float32, -most, most)


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    y = product(x, weight)
    return y + jnp.broadcast_to(bias, y.shape)


class Ensemble(eqx.Module):
    """C perceptrons of one shape evaluated as one batched network; members on axis 0."""

    members: MLP

    @classmethod
    def create(
        cls,
        count: int,
        in_size: int,
        hidden_sizes: Sequence[int],
        out_size: int,
        *,
        key: Key,
        final_gain: float = 1.0,
        start: Start = "orthogonal",
    ) -> Ensemble:
        """Fresh, independent members."""
        sizes = (in_size, hidden_sizes, out_size)
        members = [MLP.create(*sizes, key=k, final_gain=final_gain, start=start) for k in jax.random.split(key, count)]
        return cls(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))

    def __call__(self, x: Float[AnyArray, "*batch in"]) -> Float[Array, "C *batch out"]:
        return jax.vmap(lambda member: member(x))(self.members)
