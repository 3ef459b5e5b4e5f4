"""A network that clones the behaviour, stopped when held-out episodes are no longer predicted better, and calibrated on them.

It is trained as `algorithms/behavior.py` says, looked at a few times in each thousand updates, and the state that predicts the
held-out episodes best is kept. A network that was stopped too late is too sure of its actions; a temperature T, chosen on
the same episodes, makes it as sure as it is right (Guo and others 2017, arXiv 1706.04599):

    (1)  b(a|s) = softmax(logits(s) / T)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.behavior import BC
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.behavior_model import UNIFORM, BehaviorData, FittedBehavior, log_likelihoods
from stitchrl.evaluation.softmax_noise import SoftmaxNoise
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.floored import FlooredPolicy
from stitchrl.nn.networks import MLP
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.training.loop import train
from stitchrl.training.stopping import EarlyStop
from stitchrl.types import NumpyArray

__all__ = ["Network"]

MOST_TIMES = 5
"""The network gets at most so many times the updates of FQE."""
LOOKS = 4
"""Looks at the held-out episodes in as many updates as FQE gets; after as many without a better state it stops."""
TEMPERATURES = (0.5, 5.0)
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
        settings, scaling = data.settings, Scaling.of(data.whole)
        algorithm = BC(hidden_sizes=settings.hidden_sizes, learning_rate=settings.learning_rate)
        best = Best(algorithm, scaling, data.held_out)
        every = max(1, settings.updates // LOOKS)
        train(
            algorithm,
            transition_source(data.train, scaling),
            Spec.of(data.train),
            updates=MOST_TIMES * settings.updates,
            seeds=[settings.seed],
            batch_size=settings.batch_size,
            log_every_updates=every,
            evaluate=best,
            evaluate_every_updates=every,
            stop=EarlyStop("held_out/log_likelihood", settings.updates, rising=True),
        )
        assert best.policy is not None
        inner = calibrated(best.policy, data.held_out)
        policy = FlooredPolicy(inner, UNIFORM)
        noise = None
        if data.whole.observation_table.ndim == 2:
            noise = SoftmaxNoise(_last_hidden(inner), policy, PENALTY, data.train)
        return FittedBehavior(self.name, policy, log_likelihoods(policy, data.held_out), noise)


class Best:
    """Looks at the network while it learns, and keeps the state that predicts the held-out episodes best."""

    def __init__(self, algorithm: BC, scaling: Scaling, held_out: Dataset) -> None:
        self._algorithm, self._scaling, self._held_out = algorithm, scaling, held_out
        self.policy: DiscretePolicy | None = None
        self.score = -np.inf

    def __call__(self, state: Callable[[int], Any], left_out: Collection[int]) -> dict[str, list[float]]:
        """The held-out log-likelihood of the state as it is."""
        inner = self._algorithm.policy(jax.tree.map(jnp.array, state(0).algorithm), None)
        assert isinstance(inner, CategoricalPolicy)
        policy = _outside(inner, self._scaling)
        score = float(log_likelihoods(policy, self._held_out).mean())
        if self.policy is None or score > self.score:
            self.policy, self.score = policy, score
        return {"held_out/log_likelihood": [score]}


def _outside(inner: CategoricalPolicy, scaling: Scaling) -> DiscretePolicy:
    """The network before raw observations; images it scales itself."""
    if not scaling.mean.size:
        return inner
    return StandardizedPolicy(jnp.asarray(scaling.mean), jnp.asarray(scaling.std), inner)


def calibrated(policy: DiscretePolicy, held_out: Dataset) -> DiscretePolicy:
    """Equation (1) with the temperature that predicts the held-out episodes best."""
    found = optimize.minimize_scalar(
        lambda t: -float(log_likelihoods(at_temperature(policy, float(np.exp(t))), held_out).mean()),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
        options={"xatol": 0.01, "maxiter": 15},
    )
    better = -float(found.fun) > float(log_likelihoods(policy, held_out).mean())
    return at_temperature(policy, float(np.exp(found.x))) if better else policy


def at_temperature(policy: DiscretePolicy, temperature: float) -> DiscretePolicy:
    """The policy with its logits divided by a temperature: its last layer is."""

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
    return inner.network if isinstance(inner.network, MLP) else inner.network.head


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
