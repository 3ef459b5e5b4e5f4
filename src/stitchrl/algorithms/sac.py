"""SAC: soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), run on a fixed log, where it is known to fail.

One update, in which each step uses what the step before it updated:

    (1)  y       = r + gamma (1 - terminated) ( min_i Qbar_i(s', a') - alpha log pi(a'|s') ),   a' ~ pi(s')
    (2)  L_Q     = sum_i E[ (y - Q_i(s, a))^2 ]
    (3)  L_alpha = -log alpha E[ log pi(a|s) + H ],              a ~ pi(s)
    (4)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],     a ~ pi(s)
    (5)  Qbar   <- Qbar + target_rate (Q - Qbar)

H is minus the number of dimensions of a continuous action. Discrete actions are summed over (Christodoulou 2019, arXiv
1910.07207); H is then `entropy_share` of the logarithm of the number of allowed actions.

(4) moves the actor towards actions that the critics value more, logged or not, and (1) takes their values there as
targets. Online, acting corrects an overestimate; on a fixed log nothing does, and the minimum of two critics is a weak
guard. It is included so that this failure can be seen, and for learning online.

Deviations: (3) comes before (4), on the same sampled actions; official codes have it after (4). First weights are those
of SAC-N. Log standard deviations are kept in [-20, 2]. With discrete actions the target takes the smaller of two
critics in every action, as in Christodoulou's code.

Use: to see overestimation happen over continuous actions too, and for learning online, for which it was made.

Avoid: deploying what it learns from a fixed log.

First knob: `entropy_share`, from 0.1 to 0.98: larger explores more; over continuous actions it has no effect.

Metrics: loss/critic, q/data_mean, q/spread (standard deviation over critics at logged actions, averaged over rows);
loss/actor, q/policy_mean (of the minimum), policy/entropy (continuous: a sample of it, nats), temperature,
policy/agreement or policy/mode_error.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.critic_settings import CriticSettings
from stitchrl.algorithms.heads import Critics
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import polyak
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.soft_actor import (
    SoftPolicy,
    SoftState,
    fresh_soft_state,
    soft_critic_value,
    soft_policy_step,
    soft_value,
)
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import Network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["SAC"]


@dataclasses.dataclass(frozen=True)
class SAC(CriticSettings):
    """Soft actor-critic on a log: a demonstration of overestimation, not a way to a policy."""

    irregular_time: ClassVar[bool] = True
    values_hold_entropy: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    acts: ClassVar[str] = "greedy"  # the paper evaluates the mean action
    caution: ClassVar[str] = (
        "Nothing holds its actor to the log: it goes where the critics are too high, and its claimed values run away from the "
        "truth. It is shown as a warning and is never selected."
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    num_critics: int = setting(2, "at least 1", "Critics, whose minimum counts.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the critics.")
    actor_learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the actor and the temperature.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    entropy_share: float = setting(
        0.98, "[0, 1]", "Entropy that a policy over discrete actions is held to, as a share of the largest there is."
    )
    first_temperature: float = setting(
        1.0, "(0, inf)", "Weight of entropy at the start; it should not outweigh a decision's reward."
    )
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> SoftState:
        optimizers = self.adam(self.actor_learning_rate), self.adam(self.learning_rate)
        shapes = self.network, self.actor_network or self.network
        return fresh_soft_state(
            spec, self.num_critics, *shapes, optimizers, temperature=self.first_temperature, key=key
        )

    def update(self, state: SoftState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[SoftState, Metrics]:
        target_key, actor_key = jax.random.split(key)
        reward, discount = self.td_return(batch)
        next_v = soft_value(state.actor, state.target_critics, batch, self.pessimistic, key=target_key)
        td_target = self.targets(reward + discount * next_v, batch, self.num_critics)

        def critic_loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(batch["obs"], batch["action"])
            return td_loss(q, td_target, batch["td_weight"]), q

        (loss_q, q), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self.adam(self.learning_rate), gradients)

        optimizer = self.adam(self.actor_learning_rate)
        actor, metrics = soft_policy_step(
            state.actor, critics.model, batch, optimizer, self.entropy_share, lower=self.pessimistic, key=actor_key
        )
        target_critics: Critics = polyak(state.target_critics, critics.model, self.target_rate)

        metrics |= {"loss/critic": loss_q, "q/data_mean": jnp.mean(q), "q/spread": jnp.mean(jnp.std(q, axis=0))}
        return SoftState(actor, critics, target_critics), metrics

    def policy(self, state: SoftState, given: PyTree) -> SoftPolicy:
        return state.actor.policy.model

    def value(self, state: SoftState, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return soft_critic_value(state.critics.model, state.actor.policy.model)
