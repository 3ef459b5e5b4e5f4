"""Networks for the kind of action that a log has, so that one set of equations serves discrete and continuous actions."""

from __future__ import annotations

import jax.numpy as jnp

from stitchrl.algorithms.base import Spec
from stitchrl.jax_types import Key
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.networks import Network, Start, create_network
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy
from stitchrl.nn.value import ContinuousCriticValue, CriticValue

__all__ = ["Actor", "Critics", "create_actor", "create_critics", "critic_value"]

Actor = CategoricalPolicy | GaussianPolicy
Critics = DiscreteCritics | ContinuousCritics


def create_actor(
    spec: Spec, network: Network, *, key: Key, final_gain: float = 0.01, start: Start = "orthogonal"
) -> Actor:
    """A policy with a likelihood: categorical for discrete actions; else normal, with standard deviation 1 at first."""
    outputs = spec.action_size if spec.num_actions is None else spec.num_actions
    body = create_network(spec.observation.shape, network, outputs, key=key, final_gain=final_gain, start=start)
    if spec.num_actions is None:
        return GaussianPolicy(body, jnp.zeros(outputs, jnp.float32))
    return CategoricalPolicy(body)


def create_critics(
    spec: Spec, count: int, network: Network, *, key: Key, final_gain: float = 1.0, start: Start = "orthogonal"
) -> Critics:
    """Critics with one output per action, or, for continuous actions, with the action as input."""
    if spec.num_actions is None:
        sizes = (spec.vector_size, spec.action_size, network)
        return ContinuousCritics.create(count, *sizes, key=key, final_gain=final_gain, start=start)
    shape = spec.observation.shape
    return DiscreteCritics.create(count, shape, spec.num_actions, network, key=key, final_gain=final_gain, start=start)


def critic_value(critics: Critics, policy: Actor) -> CriticValue | ContinuousCriticValue:
    """The value functions that critics give under a policy."""
    if isinstance(critics, DiscreteCritics):
        assert isinstance(policy, DiscretePolicy)
        return CriticValue(critics.ensemble, policy)
    assert isinstance(policy, GaussianPolicy)
    return ContinuousCriticValue(critics, policy)
