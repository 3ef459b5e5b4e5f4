"""The share of hidden units of a network that are 0 on every row: these contribute nothing and do not learn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import Array, Batch
from stitchrl.nn.networks import MLP

__all__ = ["dead_share"]

RECTIFIED = ("relu", "gelu", "silu")
"""Activations whose output can be 0 whatever the input."""
NOTHING = 1e-6


def dead_share(networks: Any, batch: Batch) -> Float[Array, ""] | None:
    """The largest share of dead units in the last hidden layer of the perceptrons in a tree; None where there is none.

    It looks at perceptrons on observations, or on observations and actions side by side; others are left out.

    Args:
        networks: policies, value functions, or anything else whose leaves hold perceptrons.
        batch: with "obs" (B, D) and "action" (B,) or (B, A).
    """
    obs, action = batch["obs"], batch["action"]
    if obs.ndim != 2:
        return None
    inputs = [obs, *([jnp.concatenate([obs, action], axis=1)] if action.ndim == 2 else [])]
    shares = [
        _dead(found, given)
        for found in jax.tree.leaves(networks, is_leaf=lambda leaf: isinstance(leaf, MLP))
        if isinstance(found, MLP) and len(found.weights) > 1 and found.activation in RECTIFIED
        for given in inputs
        if found.weights[0].shape[-2] == given.shape[1]
    ]
    return jnp.max(jnp.stack(shares)) if shares else None


def _dead(network: MLP, inputs: Float[Array, "B size"]) -> Float[Array, ""]:
    """The share of one network; the mean over the members of an ensemble, whose weights have an axis more."""
    if network.weights[0].ndim == 3:
        return jnp.mean(jax.vmap(_dead, (0, None))(network, inputs))
    silent = jnp.all(jnp.abs(network.hidden(inputs)) <= NOTHING, axis=0)
    return jnp.mean(silent.astype(jnp.float32))
