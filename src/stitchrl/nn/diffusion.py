"""A diffusion policy: a network predicts the noise in a noisy action, and removing it step by step from noise gives an action.

With beta_t the variance of the noise that is added in step t = 0 .. T - 1 and kept_t = prod_(u <= t) (1 - beta_u) (Ho, Jain,
Abbeel 2020, arXiv 2006.11239), and the variance-preserving schedule of Song and others 2021 (arXiv 2011.13456):

    (1)  beta_t = 1 - exp(-0.1 / T - 9.9 (2 t + 1) / (2 T^2))
    (2)  x_t    = sqrt(kept_t) a + sqrt(1 - kept_t) noise                                     the noisy action a
    (3)  x      <- clip((x - beta_t / sqrt(1 - kept_t) predicted noise) / sqrt(1 - beta_t) + sqrt(beta_t) z, +-1)

(3) is done for t = T - 1 down to 0. It starts from a standard normal x, and z is standard normal too, but 0 in the last
step. Other texts number the steps from 1.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.from_noise import FromNoisePolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.residual import ResidualNetwork
from stitchrl.types import NumpyArray

__all__ = ["DiffusionPolicy", "denoised", "noise_schedule", "noisy"]

LEAST_RATE, MOST_RATE = 0.1, 10.0
"""Ends of the rate of noise of the schedule (official code of IDQL)."""
FIRST_FREQUENCY = 0.2
"""Standard deviation of the first frequencies (official code)."""


def noise_schedule(steps: int) -> tuple[Float[NumpyArray, " T"], Float[NumpyArray, " T"]]:
    """beta and kept of every step, by equation (1)."""
    number = np.arange(steps)
    rate = LEAST_RATE / steps + 0.5 * (MOST_RATE - LEAST_RATE) * (2 * number + 1) / steps**2
    return -np.expm1(-rate).astype(np.float32), np.exp(-np.cumsum(rate)).astype(np.float32)


def noisy(
    action: Float[AnyArray, "B action"], noise: Float[Array, "B action"], step: Int[Array, " B"], steps: int
) -> Float[Array, "B action"]:
    """Equation (2), with the step of each row."""
    kept = jnp.asarray(noise_schedule(steps)[1])[step][:, None]
    return jnp.sqrt(kept) * action + jnp.sqrt(1.0 - kept) * noise


def denoised(
    predicted: Callable[[Float[Array, "*batch action"], Float[Array, "*batch 1"]], Float[Array, "*batch action"]],
    noise: Float[AnyArray, "*batch T action"],
) -> Float[Array, "*batch action"]:
    """The actions at which equation (3) ends.

    Args:
        predicted: (noisy actions, their step) -> the noise in them.
        noise: standard normal: first x, then z of each step but the last.
    """
    noise = jnp.asarray(noise)
    steps = noise.shape[-2]
    beta, kept = (jnp.asarray(column[::-1].copy()) for column in noise_schedule(steps))
    added = jnp.moveaxis(jnp.concatenate([noise[..., 1:, :], jnp.zeros_like(noise[..., :1, :])], axis=-2), -2, 0)

    def stepped(point: Array, now: tuple[Array, ...]) -> tuple[Array, None]:
        number, beta, kept, z = now
        predicted_noise = predicted(point, jnp.broadcast_to(number, (*point.shape[:-1], 1)))
        cleaner = (point - beta / jnp.sqrt(1.0 - kept) * predicted_noise) / jnp.sqrt(1.0 - beta)
        return jnp.clip(cleaner + jnp.sqrt(beta) * z, -1.0, 1.0), None

    numbers = jnp.arange(steps - 1, -1, -1).astype(jnp.float32)
    return jax.lax.scan(stepped, noise[..., 0, :], (numbers, beta, kept, added))[0]


class DiffusionPolicy(FromNoisePolicy):
    """Makes actions from standard normal noise by removing, step by step, the noise that a network predicts in it.

    Attributes:
        frequencies: (F,) at which a step, times 2 pi, becomes cosines and sines; they are learned.
        condition: network of these 2 F numbers.
        network: of (observation, noisy action, output of `condition`) side by side; its output is the noise.
        steps: of the diffusion.
    """

    frequencies: Float[Array, " F"]
    condition: MLP
    network: ResidualNetwork
    steps: int = eqx.field(static=True)

    @classmethod
    def create(
        cls, observation_size: int, action_size: int, width: int, blocks: int, steps: int, dropout: float, *, key: Key
    ) -> DiffusionPolicy:
        """A policy with fresh weights; a step becomes `width` / 2 cosines and sines, and `condition` has `width` outputs."""
        frequency_key, condition_key, network_key = jax.random.split(key, 3)
        frequencies = FIRST_FREQUENCY * jax.random.normal(frequency_key, (max(width // 4, 1),))
        condition = MLP.create(2 * frequencies.shape[0], Network((width,), activation="silu"), width, key=condition_key)
        inputs = observation_size + action_size + width
        network = ResidualNetwork.create(inputs, width, blocks, action_size, key=network_key, dropout=dropout)
        return cls(frequencies, condition, network, steps)

    def predicted_noise(
        self,
        obs: Float[AnyArray, "*batch D"],
        point: Float[AnyArray, "*batch action"],
        step: Float[AnyArray, "*batch 1"],
        *,
        key: Key | None = None,
    ) -> Float[Array, "*batch action"]:
        """The noise that the network predicts in noisy actions; with a key, its dropout is on."""
        angle = 2.0 * jnp.pi * jnp.asarray(step) * jnp.broadcast_to(
            self.frequencies, (*step.shape[:-1], self.frequencies.shape[0])
        )  # fmt: skip
        condition = self.condition(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1))
        return self.network(jnp.concatenate([obs, point, condition], axis=-1), key=key)

    @property
    def noise_size(self) -> int:
        return self.steps * self.network.last.biases[-1].shape[-1]

    @property
    def passes_per_action(self) -> int:
        return self.steps

    def action(
        self, obs: Float[AnyArray, "*batch D"], noise: Float[AnyArray, "*batch noise"]
    ) -> Float[Array, "*batch action"]:
        """The actions that noise becomes: each needs the noise of the start, then that of every step but the last."""
        parts = jnp.asarray(noise).reshape(*noise.shape[:-1], self.steps, -1)
        return denoised(lambda point, step: self.predicted_noise(obs, point, step), parts)
