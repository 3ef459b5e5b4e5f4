"""CQL for continuous actions: equations (1), (2) and (4) to (8) of `cql`."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.cql_settings import CQLSettings
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.soft_actor import SoftActor, soft_actor_step
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.distributions import TanhNormal
from stitchrl.nn.networks import MLP
from stitchrl.nn.tiling import tile_count, tiled_value_and_grad
from stitchrl.nn.value import ContinuousCriticValue

__all__ = ["ContinuousCQLState", "init", "policy", "sampled_penalty", "update", "value"]

LARGEST_MULTIPLIER = 1e6


class ContinuousCQLState(NamedTuple):
    """Everything a resume needs."""

    actor: SoftActor
    critics: Trainable[ContinuousCritics]
    target_critics: ContinuousCritics
    log_multiplier: Trainable[Array]


def sampled_penalty(
    q: Float[Array, "C K B"],
    log_density: Float[Array, "K B"],
    q_data: Float[Array, "C B"],
    td_weight: Float[Array, " B"],
) -> Float[Array, " C"]:
    """Second term of (1) for each critic, the sum estimated by (7) from K actions of known density."""
    return jnp.mean(td_weight[None, :] * (jax.nn.logsumexp(q - log_density[None], axis=1) - q_data), axis=1)


def init(settings: CQLSettings, spec: Spec, *, key: Key) -> ContinuousCQLState:
    """Fresh networks; temperature and multiplier start at 1."""
    actor_key, critic_key = jax.random.split(key)
    size, shape = spec.vector_size, settings.actor_network or settings.network
    actor = SquashedGaussianPolicy(MLP.create(size, shape, 2 * spec.action_size, key=actor_key, final_gain=0.01))
    critics = ContinuousCritics.create(settings.num_critics, size, spec.action_size, settings.network, key=critic_key)
    optimizer = settings.adam(settings.learning_rate)
    return ContinuousCQLState(
        SoftActor.create(actor, settings.adam(settings.actor_learning_rate)),
        Trainable.create(critics, optimizer),
        jax.tree.map(jnp.copy, critics),
        Trainable.create(jnp.float32(0.0), optimizer),
    )


def update(
    settings: CQLSettings, state: ContinuousCQLState, batch: Batch, *, key: Key
) -> tuple[ContinuousCQLState, Metrics]:
    """Equations (4) and (5), (6), (1) with (7), (8) and (2); every gradient at the parameters before the update."""
    actor_key, target_key, penalty_key = jax.random.split(key, 3)
    obs, action, td_weight = batch["obs"], batch["action"], batch["td_weight"]

    critics, actor_optimizer = state.critics.model, settings.adam(settings.actor_learning_rate)
    actor, metrics = soft_actor_step(state.actor, critics, obs, action, actor_optimizer, key=actor_key)

    pi, next_pi = state.actor.policy.model(obs), state.actor.policy.model(batch["next_obs"])
    next_action = next_pi.sample(key=target_key)
    next_q = jnp.min(state.target_critics(batch["next_obs"], next_action), axis=0)
    reward, discount = settings.td_return(batch)
    td_target = reward + discount * next_q

    sampled, log_density = _sampled_actions(pi, next_pi, settings.samples, key=penalty_key)
    # Rows first, so that parts of the batch can be taken one after another.
    parts = {
        "obs": obs,
        "candidates": jnp.swapaxes(jnp.concatenate([sampled, action[None]]), 0, 1),
        "log_density": log_density.T,
        "td_target": td_target,
        "td_weight": td_weight,
    }
    multiplier = jnp.clip(jnp.exp(state.log_multiplier.model), 0.0, LARGEST_MULTIPLIER)

    def loss(critics: ContinuousCritics, part: Batch) -> tuple[Array, tuple[Array, Array, Array]]:
        q = critics.several(part["obs"], jnp.swapaxes(part["candidates"], 0, 1))
        td = td_loss(q[:, -1], part["td_target"], part["td_weight"])
        penalty = sampled_penalty(q[:, :-1], part["log_density"].T, q[:, -1], part["td_weight"])
        weighted = settings.cql_weight * penalty
        if settings.lagrange_gap:
            weighted = multiplier * (weighted - settings.lagrange_gap)
        return td + jnp.sum(weighted), (td, penalty, jnp.mean(q[:, -1]))

    tiles = tile_count(len(obs), parts["candidates"].shape[1])
    (_, (td, penalty, q_mean)), gradients = tiled_value_and_grad(loss, critics, parts, tiles)
    after = state.critics.step(settings.adam(settings.learning_rate), gradients)

    metrics |= {"loss/critic": td, "loss/cql": jnp.sum(penalty), "q/data_mean": q_mean, "cql/multiplier": multiplier}
    return (
        ContinuousCQLState(
            actor,
            after,
            polyak(state.target_critics, after.model, settings.target_rate),
            _multiplier_step(settings, state.log_multiplier, multiplier, penalty),
        ),
        metrics,
    )


def _sampled_actions(
    pi: TanhNormal, next_pi: TanhNormal, samples: int, *, key: Key
) -> tuple[Float[Array, "K B action"], Float[Array, "K B"]]:
    """The actions b_k of equation (7) and their log-densities, 3 * samples an observation."""
    uniform_key, pi_key, next_key = jax.random.split(key, 3)
    uniform = jax.random.uniform(uniform_key, (samples, *pi.mean.shape), minval=-1.0, maxval=1.0)
    drawn = [
        (uniform, jnp.full(uniform.shape[:2], -uniform.shape[2] * math.log(2.0), jnp.float32)),
        pi.sample_with_log_prob(key=pi_key, count=(samples,)),
        next_pi.sample_with_log_prob(key=next_key, count=(samples,)),
    ]
    return jnp.concatenate([a for a, _ in drawn]), jnp.concatenate([density for _, density in drawn])


def _multiplier_step(
    settings: CQLSettings, log_multiplier: Trainable[Array], multiplier: Array, penalty: Float[Array, " C"]
) -> Trainable[Array]:
    """Equation (8): one step down -alpha' (cql_weight penalty - lagrange_gap), by log alpha'."""
    if not settings.lagrange_gap:
        return log_multiplier
    difference = jnp.mean(settings.cql_weight * penalty) - settings.lagrange_gap
    return log_multiplier.step(settings.adam(settings.learning_rate), -difference * multiplier)


def policy(state: ContinuousCQLState) -> SquashedGaussianPolicy:
    """The actor."""
    return state.actor.policy.model


def value(state: ContinuousCQLState) -> ContinuousCriticValue:
    """What the critics claim of the actor."""
    return ContinuousCriticValue(state.critics.model, policy(state))
