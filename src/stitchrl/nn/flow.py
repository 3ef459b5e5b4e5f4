"""A flow policy: a network gives a velocity, and noise that moves with this velocity becomes an action."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.from_noise import FromNoisePolicy
from stitchrl.nn.networks import MLP, Network, Start

__all__ = ["FlowPolicy", "euler"]


def euler(
    velocity: Callable[[Float[Array, "*batch size"], Float[Array, "*batch 1"]], Float[Array, "*batch size"]],
    start: Float[AnyArray, "*batch size"],
    steps: int,
) -> Float[Array, "*batch size"]:
    """The places at time 1 of points that start at time 0 and move with a velocity, by Euler's method.

    x_(k+1) = x_k + velocity(x_k, k / steps) / steps, for k from 0 to steps - 1.

    Args:
        velocity: of (points, their time, the same for all rows).
        start: the points at time 0.
        steps: at least 1.
    """

    def moved(points: Array, time: Array) -> tuple[Array, None]:
        times = jnp.broadcast_to(time, (*points.shape[:-1], 1))
        return points + velocity(points, times) / steps, None

    times = jnp.arange(steps, dtype=jnp.float32) / steps
    return jax.lax.scan(moved, jnp.asarray(start), times)[0]


class FlowPolicy(FromNoisePolicy):
    """Standard normal noise that moves for a time of 1 with the velocity that a network gives, kept in [-1, 1] at the end.

    Attributes:
        network: of (observation, point, time) side by side; as many outputs as an action has numbers.
        steps: of Euler's method.
    """

    network: MLP
    steps: int = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        observation_size: int,
        action_size: int,
        network: Network,
        steps: int,
        *,
        key: Key,
        start: Start = "orthogonal",
    ) -> FlowPolicy:
        """A policy with fresh weights."""
        return cls(MLP.create(observation_size + action_size + 1, network, action_size, key=key, start=start), steps)

    @property
    def passes_per_action(self) -> int:
        return self.steps

    def velocity(
        self,
        obs: Float[AnyArray, "*batch D"],
        point: Float[AnyArray, "*batch action"],
        time: Float[AnyArray, "*batch 1"],
    ) -> Float[Array, "*batch action"]:
        """Which way and how fast each point moves at its time, from 0 for noise to 1 for an action."""
        return self.network(jnp.concatenate([obs, point, time], axis=-1))

    def action(
        self, obs: Float[AnyArray, "*batch D"], noise: Float[AnyArray, "*batch action"]
    ) -> Float[Array, "*batch action"]:
        """The actions that standard normal noise becomes."""
        return jnp.clip(euler(lambda point, time: self.velocity(obs, point, time), noise, self.steps), -1.0, 1.0)

    @property
    def noise_size(self) -> int:
        return self.network.biases[-1].shape[-1]
