"""A conditional variational autoencoder of actions, and the policy that moves the actions it generates by a little."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.from_noise import FromNoisePolicy
from stitchrl.nn.networks import MLP, Network

__all__ = ["ActionVAE", "PerturbedPolicy"]

LEAST_LOG_STD, MOST_LOG_STD = -4.0, 15.0
"""Ends of the encoder's log standard deviations (official code of BCQ)."""
LARGEST_LATENT = 0.5
"""Latent numbers are clipped to this size where actions are generated, so that the actions are likely ones (official code)."""


class ActionVAE(eqx.Module):
    """Encoder (observation, action) -> normal over latent vectors, and decoder (observation, latent) -> action before tanh.

    The first half of the encoder's outputs is the mean, the second the log standard deviation.
    """

    encoder: MLP
    decoder: MLP

    @classmethod
    def create(cls, observation_size: int, action_size: int, network: Network, *, key: Key) -> ActionVAE:
        """Fresh networks; a latent vector has twice as many numbers as an action."""
        encoder_key, decoder_key = jax.random.split(key)
        latent = 2 * action_size
        return cls(
            MLP.create(observation_size + action_size, network, 2 * latent, key=encoder_key, start="uniform"),
            MLP.create(observation_size + latent, network, action_size, key=decoder_key, start="uniform"),
        )

    @property
    def latent_size(self) -> int:
        """Numbers in a latent vector."""
        return self.encoder.biases[-1].shape[-1] // 2

    def encode(
        self, obs: Float[AnyArray, "B D"], action: Float[AnyArray, "B action"]
    ) -> tuple[Float[Array, "B latent"], Float[Array, "B latent"]]:
        """Mean and log standard deviation of the latent vector of each row."""
        mean, log_std = jnp.split(self.encoder(jnp.concatenate([obs, action], axis=-1)), 2, axis=-1)
        return mean, jnp.clip(log_std, LEAST_LOG_STD, MOST_LOG_STD)

    def decode(self, obs: Float[AnyArray, "B D"], latent: Float[Array, "B latent"]) -> Float[Array, "B action"]:
        """(B, action) the action of each latent vector, in [-1, 1]."""
        return jnp.tanh(self.decoder(jnp.concatenate([obs, latent], axis=-1)))

    def generate(self, obs: Float[AnyArray, "B D"], noise: Float[Array, "K B latent"]) -> Float[Array, "K B action"]:
        """(K, B, action) generated actions BEFORE tanh, of standard normal noise that is cut at +-0.5."""
        return self.decoder.several(obs, jnp.clip(noise, -LARGEST_LATENT, LARGEST_LATENT))


class PerturbedPolicy(FromNoisePolicy):
    """Actions that a decoder generates, each moved by a network by at most `limit`, and kept in [-1, 1].

    Its noise is the latent vector, cut at +-0.5; its mode is the action of the latent vector 0.

    Attributes:
        decoder: of an `ActionVAE`.
        perturbation: network of (observation, action), tanh of which times `limit` is added to the action.
        limit: () at least 0.
    """

    decoder: MLP
    perturbation: MLP
    limit: Float[AnyArray, ""]

    @property
    def noise_size(self) -> int:
        actions = self.perturbation.biases[-1].shape[-1]
        return self.decoder.weights[0].shape[-2] - self.perturbation.weights[0].shape[-2] + actions

    def action(self, obs: Float[AnyArray, "B D"], noise: Float[AnyArray, "B latent"]) -> Float[Array, "B action"]:
        return self.candidates(obs, noise[None])[0]

    def candidates(
        self, obs: Float[AnyArray, "B D"], noise: Float[AnyArray, "K B latent"]
    ) -> Float[Array, "K B action"]:
        """(K, B, action) the actions that standard normal noise, clipped to +-0.5, becomes."""
        generated = jnp.tanh(self.decoder.several(obs, jnp.clip(noise, -LARGEST_LATENT, LARGEST_LATENT)))
        moved = generated + jnp.asarray(self.limit) * jnp.tanh(self.perturbation.several(obs, generated))
        return jnp.clip(moved, -1.0, 1.0)
