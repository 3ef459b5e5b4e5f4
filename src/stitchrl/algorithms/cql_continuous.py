"""CQL for continuous actions: equations (1), (2) and (4) to (13) of `cql`."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.cql_settings import CQLSettings
from stitchrl.algorithms.cql_terms import logged_value, multiplier_of, multiplier_step, rarity
from stitchrl.algorithms.losses import for_critics, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.soft_actor import ExtraTerm, SoftActor, soft_actor_step
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.continuous_policy import GaussianPolicy, SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.distributions import TanhNormal
from stitchrl.nn.networks import MLP
from stitchrl.nn.tiling import tile_count, tiled_value_and_grad
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = [
    "ContinuousCQLState",
    "drawn_by_weight",
    "init",
    "policy",
    "sampled_actions",
    "sampled_penalty",
    "update",
    "value",
]


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
    td_weight: Float[Array, " B"] | Float[Array, "C B"],
) -> Float[Array, " C"]:
    """Second term of (1) for each critic, the sum estimated by (7) from K actions of known density."""
    return jnp.mean(for_critics(td_weight) * (jax.nn.logsumexp(q - log_density[None], axis=1) - q_data), axis=1)


def init(settings: CQLSettings, spec: Spec, given: PyTree, *, key: Key) -> ContinuousCQLState:
    """Fresh networks; temperature and multiplier start at 1."""
    actor_key, critic_key = jax.random.split(key)
    size, shape = spec.vector_size, settings.actor_network or settings.network
    actor = SquashedGaussianPolicy(MLP.create(size, shape, 2 * spec.action_size, key=actor_key, final_gain=0.01))
    count = settings.count_critics(given, settings.num_critics)
    critics = ContinuousCritics.create(count, size, spec.action_size, settings.network, key=critic_key)
    optimizer = settings.adam(settings.learning_rate)
    return ContinuousCQLState(
        SoftActor.create(actor, settings.adam(settings.actor_learning_rate)),
        Trainable.create(critics, optimizer),
        jax.tree.map(jnp.copy, critics),
        Trainable.create(jnp.float32(0.0), optimizer),
    )


def update(
    settings: CQLSettings, state: ContinuousCQLState, batch: Batch, given: PyTree, *, key: Key
) -> tuple[ContinuousCQLState, Metrics]:
    """Equations (4) and (5), (6), (1) with (7), (8) and (2); every gradient at the parameters before the update."""
    actor_key, target_key, penalty_key = jax.random.split(key, 3)
    obs, action = batch["obs"], batch["action"]

    critics, actor_optimizer = state.critics.model, settings.adam(settings.actor_learning_rate)
    extra = _near_the_log(settings, batch, given) if settings.bc_weight or settings.kl_weight else None
    actor, metrics = soft_actor_step(
        state.actor, critics, obs, action, actor_optimizer, lower=settings.pessimistic, key=actor_key, extra=extra
    )

    pi, next_pi = policy(state)(obs), policy(state)(batch["next_obs"])
    next_q = _next_value(settings, state.target_critics, batch["next_obs"], next_pi, key=target_key)
    reward, discount = settings.td_return(batch)
    count = settings.count_critics(given, settings.num_critics)
    td_target = settings.targets(reward + discount * next_q, batch, count)

    sampled, log_density = sampled_actions(pi, next_pi, settings.samples, key=penalty_key)
    if settings.penalty == "rho":
        sampled = jnp.concatenate([sampled, action[None]])
        log_density = jnp.zeros(sampled.shape[:2], jnp.float32)
    elif settings.penalty == "behavior":
        log_density = log_density - _rarities(given["behavior"], obs, sampled)
    # Rows first, so that parts of the batch can be taken one after another.
    parts = {
        "obs": obs,
        "action": action,
        "candidates": jnp.swapaxes(sampled, 0, 1),
        "log_density": log_density.T,
        "td_target": td_target.T,  # of all critics, or each critic's own
        "td_weight": settings.critic_weight(batch, given, settings.num_critics).T,
    }
    if settings.return_weighted:
        parts["return_weight"] = batch["return_weight"]
    if settings.gradient_samples:
        shape = (len(obs), count, settings.gradient_samples)
        parts["uniform"] = jax.random.uniform(jax.random.fold_in(penalty_key, 1), shape)
    multiplier = multiplier_of(state.log_multiplier)

    def loss(critics: ContinuousCritics, part: Batch) -> tuple[Array, tuple[Array, Array, Array]]:
        penalties = _sampled_gradient if settings.gradient_samples else _whole_gradient
        q_data, penalty, surrogate = penalties(critics, part)
        td = td_loss(q_data, part["td_target"].T, part["td_weight"].T)
        weighted = settings.cql_weight * surrogate
        if settings.lagrange_gap:
            weighted = multiplier * (weighted - settings.lagrange_gap)
        return td + jnp.sum(weighted), (td, penalty, jnp.mean(q_data))

    tiles = tile_count(len(obs), parts["candidates"].shape[1] + 1)
    (_, (td, penalty, q_mean)), gradients = tiled_value_and_grad(loss, critics, parts, tiles)
    after = state.critics.step(settings.adam(settings.learning_rate), gradients)

    metrics |= {"loss/critic": td, "loss/cql": jnp.sum(penalty), "q/data_mean": q_mean, "cql/multiplier": multiplier}
    log_multiplier, target_critics = (
        state.log_multiplier,
        polyak(state.target_critics, after.model, settings.target_rate),
    )
    if settings.lagrange_gap:
        log_multiplier = multiplier_step(settings, log_multiplier, multiplier, penalty)
    return ContinuousCQLState(actor, after, target_critics, log_multiplier), metrics


def _next_value(
    settings: CQLSettings, target_critics: ContinuousCritics, next_obs: Array, next_pi: TanhNormal, *, key: Key
) -> Float[Array, " B"]:
    """The next value of (6): of one action, or the best of several for each critic."""
    if settings.target_samples == 1:
        return settings.pessimistic(target_critics(next_obs, next_pi.sample(key=key)))
    next_action, _ = next_pi.sample_with_log_prob(key=key, count=(settings.target_samples,))
    return settings.pessimistic(jnp.max(target_critics.several(next_obs, next_action), axis=1))


def _near_the_log(settings: CQLSettings, batch: Batch, given: PyTree) -> ExtraTerm:
    """The term of equation (13)."""
    obs, action = batch["obs"], batch["action"]

    def term(pi: TanhNormal, policy_action: Array, log_prob: Array) -> tuple[Array, Metrics]:
        value, metrics = jnp.float32(0.0), {}
        if settings.bc_weight:
            metrics["loss/bc"] = -jnp.mean(pi.log_prob(action))
            value = value + settings.bc_weight * metrics["loss/bc"]
        if settings.kl_weight:
            metrics["policy/kl"] = jnp.mean(log_prob - given["behavior"].log_prob(obs, policy_action))
            value = value + settings.kl_weight * metrics["policy/kl"]
        return value, metrics

    return term


def _rarities(behavior: GaussianPolicy, obs: Array, action: Float[Array, "K B action"]) -> Float[Array, "K B"]:
    """log omega of equation (11) of K actions per observation, with b the density relative to that at the behaviour's mode."""
    pi = behavior(obs)
    return rarity(jax.vmap(pi.log_prob)(action) - pi.log_prob(pi.mode())[None])


Penalties = tuple[Float[Array, "C B"], Float[Array, " C"], Float[Array, " C"]]
"""Q of the logged actions, the penalty of each critic, and something whose gradient is the penalty's."""


def _whole_gradient(critics: ContinuousCritics, part: Batch) -> Penalties:
    """Equation (7), every candidate differentiated."""
    candidates = jnp.concatenate([part["candidates"], part["action"][:, None]], axis=1)
    q = critics.several(part["obs"], jnp.swapaxes(candidates, 0, 1))
    penalty = sampled_penalty(q[:, :-1], part["log_density"].T, logged_value(q[:, -1], part), part["td_weight"].T)
    return q[:, -1], penalty, penalty


def _sampled_gradient(critics: ContinuousCritics, part: Batch) -> Penalties:
    """Equation (7) with the gradient of (9): every candidate is valued, a few are differentiated."""
    fixed = jax.lax.stop_gradient(critics)
    scores = fixed.several(part["obs"], jnp.swapaxes(part["candidates"], 0, 1))
    log_density = part["log_density"].T
    drawn = drawn_by_weight(scores - log_density[None], jnp.moveaxis(part["uniform"], 0, -1))
    chosen = jnp.swapaxes(part["candidates"], 0, 1)[drawn, jnp.arange(drawn.shape[-1])[None, None, :]]
    logged = jnp.broadcast_to(part["action"][None, None], (drawn.shape[0], 1, *part["action"].shape))
    q = critics.several_each(part["obs"], jnp.concatenate([chosen, logged], axis=1))
    q_data, td_weight = q[:, -1], part["td_weight"].T
    pushed_up = logged_value(q_data, part)
    surrogate = jnp.mean(for_critics(td_weight) * (jnp.mean(q[:, :-1], axis=1) - pushed_up), axis=1)
    penalty = sampled_penalty(scores, log_density, jax.lax.stop_gradient(pushed_up), td_weight)
    return q_data, penalty, surrogate + jax.lax.stop_gradient(penalty - surrogate)


def drawn_by_weight(logits: Float[Array, "C K B"], uniform: Float[Array, "C m B"]) -> Int[Array, "C m B"]:
    """Draws k with probability softmax_k(logits), for each critic and row, given numbers uniform on [0, 1)."""
    reached = jnp.cumsum(jax.nn.softmax(logits, axis=1), axis=1)
    k = jnp.sum(reached[:, None] <= uniform[:, :, None], axis=2)
    return jnp.minimum(k, logits.shape[1] - 1)  # the last sum may round below 1


def sampled_actions(
    pi: TanhNormal, next_pi: TanhNormal, samples: int, *, key: Key
) -> tuple[Float[Array, "K B action"], Float[Array, "K B"]]:
    """The actions b_k of equation (7) and their log-densities, 3 * samples per observation."""
    uniform_key, pi_key, next_key = jax.random.split(key, 3)
    uniform = jax.random.uniform(uniform_key, (samples, *pi.mean.shape), minval=-1.0, maxval=1.0)
    drawn = [
        (uniform, jnp.full(uniform.shape[:2], -uniform.shape[2] * math.log(2.0), jnp.float32)),
        pi.sample_with_log_prob(key=pi_key, count=(samples,)),
        next_pi.sample_with_log_prob(key=next_key, count=(samples,)),
    ]
    return jnp.concatenate([a for a, _ in drawn]), jnp.concatenate([density for _, density in drawn])


def policy(state: ContinuousCQLState) -> SquashedGaussianPolicy:
    """The actor."""
    assert isinstance(state.actor.policy.model, SquashedGaussianPolicy)
    return state.actor.policy.model


def value(state: ContinuousCQLState) -> ContinuousCriticValue:
    """The value functions: the mean of the critics, under the actor."""
    return ContinuousCriticValue(state.critics.model, policy(state))
