"""The contract of a model of the behaviour: what it is fitted to, what it gives, and what its noise does to an estimate.

A model is an object without state, one a file in `behavior_models/`, listed in `behavior_registry.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.policy_actions import log_densities
from stitchrl.evaluation.probabilities import PolicyLike, policy_probabilities, taken
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.units import RescaledPolicy
from stitchrl.types import NumpyArray

__all__ = [
    "LEAST_PROBABILITY",
    "UNIFORM",
    "BehaviorData",
    "BehaviorModel",
    "BehaviorPolicy",
    "FitEffect",
    "FitNoise",
    "FittedBehavior",
    "by_episode",
    "first_of_the_best",
    "log_likelihoods",
]

HELD_OUT = 0.2
"""Share of the episodes that is held out to choose the settings of a model, and between models."""
UNIFORM = 0.01
"""Share of a uniform choice among the allowed actions that is mixed into every model. A model that extrapolates would otherwise
call an action that was taken impossible, and the ratio of that single action would outweigh all others."""
LEAST_PROBABILITY = 1e-8
"""Least probability of a logged action: far below any that matters, and above 0, so that no ratio is infinite."""


@runtime_checkable
class ProbabilitiesOnly(Protocol):
    """A fitted behaviour over discrete actions that is no network: it has `probs` and nothing else."""

    def probs(self, obs: Any, *, action_mask: Any = None) -> Any:
        """(B, A) probability of every action."""


BehaviorPolicy = DiscretePolicy | RescaledPolicy | ProbabilitiesOnly
"""The policy of a fitted behaviour: probabilities of discrete actions, or a density of continuous ones in logged units."""


class FitEffect(NamedTuple):
    """What the fit of a behaviour does to K numbers that were computed with its probabilities, to first order.

    Attributes:
        episodes: (n, K) how far each episode of the fit moved each number; they sum to about 0 over the episodes.
        expected: (K, K) the covariance of the numbers that the fit is expected to cause, if its model is right.
    """

    episodes: Float[NumpyArray, "n K"]
    expected: Float[NumpyArray, "K K"]


@runtime_checkable
class FitNoise(Protocol):
    """How far a fitted behaviour may be from the best one of its kind, because the episodes of the fit are few."""

    def effect(self, log: Dataset, gradient: Float[NumpyArray, "N K"]) -> FitEffect:
        """The effect on K numbers computed from `log`, whatever episodes it has.

        Args:
            log: the episodes that the numbers are computed from.
            gradient: (N, K) derivative of each number by the logarithm of the behaviour's probability of each logged action.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class FittedBehavior:
    """A fitted model of the behaviour.

    Attributes:
        name: name of the model, a key of `BEHAVIOR_MODELS`.
        policy: acts as the behaviour does; probabilities of discrete actions, or a density of continuous ones.
        scores: (rows,) log-likelihood of each logged action of the episodes that were held out when it was fitted.
        noise: what the noise of its fit does to estimates; None where that is not known.
        optimism: by how many nats a logged action the fit predicts episodes that it saw better than the same fit without
            them does; None where the model is not fitted by maximum likelihood to all its episodes.
        tried: name -> mean held-out log-likelihood of each model that was tried.
    """

    name: str
    policy: BehaviorPolicy
    scores: Float[NumpyArray, " rows"]
    noise: FitNoise | None
    optimism: float | None = None
    tried: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def held_out(self) -> float:
        """Mean log-likelihood of a logged action on the held-out episodes."""
        return float(self.scores.mean())


@dataclasses.dataclass(eq=False)
class BehaviorData:
    """The episodes that a behaviour is fitted to.

    Attributes:
        whole: all of them.
        settings: how models are fitted.
    """

    whole: Dataset
    settings: FitSettings

    @cached_property
    def _parts(self) -> tuple[Dataset, Dataset]:
        log = self.whole
        units = log.num_episodes if log.group is None else len(np.unique(log.group))
        if units < 2:
            return log, log
        train, held_out = log.split_episodes((1 - HELD_OUT, HELD_OUT), seed=self.settings.seed)
        return log.select_episodes(train), log.select_episodes(held_out)

    @property
    def train(self) -> Dataset:
        """The episodes that models with each setting are fitted to; all of them where there is one episode, or one group."""
        return self._parts[0]

    @property
    def held_out(self) -> Dataset:
        """The episodes that choose between settings and between models; all of them where there is one episode, or one group."""
        return self._parts[1]


@runtime_checkable
class BehaviorModel(Protocol):
    """A kind of model of the behaviour."""

    @property
    def name(self) -> str:
        """What it is called in settings and results."""

    @property
    def title(self) -> str:
        """What it is called in reports, in words."""

    @property
    def maximum_likelihood(self) -> bool:
        """Whether it is fitted by (penalised) maximum likelihood to all episodes it is given."""

    def refusal(self, log: Dataset) -> str | None:
        """Why it cannot be fitted to such a log, as one sentence; None where it can."""

    def fit(self, data: BehaviorData) -> FittedBehavior:
        """Fit it: settings are chosen on the held-out episodes."""


def log_likelihoods(policy: PolicyLike, log: Dataset) -> Float[NumpyArray, " N"]:
    """(N,) logarithm of the probability, or of the density in logged units, that a behaviour gives to each logged action.

    Raises:
        EvaluationError: a continuous action that the fitted density holds impossible.
    """
    if log.num_actions is None:
        found = log_densities(policy, log.observation, log.action)
        if not np.isfinite(found).all():
            raise EvaluationError(
                f"The behaviour was fitted to actions in their box only, and {int((~np.isfinite(found)).sum()):,} of "
                f"{len(found):,} logged actions here are outside. Declare `low` and `high` of [action] in the schema."
            )
        return found
    probs = taken(policy_probabilities(policy, log.observation, log.action_mask), log)
    return np.log(np.maximum(probs, LEAST_PROBABILITY))


def by_episode(values: Float[NumpyArray, "N K"], start: Sequence[int] | NumpyArray) -> Float[NumpyArray, "n K"]:
    """Sums over the rows of each episode, given the first row of each."""
    return np.add.reduceat(values, np.asarray(start), axis=0)


def first_of_the_best(scores: Sequence[Float[NumpyArray, " rows"]], held_out: Dataset) -> int:
    """The number of the first of several models whose held-out likelihood is within one standard error of the largest.

    The standard error is that of the difference to the best, over independent units (Breiman and others 1984).

    Args:
        scores: for each model, (rows,) log-likelihood of each held-out action.
        held_out: the episodes of these actions.
    """
    units = Units(held_out.num_episodes, held_out.group)
    best = max(scores, key=lambda one: float(one.mean()))
    for number, one in enumerate(scores):
        lost = units.sums(np.add.reduceat(best - one, held_out.episode_start[:-1]))
        if lost.sum() <= np.sqrt(len(lost)) * lost.std():
            return number
    raise AssertionError("the best model is within one standard error of itself")
