"""The deterministic actor of TD3 (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477), shared by its relatives.

    (1)  a'    = clip(pibar(s') + clip(eps, +-noise_clip), +-1),  eps ~ N(0, target_noise^2)    (target smoothing)
    (2)  pi    <- one gradient step on its loss, which each algorithm defines
    (3)  Qbar  <- Qbar  + target_rate (Q - Qbar)
    (4)  pibar <- pibar + target_rate (pi - pibar)

(2) to (4) are made together, after every `actor_every_updates`-th update of the critics. Actions are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.jax_types import Array, Metrics, Scalar
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics

__all__ = ["DeterministicState", "actor_optimizer", "actor_step", "fresh_state", "smoothed_action"]

METRICS = ("loss/actor", "q/policy_mean", "policy/mode_error")
"""What an update of the actor measures."""


class DeterministicState(NamedTuple):
    """Everything a resume needs; `actor_metrics` are those of the last actor update."""

    actor: Trainable[DeterministicPolicy]
    target_actor: DeterministicPolicy
    critics: Trainable[ContinuousCritics]
    target_critics: ContinuousCritics
    actor_metrics: Metrics


def smoothed_action(
    action: Float[Array, "B action"],
    noise: Float[Array, "B action"],
    target_noise: Scalar,
    noise_clip: Scalar,
) -> Float[Array, "B action"]:
    """Equation (1), of standard normal noise."""
    return jnp.clip(action + jnp.clip(target_noise * noise, -noise_clip, noise_clip), -1.0, 1.0)


def actor_optimizer(
    settings: Algorithm, learning_rate: Scalar, actor_every_updates: int
) -> optax.GradientTransformation:
    """Adam for the actor. The settings count all updates; the schedule counts the actor's, which are fewer."""
    warmup, decay = (-(-n // actor_every_updates) for n in (settings.warmup_updates, settings.decay_updates))
    return settings.adam(learning_rate, warmup_updates=warmup, decay_updates=decay)


def fresh_state(
    actor: DeterministicPolicy,
    critics: ContinuousCritics,
    actor_optimizer: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
) -> DeterministicState:
    """New networks with targets that are copies of them."""
    return DeterministicState(
        Trainable.create(actor, actor_optimizer),
        jax.tree.map(jnp.copy, actor),
        Trainable.create(critics, optimizer),
        jax.tree.map(jnp.copy, critics),
        {name: jnp.float32(0.0) for name in METRICS},
    )


def actor_step(
    state: DeterministicState,
    loss: Callable[[Float[Array, "B action"]], tuple[Float[Array, ""], Float[Array, " B"]]],
    obs: Float[Array, "B D"],
    action: Float[Array, "B action"],
    optimizer: optax.GradientTransformation,
    target_rate: Scalar,
) -> DeterministicState:
    """Equations (2) to (4).

    Args:
        state: with the critics just updated.
        loss: the actor's actions at `obs` -> (loss, their Q).
        obs: (B, D).
        action: (B, action) logged actions, for the metrics only.
        optimizer: of the actor.
        target_rate: as in (3) and (4).
    """

    def actor_loss(actor: DeterministicPolicy) -> tuple[Array, tuple[Array, Array]]:
        policy_action = actor.mode(obs)
        value, q = loss(policy_action)
        return value, (jnp.mean(q), jnp.sqrt(jnp.mean((policy_action - action) ** 2)))

    (value, (q_mean, error)), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state.actor.model)
    actor = state.actor.step(optimizer, gradients)
    return state._replace(
        actor=actor,
        target_actor=polyak(state.target_actor, actor.model, target_rate),
        target_critics=polyak(state.target_critics, state.critics.model, target_rate),
        actor_metrics=dict(zip(METRICS, (value, q_mean, error), strict=True)),
    )
