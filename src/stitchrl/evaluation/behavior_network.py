"""How a network that models the behaviour is trained: with early stopping on episodes that it does not learn from.

The network is judged on the held-out episodes `LOOKS` times in as many updates as FQE makes, and the state that predicts them
best is kept. One number that says how sure it is of its actions is then chosen on the same episodes (`best_number`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.behavior_model import BehaviorData, log_likelihoods
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.units import RescaledPolicy, unscaled_policy
from stitchrl.training.loop import train
from stitchrl.training.stopping import EarlyStop

__all__ = ["best_number", "train_on_behavior"]

MOST_TIMES = 5
"""The most updates of the network, as a multiple of those of FQE."""
LOOKS = 4
"""How often it is judged on the held-out episodes in as many updates as FQE makes; after so many updates without a better state
it stops."""


def train_on_behavior(algorithm: Algorithm, data: BehaviorData, scaling: Scaling) -> DiscretePolicy | RescaledPolicy:
    """The policy of the state that predicts held-out episodes best, on raw observations and with actions in logged units."""
    settings = data.settings
    best = _Best(algorithm, scaling, data.held_out)
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
    return best.policy


def best_number(
    policy_of: Callable[[float], Any], unchanged: Any, held_out: Dataset, bounds: tuple[float, float]
) -> Any:
    """The policy whose number predicts held-out episodes best; `unchanged` where no number does better.

    Args:
        policy_of: gives the policy with a positive number, such as a temperature.
        unchanged: the policy as it was trained.
        held_out: episodes that it did not learn from.
        bounds: the least and the largest number that are tried, both positive; the search is on a logarithmic scale.
    """
    found = optimize.minimize_scalar(
        lambda t: -float(log_likelihoods(policy_of(float(np.exp(t))), held_out).mean()),
        bounds=tuple(np.log(bounds)),
        method="bounded",
        options={"xatol": 0.01, "maxiter": 15},
    )
    better = -float(found.fun) > float(log_likelihoods(unchanged, held_out).mean())
    return policy_of(float(np.exp(found.x))) if better else unchanged


class _Best:
    """Judges the network while it learns, and keeps the state that predicts the held-out episodes best."""

    def __init__(self, algorithm: Algorithm, scaling: Scaling, held_out: Dataset) -> None:
        self._algorithm, self._scaling, self._held_out = algorithm, scaling, held_out
        self.policy: DiscretePolicy | RescaledPolicy | None = None
        self._score = -np.inf

    def __call__(self, state: Callable[[int], Any], left_out: Collection[int]) -> dict[str, list[float]]:
        """The held-out log-likelihood of the state as it is."""
        inner = self._algorithm.policy(jax.tree.map(jnp.array, state(0).algorithm), None)
        policy = unscaled_policy(inner, self._scaling)
        assert not isinstance(policy, MemoryPolicy)
        score = float(log_likelihoods(policy, self._held_out).mean())
        if self.policy is None or score > self._score:
            self.policy, self._score = policy, score
        return {"held_out/log_likelihood": [score]}
