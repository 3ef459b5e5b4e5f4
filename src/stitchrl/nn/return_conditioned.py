"""Policies conditioned on the return to reach: a causal transformer over the last steps of the episode."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.distributions import Categorical, Distribution, masked_log_softmax
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.point import PointAction
from stitchrl.nn.transformer import Affine, CausalTransformer, Norm

__all__ = ["ReturnConditionedNetwork", "ReturnConditionedPolicy", "Steps"]


class Steps(NamedTuple):
    """Steps of episodes, (B, K, ...) each, in order.

    Attributes:
        returns: the return still to reach, from this step on, in the units that the network learned with.
        obs, action: what is seen and what is done; discrete actions are numbers.
        position: the step in its episode.
        there: False for padding.
    """

    returns: Float[Array, "B K"]
    obs: Float[Array, "B K D"]
    action: Shaped[Array, "B K ..."]
    position: Int[Array, "B K"]
    there: Bool[Array, "B K"]


class ReturnConditionedNetwork(eqx.Module):
    """Three tokens per step: return to go, observation and action; the prediction of the action is read off the second.

    Each token has the embedding of its step's position added, and all are normalised before the transformer.
    """

    embed_return: Affine
    embed_obs: Affine
    embed_action: Affine
    embed_position: Float[Array, "positions width"]
    embed_norm: Norm
    transformer: CausalTransformer
    head: Affine
    numbered: bool = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        observation_size: int,
        action_size: int,
        num_actions: int | None,
        positions: int,
        transformer: CausalTransformer,
        width: int,
        *,
        key: Key,
    ) -> ReturnConditionedNetwork:
        """Fresh embeddings and head around a transformer of that width; `num_actions` is None where actions are vectors."""
        outputs = action_size if num_actions is None else num_actions
        keys = jax.random.split(key, 5)
        return cls(
            Affine.uniform(1, width, key=keys[0]),
            Affine.uniform(observation_size, width, key=keys[1]),
            Affine.uniform(outputs, width, key=keys[2]),
            jax.random.normal(keys[3], (positions, width), jnp.float32),
            Norm.create(width),
            transformer,
            Affine.uniform(width, outputs, key=keys[4]),
            num_actions is not None,
        )

    def __call__(self, steps: Steps, *, key: Key | None = None) -> Float[Array, "B K out"]:
        """The output for each step, from that step without its action and from the steps before; with a key, dropout is on."""
        action = steps.action
        if self.numbered:
            action = jax.nn.one_hot(action, self.embed_action.weight.shape[0], dtype=jnp.float32)
        at = self.embed_position[jnp.clip(steps.position, 0, len(self.embed_position) - 1)]
        kinds = [self.embed_return(steps.returns[..., None]), self.embed_obs(steps.obs), self.embed_action(action)]
        tokens = jnp.stack([kind + at for kind in kinds], axis=2)
        batch, length, _, width = tokens.shape
        tokens = self.embed_norm(tokens.reshape(batch, 3 * length, width))
        out = self.transformer(tokens, jnp.repeat(steps.there, 3, axis=1), key=key)
        return self.head(out.reshape(batch, length, 3, width)[:, :, 1])


class Carry(NamedTuple):
    """What is remembered: the last steps, the oldest first and padding before them, and how far the episode is.

    Attributes:
        steps: the last K steps; the action of the last is not known until the next.
        step: how many there were so far.
    """

    steps: Steps
    step: Int[Array, " B"]


class ReturnConditionedPolicy(MemoryPolicy):
    """Acts towards a return: after each step its reward is taken off the return still to reach.

    Discrete actions are drawn from the network's distribution; continuous ones are tanh of its output, deterministically.

    Attributes:
        network: of steps whose returns were divided by `scale`.
        target: () the return to reach, undiscounted, in scaled rewards.
        scale: () what returns are divided by.
        length: K.
    """

    network: ReturnConditionedNetwork
    target: Float[Array, ""]
    scale: Float[Array, ""]
    length: int = eqx.field(static=True)

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """Whether actions are numbered."""
        return self.network.numbered

    @property
    def action_shape(self) -> tuple[int, ...]:
        return () if self.network.numbered else (self.network.embed_action.weight.shape[0],)

    def towards(self, target: float) -> ReturnConditionedPolicy:
        """The policy that acts towards another return, in scaled rewards; that of `Run.policy` takes one in units of the log."""
        return dataclasses.replace(self, target=jnp.asarray(target, jnp.float32))

    def initial_carry(self, count: int) -> Carry:
        many = (count, self.length)
        width = self.network.embed_obs.weight.shape[0]
        action = jnp.zeros((*many, *self.action_shape), jnp.float32 if self.action_shape else jnp.int32)
        steps = Steps(
            jnp.zeros(many, jnp.float32), jnp.zeros((*many, width), jnp.float32), action,
            jnp.zeros(many, jnp.int32), jnp.zeros(many, jnp.bool_),
        )  # fmt: skip
        return Carry(steps, jnp.zeros(count, jnp.int32))

    def respond(
        self,
        carry: Carry,
        obs: Shaped[AnyArray, "B ..."],
        last_action: Shaped[AnyArray, "B ..."],
        last_reward: Float[AnyArray, " B"],
        *,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> tuple[Distribution, Carry]:
        old, step = carry
        left = jnp.where(step > 0, old.returns[:, -1] - last_reward / self.scale, self.target / self.scale)
        action = old.action.at[:, -1].set(jnp.asarray(last_action, old.action.dtype))
        steps = Steps(
            _pushed(old.returns, left),
            _pushed(old.obs, jnp.asarray(obs, jnp.float32)),
            _pushed(action, jnp.zeros_like(action[:, 0])),
            _pushed(old.position, step),
            _pushed(old.there, jnp.ones_like(old.there[:, 0])),
        )
        return self.response(self.network(steps)[:, -1], action_mask), Carry(steps, step + 1)

    def response(self, out: Float[Array, "*b out"], action_mask: Bool[AnyArray, "*b A"] | None) -> Distribution:
        """The distribution whose parameters are these outputs of the network."""
        if self.network.numbered:
            return Categorical(masked_log_softmax(out, action_mask))
        return PointAction(jnp.tanh(out))


def _pushed(held: Array, new: Array) -> Array:
    """The held steps without the oldest, and a new one."""
    return jnp.concatenate([held[:, 1:], new[:, None]], axis=1)
