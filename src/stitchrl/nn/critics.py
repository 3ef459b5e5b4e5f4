"""Critics: Q(obs, action) of C networks at once, critics on axis 0, for discrete and for continuous actions."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.distributions import take_action
from stitchrl.nn.networks import MLP, Ensemble, Network, Start

__all__ = ["ContinuousCritics", "DiscreteCritics"]


class DiscreteCritics(eqx.Module):
    """Critics of discrete actions, with one output per action."""

    ensemble: Ensemble

    @classmethod
    def create(
        cls,
        count: int,
        observation_shape: Sequence[int],
        num_actions: int,
        network: Network,
        *,
        key: Key,
        final_gain: float = 1.0,
        start: Start = "orthogonal",
    ) -> DiscreteCritics:
        """Fresh, independent critics."""
        shape = (observation_shape, network, num_actions)
        return cls(Ensemble.create(count, *shape, key=key, final_gain=final_gain, start=start))

    def every_action(self, obs: Shaped[AnyArray, "B ..."]) -> Float[Array, "C B A"]:
        """(C, B, A) Q of every action."""
        return self.ensemble(obs)

    def __call__(self, obs: Shaped[AnyArray, "B ..."], action: Shaped[AnyArray, " B"]) -> Float[Array, "C B"]:
        """(C, B) Q of the given actions."""
        return jax.vmap(take_action, (0, None))(self.ensemble(obs), action)


class ContinuousCritics(eqx.Module):
    """Critics of continuous actions, with the action as an input beside the observation."""

    ensemble: Ensemble

    @classmethod
    def create(
        cls,
        count: int,
        observation_size: int,
        action_size: int,
        network: Network | Sequence[int],
        *,
        key: Key,
        final_gain: float = 1.0,
        start: Start = "orthogonal",
    ) -> ContinuousCritics:
        """Fresh, independent critics."""
        inputs = observation_size + action_size
        return cls(Ensemble.create(count, inputs, network, 1, key=key, final_gain=final_gain, start=start))

    def __call__(self, obs: Shaped[AnyArray, "B ..."], action: Shaped[AnyArray, "B action"]) -> Float[Array, "C B"]:
        """(C, B) Q of the given actions."""
        return self.ensemble(jnp.concatenate([obs, action], axis=-1))[..., 0]

    def member(self, index: int) -> ContinuousCritics:
        """One critic alone, still with axis 0."""
        return jax.tree.map(lambda leaf: leaf[index : index + 1], self)

    def several(self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "K B action"]) -> Float[Array, "C K B"]:
        """(C, K, B) Q of K actions per observation; the observation's part of the first layer is computed once."""
        return jax.vmap(MLP.several, (0, None, None))(self._perceptrons, obs, action)[..., 0]

    def several_each(
        self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "C K B action"]
    ) -> Float[Array, "C K B"]:
        """(C, K, B) Q of K actions per observation, as in `several`, where every critic has actions of its own."""
        return jax.vmap(MLP.several, (0, None, 0))(self._perceptrons, obs, action)[..., 0]

    def perceptron(self, index: int) -> MLP:
        """One critic alone, as a network of (observation, action) side by side."""
        return jax.tree.map(lambda leaf: leaf[index], self._perceptrons)

    @property
    def _perceptrons(self) -> MLP:
        assert isinstance(self.ensemble.members, MLP)
        return self.ensemble.members
