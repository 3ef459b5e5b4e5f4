"""A policy that is a flow: a network says which way actions move, and noise that moves along it becomes an action."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.networks import MLP, Network, Start

__all__ = ["FlowPolicy", "euler"]


def euler(
    velocity: Callable[[Float[Array, "B size"], Float[Array, "B 1"]], Float[Array, "B size"]],
    start: Float[AnyArray, "B size"],
    steps: int,
) -> Float[Array, "B size"]:
    """Where points are at time 1 that start at time 0 and move with a velocity, by Euler's method.

    x_(k+1) = x_k + velocity(x_k, k / steps) / steps, for k from 0 to steps - 1.

    Args:
        velocity: of (points, their time, the same for all rows).
        start: (B, size) the points at time 0.
        steps: at least 1.
    """

    def moved(points: Array, time: Array) -> tuple[Array, None]:
        times = jnp.broadcast_to(time, (points.shape[0], 1))
        return points + velocity(points, times) / steps, None

    times = jnp.arange(steps, dtype=jnp.float32) / steps
    return jax.lax.scan(moved, jnp.asarray(start), times)[0]


class FlowPolicy(ContinuousPolicy):
    """Standard normal noise that moves for a time of 1 with the velocity that a network gives, kept in [-1, 1] at the end.

    Its mode is where noise of 0 ends, which is not always a likely action.

    Attributes:
        network: of (observation, point, time) side by side; as many outputs as an action has numbers.
        steps: of Euler's method.
    """

    has_density: ClassVar[bool] = False

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

    def velocity(
        self, obs: Float[AnyArray, "B D"], point: Float[AnyArray, "B action"], time: Float[AnyArray, "B 1"]
    ) -> Float[Array, "B action"]:
        """(B, action) which way and how fast each point moves at its time, from 0 for noise to 1 for an action."""
        return self.network(jnp.concatenate([obs, point, time], axis=-1))

    def action(self, obs: Float[AnyArray, "B D"], noise: Float[AnyArray, "B action"]) -> Float[Array, "B action"]:
        """(B, action) the actions at which standard normal noise ends."""
        return jnp.clip(euler(lambda point, time: self.velocity(obs, point, time), noise, self.steps), -1.0, 1.0)

    @property
    def _action_size(self) -> int:
        return self.network.biases[-1].shape[-1]

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        _refuse_mask(action_mask)
        return self.action(obs, jnp.zeros((obs.shape[0], self._action_size), jnp.float32))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        _refuse_mask(action_mask)
        return self.action(obs, jax.random.normal(key, (obs.shape[0], self._action_size)))

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        raise TypeError("The actions of a flow have no density in closed form (`has_density` is False).")


def _refuse_mask(action_mask: Bool[AnyArray, "B _"] | None) -> None:
    if action_mask is not None:
        raise TypeError("A policy over continuous actions takes no `action_mask`; got one.")
