"""The facts about a log that advice rests on: those of its audit, and a few that no check of the audit needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.returns import returns_to_go
from stitchrl.algorithms.tabular_model import numbers_states
from stitchrl.auditing.draws import drawn_by
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.randomness import Randomness
from stitchrl.auditing.regression import features, residuals
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.types import NumpyArray

__all__ = ["FEW_TIMES", "LogFacts"]

LEAST_ROWS = 50
"""Smaller logs are not described by regressions."""
FEW_TIMES = 10
"""A pair of a state and an action that occurs less often is thin: SPIBB, by default, does not depart to it either."""


@dataclasses.dataclass(frozen=True)
class LogFacts:
    """What was measured of a log; a number is None where the log is too small for it, or of a kind that does not have it.

    Attributes:
        episodes, transitions: how many there are.
        mean_length: of the episodes, in steps.
        gamma: discount of the log's schema.
        mean_return, return_spread: mean and standard deviation of the episodes' returns, undiscounted.
        high_return: the return that one episode in ten reaches.
        best_tenth: the share of the episodes that are in the best tenth or tie with its last: FilteredBC keeps them all.
        return_values: how many different returns there are.
        continuous: whether actions are vectors.
        images: whether observations are images, of which no regression is made.
        num_actions: how many discrete actions there are; for continuous ones, the number of dimensions of an action.
        chance: of the behaviour, from 0 (always the same action in a state) to 1 (uniform), as the audit estimates it.
        certain_share: the share of decisions that were made with hardly any chance.
        random_share: the share of episodes that look uniformly random.
        deterministic, uniform: whether most decisions leave no chance, and whether all actions look uniformly random.
        mixture: whether some episodes are beyond doubt random while the others follow a policy.
        modes: (share, mean) of the better and of the worse mode of the returns; None where there is a single one.
        outcome_noise: the share of the variance of what follows a decision (its return to go) that a regression on
            observation and action does not explain.
        transition_noise: the same for the change of the observation in one step; an upper bound of the randomness of the world.
        rewarded_share: the share of decisions with a reward other than the commonest one.
        numbered_states: whether states can be counted.
        thin_share: of numbered states, the share of rows whose state and action occur fewer than ten times.
        propensities: "logged" or "fitted", as the audit says.
        truncated_share: the share of episodes that were cut rather than ended.
    """

    episodes: int
    transitions: int
    mean_length: float
    gamma: float
    mean_return: float
    return_spread: float
    high_return: float
    best_tenth: float
    return_values: int
    continuous: bool
    images: bool
    num_actions: int
    chance: float | None
    certain_share: float | None
    random_share: float | None
    deterministic: bool
    uniform: bool
    mixture: bool
    modes: tuple[tuple[float, float], tuple[float, float]] | None
    outcome_noise: float | None
    transition_noise: float | None
    rewarded_share: float
    numbered_states: bool
    thin_share: float | None
    propensities: str
    truncated_share: float

    @classmethod
    def measure(cls, log: Dataset, numbers: Mapping[str, Any], facts: Facts) -> LogFacts:
        """The facts of a log.

        Args:
            log: the log.
            numbers: of its audit.
            facts: what the checks of the audit share about it.
        """
        returns = np.add.reduceat(log.reward.astype(np.float64), log.episode_start[:-1])
        estimated = {field.name: numbers["randomness"][field.name] for field in dataclasses.fields(Randomness)}
        random = Randomness(**estimated)
        values, counts = np.unique(facts.sample.reward, return_counts=True)
        with drawn_by(0):
            outcome, transition = _noise(log, facts)
        return cls(
            episodes=log.num_episodes,
            transitions=log.num_transitions,
            mean_length=float(numbers["mean_length"]),
            gamma=log.schema.gamma,
            mean_return=float(returns.mean()),
            return_spread=float(returns.std()),
            high_return=float(np.quantile(returns, 0.9)),
            best_tenth=float(np.mean(returns >= np.sort(returns)[-math.ceil(0.1 * len(returns))])),
            return_values=len(np.unique(returns)),
            continuous=log.num_actions is None,
            images=not facts.has_columns,
            num_actions=log.num_actions if log.num_actions is not None else int(np.prod(log.action.shape[1:])),
            chance=random.chance,
            certain_share=random.near_deterministic_share,
            random_share=random.random_share,
            deterministic=random.deterministic,
            uniform=random.uniform,
            mixture=random.proven_mixture,
            modes=_modes(numbers["return_modes"]),
            outcome_noise=outcome,
            transition_noise=transition,
            rewarded_share=float(1 - counts.max() / counts.sum()) if len(values) else 0.0,
            numbered_states=numbers_states(log),
            thin_share=_thin_share(log),
            propensities=str(numbers["behavior_source"]),
            truncated_share=float(numbers["truncated_episodes"]) / max(log.num_episodes, 1),
        )


def _modes(found: Mapping[str, Any] | None) -> tuple[tuple[float, float], tuple[float, float]] | None:
    if not found or not found["sentence"]:
        return None
    (better, worse), (high, low) = found["share"], found["mean"]
    return (better, high), (worse, low)


def _noise(log: Dataset, facts: Facts) -> tuple[float | None, float | None]:
    """The shares of the variances of return to go and of the change of the observation that a regression leaves."""
    sample = facts.sample
    if len(sample) < LEAST_ROWS or not facts.has_columns or not sample.observation.shape[1]:
        return None, None
    acted = sample.action if log.num_actions is None else facts.one_hot(sample.action)
    x = np.concatenate([features(sample.observation, acted), acted.reshape(len(sample), -1)], 1)
    follows = returns_to_go(log, Scaling.identity(0), log.schema.gamma)[sample.rows].astype(np.float64)
    outcome = _unexplained(x, follows[:, None], facts.fold)
    after = log.next_observation_index[sample.rows]
    known = after >= 0
    if known.sum() < LEAST_ROWS:
        return outcome, None
    change = facts.observation_at(after[known]) - sample.observation[known]
    return outcome, _unexplained(x[known], change, facts.fold[known])


def _unexplained(x: NumpyArray, y: Float[NumpyArray, "n k"], fold: NumpyArray) -> float | None:
    """Held-out mean squared error of a regression of y on x, over the variance of y; the mean of its columns, at most 1."""
    about = y - y.mean(0)
    variance = about.var(0)
    if not (variance > 0).any():
        return None
    left = residuals(x, about, fold)[:, variance > 0]
    shares = np.minimum((left**2).mean(0) / variance[variance > 0], 1.0)
    return float(shares.mean())


def _thin_share(log: Dataset) -> float | None:
    """The share of rows whose state and action occur together fewer than ten times; None where either has no numbers."""
    if log.num_actions is None or log.observation_id is None:
        return None
    _, state = np.unique(log.observation_id, return_inverse=True)
    _, pair, counts = np.unique(
        state.reshape(-1).astype(np.int64) * log.num_actions + log.action, return_inverse=True, return_counts=True
    )
    return float((counts[pair.reshape(-1)] < FEW_TIMES).mean())
