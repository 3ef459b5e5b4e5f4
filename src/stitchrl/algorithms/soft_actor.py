"""The actor, temperature and targets of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), shared by its relatives.

    (1)  L_alpha = -log alpha E[ log pi(a|s) + H ],              a ~ pi(s)
    (2)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],     a ~ pi(s)
    (3)  V(s')   = min_i Qbar_i(s', a') - alpha log pi(a'|s'),   a' ~ pi(s')

H is the entropy the actor is held to. Continuous actions: each expectation is one sampled action per row, and H is
minus the number of dimensions of an action. Discrete actions: each is the sum over the allowed actions (Christodoulou
2019, arXiv 1910.07207), and H is a share of the largest entropy that the allowed actions of a row permit, the logarithm
of their number. In (1) the papers have the temperature itself in place of its logarithm; their codes have the
logarithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.heads import Critics, create_categorical, create_critics
from stitchrl.algorithms.losses import expected_soft_actor_loss, soft_actor_loss, temperature_loss
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.distributions import TanhNormal
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.value import ContinuousCriticValue, CriticValue

__all__ = [
    "SoftActor",
    "SoftPolicy",
    "SoftState",
    "fresh_soft_state",
    "soft_actor_step",
    "soft_critic_value",
    "soft_policy_step",
    "soft_value",
]

SoftPolicy = SquashedGaussianPolicy | CategoricalPolicy
Lower = Callable[[Array], Array]
"""Joins the values of several critics, on axis 0: by their minimum, or as the settings of critics say."""
ExtraTerm = Callable[[TanhNormal, Array, Array], tuple[Array, Metrics]]
"""(the distribution of actions, one draw of it, that draw's log-density) -> a term of the actor's loss, and metrics."""


class SoftActor(NamedTuple):
    """An actor and the logarithm of its temperature, each with its optimiser's state."""

    policy: Trainable[SoftPolicy]
    log_temperature: Trainable[Array]

    @classmethod
    def create(
        cls, policy: SoftPolicy, optimizer: optax.GradientTransformation, temperature: Scalar = 1.0
    ) -> SoftActor:
        """A fresh pair, the temperature as given."""
        log_temperature = jnp.log(jnp.asarray(temperature, jnp.float32))
        return cls(Trainable.create(policy, optimizer), Trainable.create(log_temperature, optimizer))


class SoftState(NamedTuple):
    """Everything a resume needs."""

    actor: SoftActor
    critics: Trainable[Critics]
    target_critics: Critics


def fresh_soft_state(
    spec: Spec,
    num_critics: int,
    network: Network,
    actor_network: Network,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    *,
    temperature: Scalar = 1.0,
    key: Key,
) -> SoftState:
    """New networks: over continuous actions they start small (see `MLP`), over discrete ones near uniform.

    Args:
        spec: sizes.
        num_critics: how many.
        network, actor_network: shapes of the critics and of the actor.
        optimizers: of the actor and its temperature, and of the critics.
        temperature: at the start.
        key: of the first weights.
    """
    actor_key, critic_key = jax.random.split(key)
    policy: SoftPolicy
    if spec.num_actions is None:
        size, numbers = spec.vector_size, spec.action_size
        body = MLP.create(size, actor_network, 2 * numbers, key=actor_key, start="small", final_gain=1e-3)
        policy = SquashedGaussianPolicy(body)
        critics: Critics = ContinuousCritics.create(
            num_critics, size, numbers, network, key=critic_key, start="small", final_gain=3e-3
        )
    else:
        policy = create_categorical(spec, actor_network, key=actor_key)
        critics = create_critics(spec, num_critics, network, key=critic_key)
    return SoftState(
        SoftActor.create(policy, optimizers[0], temperature),
        Trainable.create(critics, optimizers[1]),
        jax.tree.map(jnp.copy, critics),
    )


def soft_policy_step(
    actor: SoftActor,
    critics: Critics,
    batch: Batch,
    optimizer: optax.GradientTransformation,
    entropy_share: Scalar,
    *,
    lower: Lower,
    key: Key,
) -> tuple[SoftActor, Metrics]:
    """One step of equations (1) and (2), at the temperature just updated.

    Args:
        actor: before the step.
        critics: their values, joined by `lower`, are maximised.
        batch: obs and action, and the action mask where actions are discrete.
        optimizer: of the actor and its temperature.
        entropy_share: H of discrete actions, as a share of the largest entropy.
        lower: joins the critics, by default by their minimum.
        key: of the sampled actions.
    """
    if isinstance(critics, DiscreteCritics):
        return _discrete_step(actor, critics, batch, optimizer, entropy_share, lower)
    return soft_actor_step(actor, critics, batch["obs"], batch["action"], optimizer, lower=lower, key=key)


def soft_actor_step(
    actor: SoftActor,
    critics: ContinuousCritics,
    obs: Array,
    action: Array,
    optimizer: optax.GradientTransformation,
    *,
    lower: Lower,
    key: Key,
    extra: ExtraTerm | None = None,
) -> tuple[SoftActor, Metrics]:
    """As `soft_policy_step`, for continuous actions: one sampled action per observation serves (1) and (2).

    `extra` adds a term to the actor's loss, and its metrics.
    """
    policy = actor.policy.model
    assert isinstance(policy, SquashedGaussianPolicy)
    _, log_prob = policy(obs).sample_with_log_prob(key=key)
    gradient = jax.grad(temperature_loss)(actor.log_temperature.model, log_prob, -float(action.shape[1]))
    log_temperature = actor.log_temperature.step(optimizer, gradient)
    temperature = jnp.exp(log_temperature.model)

    def loss(policy: SquashedGaussianPolicy) -> tuple[Array, Metrics]:
        pi = policy(obs)
        policy_action, log_prob = pi.sample_with_log_prob(key=key)
        q = lower(critics(obs, policy_action))
        value = soft_actor_loss(log_prob, q, temperature)
        metrics = {"q/policy_mean": jnp.mean(q), "policy/entropy": -jnp.mean(log_prob)} | pi.metrics(action)
        if extra is not None:
            term, more = extra(pi, policy_action, log_prob)
            value, metrics = value + term, metrics | more
        return value, metrics | {"loss/actor": value}

    gradients, metrics = jax.grad(loss, has_aux=True)(policy)
    return SoftActor(actor.policy.step(optimizer, gradients), log_temperature), metrics | {"temperature": temperature}


def _discrete_step(
    actor: SoftActor,
    critics: DiscreteCritics,
    batch: Batch,
    optimizer: optax.GradientTransformation,
    entropy_share: Scalar,
    lower: Lower,
) -> tuple[SoftActor, Metrics]:
    """As `soft_policy_step`, for discrete actions: sums over the allowed ones."""
    policy, obs, mask = actor.policy.model, batch["obs"], batch["action_mask"]
    assert isinstance(policy, CategoricalPolicy)
    log_probs = policy(obs, action_mask=mask).log_probs
    expected = jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    target = entropy_share * jnp.log(jnp.sum(mask, axis=-1).astype(jnp.float32))
    gradient = jax.grad(temperature_loss)(actor.log_temperature.model, expected, target)
    log_temperature = actor.log_temperature.step(optimizer, gradient)
    temperature = jnp.exp(log_temperature.model)
    q = lower(critics.every_action(obs))

    def loss(policy: CategoricalPolicy) -> tuple[Array, Metrics]:
        pi = policy(obs, action_mask=mask)
        value = expected_soft_actor_loss(pi.log_probs, q, temperature)
        q_mean = jnp.mean(jnp.sum(jnp.exp(pi.log_probs) * q, axis=-1))
        return value, {"loss/actor": value, "q/policy_mean": q_mean} | pi.metrics(batch["action"])

    gradients, metrics = jax.grad(loss, has_aux=True)(policy)
    return SoftActor(actor.policy.step(optimizer, gradients), log_temperature), metrics | {"temperature": temperature}


def soft_value(
    actor: SoftActor, target_critics: Critics, batch: Batch, lower: Lower, *, key: Key
) -> Float[Array, " B"]:
    """(B,) equation (3), at the next observations of a batch."""
    next_obs, temperature = batch["next_obs"], jnp.exp(actor.log_temperature.model)
    if isinstance(target_critics, DiscreteCritics):
        policy = actor.policy.model
        assert isinstance(policy, CategoricalPolicy)
        log_probs = policy(next_obs, action_mask=batch["next_action_mask"]).log_probs
        next_q = lower(target_critics.every_action(next_obs))
        return jnp.sum(jnp.exp(log_probs) * (next_q - temperature * log_probs), axis=-1)
    assert isinstance(actor.policy.model, SquashedGaussianPolicy)
    next_action, log_prob = actor.policy.model(next_obs).sample_with_log_prob(key=key)
    return lower(target_critics(next_obs, next_action)) - temperature * log_prob


def soft_critic_value(critics: Critics, policy: SoftPolicy) -> CriticValue | ContinuousCriticValue:
    """The value functions that critics give under a policy: the mean of the critics, without entropy at the state itself."""
    if isinstance(critics, DiscreteCritics):
        assert isinstance(policy, CategoricalPolicy)
        return CriticValue(critics.ensemble, policy)
    assert isinstance(policy, SquashedGaussianPolicy)
    return ContinuousCriticValue(critics, policy)
