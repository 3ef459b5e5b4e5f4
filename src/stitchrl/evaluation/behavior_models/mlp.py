"""A network that clones the behaviour, stopped when held-out episodes are no longer predicted better, and calibrated on them.

It is trained as `algorithms/behavior.py` says, and stopped as `evaluation/behavior_network.py` does. A network that was
stopped too late is too sure of its actions. A temperature T, chosen on the same episodes, corrects that (Guo and others 2017,
arXiv 1706.04599):

    (1)  b(a|s) = softmax(logits(s) / T)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.behavior import BC
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.behavior_model import UNIFORM, BehaviorData, FittedBehavior, log_likelihoods
from stitchrl.evaluation.behavior_network import best_number, train_on_behavior
from stitchrl.evaluation.softmax_noise import SoftmaxNoise
from stitchrl.nn.floored import FlooredPolicy
from stitchrl.nn.networks import MLP, ImageNetwork
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.types import NumpyArray

__all__ = ["Network"]

TEMPERATURES = (0.5, 5.0)
"""Bounds of the temperature."""
PENALTY = 1.0
"""Ridge penalty of the last layer where the noise of the fit is computed: it counts as little as one row."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Behaviour cloning with early stopping and a temperature."""

    name: str = "mlp"
    title: str = "a network that clones the behaviour"
    maximum_likelihood: bool = False

    def refusal(self, log: Dataset) -> str | None:
        """It refuses continuous actions."""
        return None if log.num_actions is not None else "The network of the behaviour needs discrete actions."

    def fit(self, data: BehaviorData) -> FittedBehavior:
        """The best state on held-out episodes, at the best temperature."""
        settings = data.settings
        algorithm = BC(hidden_sizes=settings.hidden_sizes, learning_rate=settings.learning_rate)
        trained = train_on_behavior(algorithm, data, Scaling.of(data.whole))
        inner = best_number(lambda t: at_temperature(trained, t), trained, data.held_out, TEMPERATURES)
        policy = FlooredPolicy(inner, UNIFORM)
        noise = None
        if data.whole.observation_table.ndim == 2:
            noise = SoftmaxNoise(_last_hidden(inner), policy, PENALTY, data.train)
        return FittedBehavior(self.name, policy, log_likelihoods(policy, data.held_out), noise)


def at_temperature(policy: Any, temperature: float) -> DiscretePolicy:
    """The policy with its logits divided by a temperature, by way of the weights and biases of its last layer."""

    def last(one: Any) -> tuple[Any, Any]:
        head = _head(one)
        return head.weights[-1], head.biases[-1]

    divided: DiscretePolicy = eqx.tree_at(
        last, policy, tuple(jnp.asarray(one / np.float32(temperature)) for one in last(policy))
    )
    return divided


def _head(policy: Any) -> MLP:
    """The perceptron that ends a network."""
    inner = policy.policy if isinstance(policy, StandardizedPolicy) else policy
    assert isinstance(inner, CategoricalPolicy)
    network = inner.network
    assert isinstance(network, MLP | ImageNetwork)  # the behaviour is fitted with an output for each combination
    return network if isinstance(network, MLP) else network.head


def _last_hidden(policy: DiscretePolicy) -> Callable[[Dataset, slice], NumpyArray]:
    """Features of the last layer: a constant, and the outputs of the last hidden layer."""
    assert isinstance(policy, StandardizedPolicy)
    head, mean, std = _head(policy), np.asarray(policy.mean), np.asarray(policy.std)

    def features(log: Dataset, rows: slice) -> NumpyArray:
        obs = (log.observation_table[log.observation_index[rows]] - mean) / std
        hidden = np.asarray(_hidden(head, obs.astype(np.float32)))
        return np.concatenate([np.ones((len(hidden), 1), np.float32), hidden], axis=1)

    return features


@jax.jit
def _hidden(head: MLP, obs: Any) -> Any:
    return head.hidden(obs)
