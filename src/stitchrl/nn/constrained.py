"""A greedy policy that keeps to the actions which a model of the behaviour finds likely enough (discrete BCQ)."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Scalar
from stitchrl.nn.distributions import masked_log_softmax
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import DiscretePolicy, point_mass

__all__ = ["ConstrainedGreedyPolicy", "likely_actions"]


def likely_actions(
    logits: Float[AnyArray, "B A"], action_mask: Bool[AnyArray, "B A"] | None, threshold: Scalar
) -> Bool[Array, "B A"]:
    """{a : b(a|s) / max_b b > threshold} with b the softmax of the logits over the allowed actions.

    The most likely allowed action is always in it, for the threshold is below 1; forbidden actions never are.
    """
    log_probs = masked_log_softmax(logits, action_mask)
    return jnp.exp(log_probs - jnp.max(log_probs, axis=-1, keepdims=True)) > threshold


class ConstrainedGreedyPolicy(DiscretePolicy):
    """Takes the action of highest mean value over the critics among the likely ones.

    Attributes:
        critics: their mean is the value.
        behavior: the model of the behaviour.
        threshold: () an action is likely if its probability is more than this share of the largest one, in [0, 1).
    """

    leaves_chance: ClassVar[bool] = False
    critics: Ensemble
    behavior: DiscretePolicy
    threshold: Float[AnyArray, ""]

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        logits = self.behavior.logits(obs, action_mask=action_mask)
        likely = likely_actions(logits, action_mask, jnp.asarray(self.threshold))
        return point_mass(jnp.mean(self.critics(obs), axis=0), likely)
