"""The behaviour's probabilities of what was logged: the log's own propensities, or a fitted model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.behavior_model import LEAST_PROBABILITY, BehaviorPolicy, log_likelihoods
from stitchrl.evaluation.contributions import Contributions, Episodes
from stitchrl.evaluation.probabilities import policy_probabilities, taken
from stitchrl.evaluation.weights import cumulative_weights
from stitchrl.types import NumpyArray

__all__ = [
    "BehaviorProbabilities",
    "fitted_propensities",
    "join_behavior",
    "logged_propensities",
    "logged_return",
]


class BehaviorProbabilities(NamedTuple):
    """The behaviour's probabilities of N logged decisions.

    Attributes:
        log_prob: (N,) logarithm of the probability of the logged action; over continuous actions that of its density, in
            logged units.
        probs: (N, A) probability of every action; None where it is not known, and over continuous actions.
        fitted: whether they are a fitted model's, and not the log's own.
    """

    log_prob: Float[NumpyArray, " N"]
    probs: Float[NumpyArray, "N A"] | None
    fitted: bool


def logged_propensities(log: Dataset) -> BehaviorProbabilities | None:
    """The log's own propensities; None where it has none.

    Raises:
        EvaluationError: a logged action with propensity 0.
    """
    known = log.behavior_log_prob
    if known is None:
        return None
    if not np.isfinite(known).all():
        raise EvaluationError(
            f"{int((~np.isfinite(known)).sum()):,} logged actions have propensity 0, though they were taken. Correct "
            "the propensities, or leave the column out of the schema and they are fitted."
        )
    return BehaviorProbabilities(known.astype(np.float64), log.behavior_probs, fitted=False)


def fitted_propensities(policy: BehaviorPolicy, log: Dataset) -> BehaviorProbabilities:
    """A fitted behaviour's probabilities, or densities, on episodes that it was not fitted on."""
    if log.num_actions is None:
        return BehaviorProbabilities(log_likelihoods(policy, log), None, fitted=True)
    probs = policy_probabilities(policy, log.observation, log.action_mask)
    return BehaviorProbabilities(np.log(np.maximum(taken(probs, log), LEAST_PROBABILITY)), probs, fitted=True)


def join_behavior(parts: Sequence[BehaviorProbabilities], order: Int[NumpyArray, " N"]) -> BehaviorProbabilities:
    """The probabilities of several parts of a log, put in the order of its rows."""
    probs = None if parts[0].probs is None else np.concatenate([p.probs for p in parts if p.probs is not None])[order]
    return BehaviorProbabilities(np.concatenate([p.log_prob for p in parts])[order], probs, parts[0].fitted)


def logged_return(episodes: Episodes) -> Contributions:
    """The behaviour's own value: the mean return. Where episodes were cut, those that run on take over their weight
    (`evaluation/weights.py`)."""
    if episodes.terminated.all():
        return Contributions.average(episodes.returns)
    unit = cumulative_weights(episodes, np.zeros(int(episodes.index.max()) + 1))
    return Contributions.ratios(unit.now * episodes.reward * episodes.discount, unit.now)
