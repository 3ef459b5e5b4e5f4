"""What claims: the value functions an algorithm ends with, for diagnosis and the "claimed value"."""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.distributions import take_action
from stitchrl.nn.networks import Ensemble, standardized
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.types import AnyArray, Array

__all__ = [
    "ContinuousCriticValue",
    "ContinuousValue",
    "CriticValue",
    "DiscreteValue",
    "RescaledValue",
    "StandardizedValue",
]


class DiscreteValue(eqx.Module):
    """Q and V in the log's reward units."""

    @abstractmethod
    def q_all(self, obs: Float[AnyArray, "B D"]) -> Float[Array, "B A"]:
        """(B, A) claimed Q of every action."""

    @abstractmethod
    def v(self, obs: Float[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B A"] | None = None) -> Float[Array, " B"]:
        """(B,) claimed value of acting as the policy does."""

    def q(self, obs: Float[AnyArray, "B D"], action: Int[AnyArray, " B"]) -> Float[Array, " B"]:
        """(B,) claimed Q of the given actions."""
        return take_action(self.q_all(obs), action)


class CriticValue(DiscreteValue):
    """Mean over critics; V is the policy's expectation of Q."""

    critics: Ensemble
    policy: DiscretePolicy

    def q_all(self, obs: Float[AnyArray, "B D"]) -> Float[Array, "B A"]:
        return jnp.mean(self.critics(obs), axis=0)

    def v(self, obs: Float[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B A"] | None = None) -> Float[Array, " B"]:
        return jnp.sum(self.policy.probs(obs, action_mask=action_mask) * self.q_all(obs), axis=-1)


class StandardizedValue(DiscreteValue):
    """A value trained on standardised observations and scaled rewards, put back into raw units."""

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    reward_scale: Float[Array, ""]
    value: DiscreteValue

    def q_all(self, obs: Float[AnyArray, "B D"]) -> Float[Array, "B A"]:
        return self.value.q_all(standardized(obs, self.mean, self.std)) / self.reward_scale

    def v(self, obs: Float[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B A"] | None = None) -> Float[Array, " B"]:
        return self.value.v(standardized(obs, self.mean, self.std), action_mask=action_mask) / self.reward_scale


class ContinuousValue(eqx.Module):
    """Q and V in the log's reward units, of actions in logged units."""

    @abstractmethod
    def q(self, obs: Float[AnyArray, "B D"], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        """(B,) claimed Q of the given actions."""

    @abstractmethod
    def v(self, obs: Float[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Float[Array, " B"]:
        """(B,) claimed value of acting as the policy does."""


class ContinuousCriticValue(ContinuousValue):
    """Mean over critics; V is Q of the policy's mode, without its chance."""

    critics: ContinuousCritics
    policy: ContinuousPolicy

    def q(self, obs: Float[AnyArray, "B D"], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        return jnp.mean(self.critics(obs, action), axis=0)

    def v(self, obs: Float[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Float[Array, " B"]:
        return self.q(obs, self.policy.mode(obs, action_mask=action_mask))


class RescaledValue(ContinuousValue):
    """A value trained on scaled observations, actions and rewards, put back into raw units."""

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    action_center: Float[Array, " action"]
    action_half_width: Float[Array, " action"]
    reward_scale: Float[Array, ""]
    value: ContinuousValue

    def q(self, obs: Float[AnyArray, "B D"], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        inner = standardized(action, self.action_center, self.action_half_width)
        return self.value.q(standardized(obs, self.mean, self.std), inner) / self.reward_scale

    def v(self, obs: Float[AnyArray, "B D"], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Float[Array, " B"]:
        return self.value.v(standardized(obs, self.mean, self.std), action_mask=action_mask) / self.reward_scale
