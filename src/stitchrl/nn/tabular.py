"""Policies and values that are tables, looked up by the observation: for logs whose observations are a finite set.

An observation that is none of the table's rows is treated as the nearest row (Euclidean, in the units the table has).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.jax_types import AnyArray, Array
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import DiscreteValue

__all__ = ["TabularPolicy", "TabularValue", "nearest_row"]


def nearest_row(table: Float[Array, "S D"], obs: Shaped[AnyArray, "B D"]) -> Int[Array, " B"]:
    """(B,) the row of the table that is nearest to each observation; the first of equally near ones."""
    obs = jnp.asarray(obs, jnp.float32)
    # |o - t|^2 without |o|^2, which is the same for every row; centred, so that nothing large cancels.
    center = jnp.mean(table, axis=0)
    rows, points = table - center[None, :], obs - center[None, :]
    distance = jnp.sum(rows**2, axis=1)[None, :] - 2.0 * jnp.matmul(points, rows.T, precision="highest")
    return jnp.argmin(distance, axis=1)


class TabularPolicy(DiscretePolicy):
    """Action probabilities of S known observations."""

    table: Float[Array, "S D"]
    log_probabilities: Float[Array, "S A"]

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        return self.log_probabilities[nearest_row(self.table, obs)]


class TabularValue(DiscreteValue):
    """Q of S known observations; V is the policy's expectation of it."""

    table: Float[Array, "S D"]
    q_table: Float[Array, "S A"]
    policy: TabularPolicy

    def q_all(self, obs: Shaped[AnyArray, "B ..."]) -> Float[Array, "B A"]:
        return self.q_table[nearest_row(self.table, obs)]

    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, " B"]:
        return jnp.sum(self.policy.probs(obs, action_mask=action_mask) * self.q_all(obs), axis=-1)
