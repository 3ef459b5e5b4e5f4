"""A policy that plans several actions at once and takes them one after another without looking, and the values of its plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.continuous_policy import refuse_mask
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.from_noise import FromNoisePolicy
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.point import PointAction
from stitchrl.nn.value import ContinuousValue

__all__ = ["ChunkPolicy", "ChunkValue", "Plan"]

Planner = FromNoisePolicy | BestOfPolicy
"""A policy whose action is a chunk: `length` actions side by side."""


class Plan(NamedTuple):
    """What is remembered of an episode.

    Attributes:
        actions: of the chunk that was chosen last.
        left: how many of them are still to be taken; 0 looks at the next observation and chooses a new chunk.
    """

    actions: Float[Array, "B length action"]
    left: Int[Array, " B"]


class ChunkPolicy(MemoryPolicy):
    """Chooses a chunk of actions by one observation, takes all of them, and only then looks again.

    Its actions have no density. The mode takes the mode of the planner.

    Attributes:
        planner: gives chunks, (B, length * action).
        length: actions of a chunk.
        size: dimensions of one action.
    """

    has_density: ClassVar[bool] = False
    uses_reward: ClassVar[bool] = False

    planner: Planner
    length: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @property
    def action_shape(self) -> tuple[int, ...]:
        return (self.size,)

    def initial_carry(self, count: int) -> Plan:
        return Plan(jnp.zeros((count, self.length, self.size), jnp.float32), jnp.zeros(count, jnp.int32))

    def respond(
        self,
        carry: Any,
        obs: Shaped[AnyArray, "B ..."],
        last_action: Shaped[AnyArray, "B ..."],
        last_reward: Float[AnyArray, " B"],
        *,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> tuple[PointAction, Plan]:
        """The action of the mode. Only `step` draws a new chunk, since the rest of that chunk must be remembered."""
        action, plan = self.step(carry, obs, last_action, last_reward, action_mask=action_mask)
        return PointAction(action), plan

    def step(
        self,
        carry: Any,
        obs: Shaped[AnyArray, "B ..."],
        last_action: Shaped[AnyArray, "B ..."],
        last_reward: Float[AnyArray, " B"],
        *,
        key: Key | None = None,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> tuple[Float[Array, "B action"], Plan]:
        refuse_mask(action_mask)
        new = carry.left == 0

        def planned(held: Float[Array, "B length action"]) -> Float[Array, "B length action"]:
            chosen = self.planner.mode(obs) if key is None else self.planner.sample(obs, key=key)
            return jnp.where(new[:, None, None], chosen.reshape(held.shape), held)

        actions = _where_needed(new, planned, carry.actions, draws=key is not None)
        left = jnp.where(new, self.length, carry.left)
        now = jnp.take_along_axis(actions, (self.length - left)[:, None, None], axis=1)[:, 0]
        return now, Plan(actions, left - 1)


def _where_needed(
    new: Bool[Array, " B"], planned: Callable[[Array], Array], held: Float[Array, "B length action"], *, draws: bool
) -> Float[Array, "B length action"]:
    """The chunks after planning; there is no planning where every episode is inside its chunk.

    A compiled program that draws plans at every step: `rollout` gives each copy a key by `jax.vmap`, under which both branches
    of a condition are computed, and rounded differently.
    """
    if not isinstance(new, jax.core.Tracer):
        return planned(held) if bool(jnp.any(new)) else held
    return planned(held) if draws else jax.lax.cond(jnp.any(new), planned, lambda held: held, held)


class ChunkValue(ContinuousValue):
    """The mean over critics of chunks. V is Q of the planner's mode; Q of an action is Q of that mode with the action put first.

    Attributes:
        critics: of (observation, chunk).
        planner: gives chunks.
    """

    critics: ContinuousCritics
    planner: Planner

    def q(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        return jnp.mean(self.critics(obs, self._begun(obs, action)), axis=0)

    def spread(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        return jnp.std(self.critics(obs, self._begun(obs, action)), axis=0)

    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, " B"]:
        return jnp.mean(self.critics(obs, self.planner.mode(obs, action_mask=action_mask)), axis=0)

    def _begun(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, "B chunk"]:
        return jnp.concatenate([action, self.planner.mode(obs)[:, action.shape[1] :]], axis=-1)
