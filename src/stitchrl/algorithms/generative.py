"""What BCQ and BEAR share over continuous actions: the autoencoder of logged actions, and the value of candidates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.optimizers import Trainable
from stitchrl.jax_types import Array, Key, Metrics, Scalar
from stitchrl.nn.vae import ActionVAE

__all__ = ["best_candidate_value", "vae_loss", "vae_step"]

KL_WEIGHT = 0.5
"""The weight of the divergence in `vae_loss`, as in the official code."""


def vae_loss(
    generated: Float[Array, "B action"],
    action: Float[Array, "B action"],
    mean: Float[Array, "B latent"],
    log_std: Float[Array, "B latent"],
) -> Float[Array, ""]:
    """E[(generated - action)^2] + KL(N(mean, std^2), N(0, 1)) / 2, both means over rows AND numbers (official code).

    As the divergence is a mean over latent numbers, not their sum, it weighs less the more of them there are.
    """
    divergence = -0.5 * jnp.mean(1.0 + 2.0 * log_std - mean**2 - jnp.exp(2.0 * log_std))
    return jnp.mean((generated - action) ** 2) + KL_WEIGHT * divergence


def vae_step(
    vae: Trainable[ActionVAE], obs: Array, action: Array, optimizer: optax.GradientTransformation, *, key: Key
) -> tuple[Trainable[ActionVAE], Metrics]:
    """One step of `vae_loss` on logged actions, with the latent vector of each row drawn."""
    noise = jax.random.normal(key, (obs.shape[0], vae.model.latent_size))

    def loss(model: ActionVAE) -> tuple[Array, Array]:
        mean, log_std = model.encode(obs, action)
        generated = model.decode(obs, mean + jnp.exp(log_std) * noise)
        return vae_loss(generated, action, mean, log_std), jnp.sqrt(jnp.mean((generated - action) ** 2))

    (value, error), gradients = jax.value_and_grad(loss, has_aux=True)(vae.model)
    return vae.step(optimizer, gradients), {"loss/behavior": value, "behavior/error": error}


def best_candidate_value(q: Float[Array, "C K B"], min_weight: Scalar) -> Float[Array, " B"]:
    """max_k [ min_weight min_i Q_i + (1 - min_weight) max_i Q_i ] of K candidates per observation, by C critics."""
    return jnp.max(min_weight * jnp.min(q, axis=0) + (1.0 - min_weight) * jnp.max(q, axis=0), axis=0)
