"""Logistic regression: the softmax regression of `evaluation/softmax_regression.py`, its penalty chosen on held-out episodes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.behavior_model import UNIFORM, BehaviorData, FittedBehavior, log_likelihoods
from stitchrl.evaluation.softmax_noise import SoftmaxNoise
from stitchrl.evaluation.softmax_regression import action_counts, regress, softmax_features
from stitchrl.nn.floored import FlooredPolicy
from stitchrl.nn.networks import MLP
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.types import NumpyArray

__all__ = ["Logistic", "logistic_policy"]

PENALTIES = (1000.0, 100.0, 10.0, 1.0)
"""Penalties, tried in this order while held-out episodes are predicted better; each search starts where the last one ended."""


@dataclasses.dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression."""

    name: str = "logistic"
    title: str = "logistic regression on the observation"
    maximum_likelihood: bool = True

    def refusal(self, log: Dataset) -> str | None:
        """It refuses images and continuous actions."""
        if log.num_actions is None or log.observation_table.ndim != 2:
            return "Logistic regression needs discrete actions and observations that are vectors."
        return None

    def fit(self, data: BehaviorData) -> FittedBehavior:
        """Fit the penalty that predicts held-out episodes best to all episodes."""
        scaling = Scaling.fit(data.whole)
        counted = action_counts(data.train, scaling)
        weight: Float[NumpyArray, "D A"] | None = None
        best, scores, chosen, start = -np.inf, np.zeros(0), PENALTIES[0], weight
        for penalty in PENALTIES:
            weight = regress(counted, penalty, weight)
            found = log_likelihoods(logistic_policy(scaling, weight), data.held_out)
            if found.mean() <= best:
                break
            best, scores, chosen, start = float(found.mean()), found, penalty, weight
        counted = action_counts(data.whole, scaling)
        policy = logistic_policy(scaling, regress(counted, chosen, start))
        optimism = float(log_likelihoods(policy, data.held_out).mean()) - best

        def features(log: Dataset, rows: slice) -> NumpyArray:
            return softmax_features(log, scaling, np.arange(log.num_transitions)[rows])

        scale = max(1.0, data.whole.num_transitions / counted.taken.sum())
        noise = SoftmaxNoise(features, policy, chosen * scale, data.whole)
        return FittedBehavior(self.name, policy, scores, noise, optimism)


def logistic_policy(scaling: Scaling, weight: Float[NumpyArray, "D A"]) -> FlooredPolicy:
    """The behaviour with these weights; the first row is that of the constant."""
    network = MLP((jnp.asarray(weight[1:], jnp.float32),), (jnp.asarray(weight[0], jnp.float32),))
    inner = StandardizedPolicy(jnp.asarray(scaling.mean), jnp.asarray(scaling.std), CategoricalPolicy(network))
    return FlooredPolicy(inner, UNIFORM)
