"""Networks by the kind of action: what lets one set of equations serve discrete and continuous logs."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from stitchrl.algorithms.base import Spec
from stitchrl.jax_types import Key
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.networks import MLP
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy
from stitchrl.nn.value import ContinuousCriticValue, CriticValue

__all__ = ["Actor", "Critics", "create_actor", "create_critics", "critic_value"]

Actor = CategoricalPolicy | GaussianPolicy
Critics = DiscreteCritics | ContinuousCritics


def create_actor(spec: Spec, hidden_sizes: Sequence[int], *, key: Key, final_gain: float = 0.01) -> Actor:
    """A policy with a likelihood: categorical for discrete actions; else normal, with standard deviation 1 at first."""
    outputs = spec.action_size if spec.num_actions is None else spec.num_actions
    network = MLP.create(spec.observation_size, hidden_sizes, outputs, key=key, final_gain=final_gain)
    if spec.num_actions is None:
        return GaussianPolicy(network, jnp.zeros(outputs, jnp.float32))
    return CategoricalPolicy(network)


def create_critics(
    spec: Spec, count: int, hidden_sizes: Sequence[int], *, key: Key, final_gain: float = 1.0
) -> Critics:
    """Critics with one output an action, or, for continuous actions, with the action as input."""
    if spec.num_actions is None:
        sizes = (spec.observation_size, spec.action_size, hidden_sizes)
        return ContinuousCritics.create(count, *sizes, key=key, final_gain=final_gain)
    return DiscreteCritics.create(count, spec.observation_size, spec.num_actions, hidden_sizes, key=key)


def critic_value(critics: Critics, policy: Actor) -> CriticValue | ContinuousCriticValue:
    """The claims of critics under a policy."""
    if isinstance(critics, DiscreteCritics):
        assert isinstance(policy, DiscretePolicy)
        return CriticValue(critics.ensemble, policy)
    assert isinstance(policy, GaussianPolicy)
    return ContinuousCriticValue(critics, policy)
