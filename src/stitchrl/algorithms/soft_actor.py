"""The actor and temperature of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), shared by its relatives.

    (1)  L_alpha = -log alpha E[ log pi(a|s) + H ],             a ~ pi(s)
    (2)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],    a ~ pi(s)

H is the entropy the actor is held to, minus the numbers in an action by default. In (1) the paper has the temperature
itself where the logarithm stands; the logarithm is what the official code of CQL has.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from stitchrl.algorithms.losses import soft_actor_loss, temperature_loss
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.jax_types import Array, Key, Metrics
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics

__all__ = ["SoftActor", "soft_actor_step"]


class SoftActor(NamedTuple):
    """An actor and the logarithm of its temperature, each with its optimiser's state."""

    policy: Trainable[SquashedGaussianPolicy]
    log_temperature: Trainable[Array]

    @classmethod
    def create(cls, policy: SquashedGaussianPolicy, optimizer: optax.GradientTransformation) -> SoftActor:
        """A fresh pair; the temperature starts at 1."""
        return cls(Trainable.create(policy, optimizer), Trainable.create(jnp.float32(0.0), optimizer))


def soft_actor_step(
    actor: SoftActor,
    critics: ContinuousCritics,
    obs: Array,
    action: Array,
    optimizer: optax.GradientTransformation,
    *,
    key: Key,
) -> tuple[SoftActor, Metrics]:
    """One step of equations (1) and (2), on one sampled action an observation, at the temperature just updated.

    Args:
        actor: before the step.
        critics: their minimum is maximised.
        obs: (B, D).
        action: (B, action) logged actions, for the metrics only.
        optimizer: of both networks.
        key: of the sampled actions.
    """
    _, log_prob = actor.policy.model(obs).sample_with_log_prob(key=key)
    gradient = jax.grad(temperature_loss)(actor.log_temperature.model, log_prob, -float(action.shape[1]))
    log_temperature = actor.log_temperature.step(optimizer, gradient)
    temperature = jnp.exp(log_temperature.model)

    def loss(policy: SquashedGaussianPolicy) -> tuple[Array, Metrics]:
        pi = policy(obs)
        policy_action, log_prob = pi.sample_with_log_prob(key=key)
        q = jnp.min(critics(obs, policy_action), axis=0)
        value = soft_actor_loss(log_prob, q, temperature)
        metrics = {"loss/actor": value, "q/policy_mean": jnp.mean(q), "policy/entropy": -jnp.mean(log_prob)}
        return value, metrics | pi.metrics(action)

    gradients, metrics = jax.grad(loss, has_aux=True)(actor.policy.model)
    return SoftActor(actor.policy.step(optimizer, gradients), log_temperature), metrics | {"temperature": temperature}
