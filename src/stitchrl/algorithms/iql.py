"""IQL: implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv 2110.06169).

One update, in the order of the official code (ikostrikov/implicit_q_learning, learner.py):

    (1)  L_V  = E[ |expectile - 1(u < 0)| u^2 ],  u = min_i Qbar_i(s, a) - V(s)                     (paper eq. 5)
    (2)  L_pi = -E[ min(exp(inverse_temperature (min_i Qbar_i(s, a) - V(s))), 100) log pi(a | s) ]  (eq. 7)
    (3)  L_Q  = sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]                         (eq. 6)
    (4)  Qbar <- Qbar + target_rate (Q - Qbar)

V is new in (2) and (3). Q is only ever asked for logged actions: nothing is extrapolated. A larger expectile lifts V
towards the best logged action's value (never above it); the inverse temperature MULTIPLIES the advantage.

For continuous actions pi is a normal with tanh on its MEAN only (the distribution is not squashed), whose log standard
deviation does not depend on the observation and stays in [-5, 2], as the official code has it. For discrete actions,
which the official repository does not have, Q has one output an action and pi is categorical under the action mask.

Deviations: the actor's cosine decay over all of training is off unless `actor_decay_updates` is given. Rewards are
taken as they come (the official runs rescale them per task) and observations as `fit` scales them (the official runs
do not). Logged actions are not clipped to 1 - 1e-5, which only a squashed distribution needs. With discrete actions
last layers start with gain 1 (actor: 0.01), not sqrt(2).

Metrics: loss/value, loss/actor, loss/critic; q/data_mean, v/mean, adv/mean; weight/mean, weight/clipped (share of
advantage weights at their cap); policy/agreement or policy/mode_error, policy/entropy.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.heads import Actor, Critics, create_actor, create_critics, critic_value
from stitchrl.algorithms.losses import expectile_loss, td_loss
from stitchrl.algorithms.optimizers import apply_gradients, polyak
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.networks import MLP
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["IQL", "IQLState", "advantage_weighted_loss"]

MAX_WEIGHT = 100.0
"""Cap on the advantage weight (official code)."""


class IQLState(NamedTuple):
    """Everything a resume needs."""

    value: MLP
    actor: Actor
    critics: Critics
    target_critics: Critics
    value_optimizer: PyTree
    actor_optimizer: PyTree
    critic_optimizer: PyTree


def advantage_weighted_loss(
    log_prob: Float[Array, " B"], adv: Float[Array, " B"], inverse_temperature: Scalar
) -> tuple[Float[Array, ""], Float[Array, " B"]]:
    """Equation (2), of the log-probabilities of the logged actions; also its weights (B,), in [0, 100]."""
    weight = jnp.minimum(jnp.exp(inverse_temperature * jax.lax.stop_gradient(adv)), MAX_WEIGHT)
    return -jnp.mean(weight * log_prob), weight


@dataclasses.dataclass(frozen=True)
class IQL(Algorithm):
    """Implicit Q-learning."""

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
        0, "at least 0", "Cosine decay of the actor's step size over so many updates; 0 is off."
    )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate, decay_updates=self.actor_decay_updates or self.decay_updates)

    def init(self, key: Key, spec: Spec) -> IQLState:
        v_key, a_key, q_key = jax.random.split(key, 3)
        # A categorical policy starts near uniform; the official code, which has none, starts every layer with sqrt(2).
        gain, actor_gain = (2.0**0.5, 2.0**0.5) if spec.num_actions is None else (1.0, 0.01)
        value = MLP.create(spec.observation_size, self.hidden_sizes, 1, key=v_key, final_gain=gain)
        actor = create_actor(spec, self.hidden_sizes, key=a_key, final_gain=actor_gain)
        critics = create_critics(spec, self.num_critics, self.hidden_sizes, key=q_key, final_gain=gain)
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
        q_data = jnp.min(state.target_critics(obs, action), axis=0)

        def value_loss(value: MLP) -> Array:
            return jnp.mean(expectile_loss(q_data - value(obs)[:, 0], self.expectile))

        loss_v, gradients = jax.value_and_grad(value_loss)(state.value)
        value, value_optimizer = apply_gradients(self._optimizer, gradients, state.value_optimizer, state.value)

        v, next_v = jnp.split(value(jnp.concatenate([obs, batch["next_obs"]]))[:, 0], 2)
        adv = q_data - v

        def actor_loss(actor: Actor) -> tuple[Array, tuple[Array, Metrics]]:
            pi = actor(obs, action_mask=batch.get("action_mask"))
            loss, weight = advantage_weighted_loss(pi.log_prob(action), adv, self.inverse_temperature)
            return loss, (weight, pi.metrics(action))

        (loss_pi, (weight, metrics)), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_optimizer = apply_gradients(self._actor_optimizer, gradients, state.actor_optimizer, state.actor)

        reward, discount = self.td_return(batch)
        td_target = reward + discount * next_v

        def critic_loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return td_loss(q, td_target, batch["td_weight"]), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics)
        critics, critic_optimizer = apply_gradients(self._optimizer, gradients, state.critic_optimizer, state.critics)
        target_critics = polyak(state.target_critics, critics, self.target_rate)

        metrics |= {"loss/value": loss_v, "loss/actor": loss_pi, "loss/critic": loss_q}
        metrics |= {"q/data_mean": q_mean, "v/mean": jnp.mean(v), "adv/mean": jnp.mean(adv)}
        metrics["weight/mean"] = jnp.mean(weight)
        metrics["weight/clipped"] = jnp.mean((weight >= MAX_WEIGHT).astype(jnp.float32))
        return (
            IQLState(value, actor, critics, target_critics, value_optimizer, actor_optimizer, critic_optimizer),
            metrics,
        )

    def policy(self, state: IQLState) -> Actor:
        return state.actor

    def value(self, state: IQLState) -> CriticValue | ContinuousCriticValue:
        return critic_value(state.critics, state.actor)
