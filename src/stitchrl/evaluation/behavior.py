"""The behaviour's probabilities of what was logged: the log's own propensities, or a fitted model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.behavior import BC
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.contributions import Contributions, Episodes
from stitchrl.evaluation.probabilities import policy_probabilities, taken
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.weights import cumulative_weights
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.training.loop import train
from stitchrl.types import NumpyArray

__all__ = [
    "BehaviorProbabilities",
    "fit_behavior",
    "fitted_propensities",
    "join_behavior",
    "logged_propensities",
    "logged_return",
]


class BehaviorProbabilities(NamedTuple):
    """(N,) log-probability of the logged action under the behaviour, (N, A) of every action, and where they are from."""

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


def fit_behavior(fit_on: Dataset, settings: FitSettings) -> DiscretePolicy:
    """Behaviour cloning of a log's own actions."""
    scaling = Scaling.fit(fit_on)
    algorithm = BC(hidden_sizes=settings.hidden_sizes, learning_rate=settings.learning_rate)
    trained = train(
        algorithm,
        transition_source(fit_on, scaling),
        Spec.of(fit_on),
        updates=settings.updates,
        seeds=[settings.seed],
        batch_size=settings.batch_size,
    )
    fitted = algorithm.policy(trained.member(0).algorithm, None)
    assert isinstance(fitted, DiscretePolicy)
    return StandardizedPolicy(jnp.asarray(scaling.mean), jnp.asarray(scaling.std), fitted)


def fitted_propensities(model: DiscretePolicy, log: Dataset) -> BehaviorProbabilities:
    """A fitted behaviour's probabilities on episodes that it was not fitted on."""
    probs = policy_probabilities(model, log.observation, log.action_mask)
    # A probability that underflowed would be an infinite ratio; this floor is far below any that matters.
    return BehaviorProbabilities(np.log(np.maximum(taken(probs, log), 1e-8)), probs, fitted=True)


def join_behavior(parts: Sequence[BehaviorProbabilities], order: Int[NumpyArray, " N"]) -> BehaviorProbabilities:
    """The probabilities of several parts of a log, put in the order of its rows."""
    probs = None if parts[0].probs is None else np.concatenate([p.probs for p in parts if p.probs is not None])[order]
    return BehaviorProbabilities(np.concatenate([p.log_prob for p in parts])[order], probs, parts[0].fitted)


def logged_return(episodes: Episodes) -> Contributions:
    """The behaviour's own value: the mean return; where episodes were cut, the others take over their weight."""
    if episodes.terminated.all():
        return Contributions.average(episodes.returns)
    unit = cumulative_weights(episodes, np.zeros(int(episodes.index.max()) + 1))
    return Contributions.ratios(unit.now * episodes.reward * episodes.discount, unit.now)
