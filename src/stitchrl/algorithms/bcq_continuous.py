"""BCQ for continuous actions: equations (6) to (11) of `bcq`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.bcq_settings import BCQSettings
from stitchrl.algorithms.generative import best_candidate_value, vae_step
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP
from stitchrl.nn.vae import ActionVAE, PerturbedPolicy
from stitchrl.nn.value import ContinuousCriticValue

__all__ = ["ContinuousBCQState", "init", "policy", "update", "value"]


class ContinuousBCQState(NamedTuple):
    """Everything a resume needs."""

    behavior: Trainable[ActionVAE]
    perturbation: Trainable[MLP]
    critics: Trainable[ContinuousCritics]
    target_perturbation: MLP
    target_critics: ContinuousCritics


def init(settings: BCQSettings, spec: Spec, *, key: Key) -> ContinuousBCQState:
    """Fresh networks."""
    behavior_key, perturbation_key, critic_key = jax.random.split(key, 3)
    size, actions, optimizer = spec.vector_size, spec.action_size, settings.adam(settings.learning_rate)
    vae = ActionVAE.create(size, actions, settings.behavior_network or settings.network, key=behavior_key)
    perturbation = MLP.create(size + actions, settings.network, actions, key=perturbation_key, start="uniform")
    critics = ContinuousCritics.create(
        settings.num_critics, size, actions, settings.network, key=critic_key, start="uniform"
    )
    return ContinuousBCQState(
        Trainable.create(vae, optimizer),
        Trainable.create(perturbation, optimizer),
        Trainable.create(critics, optimizer),
        jax.tree.map(jnp.copy, perturbation),
        jax.tree.map(jnp.copy, critics),
    )


def update(
    settings: BCQSettings, state: ContinuousBCQState, batch: Batch, *, key: Key
) -> tuple[ContinuousBCQState, Metrics]:
    """Equations (6) to (11); each step uses what the steps before it updated."""
    vae_key, target_key, actor_key = jax.random.split(key, 3)
    obs, next_obs, action = batch["obs"], batch["next_obs"], batch["action"]
    optimizer = settings.adam(settings.learning_rate)

    behavior, metrics = vae_step(state.behavior, obs, action, optimizer, key=vae_key)
    decoder, size = behavior.model.decoder, behavior.model.latent_size

    noise = jax.random.normal(target_key, (settings.candidates, next_obs.shape[0], size))
    next_actions = _proposal(settings, decoder, state.target_perturbation).candidates(next_obs, noise)
    next_v = best_candidate_value(state.target_critics.several(next_obs, next_actions), settings.min_weight)
    reward, discount = settings.td_return(batch)
    td_target = reward + discount * next_v

    def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
        q = critics(obs, action)
        return td_loss(q, td_target, batch["td_weight"]), jnp.mean(q)

    (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
    critics = state.critics.step(optimizer, gradients)

    noise = jax.random.normal(actor_key, (obs.shape[0], size))
    first_critic = critics.model.member(0)

    def perturbation_loss(perturbation: MLP) -> Array:
        moved = _proposal(settings, decoder, perturbation).candidates(obs, noise[None])[0]
        return -jnp.mean(first_critic(obs, moved)[0])

    loss_pi, gradients = jax.value_and_grad(perturbation_loss)(state.perturbation.model)
    perturbation = state.perturbation.step(optimizer, gradients)

    metrics |= {"loss/critic": loss_q, "loss/actor": loss_pi, "q/data_mean": q_mean, "q/policy_mean": -loss_pi}
    return (
        ContinuousBCQState(
            behavior,
            perturbation,
            critics,
            polyak(state.target_perturbation, perturbation.model, settings.target_rate),
            polyak(state.target_critics, critics.model, settings.target_rate),
        ),
        metrics,
    )


def _proposal(settings: BCQSettings, decoder: MLP, perturbation: MLP) -> PerturbedPolicy:
    """Where candidates come from."""
    return PerturbedPolicy(decoder, perturbation, jnp.asarray(settings.perturbation_limit, jnp.float32))


def policy(settings: BCQSettings, state: ContinuousBCQState) -> BestOfPolicy:
    """The best of many candidates by the first critic."""
    vae = state.behavior.model
    proposal = _proposal(settings, vae.decoder, state.perturbation.model)
    critic = state.critics.model.perceptron(0)
    return BestOfPolicy.create(proposal, critic, settings.acting_candidates, vae.latent_size)


def value(settings: BCQSettings, state: ContinuousBCQState) -> ContinuousCriticValue:
    """The value functions: the mean of the critics, under that policy."""
    return ContinuousCriticValue(state.critics.model, policy(settings, state))
