"""Policies between a learned one and the behaviour, whose gain a log can prove better than that of the learned one."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array
from stitchrl.nn.distributions import masked_log_softmax
from stitchrl.nn.policy import DiscretePolicy

__all__ = ["LadderPolicy"]

IMPOSSIBLE = -1e30
"""Logarithm of a probability that is 0 in float32."""


class LadderPolicy(DiscretePolicy):
    """Reweights the behaviour towards a policy, among the actions that the behaviour takes often enough:

        probs(a|s) proportional to b(a|s) (pi(a|s) / b(a|s))^power   where b(a|s) >= floor, else 0

    Power 0 is the behaviour, 1 the policy, and more goes beyond the policy. The floor bounds the ratios to the model of
    the behaviour by 1 / floor, and so the error of estimates. Where the policy has no mass on the actions that remain,
    or none remains, it acts as the behaviour does.

    Attributes:
        policy: the learned policy pi.
        behavior: the behaviour b, as a model.
        power: () at least 0.
        floor: () in [0, 1).
    """

    policy: DiscretePolicy
    behavior: DiscretePolicy
    power: Float[AnyArray, ""]
    floor: Float[AnyArray, ""]

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        learned = jnp.maximum(
            masked_log_softmax(self.policy.logits(obs, action_mask=action_mask), action_mask), IMPOSSIBLE
        )
        usual = jnp.maximum(
            masked_log_softmax(self.behavior.logits(obs, action_mask=action_mask), action_mask), IMPOSSIBLE
        )
        often = jnp.exp(usual) >= self.floor
        possible = often & (learned > jnp.log(jnp.finfo(usual.dtype).tiny))
        # A probability of 0 stays 0 under any power but 0, where the policy says nothing.
        reached = jnp.where(self.power > 0, possible, often)
        towards = jnp.where(reached, usual + self.power * (jnp.where(reached, learned, usual) - usual), IMPOSSIBLE)
        return jnp.where(jnp.any(reached, axis=-1, keepdims=True), towards, usual)
