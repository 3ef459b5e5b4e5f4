"""DQN: Q-learning with a target network (Mnih et al. 2015, Nature 518), run on a fixed log, where it is known to fail.

    (1)  L_Q  = E[ (r + gamma (1 - terminated) max_{a' allowed} Qbar(s', a') - Q(s, a))^2 ]
    (2)  Qbar <- Qbar + target_rate (Q - Qbar)

The maximum in (1) also runs over actions that the log rarely or never took. Online, acting on an overestimate corrects
it; on a fixed log nothing does, and the maximum picks the values whose errors are too high (Fujimoto, Meger, Precup
2019, arXiv 1812.02900). It is included so that this can be seen: compare its claimed value with what it truly gets.

Deviations: a squared loss instead of the clipped error, and an averaged target instead of periodic copies, as in the
other algorithms here, so that it differs from them by the maximum alone. No double Q-learning.

Use: to see overestimation happen, and for learning online, for which it was made.

Avoid: deploying what it learns from a fixed log.

First knob: `target_rate`, from 0.001 to 0.1: smaller delays the overestimation and does not end it.

Metrics: loss/critic, q/data_mean, q/next_max_mean (the maximum in (1), mean over rows), policy/agreement (share of logged
actions that are the policy's).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.heads import create_discrete_critics
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.distributions import mask_logits, take_action
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import ValueGreedyPolicy
from stitchrl.nn.value import CriticValue
from stitchrl.types import PyTree

__all__ = ["DQN", "DQNState", "max_target"]


class DQNState(NamedTuple):
    """Everything a resume needs."""

    critics: Trainable[Ensemble]
    target_critics: Ensemble


def max_target(
    reward: Float[Array, " B"],
    discount: Float[Array, " B"],
    next_q: Float[Array, "B A"],
    next_action_mask: Bool[Array, "B A"],
) -> Float[Array, " B"]:
    """The target of equation (1): reward + discount * the best allowed next Q."""
    return reward + discount * jnp.max(mask_logits(next_q, next_action_mask), axis=-1)


@dataclasses.dataclass(frozen=True)
class DQN(Algorithm):
    """Naive Q-learning on a log: a demonstration of overestimation, not a way to a policy."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    caution: ClassVar[str] = (
        "Naive Q-learning takes the maximum over actions the log hardly tried, so its claimed values run away from the truth. "
        "It is shown as a warning and is never selected."
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critic moves each update.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> DQNState:
        critics = create_discrete_critics(spec, 1, self.network, key=key).ensemble
        return DQNState(Trainable.create(critics, self.adam(self.learning_rate)), jax.tree.map(jnp.copy, critics))

    def update(self, state: DQNState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[DQNState, Metrics]:
        del key
        reward, discount = self.td_return(batch)
        next_q = state.target_critics(batch["next_obs"])[0]
        td_target = max_target(reward, discount, next_q, batch["next_action_mask"])

        def loss(critics: Ensemble) -> tuple[Array, Array]:
            q = critics(batch["obs"])
            chosen = take_action(q[0], batch["action"])
            return td_loss(chosen[None, :], td_target, batch["td_weight"]), q[0]

        (loss_q, q), gradients = jax.value_and_grad(loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self.adam(self.learning_rate), gradients)
        best = jnp.argmax(mask_logits(q, batch["action_mask"]), axis=-1)
        metrics = {
            "loss/critic": loss_q,
            "q/data_mean": jnp.mean(take_action(q, batch["action"])),
            "q/next_max_mean": jnp.mean(jnp.max(mask_logits(next_q, batch["next_action_mask"]), axis=-1)),
            "policy/agreement": jnp.mean((best == batch["action"]).astype(jnp.float32)),
        }
        return DQNState(critics, polyak(state.target_critics, critics.model, self.target_rate)), metrics

    def policy(self, state: DQNState, given: PyTree) -> ValueGreedyPolicy:
        return ValueGreedyPolicy(state.critics.model)

    def value(self, state: DQNState, given: PyTree) -> CriticValue:
        return CriticValue(state.critics.model, self.policy(state, given))
