"""BCQIQL: the constraint of discrete BCQ with the value learning of IQL. A combination of this project, not of a paper.

It is meant for logs with rare outcomes, such as treatment and survival. Only actions that the behaviour takes often
enough in a state may be chosen there (BCQ, Fujimoto et al. 2019, arXiv 1910.01708), and no target has a maximum over
noisy values (IQL, Kostrikov et al. 2021, arXiv 2110.06169). One update, with b a model of the behaviour:

    (1)  L_b = -E[ log b(a | s) ] + 0.01 E[ logit^2 ]
    (2)  A(s) = {a : b(a | s) / max_b b(. | s) > threshold}
    (3)  L_V = E[ 1(a in A(s)) |expectile - 1(u < 0)| u^2 ],   u = min_i Qbar_i(s, a) - V(s)
    (4)  L_Q = sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]
    (5)  Qbar <- Qbar + target_rate (Q - Qbar)

It acts by the argmax over A(s) of the mean of the critics. V is an expectile of the values of LOGGED actions, as in
IQL, without those that the policy may not take: with `threshold` 0 it is IQL's V; towards expectile 1 it rises to the
largest value in A(s), which is BCQ's target. (2) uses the b just updated, (4) the V just updated. Rows without a TD
target (the log was cut there and what followed is unknown) have weight 0 in (3) and (4), and full weight in (1).

Use: discrete actions and noisy or rare rewards, where actions that were hardly tried must not be chosen.

Avoid: logs whose policy hardly varies, for then A(s) holds little more than what that policy does.

First knob: `threshold`, from 0.1 to 0.5: larger keeps nearer to what the behaviour did most. Then `expectile`, 0.6 to 0.9.

Deviations: from its sources. IQL extracts its policy by weighted regression, which stays near the behaviour; here the
constraint does that. From discrete BCQ: squared error, two critics.

Metrics: loss/critic, loss/value, loss/behavior, q/data_mean, v/mean, adv/mean; policy/agreement (share of logged
actions that are the policy's), behavior/likely (share of the allowed actions that are in A(s)).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.heads import create_categorical, create_discrete_critics
from stitchrl.algorithms.losses import damped_imitation_loss, expectile_loss, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.constrained import ConstrainedGreedyPolicy, likely_actions
from stitchrl.nn.critics import DiscreteCritics
from stitchrl.nn.distributions import mask_logits, take_action
from stitchrl.nn.networks import MLP, ImageNetwork, Network, create_network
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.value import CriticValue
from stitchrl.types import PyTree

__all__ = ["BCQIQL", "BCQIQLState", "constrained_value_loss"]

Body = MLP | ImageNetwork


class BCQIQLState(NamedTuple):
    """Everything a resume needs."""

    behavior: Trainable[CategoricalPolicy]
    value: Trainable[Body]
    critics: Trainable[DiscreteCritics]
    target_critics: DiscreteCritics


def constrained_value_loss(
    q_data: Float[Array, " B"],
    v: Float[Array, " B"],
    likely: Bool[Array, " B"],
    td_weight: Float[Array, " B"],
    expectile: Scalar,
) -> Float[Array, ""]:
    """Equation (3); `likely` says whether a row's logged action is in A(s), and the mean is over all rows."""
    return jnp.mean(jnp.where(likely, td_weight, 0.0) * expectile_loss(q_data - v, expectile))


@dataclasses.dataclass(frozen=True)
class BCQIQL(SourceCriticSettings):
    """An expectile value over the actions that the log supports, and the best of these actions."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    threshold: float = setting(
        0.3, "[0, 1)",
        "An action may be taken if its probability under the behaviour is more than this share of the most likely one's; "
        "larger stays nearer to the behaviour.",
    )  # fmt: skip
    expectile: float = setting(
        0.7, "(0, 1)", "Larger is more optimistic; the papers take 0.7 for most tasks and 0.9 for mazes."
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all three networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; the target of V takes their minimum.")
    behavior_network: Network | None = network_setting(
        None, "Shape of the network that models the behaviour; that of `network` by default."
    )

    def init(self, key: Key, spec: Spec, given: PyTree) -> BCQIQLState:
        b_key, v_key, q_key = jax.random.split(key, 3)
        optimizer = self.adam(self.learning_rate)
        behavior = create_categorical(spec, self.behavior_network or self.network, key=b_key)
        value = create_network(spec.observation.shape, self.network, 1, key=v_key)
        critics = create_discrete_critics(spec, self.count_critics(given, self.num_critics), self.network, key=q_key)
        return BCQIQLState(
            Trainable.create(behavior, optimizer),
            Trainable.create(value, optimizer),
            Trainable.create(critics, optimizer),
            jax.tree.map(jnp.copy, critics),
        )

    def update(
        self, state: BCQIQLState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[BCQIQLState, Metrics]:
        obs, action, mask, td_weight = (batch[name] for name in ("obs", "action", "action_mask", "td_weight"))
        optimizer = self.adam(self.learning_rate)

        def behavior_loss(behavior: CategoricalPolicy) -> Array:
            return damped_imitation_loss(behavior.logits(obs), action, mask)

        loss_b, gradients = jax.value_and_grad(behavior_loss)(state.behavior.model)
        behavior = state.behavior.step(optimizer, gradients)
        likely = likely_actions(behavior.model.logits(obs), mask, self.threshold)
        logged_likely = jnp.any(likely & jax.nn.one_hot(action, likely.shape[1], dtype=bool), axis=1)
        q_data = self.pessimistic(state.target_critics(obs, action))

        def value_loss(value: Body) -> Array:
            return constrained_value_loss(q_data, value(obs)[:, 0], logged_likely, td_weight, self.expectile)

        loss_v, gradients = jax.value_and_grad(value_loss)(state.value.model)
        value = state.value.step(optimizer, gradients)
        v, next_v = jnp.split(value.model(jnp.concatenate([obs, batch["next_obs"]]))[:, 0], 2)

        reward, discount = self.td_return(batch)
        td_target = self.targets(reward + discount * next_v, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: DiscreteCritics) -> tuple[Array, Array]:
            q = critics.every_action(obs)
            return td_loss(jax.vmap(take_action, (0, None))(q, action), td_target, critic_weight), jnp.mean(q, axis=0)

        (loss_q, q), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(optimizer, gradients)

        best = jnp.argmax(mask_logits(q, likely), axis=-1)
        metrics = {"loss/critic": loss_q, "loss/value": loss_v, "loss/behavior": loss_b}
        metrics |= {"q/data_mean": jnp.mean(take_action(q, action)), "v/mean": jnp.mean(v)}
        metrics |= {
            "adv/mean": jnp.mean(q_data - v),
            "policy/agreement": jnp.mean((best == action).astype(jnp.float32)),
        }
        metrics["behavior/likely"] = jnp.sum(likely.astype(jnp.float32)) / jnp.sum(mask.astype(jnp.float32))
        return BCQIQLState(
            behavior, value, critics, polyak(state.target_critics, critics.model, self.target_rate)
        ), metrics

    def policy(self, state: BCQIQLState, given: PyTree) -> ConstrainedGreedyPolicy:
        threshold = jnp.asarray(self.threshold, jnp.float32)
        return ConstrainedGreedyPolicy(state.critics.model.ensemble, state.behavior.model, threshold)

    def value(self, state: BCQIQLState, given: PyTree) -> CriticValue:
        return CriticValue(state.critics.model.ensemble, self.policy(state, given))
