"""CQL for discrete actions: equations (1) to (3), (8) and (10) to (13) of `cql`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.cql_settings import CQLSettings
from stitchrl.algorithms.cql_terms import multiplier_of, multiplier_step, rarity
from stitchrl.algorithms.heads import create_discrete_critics
from stitchrl.algorithms.losses import for_critics, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.distributions import mask_logits, masked_log_softmax, take_action
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import ValueGreedyPolicy
from stitchrl.nn.value import CriticValue
from stitchrl.types import PyTree

__all__ = ["DiscreteCQLState", "conservative_penalty", "init", "policy", "update", "value"]


class DiscreteCQLState(NamedTuple):
    """Everything a resume needs; there is a multiplier only with `lagrange_gap`."""

    critics: Trainable[Ensemble]
    target_critics: Ensemble
    log_multiplier: Trainable[Array] | None = None


def conservative_penalty(
    q: Float[Array, "C B A"],
    action: Int[Array, " B"],
    action_mask: Bool[Array, "B A"],
    td_weight: Float[Array, " B"] | Float[Array, "C B"],
    log_weight: Float[Array, "B A"] | None = None,
    return_weight: Float[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Second term of equation (1) without its weight: at least 0, and 0 where softmax Q has all its mass on the logged action.

    With `log_weight`, the logarithm of rho in (10) or omega in (11), actions count by their weights; `return_weight` is u of
    (12).
    """
    allowed = jax.vmap(mask_logits, (0, None))(q if log_weight is None else q + log_weight[None], action_mask)
    data = jax.vmap(take_action, (0, None))(q, action)
    data = data if return_weight is None else return_weight[None] * data
    return jnp.sum(jnp.mean(for_critics(td_weight) * (jax.nn.logsumexp(allowed, axis=-1) - data), axis=1))


def init(settings: CQLSettings, spec: Spec, given: PyTree, *, key: Key) -> DiscreteCQLState:
    """Fresh critics with one output per action."""
    if settings.bc_weight:
        raise ConfigurationError(
            f"`bc_weight` of CQL is for continuous actions; got {settings.bc_weight:g} on a log of discrete ones, where the "
            "penalty itself is the loss of behaviour cloning, of softmax Q. Raise `cql_weight` instead."
        )
    count = settings.count_critics(given, settings.num_critics)
    critics = create_discrete_critics(spec, count, settings.network, key=key).ensemble
    optimizer = settings.adam(settings.learning_rate)
    multiplier = Trainable.create(jnp.float32(0.0), optimizer) if settings.lagrange_gap else None
    return DiscreteCQLState(Trainable.create(critics, optimizer), jax.tree.map(jnp.copy, critics), multiplier)


def update(
    settings: CQLSettings, state: DiscreteCQLState, batch: Batch, given: PyTree
) -> tuple[DiscreteCQLState, Metrics]:
    """Equations (3), (1) and (2)."""
    action, mask, td_weight = batch["action"], batch["action_mask"], batch["td_weight"]
    next_q = settings.pessimistic(state.target_critics(batch["next_obs"]))
    next_v = jnp.max(mask_logits(next_q, batch["next_action_mask"]), axis=-1)
    reward, discount = settings.td_return(batch)
    count = settings.count_critics(given, settings.num_critics)
    td_target = settings.targets(reward + discount * next_v, batch, count)
    critic_weight = settings.critic_weight(batch, given, settings.num_critics)

    log_weight = _log_weight(settings, state, batch, given)
    multiplier = None if state.log_multiplier is None else multiplier_of(state.log_multiplier)

    def loss(critics: Ensemble) -> tuple[Array, tuple[Array, Array, Array, Metrics]]:
        q = critics(batch["obs"])
        td = td_loss(jax.vmap(take_action, (0, None))(q, action), td_target, critic_weight)
        penalty = conservative_penalty(q, action, mask, critic_weight, log_weight, batch.get("return_weight"))
        weighted = settings.cql_weight * penalty
        if multiplier is not None:
            weighted = multiplier * (weighted - count * settings.lagrange_gap)
        value, more = td + weighted, {}
        if settings.kl_weight:
            behavior = given["behavior"].log_probs(batch["obs"], action_mask=mask)
            kl = divergence(q, behavior, mask, td_weight)
            value, more = value + settings.kl_weight * jnp.sum(kl), {"policy/kl": jnp.mean(kl)}
        return value, (q, td, penalty, more)

    (_, (q, td, penalty, more)), gradients = jax.value_and_grad(loss, has_aux=True)(state.critics.model)
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
    log_multiplier = state.log_multiplier
    if log_multiplier is not None and multiplier is not None:
        of_each = (penalty / count)[None]
        log_multiplier = multiplier_step(settings, log_multiplier, multiplier, of_each)
        more = more | {"cql/multiplier": multiplier}
    target_critics = polyak(state.target_critics, critics.model, settings.target_rate)
    return DiscreteCQLState(critics, target_critics, log_multiplier), metrics | more


def divergence(
    q: Float[Array, "C B A"],
    behavior: Float[Array, "B A"],
    action_mask: Bool[Array, "B A"],
    td_weight: Float[Array, " B"],
) -> Float[Array, " C"]:
    """KL(softmax Q_i || beta) of equation (13) for each critic; `behavior` holds log beta over the allowed actions."""
    log_probs = jax.vmap(masked_log_softmax, (0, None))(q, action_mask)
    apart = jnp.where(action_mask[None], jnp.exp(log_probs) * (log_probs - behavior[None]), 0.0)
    return jnp.mean(td_weight[None] * jnp.sum(apart, axis=-1), axis=-1)


def _log_weight(
    settings: CQLSettings, state: DiscreteCQLState, batch: Batch, given: PyTree
) -> Float[Array, "B A"] | None:
    """The logarithm of the weights of actions in (10) or (11); None where all weigh alike."""
    if settings.penalty == "rho":
        slow = jnp.mean(state.target_critics(batch["obs"]), axis=0)
        return masked_log_softmax(slow, batch["action_mask"])
    if settings.penalty == "behavior":
        return rarity(given["behavior"].log_probs(batch["obs"], action_mask=batch["action_mask"]))
    return None


def policy(state: DiscreteCQLState) -> ValueGreedyPolicy:
    """Takes the best allowed action of the mean critic."""
    return ValueGreedyPolicy(state.critics.model)


def value(state: DiscreteCQLState) -> CriticValue:
    """The value functions: the mean of the critics, under that policy."""
    return CriticValue(state.critics.model, policy(state))
