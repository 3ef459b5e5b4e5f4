"""BCQ for discrete actions: equations (1) to (5) of `bcq`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.bcq_settings import BCQSettings
from stitchrl.algorithms.heads import create_categorical, create_discrete_critics
from stitchrl.algorithms.losses import damped_imitation_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.constrained import ConstrainedGreedyPolicy, likely_actions
from stitchrl.nn.distributions import mask_logits, take_action
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.value import CriticValue

__all__ = ["DiscreteBCQState", "constrained_target", "huber_td_loss", "init", "policy", "update", "value"]


class DiscreteBCQState(NamedTuple):
    """Everything a resume needs."""

    critics: Trainable[Ensemble]
    behavior: Trainable[CategoricalPolicy]
    target_critics: Ensemble


def constrained_target(
    reward: Float[Array, " B"],
    discount: Float[Array, " B"],
    next_q: Float[Array, "B A"],
    next_target_q: Float[Array, "B A"],
    likely: Bool[Array, "B A"],
) -> Float[Array, " B"]:
    """Equation (3): the critic chooses among the likely actions, its slow copy values the choice."""
    best = jnp.argmax(mask_logits(next_q, likely), axis=-1)
    return reward + discount * take_action(next_target_q, best)


def huber_td_loss(
    q: Float[Array, " B"], td_target: Float[Array, " B"], td_weight: Float[Array, " B"]
) -> Float[Array, ""]:
    """Equation (4): the mean of e^2 / 2 where |e| <= 1 and |e| - 1/2 beyond, with e = q - td_target."""
    return jnp.mean(td_weight * optax.losses.huber_loss(q, jax.lax.stop_gradient(td_target), delta=1.0))


def init(settings: BCQSettings, spec: Spec, *, key: Key) -> DiscreteBCQState:
    """Fresh networks with one output per action."""
    critic_key, behavior_key = jax.random.split(key)
    critics = create_discrete_critics(spec, 1, settings.network, key=critic_key).ensemble
    behavior = create_categorical(spec, settings.behavior_network or settings.network, key=behavior_key)
    optimizer = settings.adam(settings.learning_rate)
    return DiscreteBCQState(
        Trainable.create(critics, optimizer), Trainable.create(behavior, optimizer), jax.tree.map(jnp.copy, critics)
    )


def update(settings: BCQSettings, state: DiscreteBCQState, batch: Batch) -> tuple[DiscreteBCQState, Metrics]:
    """Equations (1) to (5); both gradients are at the parameters before the update."""
    obs, next_obs, action, mask = batch["obs"], batch["next_obs"], batch["action"], batch["action_mask"]
    critics, behavior, optimizer = state.critics.model, state.behavior.model, settings.adam(settings.learning_rate)

    next_likely = likely_actions(behavior.logits(next_obs), batch["next_action_mask"], settings.threshold)
    reward, discount = settings.td_return(batch)
    td_target = constrained_target(
        reward, discount, critics(next_obs)[0], state.target_critics(next_obs)[0], next_likely
    )

    def critic_loss(critics: Ensemble) -> tuple[Array, Array]:
        q = critics(obs)[0]
        return huber_td_loss(take_action(q, action), td_target, batch["td_weight"]), q

    def behavior_loss(behavior: CategoricalPolicy) -> tuple[Array, Array]:
        logits = behavior.logits(obs)
        return damped_imitation_loss(logits, action, mask), logits

    (loss_q, q), critic_gradients = jax.value_and_grad(critic_loss, has_aux=True)(critics)
    (loss_b, logits), behavior_gradients = jax.value_and_grad(behavior_loss, has_aux=True)(behavior)
    after = state.critics.step(optimizer, critic_gradients)

    likely = likely_actions(logits, mask, settings.threshold)
    best = jnp.argmax(mask_logits(q, likely), axis=-1)
    metrics = {
        "loss/critic": loss_q,
        "loss/behavior": loss_b,
        "q/data_mean": jnp.mean(take_action(q, action)),
        "policy/agreement": jnp.mean((best == action).astype(jnp.float32)),
        "behavior/likely": jnp.sum(likely.astype(jnp.float32)) / jnp.sum(mask.astype(jnp.float32)),
    }
    target_critics = polyak(state.target_critics, after.model, settings.target_rate)
    return DiscreteBCQState(after, state.behavior.step(optimizer, behavior_gradients), target_critics), metrics


def policy(settings: BCQSettings, state: DiscreteBCQState) -> ConstrainedGreedyPolicy:
    """The best of the likely actions."""
    threshold = jnp.asarray(settings.threshold, jnp.float32)
    return ConstrainedGreedyPolicy(state.critics.model, state.behavior.model, threshold)


def value(settings: BCQSettings, state: DiscreteBCQState) -> CriticValue:
    """The value functions: the critic, under that policy."""
    return CriticValue(state.critics.model, policy(settings, state))
