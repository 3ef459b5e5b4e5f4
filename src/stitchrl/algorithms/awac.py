"""AWAC: advantage-weighted actor-critic (Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359).

One update, in the order of CORL's code (tinkoff-ai/CORL, algorithms/offline/awac.py), which this follows:

    (1)  y    = r + gamma (1 - terminated) min_i Qbar_i(s', a'),   a' ~ pi(s')
    (2)  L_Q  = sum_i E[ (y - Q_i(s, a))^2 ]
    (3)  A    = min_i Q_i(s, a) - V(s),   V(s) = min_i Q_i(s, b),   b ~ pi(s)
    (4)  L_pi = -E[ w log pi(a | s) ],   w = min(exp(inverse_temperature A), 100)
    (5)  Qbar <- Qbar + target_rate (Q - Qbar)

Q is new in (3); pi is the actor before its step in (1) and (3). Discrete: (1) and (3) take the exact expectation of
min_i Q_i over pi(.|s) under the action mask; the official code, which has continuous actions only, takes one sample.
Continuous: pi is a normal with tanh on its mean, as in the authors' rlkit, and samples are clipped to the box of
actions, as in CORL. Rows without a TD target (the log was cut there and what followed is unknown) have weight 0 in (2)
and weight 1 in (4): imitation.

The codes of the literature weigh rows in two ways. With `weighting="batch"`, that of ikostrikov/jaxrl and rlkit,

    (4b) w = B softmax over the batch (inverse_temperature A)

has mean 1 whatever the scale of A, so that fewer rows count as the temperature falls, and the batch size is a setting of
the algorithm: B counts the rows that have a target.

Unlike IQL, Q is asked about the actor's own actions, in (1) and (3): it improves on the log by more than one step and stitches,
but where the actor strays from the log nothing corrects Q. The inverse temperature is 1 over the lambda of the literature.

Use: On logs that cover their actions well, and as a start for learning online.

Avoid: Narrow logs, and long tasks that pay only at their end, such as AntMaze, where it fails.

First knob: `inverse_temperature`, from 0.5 to 10, in units of 1 over value.

Deviations: In CORL the mean has no tanh, and log standard deviations stay in [-20, 2], here in [-5, 2].
Observations are scaled by `fit`. First weights are PyTorch's (uniform), as there. Defaults are those of its MuJoCo runs; the
default of its code is a lambda of 1.

Metrics: loss/critic, loss/actor; q/data_mean, v/mean, adv/mean; weight/mean, weight/largest, weight/effective_share;
policy/agreement or policy/mode_error, policy/entropy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.heads import Actor, Critics, create_actor, create_critics, critic_value
from stitchrl.algorithms.losses import advantage_weighted_loss, effective_share, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import choice, network_setting, setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.distributions import Categorical, Distribution, take_action
from stitchrl.nn.networks import Network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["AWAC", "AWACState", "batch_weighted_loss"]

Lower = Callable[[Array], Array]
"""Joins the values of several critics, on axis 0."""
SOURCE = "tinkoff-ai/CORL, configs/offline/awac/"


class AWACState(NamedTuple):
    """Everything a resume needs."""

    actor: Trainable[Actor]
    critics: Trainable[Critics]
    target_critics: Critics


def batch_weighted_loss(
    log_prob: Float[Array, " B"],
    adv: Float[Array, " B"],
    td_weight: Float[Array, " B"],
    inverse_temperature: Scalar,
) -> tuple[Float[Array, ""], Float[Array, " B"]]:
    """Equation (4) with the weights of (4b), of the log-probabilities of the logged actions; also these weights (B,)."""
    known = td_weight > 0
    share = jax.nn.softmax(inverse_temperature * jax.lax.stop_gradient(adv), where=known)
    weight = jnp.where(known, jnp.sum(known.astype(jnp.float32)) * share, 1.0)
    return -jnp.mean(weight * log_prob), weight


def policy_value(critics: Critics, obs: Array, pi: Distribution, lower: Lower, *, key: Key) -> Float[Array, " B"]:
    """min_i Q_i(s, b) with b ~ pi(s): its expectation for discrete actions, that of one draw for continuous ones."""
    if isinstance(critics, DiscreteCritics):
        return _expected(lower(critics.every_action(obs)), pi)
    return lower(critics(obs, _drawn(pi, key)))


def values_here(
    critics: Critics, obs: Array, action: Array, pi: Distribution, lower: Lower, *, key: Key
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """min_i Q_i of the logged actions, and V of equation (3), the networks asked once."""
    if isinstance(critics, DiscreteCritics):
        q = lower(critics.every_action(obs))
        return take_action(q, action), _expected(q, pi)
    assert isinstance(critics, ContinuousCritics)
    both = lower(critics.several(obs, jnp.stack([action, _drawn(pi, key)])))
    return both[0], both[1]


def _expected(q: Float[Array, "B A"], pi: Distribution) -> Float[Array, " B"]:
    assert isinstance(pi, Categorical)
    return jnp.sum(jnp.exp(pi.log_probs) * q, axis=-1)


def _drawn(pi: Distribution, key: Key) -> Float[Array, "B action"]:
    return jnp.clip(pi.sample(key=key), -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class AWAC(SourceCriticSettings):
    """Advantage-weighted actor-critic."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    acts: ClassVar[str] = "greedy"  # CORL's evaluation takes the mean
    presets: ClassVar[Mapping[str, Preset]] = {
        "mujoco": Preset({}, f"{SOURCE}halfcheetah, hopper, walker2d", "observations standardised, 1,000,000 updates"),
        "antmaze": Preset(
            {"inverse_temperature": 10.0},
            f"{SOURCE}antmaze",
            "rewards minus 1 (reward_shift=-1.0), observations standardised, 1,000,000 updates",
        ),
        "adroit": Preset(
            {"inverse_temperature": 10.0},
            f"{SOURCE}pen, door, hammer, relocate",
            "observations standardised, 1,000,000 updates",
        ),
    }

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    inverse_temperature: float = setting(
        3.0, "[0, inf)", "Larger follows the advantage further from the log; 0 is behaviour cloning."
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for both networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; their minimum is the Q of target and advantage.")
    weighting: str = choice(
        "clipped", ("clipped", "batch"), 'Weights of rows: capped at 100 each, or relative to the "batch" they are in.'
    )
    network: Network = network_setting(Network((256, 256, 256)), "Shape of the critics and, by default, the actor.")
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> AWACState:
        a_key, q_key = jax.random.split(key)
        optimizer = self.adam(self.learning_rate)
        actor = create_actor(spec, self.actor_network or self.network, key=a_key, start="uniform")
        critics = create_critics(
            spec, self.count_critics(given, self.num_critics), self.network, key=q_key, start="uniform"
        )
        return AWACState(
            Trainable.create(actor, optimizer), Trainable.create(critics, optimizer), jax.tree.map(jnp.copy, critics)
        )

    def update(self, state: AWACState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[AWACState, Metrics]:
        next_key, here_key, dropout_key = jax.random.split(key, 3)
        obs, next_obs, action, td_weight = batch["obs"], batch["next_obs"], batch["action"], batch["td_weight"]
        mask, optimizer = batch.get("action_mask"), self.adam(self.learning_rate)

        next_pi = state.actor.model(next_obs, action_mask=batch.get("next_action_mask"))
        reward, discount = self.td_return(batch)
        next_v = policy_value(state.target_critics, next_obs, next_pi, self.pessimistic, key=next_key)
        td_target = self.targets(reward + discount * next_v, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return td_loss(q, td_target, critic_weight), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(optimizer, gradients)

        q, v = values_here(
            critics.model, obs, action, state.actor.model(obs, action_mask=mask), self.pessimistic, key=here_key
        )
        weighted_loss = advantage_weighted_loss if self.weighting == "clipped" else batch_weighted_loss

        def actor_loss(actor: Actor) -> tuple[Array, tuple[Array, Metrics]]:
            pi = actor(obs, action_mask=mask, key=dropout_key)
            loss, weight = weighted_loss(pi.log_prob(action), q - v, td_weight, self.inverse_temperature)
            return loss, (weight, pi.metrics(action))

        (loss_pi, (weight, metrics)), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state.actor.model)
        actor = state.actor.step(optimizer, gradients)
        target_critics = polyak(state.target_critics, critics.model, self.target_rate)

        metrics |= {"loss/critic": loss_q, "loss/actor": loss_pi, "q/data_mean": q_mean}
        metrics |= {"v/mean": jnp.mean(v), "adv/mean": jnp.mean(q - v)}
        metrics |= {"weight/mean": jnp.mean(weight), "weight/largest": jnp.max(weight)}
        metrics["weight/effective_share"] = effective_share(weight)
        return AWACState(actor, critics, target_critics), metrics

    def policy(self, state: AWACState, given: PyTree) -> Actor:
        return state.actor.model

    def value(self, state: AWACState, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return critic_value(state.critics.model, state.actor.model)
