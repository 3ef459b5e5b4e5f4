"""IQL: implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv 2110.06169).

One update, in the order of the official code (ikostrikov/implicit_q_learning, learner.py):

    (1)  L_V  = E[ |expectile - 1(u < 0)| u^2 ],  u = min_i Qbar_i(s, a) - V(s)                     (paper eq. 5)
    (2)  L_pi = -E[ min(exp(inverse_temperature (min_i Qbar_i(s, a) - V(s))), 100) log pi(a | s) ]  (eq. 7)
    (3)  L_Q  = sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]                         (eq. 6)
    (4)  Qbar <- Qbar + target_rate (Q - Qbar)

Rows without a TD target (the log was cut there and what followed is unknown) have weight 0 in (1) and (3) and weight 1
in (2): imitation. The losses divide by all rows of the batch.

V is new in (2) and (3). Q is only ever asked for logged actions: nothing is extrapolated. A larger expectile lifts V
towards the best logged action's value (never above it); the inverse temperature MULTIPLIES the advantage.

For continuous actions pi is a normal with tanh on its MEAN only (the distribution is not squashed), whose log standard
deviation does not depend on the observation and stays in [-5, 2], as in the official code. A draw may lie outside the
box of actions; an environment then executes the clipped action, which does not have the density of the normal. For
discrete actions, which the official repository does not have, Q has one output per action and pi is categorical under
the action mask.

Deviations: the actor's cosine decay over all of training is off unless `actor_decay_updates` is given. Rewards are
taken as they come (the official runs rescale them per task) and observations as `fit` scales them (the official runs do
not). Logged actions are not clipped to 1 - 1e-5, which only a squashed distribution needs. With discrete actions last
layers start with gain 1 (actor: 0.01), not sqrt(2). The actor has no dropout; the official runs on kitchen and adroit
have `actor_network=Network(dropout=0.1)`.

Use: as the first learner of values on any log, above all where good pieces are spread over many episodes.

Avoid: a high expectile where outcomes are mostly chance: it then takes luck for skill.

First knob: `expectile`, from 0.5 to 0.9: larger is more optimistic among the actions in the log.

Metrics: loss/value, loss/actor, loss/critic; q/data_mean, v/mean, adv/mean; weight/mean, weight/effective_share,
weight/clipped (share of advantage weights at their cap); policy/agreement or policy/mode_error, policy/entropy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.heads import Actor, Critics, create_actor, create_critics, critic_value
from stitchrl.algorithms.losses import MAX_WEIGHT, advantage_weighted_loss, effective_share, expectile_loss, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import MLP, ImageNetwork, Network, create_network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["IQL", "IQLState"]

Body = MLP | ImageNetwork
SOURCE = "ikostrikov/implicit_q_learning, configs/"
DROPPED = Network(dropout=0.1)


class IQLState(NamedTuple):
    """Everything a resume needs."""

    value: Trainable[Body]
    actor: Trainable[Actor]
    critics: Trainable[Critics]
    target_critics: Critics


@dataclasses.dataclass(frozen=True)
class IQL(SourceCriticSettings):
    """Implicit Q-learning."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    acts: ClassVar[str] = "greedy"  # the official evaluation takes the actor's mode (temperature 0)
    presets: ClassVar[Mapping[str, Preset]] = {
        "mujoco": Preset(
            {"actor_decay_updates": 1_000_000},
            f"{SOURCE}mujoco_config.py",
            "rewards times 1000 / (largest - smallest return of an episode), observations as they are, 1,000,000 updates",
        ),
        "antmaze": Preset(
            {"expectile": 0.9, "inverse_temperature": 10.0, "actor_decay_updates": 1_000_000},
            f"{SOURCE}antmaze_config.py",
            "rewards minus 1 (reward_shift=-1.0), observations as they are, 1,000,000 updates",
        ),
        "kitchen": Preset(
            {"inverse_temperature": 0.5, "actor_network": DROPPED, "actor_decay_updates": 1_000_000},
            f"{SOURCE}kitchen_config.py",
            "rewards and observations as they are, 1,000,000 updates",
        ),
        "adroit": Preset(
            {"inverse_temperature": 0.5, "actor_network": DROPPED, "actor_decay_updates": 1_000_000},
            f"{SOURCE}kitchen_config.py, which the paper also uses for Adroit",
            "rewards and observations as they are, 1,000,000 updates",
        ),
    }

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    expectile: float = setting(
        0.7, "(0, 1)", "Larger is more optimistic; the papers take 0.7 for most tasks and 0.9 for mazes."
    )
    inverse_temperature: float = setting(
        3.0, "[0, inf)", "Larger follows the advantage further from the log; 0 is behaviour cloning."
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all three networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; their minimum is the advantage's Q.")
    actor_decay_updates: int = setting(
        0, "at least 0", "Cosine decay of the actor's step size over this many updates; 0 is off."
    )
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate, decay_updates=self.actor_decay_updates or self.decay_updates)

    def init(self, key: Key, spec: Spec, given: PyTree) -> IQLState:
        v_key, a_key, q_key = jax.random.split(key, 3)
        # A categorical policy starts near uniform; the official code, which has none, starts every layer with sqrt(2).
        gain, actor_gain = (2.0**0.5, 2.0**0.5) if spec.num_actions is None else (1.0, 0.01)
        value = create_network(spec.observation.shape, self.network, 1, key=v_key, final_gain=gain)
        actor = create_actor(spec, self.actor_network or self.network, key=a_key, final_gain=actor_gain)
        critics = create_critics(
            spec, self.count_critics(given, self.num_critics), self.network, key=q_key, final_gain=gain
        )
        return IQLState(
            Trainable.create(value, self._optimizer),
            Trainable.create(actor, self._actor_optimizer),
            Trainable.create(critics, self._optimizer),
            jax.tree.map(jnp.copy, critics),
        )

    def update(self, state: IQLState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[IQLState, Metrics]:
        obs, action, td_weight = batch["obs"], batch["action"], batch["td_weight"]
        q_data = self.pessimistic(state.target_critics(obs, action))

        def value_loss(value: Body) -> Array:
            return jnp.mean(td_weight * expectile_loss(q_data - value(obs)[:, 0], self.expectile))

        loss_v, gradients = jax.value_and_grad(value_loss)(state.value.model)
        value = state.value.step(self._optimizer, gradients)

        v, next_v = jnp.split(value.model(jnp.concatenate([obs, batch["next_obs"]]))[:, 0], 2)
        adv = q_data - v

        def actor_loss(actor: Actor) -> tuple[Array, tuple[Array, Metrics]]:
            pi = actor(obs, action_mask=batch.get("action_mask"), key=key)
            loss, weight = advantage_weighted_loss(pi.log_prob(action), adv, td_weight, self.inverse_temperature)
            return loss, (weight, pi.metrics(action))

        (loss_pi, (weight, metrics)), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state.actor.model)
        actor = state.actor.step(self._actor_optimizer, gradients)

        reward, discount = self.td_return(batch)
        td_target = self.targets(reward + discount * next_v, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return td_loss(q, td_target, critic_weight), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self._optimizer, gradients)
        target_critics = polyak(state.target_critics, critics.model, self.target_rate)

        metrics |= {"loss/value": loss_v, "loss/actor": loss_pi, "loss/critic": loss_q}
        metrics |= {"q/data_mean": q_mean, "v/mean": jnp.mean(v), "adv/mean": jnp.mean(adv)}
        metrics["weight/mean"] = jnp.mean(weight)
        metrics["weight/effective_share"] = effective_share(weight)
        metrics["weight/clipped"] = jnp.mean((weight >= MAX_WEIGHT).astype(jnp.float32))
        return IQLState(value, actor, critics, target_critics), metrics

    def policy(self, state: IQLState, given: PyTree) -> Actor:
        return state.actor.model

    def value(self, state: IQLState, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return critic_value(state.critics.model, state.actor.model)
