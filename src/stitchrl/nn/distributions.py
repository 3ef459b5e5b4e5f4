"""Categorical distributions under an action mask, in log space."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from stitchrl.types import AnyArray, Array

__all__ = ["mask_logits", "masked_log_softmax", "take_action"]

NEGATIVE = -1e9
"""Logit of a forbidden action: its probability underflows to exactly 0, and gradients stay finite."""


def mask_logits(logits: Float[AnyArray, "*b A"], action_mask: Bool[AnyArray, "*b A"] | None) -> Float[Array, "*b A"]:
    """Logits with forbidden actions pushed to -1e9."""
    return jnp.asarray(logits) if action_mask is None else jnp.where(action_mask, logits, jnp.float32(NEGATIVE))


def masked_log_softmax(
    logits: Float[AnyArray, "*b A"], action_mask: Bool[AnyArray, "*b A"] | None
) -> Float[Array, "*b A"]:
    """Log-probabilities renormalised over the allowed actions."""
    return jax.nn.log_softmax(mask_logits(logits, action_mask), axis=-1)


def take_action(values: Float[AnyArray, "*b A"], action: Int[AnyArray, "*b"]) -> Float[Array, "*b"]:
    """values[..., action]."""
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]
