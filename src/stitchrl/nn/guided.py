"""Networks with a condition as input, turned into plain ones: a fixed condition becomes a part of the first layer's bias.

The result is a perceptron of the observation alone, which every policy, bundle and NumPy path can hold.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import AnyArray, Array
from stitchrl.nn.networks import MLP

__all__ = ["conditioned", "guided"]


def conditioned(network: MLP, condition: Float[AnyArray, " C"]) -> MLP:
    """The network of (x, condition) as one of x, its last C inputs held at the condition."""
    first = network.weights[0]
    size = first.shape[0] - len(condition)
    told = jnp.sum(jnp.asarray(condition)[:, None] * first[size:], axis=0)
    weights, biases = (first[:size], *network.weights[1:]), (network.biases[0] + told, *network.biases[1:])
    return dataclasses.replace(network, weights=weights, biases=biases)


def guided(one: MLP, other: MLP, weight: float) -> MLP:
    """The network weight * one(x) + (1 - weight) * other(x), for two of one shape: both side by side, added in the last layer.

    Layer normalisation would mix the two; they must have none.
    """
    assert one.layer_norm == "none"
    middle = range(1, len(one.weights) - 1)
    last = jnp.concatenate([weight * one.weights[-1], (1.0 - weight) * other.weights[-1]], axis=0)
    last_bias = weight * one.biases[-1] + (1.0 - weight) * other.biases[-1]
    if len(one.weights) == 1:
        last = weight * one.weights[0] + (1.0 - weight) * other.weights[0]
        return dataclasses.replace(one, weights=(last,), biases=(last_bias,))
    weights: list[Array] = [jnp.concatenate([one.weights[0], other.weights[0]], axis=1)]
    weights += [jax.scipy.linalg.block_diag(one.weights[i], other.weights[i]) for i in middle]
    biases = [jnp.concatenate(pair) for pair in zip(one.biases[:-1], other.biases[:-1], strict=True)]
    return dataclasses.replace(one, weights=(*weights, last), biases=(*biases, last_bias))
