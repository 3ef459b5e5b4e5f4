"""Policies and value functions that take raw observations and speak logged units of action and reward."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import AnyArray, Array, Key, Metrics
from stitchrl.nn.clipped_normal import on_bounds
from stitchrl.nn.continuous_policy import ContinuousPolicy, MixturePolicy
from stitchrl.nn.distributions import Distribution, Normal
from stitchrl.nn.memory import MemoryPolicy, policy_towards
from stitchrl.nn.networks import standardized
from stitchrl.nn.origin import remember_origin
from stitchrl.nn.policy import DiscretePolicy, Policy
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.types import PyTree

__all__ = [
    "RescaledMemoryPolicy",
    "RescaledPolicy",
    "RescaledValue",
    "StandardizedPolicy",
    "StandardizedValue",
    "unscaled_policy",
    "unscaled_value",
]


class RescaledPolicy(ContinuousPolicy):
    """Raw observations in, logged action units out, around a policy trained on scaled ones.

    Inside, observations are (obs - mean) / std and actions (action - action_center) / action_half_width; the density is
    that of the logged action, so log_prob subtracts the sum of log half-widths (the Jacobian), except in dimensions
    that lie on a bound that the policy inside clips to: they have a probability, which has no unit.
    """

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    action_center: Float[Array, " action"]
    action_half_width: Float[Array, " action"]
    policy: ContinuousPolicy

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """Whether the policy inside has a density."""
        return self.policy.has_density

    @property
    def draws_share_networks(self) -> bool:
        """That of the policy inside."""
        return self.policy.draws_share_networks

    @property
    def is_normal(self) -> bool:
        """Whether the actions of the policy inside are normal."""
        return self.policy.is_normal

    @property
    def clipped_to(self) -> tuple[Array, Array] | None:
        """The bounds of the policy inside, in logged units."""
        inner = self.policy.clipped_to
        if inner is None:
            return None
        return tuple(self.action_center + self.action_half_width * end for end in inner)  # type: ignore[return-value]

    def normal(self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Normal:
        inner = self.policy.normal(self._inside(obs), action_mask=action_mask)
        return Normal(self._outside(inner.mean), inner.log_std + jnp.log(self.action_half_width)[None, :])

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return self._outside(self.policy.mode(self._inside(obs), action_mask=action_mask))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return self._outside(self.policy.sample(self._inside(obs), key=key, action_mask=action_mask))

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        inner = standardized(action, self.action_center, self.action_half_width)
        log_prob = self.policy.log_prob(self._inside(obs), inner, action_mask=action_mask)
        log_width = jnp.log(self.action_half_width)
        bounds = self.policy.clipped_to
        if bounds is None:
            return log_prob - jnp.sum(log_width)
        below, above = on_bounds(inner, *bounds)
        return log_prob - jnp.sum(jnp.where(below | above, 0.0, log_width[None, :]), axis=-1)

    def marginal_cdf(
        self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"], *, below: bool = False
    ) -> Float[Array, "B action"]:
        """(B, action) the probability that each dimension of the action is at most the given number; with `below`, less.

        Raises:
            TypeError: the policy inside does not know it.
        """
        if not isinstance(self.policy, MixturePolicy):
            raise TypeError(f"A {type(self.policy).__name__} does not know the distribution of each action dimension.")
        inner = standardized(action, self.action_center, self.action_half_width)
        return self.policy.marginal_cdf(self._inside(obs), inner, below=below)

    def _inside(self, obs: Shaped[AnyArray, "B ..."]) -> Shaped[Array, "B ..."]:
        return standardized(obs, self.mean, self.std)

    def _outside(self, action: Float[Array, "B action"]) -> Float[Array, "B action"]:
        return self.action_center[None, :] + self.action_half_width[None, :] * action


class StandardizedPolicy(DiscretePolicy):
    """Standardises raw observations, (obs - mean) / std, and hands them to a policy trained on such."""

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    policy: DiscretePolicy

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        scaled = standardized(obs, self.mean, self.std)
        return self.policy.logits(scaled, action_mask=action_mask)


class RescaledMemoryPolicy(MemoryPolicy):
    """Raw observations and rewards in, logged action units in and out, around a policy with memory trained on scaled ones.

    Numbered actions have no unit: `action_center` and `action_half_width` are None then.
    """

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    action_center: Float[Array, " action"] | None
    action_half_width: Float[Array, " action"] | None
    reward_shift: Float[Array, ""]
    reward_scale: Float[Array, ""]
    policy: MemoryPolicy

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """Whether the policy inside has a density."""
        return self.policy.has_density

    @property
    def uses_reward(self) -> bool:  # type: ignore[override]
        """Whether the policy inside does."""
        return self.policy.uses_reward

    @property
    def action_shape(self) -> tuple[int, ...]:
        """That of the policy inside."""
        return self.policy.action_shape

    def towards(self, target_return: float) -> RescaledMemoryPolicy:
        """The policy that acts towards another return, in units of the log.

        Raises:
            ConfigurationError: `target_return` is not a finite number, or the policy acts towards no return, or it learned
                from shifted rewards, whose sum depends on how long it goes on.
        """
        if not math.isfinite(target_return):
            raise ConfigurationError(
                f"`target_return` of `towards` must be a finite number, the sum of rewards to reach; got {target_return!r}."
            )
        if float(self.reward_shift):
            raise ConfigurationError(
                f"The policy learned from rewards with {float(self.reward_shift):g} added, so that a return of "
                f"{target_return:g} in units of the log says nothing to it. Train it without `reward_shift`."
            )
        inner = policy_towards(self.policy, target_return * float(self.reward_scale))
        changed = dataclasses.replace(self, policy=inner)
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
        found, carry = self.policy.respond(carry, *self._inside(obs, last_action, last_reward), action_mask=action_mask)
        if self.action_center is not None and self.action_half_width is not None:
            found = _Rescaled(found, self.action_center, self.action_half_width)
        return found, carry

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
        # By the step of the policy inside, which may remember what it draws.
        scaled = self._inside(obs, last_action, last_reward)
        action, carry = self.policy.step(carry, *scaled, key=key, action_mask=action_mask)
        if self.action_center is not None and self.action_half_width is not None:
            action = self.action_center[None, :] + self.action_half_width[None, :] * action
        return action, carry

    def _inside(self, obs: Any, last_action: Any, last_reward: Any) -> tuple[Array, Array, Array]:
        """What was seen, done and paid, as the policy inside takes it."""
        if self.action_center is not None and self.action_half_width is not None:
            last_action = standardized(last_action, self.action_center, self.action_half_width)
        reward = (jnp.asarray(last_reward) + self.reward_shift) * self.reward_scale
        return standardized(obs, self.mean, self.std), last_action, reward


class _Rescaled(Distribution):
    """A distribution of scaled vectors, in logged units."""

    inner: Distribution
    center: Float[Array, " action"]
    half_width: Float[Array, " action"]

    def log_prob(self, action: Shaped[AnyArray, "B action"]) -> Float[Array, " B"]:
        inside = self.inner.log_prob(standardized(action, self.center, self.half_width))
        return inside - jnp.sum(jnp.log(self.half_width))

    def mode(self) -> Float[Array, "B action"]:
        return self._outside(self.inner.mode())

    def sample(self, *, key: Key) -> Float[Array, "B action"]:
        return self._outside(self.inner.sample(key=key))

    def metrics(self, action: Shaped[AnyArray, "B action"]) -> Metrics:
        return self.inner.metrics(standardized(action, self.center, self.half_width))

    def _outside(self, action: Float[Array, "B action"]) -> Float[Array, "B action"]:
        return self.center[None, :] + self.half_width[None, :] * action


class StandardizedValue(DiscreteValue):
    """A value trained on standardised observations and scaled rewards, put back into raw units."""

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    reward_scale: Float[Array, ""]
    value: DiscreteValue

    def q_all(self, obs: Shaped[AnyArray, "B ..."]) -> Float[Array, "B A"]:
        return self.value.q_all(standardized(obs, self.mean, self.std)) / self.reward_scale

    def spread(self, obs: Shaped[AnyArray, "B ..."], action: Int[AnyArray, " B"]) -> Float[Array, " B"]:
        return self.value.spread(standardized(obs, self.mean, self.std), action) / self.reward_scale

    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, " B"]:
        return self.value.v(standardized(obs, self.mean, self.std), action_mask=action_mask) / self.reward_scale


class RescaledValue(ContinuousValue):
    """A value trained on scaled observations, actions and rewards, put back into raw units."""

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    action_center: Float[Array, " action"]
    action_half_width: Float[Array, " action"]
    reward_scale: Float[Array, ""]
    value: ContinuousValue

    def q(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        inner = standardized(action, self.action_center, self.action_half_width)
        return self.value.q(standardized(obs, self.mean, self.std), inner) / self.reward_scale

    def spread(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        inner = standardized(action, self.action_center, self.action_half_width)
        return self.value.spread(standardized(obs, self.mean, self.std), inner) / self.reward_scale

    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, " B"]:
        return self.value.v(standardized(obs, self.mean, self.std), action_mask=action_mask) / self.reward_scale


def unscaled_policy(
    policy: Policy | MemoryPolicy, scaling: Scaling
) -> DiscretePolicy | RescaledPolicy | RescaledMemoryPolicy:
    """A policy trained on scaled arrays, as one that takes raw observations and gives actions in logged units."""
    mean, std = jnp.asarray(scaling.mean), jnp.asarray(scaling.std)
    if isinstance(policy, DiscretePolicy):
        return StandardizedPolicy(mean, std, policy)
    if isinstance(policy, MemoryPolicy):
        shift, scale = (jnp.asarray(n, jnp.float32) for n in (scaling.reward_shift, scaling.reward_scale))
        middle, width = (
            None if n is None else jnp.asarray(n) for n in (scaling.action_center, scaling.action_half_width)
        )
        return RescaledMemoryPolicy(mean, std, middle, width, shift, scale, policy)
    center, half_width = jnp.asarray(scaling.action_center), jnp.asarray(scaling.action_half_width)
    assert isinstance(policy, ContinuousPolicy)
    return RescaledPolicy(mean, std, center, half_width, policy)


def unscaled_value(
    value: DiscreteValue | ContinuousValue | None, scaling: Scaling
) -> DiscreteValue | ContinuousValue | None:
    """The value function in raw units; None where there is none, or where rewards were shifted: how much of a value is shift
    depends on how long the episode lasts."""
    if value is None or scaling.reward_shift:
        return None
    mean, std = jnp.asarray(scaling.mean), jnp.asarray(scaling.std)
    scale = jnp.asarray(scaling.reward_scale, jnp.float32)
    if isinstance(value, DiscreteValue):
        return StandardizedValue(mean, std, scale, value)
    center, half_width = jnp.asarray(scaling.action_center), jnp.asarray(scaling.action_half_width)
    return RescaledValue(mean, std, center, half_width, scale, value)
