"""Value functions, as returned by `Algorithm.value`: they give the "claimed value", and diagnosis reads them."""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.jax_types import AnyArray, Array
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.distributions import take_action
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import DiscretePolicy

__all__ = ["ContinuousCriticValue", "ContinuousValue", "CriticValue", "DiscreteValue"]

NO_CRITICS = "A {} has no critics that could disagree, so it has no `spread`."


class DiscreteValue(eqx.Module):
    """Q and V in the log's reward units."""

    @abstractmethod
    def q_all(self, obs: Shaped[AnyArray, "B ..."]) -> Float[Array, "B A"]:
        """(B, A) claimed Q of every action."""

    @abstractmethod
    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, " B"]:
        """(B,) claimed value of acting as the policy does."""

    def q(self, obs: Shaped[AnyArray, "B ..."], action: Int[AnyArray, " B"]) -> Float[Array, " B"]:
        """(B,) claimed Q of the given actions."""
        return take_action(self.q_all(obs), action)

    def spread(self, obs: Shaped[AnyArray, "B ..."], action: Int[AnyArray, " B"]) -> Float[Array, " B"]:
        """(B,) standard deviation over critics of the claimed Q. Raises TypeError where there are no critics."""
        raise TypeError(NO_CRITICS.format(type(self).__name__))


class CriticValue(DiscreteValue):
    """Mean over critics; V is the policy's expectation of Q."""

    critics: Ensemble
    policy: DiscretePolicy

    def q_all(self, obs: Shaped[AnyArray, "B ..."]) -> Float[Array, "B A"]:
        return jnp.mean(self.critics(obs), axis=0)

    def spread(self, obs: Shaped[AnyArray, "B ..."], action: Int[AnyArray, " B"]) -> Float[Array, " B"]:
        return take_action(jnp.std(self.critics(obs), axis=0), action)

    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, " B"]:
        return jnp.sum(self.policy.probs(obs, action_mask=action_mask) * self.q_all(obs), axis=-1)


class ContinuousValue(eqx.Module):
    """Q and V in the log's reward units, of actions in logged units."""

    @abstractmethod
    def q(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        """(B,) claimed Q of the given actions."""

    @abstractmethod
    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, " B"]:
        """(B,) claimed value of acting as the policy does."""

    def spread(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        """(B,) standard deviation over critics of the claimed Q. Raises TypeError where there are no critics."""
        raise TypeError(NO_CRITICS.format(type(self).__name__))


class ContinuousCriticValue(ContinuousValue):
    """Mean over critics; V is Q of the policy's mode, without its chance."""

    critics: ContinuousCritics
    policy: ContinuousPolicy

    def q(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        return jnp.mean(self.critics(obs, action), axis=0)

    def spread(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"]) -> Float[Array, " B"]:
        return jnp.std(self.critics(obs, action), axis=0)

    def v(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, " B"]:
        return self.q(obs, self.policy.mode(obs, action_mask=action_mask))
