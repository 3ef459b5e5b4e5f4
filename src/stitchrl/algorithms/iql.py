"""IQL: implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv 2110.06169), for discrete actions.

One update, in the order of the official code (ikostrikov/implicit_q_learning, learner.py):

    (1)  L_V  = E[ |expectile - 1(u < 0)| u^2 ],  u = min_i Qbar_i(s, a) - V(s)                     (paper eq. 5)
    (2)  L_pi = -E[ min(exp(inverse_temperature (min_i Qbar_i(s, a) - V(s))), 100) log pi(a | s) ]  (eq. 7)
    (3)  L_Q  = sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]                         (eq. 6)
    (4)  Qbar <- Qbar + target_rate (Q - Qbar)

V is new in (2) and (3). Q is only ever asked for logged actions: nothing is extrapolated. A larger expectile lifts V
towards the best logged action's value (never above it); the inverse temperature MULTIPLIES the advantage.

Deviations: the official repository has continuous actions only; here Q has one output an action and pi is a
categorical distribution under the action mask. The actor's cosine decay over all of training is off unless
`actor_decay_updates` is given. Rewards are taken as they come (the official runs rescale them per task).

Metrics: loss/value, loss/actor, loss/critic; q/data_mean, v/mean, adv/mean; weight/mean, weight/clipped (share of
advantage weights at their cap); policy/agreement, policy/entropy.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Algorithm, Spec, setting
from stitchrl.algorithms.losses import apply_gradients, expectile_loss, polyak, td_loss
from stitchrl.nn.distributions import masked_log_softmax, take_action
from stitchrl.nn.networks import MLP, Ensemble
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.value import CriticValue
from stitchrl.types import Array, Batch, Key, Metrics, PyTree

__all__ = ["IQL", "IQLState", "advantage_weighted_loss"]

MAX_WEIGHT = 100.0
"""Cap on the advantage weight (official code)."""


class IQLState(NamedTuple):
    """Everything a resume needs."""

    value: MLP
    actor: MLP
    critics: Ensemble
    target_critics: Ensemble
    value_optimizer: PyTree
    actor_optimizer: PyTree
    critic_optimizer: PyTree


def advantage_weighted_loss(
    logits: Float[Array, "B A"],
    action: Int[Array, " B"],
    action_mask: Bool[Array, "B A"],
    adv: Float[Array, " B"],
    inverse_temperature: float,
) -> tuple[Float[Array, ""], Metrics]:
    """Equation (2) and its metrics."""
    weight = jnp.minimum(jnp.exp(inverse_temperature * jax.lax.stop_gradient(adv)), MAX_WEIGHT)
    log_probs = masked_log_softmax(logits, action_mask)
    loss = -jnp.mean(weight * take_action(log_probs, action))
    return loss, {
        "loss/actor": loss,
        "weight/mean": jnp.mean(weight),
        "weight/clipped": jnp.mean((weight >= MAX_WEIGHT).astype(jnp.float32)),
        "policy/agreement": jnp.mean((jnp.argmax(log_probs, axis=-1) == action).astype(jnp.float32)),
        "policy/entropy": -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)),
    }


@dataclasses.dataclass(frozen=True)
class IQL(Algorithm):
    """Implicit Q-learning for discrete actions."""

    needs: ClassVar[tuple[str, ...]] = (
        "obs", "action", "reward", "next_obs", "terminated", "td_weight", "action_mask",
    )  # fmt: skip
    acts: ClassVar[str] = "greedy"  # the official evaluation takes the actor's mode (temperature 0)

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    expectile: float = setting(0.7, "(0, 1)", "Larger is more optimistic; 0.7 suits dense rewards, 0.9 sparse ones.")
    inverse_temperature: float = setting(
        3.0, "[0, inf)", "Larger follows the advantage further from the log; 0 is behaviour cloning."
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all three networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; their minimum is the advantage's Q.")
    hidden_sizes: tuple[int, ...] = setting((256, 256), "at least 1", "Width of each hidden layer.")
    actor_decay_updates: int = setting(
        0, "[0, inf)", "Cosine decay of the actor's step size over so many updates; 0 is off."
    )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        if not self.actor_decay_updates:
            return self._optimizer
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.actor_decay_updates))

    def init(self, key: Key, spec: Spec) -> IQLState:
        v_key, a_key, q_key = jax.random.split(key, 3)
        value = MLP.create(spec.observation_size, self.hidden_sizes, 1, key=v_key)
        actor = MLP.create(spec.observation_size, self.hidden_sizes, spec.discrete_actions, key=a_key, final_gain=0.01)
        critics = Ensemble.create(
            self.num_critics, spec.observation_size, self.hidden_sizes, spec.discrete_actions, key=q_key
        )
        return IQLState(
            value,
            actor,
            critics,
            jax.tree.map(jnp.copy, critics),
            self._optimizer.init(value),
            self._actor_optimizer.init(actor),
            self._optimizer.init(critics),
        )

    def update(self, state: IQLState, batch: Batch, key: Key) -> tuple[IQLState, Metrics]:
        del key
        obs, action = batch["obs"], batch["action"]
        q_data = jnp.min(jax.vmap(take_action, (0, None))(state.target_critics(obs), action), axis=0)

        def value_loss(value: MLP) -> tuple[Array, Array]:
            v = value(obs)[:, 0]
            return jnp.mean(expectile_loss(q_data - v, self.expectile)), v

        (loss_v, _), gradients = jax.value_and_grad(value_loss, has_aux=True)(state.value)
        value, value_optimizer = apply_gradients(self._optimizer, gradients, state.value_optimizer, state.value)

        v = value(obs)[:, 0]
        adv = q_data - v

        def actor_loss(actor: MLP) -> tuple[Array, Metrics]:
            return advantage_weighted_loss(actor(obs), action, batch["action_mask"], adv, self.inverse_temperature)

        gradients, metrics = jax.grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_optimizer = apply_gradients(self._actor_optimizer, gradients, state.actor_optimizer, state.actor)

        discount = self.gamma * (1.0 - batch["terminated"])
        td_target = batch["reward"] + discount * value(batch["next_obs"])[:, 0]

        def critic_loss(critics: Ensemble) -> tuple[Array, Array]:
            q = jax.vmap(take_action, (0, None))(critics(obs), action)
            return td_loss(q, td_target, batch["td_weight"]), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics)
        critics, critic_optimizer = apply_gradients(self._optimizer, gradients, state.critic_optimizer, state.critics)
        target_critics = polyak(state.target_critics, critics, self.target_rate)

        metrics |= {"loss/value": loss_v, "loss/critic": loss_q, "q/data_mean": q_mean, "v/mean": jnp.mean(v)}
        metrics["adv/mean"] = jnp.mean(adv)
        return (
            IQLState(value, actor, critics, target_critics, value_optimizer, actor_optimizer, critic_optimizer),
            metrics,
        )

    def policy(self, state: IQLState) -> CategoricalPolicy:
        return CategoricalPolicy(state.actor)

    def value(self, state: IQLState) -> CriticValue:
        return CriticValue(state.critics, self.policy(state))
