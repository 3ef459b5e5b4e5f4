"""Networks for the kind of action that a log has, so that one set of equations serves discrete and continuous actions."""

from __future__ import annotations

import jax.numpy as jnp

from stitchrl.algorithms.base import Spec
from stitchrl.jax_types import Key
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.factored import num_outputs, with_joint_outputs
from stitchrl.nn.networks import Ensemble, Network, Start, create_network
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy
from stitchrl.nn.value import ContinuousCriticValue, CriticValue

__all__ = [
    "Actor",
    "Critics",
    "create_actor",
    "create_categorical",
    "create_critics",
    "create_discrete_critics",
    "critic_value",
]

Actor = CategoricalPolicy | GaussianPolicy
Critics = DiscreteCritics | ContinuousCritics


def create_actor(
    spec: Spec, network: Network, *, key: Key, final_gain: float = 0.01, start: Start = "orthogonal"
) -> Actor:
    """A policy with a likelihood: categorical for discrete actions; else normal, with standard deviation 1 at first."""
    if spec.num_actions is not None:
        return create_categorical(spec, network, key=key, final_gain=final_gain, start=start)
    shape, size = spec.observation.shape, spec.action_size
    body = create_network(shape, network, size, key=key, final_gain=final_gain, start=start)
    return GaussianPolicy(body, jnp.zeros(size, jnp.float32))


def create_categorical(
    spec: Spec, network: Network, *, key: Key, final_gain: float = 0.01, start: Start = "orthogonal"
) -> CategoricalPolicy:
    """A softmax over discrete actions. Raises ConfigurationError where actions are continuous."""
    outputs = num_outputs(spec.action_counts, network)
    body = create_network(spec.observation.shape, network, outputs, key=key, final_gain=final_gain, start=start)
    return CategoricalPolicy(with_joint_outputs(body, spec.action_counts, network))


def create_critics(
    spec: Spec, count: int, network: Network, *, key: Key, final_gain: float = 1.0, start: Start = "orthogonal"
) -> Critics:
    """Critics with one output per action, or, for continuous actions, with the action as input."""
    if spec.num_actions is None:
        sizes = (spec.vector_size, spec.action_size, network)
        return ContinuousCritics.create(count, *sizes, key=key, final_gain=final_gain, start=start)
    return create_discrete_critics(spec, count, network, key=key, final_gain=final_gain, start=start)


def create_discrete_critics(
    spec: Spec, count: int, network: Network, *, key: Key, final_gain: float = 1.0, start: Start = "orthogonal"
) -> DiscreteCritics:
    """Critics with one output per action. Raises ConfigurationError where actions are continuous."""
    shape, counts = spec.observation.shape, spec.action_counts
    critics = DiscreteCritics.create(
        count, shape, num_outputs(counts, network), network, key=key, final_gain=final_gain, start=start
    )
    return DiscreteCritics(Ensemble(with_joint_outputs(critics.ensemble.members, counts, network)))


def critic_value(critics: Critics, policy: Actor) -> CriticValue | ContinuousCriticValue:
    """The value functions that critics give under a policy."""
    if isinstance(critics, DiscreteCritics):
        assert isinstance(policy, DiscretePolicy)
        return CriticValue(critics.ensemble, policy)
    assert isinstance(policy, GaussianPolicy)
    return ContinuousCriticValue(critics, policy)
