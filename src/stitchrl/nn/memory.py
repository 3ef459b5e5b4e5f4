"""Policies with memory: what they do depends on the episode so far, not on the observation alone.

For such a policy `mode(obs)` has no meaning. It acts with a carry, which holds what it remembers of each of B episodes
that are played side by side:

    carry = policy.initial_carry(B)
    action, carry = policy.step(carry, obs, last_action, last_reward)          # and so on, a step at a time

`last_action` and `last_reward` are what was done and paid in the step before; at the first step of an episode they are ignored.
Everything is pure and can be compiled. Along logged episodes the same function gives the exact probability of every logged
action given its history (`log_probs_along`), by which importance sampling weighs such a policy like any other.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.distributions import Categorical, Distribution
from stitchrl.nn.origin import WithOrigin, remember_origin
from stitchrl.nn.point import PointAction
from stitchrl.nn.policy import point_mass
from stitchrl.types import PyTree

__all__ = [
    "REMEMBERS",
    "GreedyMemoryPolicy",
    "MemoryPolicy",
    "has_memory",
    "nothing_yet",
    "policy_towards",
    "refuse_memory",
    "restarted",
]

SINGLE = "answer for a single observation, which does not say what came before it"
WAY_OUT = (
    "`st.rollout` plays it, and step by step `carry = policy.initial_carry(1)` and "
    "`action, carry = policy.step(carry, obs, last_action, last_reward)` do"
)


REMEMBERS = "the policy remembers its episode"
"""The reason that an estimator gives where it does not apply to such a policy."""


class MemoryPolicy(WithOrigin, eqx.Module):
    """A policy whose action depends on what it saw, did and was paid before in the episode.

    Every leaf of a carry has the episodes on axis 0, so that some of them can begin anew while others go on.
    """

    has_memory: ClassVar[bool] = True
    """Whether the policy acts with a carry; policies without memory do not have this attribute."""
    has_density: ClassVar[bool] = True
    """True where the probability, or density, of an action given its history is known."""
    uses_reward: ClassVar[bool] = True
    """Whether the action depends on the rewards so far, so that whoever acts by the policy must tell them."""

    @property
    @abstractmethod
    def action_shape(self) -> tuple[int, ...]:
        """() where actions are numbered, (size,) where they are vectors."""

    @abstractmethod
    def initial_carry(self, count: int) -> PyTree:
        """What is remembered at the start of `count` episodes."""

    @abstractmethod
    def respond(
        self,
        carry: PyTree,
        obs: Shaped[AnyArray, "B ..."],
        last_action: Shaped[AnyArray, "B ..."],
        last_reward: Float[AnyArray, " B"],
        *,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> tuple[Distribution, PyTree]:
        """The distribution of the next action, and the carry after seeing `obs`; arguments as for `step`."""

    def step(
        self,
        carry: PyTree,
        obs: Shaped[AnyArray, "B ..."],
        last_action: Shaped[AnyArray, "B ..."],
        last_reward: Float[AnyArray, " B"],
        *,
        key: Key | None = None,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> tuple[Shaped[Array, "B ..."], PyTree]:
        """Act once in each of B episodes: (B, ...) actions, and the carry for the next step.

        Args:
            carry: from `initial_carry`, or from the step before.
            obs: what is seen now.
            last_action: what was done in the step before, as it was executed; ignored at the first step of an episode.
            last_reward: what that step paid; ignored at the first step of an episode.
            key: of the draws; None takes the mode.
            action_mask: True for allowed actions.
        """
        found, carry = self.respond(carry, obs, last_action, last_reward, action_mask=action_mask)
        return (found.mode() if key is None else found.sample(key=key)), carry

    def log_probs_along(
        self,
        obs: Shaped[AnyArray, "B T ..."],
        action: Shaped[AnyArray, "B T ..."],
        reward: Float[AnyArray, "B T"],
        *,
        action_mask: Bool[AnyArray, "B T A"] | None = None,
    ) -> Float[Array, "B T"]:
        """(B, T) log-probability, or log-density, of each action of B episodes of T steps, given all that came before it."""

        def one(carry: Any, now: Any) -> tuple[Any, Array]:
            memory, last_action, last_reward = carry
            obs, action, reward, mask = now
            found, memory = self.respond(memory, obs, last_action, last_reward, action_mask=mask)
            return (memory, action, reward), found.log_prob(action)

        steps = jax.tree.map(lambda leaf: jnp.moveaxis(jnp.asarray(leaf), 1, 0), (obs, action, reward, action_mask))
        count = len(steps[2][0])
        start = (self.initial_carry(count), jnp.zeros_like(steps[1][0]), jnp.zeros_like(steps[2][0]))
        return jnp.moveaxis(jax.lax.scan(one, start, steps)[1], 0, 1)

    def greedy(self) -> MemoryPolicy:
        """The policy that always takes the mode of this one. Another object: evaluate the one you deploy."""
        return GreedyMemoryPolicy(self)

    # --- what a policy without memory has, and this one cannot --------------------------------------------------------

    def mode(self, obs: Any, *, action_mask: Any = None) -> NoReturn:
        """Refuses: an observation alone does not say what came before it."""
        refuse_memory(self, SINGLE)

    def sample(self, obs: Any, *, key: Any = None, action_mask: Any = None) -> NoReturn:
        """Refuses, as `mode`."""
        refuse_memory(self, SINGLE)

    def log_prob(self, obs: Any, action: Any, *, action_mask: Any = None) -> NoReturn:
        """Refuses, as `mode`."""
        refuse_memory(self, SINGLE)


class GreedyMemoryPolicy(MemoryPolicy):
    """Takes the mode of another policy with memory. It has probabilities where actions are numbered, and no density else."""

    policy: MemoryPolicy

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """Whether actions are numbered."""
        return not self.action_shape

    @property
    def uses_reward(self) -> bool:  # type: ignore[override]
        """Whether the policy inside does."""
        return self.policy.uses_reward

    @property
    def action_shape(self) -> tuple[int, ...]:
        """That of the policy inside."""
        return self.policy.action_shape

    def towards(self, target_return: float) -> GreedyMemoryPolicy:
        """The mode of the policy that acts towards another return, in the units in which the policy inside takes it: those of the
        log where it is a `Run.policy`.

        Raises:
            ConfigurationError: the policy inside acts towards no return, or does not take one.
        """
        changed = dataclasses.replace(self, policy=policy_towards(self.policy, target_return))
        remember_origin(changed, self.schema, self.guard)
        return changed

    def initial_carry(self, count: int) -> PyTree:
        return self.policy.initial_carry(count)

    def respond(
        self,
        carry: PyTree,
        obs: Shaped[AnyArray, "B ..."],
        last_action: Shaped[AnyArray, "B ..."],
        last_reward: Float[AnyArray, " B"],
        *,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> tuple[Distribution, PyTree]:
        found, carry = self.policy.respond(carry, obs, last_action, last_reward, action_mask=action_mask)
        if isinstance(found, Categorical):
            return Categorical(point_mass(found.log_probs, action_mask)), carry
        return PointAction(found.mode()), carry


def has_memory(policy: Any) -> bool:
    """Whether a policy acts with a carry."""
    return bool(getattr(policy, "has_memory", False))


def refuse_memory(policy: Any, what: str) -> NoReturn:
    """Raise ConfigurationError: such a policy cannot do this, for it would need the episode so far."""
    raise ConfigurationError(f"The policy remembers its episode and cannot {what}: {WAY_OUT}.")


def policy_towards(policy: MemoryPolicy, target_return: float) -> MemoryPolicy:
    """The policy that acts towards another return, in the units in which it takes it.

    Raises:
        ConfigurationError: it acts towards none.
    """
    if not hasattr(policy, "towards"):
        raise ConfigurationError(
            f"A {type(policy).__name__} acts towards no return. `st.DecisionTransformer` gives a policy that does."
        )
    found: MemoryPolicy = policy.towards(target_return)
    return found


def nothing_yet(policy: MemoryPolicy, count: int) -> tuple[Array, Array]:
    """(last actions, last rewards) to give at the first step of `count` episodes: zeros, which are ignored."""
    kind = jnp.float32 if policy.action_shape else jnp.int32
    return jnp.zeros((count, *policy.action_shape), kind), jnp.zeros(count, jnp.float32)


def restarted(policy: MemoryPolicy, carry: PyTree, ended: Bool[AnyArray, " B"]) -> PyTree:
    """The carry with the episodes that ended replaced by ones that begin."""
    fresh = policy.initial_carry(len(ended))

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(jnp.reshape(jnp.asarray(ended), (-1,) + (1,) * (jnp.ndim(old) - 1)), new, old)

    return jax.tree.map(chosen, fresh, carry)
