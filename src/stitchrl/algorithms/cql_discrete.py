"""CQL for discrete actions: equations (1) to (3) of `cql`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.cql_settings import CQLSettings
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.distributions import mask_logits, take_action
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import ValueGreedyPolicy
from stitchrl.nn.value import CriticValue

__all__ = ["DiscreteCQLState", "conservative_penalty", "init", "policy", "update", "value"]


class DiscreteCQLState(NamedTuple):
    """Everything a resume needs."""

    critics: Trainable[Ensemble]
    target_critics: Ensemble


def conservative_penalty(
    q: Float[Array, "C B A"],
    action: Int[Array, " B"],
    action_mask: Bool[Array, "B A"],
    td_weight: Float[Array, " B"],
) -> Float[Array, ""]:
    """Second term of equation (1) without its weight: at least 0, and 0 when all mass is on the logged action."""
    allowed = jax.vmap(mask_logits, (0, None))(q, action_mask)
    data = jax.vmap(take_action, (0, None))(q, action)
    return jnp.sum(jnp.mean(td_weight[None, :] * (jax.nn.logsumexp(allowed, axis=-1) - data), axis=1))


def init(settings: CQLSettings, spec: Spec, *, key: Key) -> DiscreteCQLState:
    """Fresh critics with one output an action."""
    shape = spec.observation.shape
    critics = Ensemble.create(settings.num_critics, shape, settings.network, spec.discrete_actions, key=key)
    return DiscreteCQLState(
        Trainable.create(critics, settings.adam(settings.learning_rate)), jax.tree.map(jnp.copy, critics)
    )


def update(settings: CQLSettings, state: DiscreteCQLState, batch: Batch) -> tuple[DiscreteCQLState, Metrics]:
    """Equations (3), (1) and (2)."""
    action, mask, td_weight = batch["action"], batch["action_mask"], batch["td_weight"]
    next_q = jnp.min(state.target_critics(batch["next_obs"]), axis=0)
    next_v = jnp.max(mask_logits(next_q, batch["next_action_mask"]), axis=-1)
    reward, discount = settings.td_return(batch)
    td_target = reward + discount * next_v

    def loss(critics: Ensemble) -> tuple[Array, tuple[Array, Array, Array]]:
        q = critics(batch["obs"])
        td = td_loss(jax.vmap(take_action, (0, None))(q, action), td_target, td_weight)
        penalty = conservative_penalty(q, action, mask, td_weight)
        return td + settings.cql_weight * penalty, (q, td, penalty)

    (_, (q, td, penalty)), gradients = jax.value_and_grad(loss, has_aux=True)(state.critics.model)
    critics = state.critics.step(settings.adam(settings.learning_rate), gradients)
    allowed = mask_logits(jnp.mean(q, axis=0), mask)
    data = take_action(jnp.mean(q, axis=0), action)
    metrics = {
        "loss/critic": td,
        "loss/cql": penalty,
        "q/data_mean": jnp.mean(data),
        "q/gap": jnp.mean(jnp.max(allowed, axis=-1) - data),
        "policy/agreement": jnp.mean((jnp.argmax(allowed, axis=-1) == action).astype(jnp.float32)),
    }
    return DiscreteCQLState(critics, polyak(state.target_critics, critics.model, settings.target_rate)), metrics


def policy(state: DiscreteCQLState) -> ValueGreedyPolicy:
    """Takes the best allowed action of the mean critic."""
    return ValueGreedyPolicy(state.critics.model)


def value(state: DiscreteCQLState) -> CriticValue:
    """The value functions: the mean of the critics, under that policy."""
    return CriticValue(state.critics.model, policy(state))
