"""The policy protocol, and policies over discrete actions.

Probabilities are renormalised under the action mask.
Every policy has `probs`, `log_prob`, `mode`, `sample` and `greedy`. Classes are abstract or final.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.distributions import Categorical, mask_logits, masked_log_softmax, take_action
from stitchrl.nn.factored import FactoredNetwork
from stitchrl.nn.networks import MLP, Ensemble, ImageNetwork
from stitchrl.nn.origin import WithOrigin

__all__ = ["CategoricalPolicy", "DiscretePolicy", "GreedyPolicy", "Policy", "ValueGreedyPolicy", "point_mass"]


@runtime_checkable
class Policy(Protocol):
    """The methods that every policy has, over discrete and continuous actions alike."""

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` is a real (log-)probability or density."""

    def sample(self, obs: Any, *, key: Key, action_mask: Any = None) -> Array:
        """One action drawn per row."""

    def mode(self, obs: Any, *, action_mask: Any = None) -> Array:
        """The deterministic action, one per row."""

    def log_prob(self, obs: Any, action: Any, *, action_mask: Any = None) -> Array:
        """(B,) log-probability or log-density of the given actions, in logged units."""

    def greedy(self) -> Any:
        """The policy that always takes the mode of this one."""


class DiscretePolicy(WithOrigin, eqx.Module):
    """A policy over actions 0 to A - 1. Observations are (B, D), masks (B, A) with True for allowed."""

    has_density: ClassVar[bool] = True
    """True where `log_prob` is a real probability, so that weight-based estimators apply."""
    leaves_chance: ClassVar[bool] = True
    """False where one action has all the probability: then `log_prob` of any other says nothing."""

    @abstractmethod
    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        """(B, A) unnormalised log-probabilities, before masking."""

    def log_probs(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        """(B, A) log-probability of every action."""
        return masked_log_softmax(self.logits(obs, action_mask=action_mask), action_mask)

    def probs(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        """(B, A) probability of every action; rows sum to 1."""
        return jnp.exp(self.log_probs(obs, action_mask=action_mask))

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Int[AnyArray, " B"],
        *,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> Float[Array, " B"]:
        """(B,) log-probability of the given actions."""
        return take_action(self.log_probs(obs, action_mask=action_mask), action)

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Int[Array, " B"]:
        """(B,) most probable allowed action."""
        return jnp.argmax(self.log_probs(obs, action_mask=action_mask), axis=-1)

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Int[Array, " B"]:
        """(B,) one action drawn per row."""
        return jax.random.categorical(key, self.log_probs(obs, action_mask=action_mask), axis=-1)

    def greedy(self) -> GreedyPolicy:
        """The policy that always takes the mode of this one. Another object: evaluate the one you deploy."""
        return GreedyPolicy(self)


class CategoricalPolicy(DiscretePolicy):
    """Softmax over the outputs of a network."""

    network: MLP | ImageNetwork | FactoredNetwork

    def __call__(
        self,
        obs: Shaped[AnyArray, "B ..."],
        *,
        action_mask: Bool[AnyArray, "B A"] | None = None,
        key: Key | None = None,
    ) -> Categorical:
        """The distribution of actions at each observation; with a key, the network's dropout is on."""
        return Categorical(masked_log_softmax(self.network(obs, key=key), action_mask))

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        return self.network(obs)


class ValueGreedyPolicy(DiscretePolicy):
    """Takes the allowed action of highest mean value over the critics."""

    leaves_chance: ClassVar[bool] = False
    critics: Ensemble

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        return point_mass(jnp.mean(self.critics(obs), axis=0), action_mask)


class GreedyPolicy(DiscretePolicy):
    """Takes the mode of another policy."""

    leaves_chance: ClassVar[bool] = False
    policy: DiscretePolicy

    def logits(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B A"] | None = None
    ) -> Float[Array, "B A"]:
        return point_mass(self.policy.logits(obs, action_mask=action_mask), action_mask)


def point_mass(scores: Float[AnyArray, "B A"], action_mask: Bool[AnyArray, "B A"] | None) -> Float[Array, "B A"]:
    """Logits of a distribution with all its mass on the best allowed action."""
    best = jnp.argmax(mask_logits(scores, action_mask), axis=-1)
    return jnp.where(jax.nn.one_hot(best, scores.shape[-1], dtype=bool), 0.0, -1e9).astype(jnp.float32)
