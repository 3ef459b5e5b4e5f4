"""Three linear models of a log, each of which a single bad episode can spoil.

    values        V of the behaviour, by fitted Q evaluation with linear features (LSTD): it shows odd rewards
    actions       the probability of each action, or the mean action, at an observation: it shows odd choices
    observations  the change from an observation to the next, given the action: it shows odd responses of the world

All are `LinearFit`s, so that what each would be without any one of its episodes is known exactly. None needs propensities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.leave_one_out import LinearFit
from stitchrl.evaluation.linear_system import scaled
from stitchrl.evaluation.log_features import LogFeatures
from stitchrl.types import NumpyArray

__all__ = ["ACTIONS", "MODELS", "OBSERVATIONS", "VALUES", "LogModel", "chosen_ridges", "fit_models", "fit_values"]

VALUES, ACTIONS, OBSERVATIONS = "values", "actions", "observations"
MODELS = {
    VALUES: "how well the rewards that follow are predicted",
    ACTIONS: "how well the actions are predicted",
    OBSERVATIONS: "how well the next observation is predicted",
}
"""Name of a model -> what it is judged by."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges that are tried, as shares of the mean diagonal; a ridge pulls predictions for rare states to the average."""
LEAST_PROBABILITY = 1e-3
"""No action counts as less likely than this: a linear model cannot tell smaller probabilities from 0."""
MOST_TARGETS = 16
"""The most columns of the next observation that are predicted; a longer one is replaced by as many random projections."""
MOST_ACTIONS = 200
"""The most discrete actions that a model of the actions, and one of the observations, is fitted to."""


@dataclasses.dataclass(frozen=True, eq=False)
class LogModel:
    """One of the three models on the episodes of a log.

    Attributes:
        name: one of `MODELS`.
        fit: the system, solved when it is first asked for.
        states: (N, H) features of the rows at which a change of the fit is measured.
        known: (N,) rows that have a target.
        base: (K,) the average to which the fit adds: that of the return, of the actions, or of the change of the observation.
    """

    name: str
    fit: LinearFit
    states: Any
    known: Bool[NumpyArray, " N"]
    base: Float[NumpyArray, " K"]

    def excess(self, log: Dataset, features: LogFeatures, missed: Float[NumpyArray, "N K"]) -> Float[NumpyArray, " N"]:
        """By how much each row is predicted worse than is usual; 0 where it has no target.

        It is the squared error divided by its mean, minus 1. For discrete actions it is minus the logarithm of the probability
        of the action, less the expectation of that under the predicted probabilities.

        Args:
            log: the log of the fit.
            features: the features of the log.
            missed: (N, K) what was logged minus what the fit to the other episodes predicts.
        """
        if self.name == ACTIONS and log.num_actions is not None:
            return _surprise(log, features.actions(log) - missed)
        spread = np.mean(missed[self.known] ** 2, axis=0)
        found = (missed**2 / np.where(spread > 0, spread, 1.0)).mean(1) - 1.0
        return np.where(self.known, found, 0.0)

    def errors(self, log: Dataset, theta: Float[NumpyArray, "H K"], gamma: float) -> Float[NumpyArray, " n"]:
        """(n,) squared error of the predictions for these episodes, summed over the rows of each.

        The error of a value is that of the whole return from each row on, up to the end of the episode, or up to a cut with the
        value there. Temporal differences alone would favour values that hardly change.

        Args:
            log: the log of the fit.
            theta: (H, K) the solution whose predictions are judged.
            gamma: discount.
        """
        missed = self.fit.residual(theta)
        if self.name == VALUES:
            missed = _summed_to_the_end(missed, log, np.where(self.known, log.discount(gamma), 0.0))
        return np.add.reduceat((missed**2).sum(1), log.episode_start[:-1])


def fit_models(
    log: Dataset, features: LogFeatures, gamma: float, base: Mapping[str, Float[NumpyArray, " _"]] | None = None
) -> list[LogModel]:
    """The models of a log.

    There is no model of the actions, and none of the observations, where there are more than `MOST_ACTIONS` discrete actions; and
    none of the observations where they are constant, or no next one is logged.

    Args:
        log: the log, or a part of the log that the features were made of.
        features: the features.
        gamma: discount of the values.
        base: name -> `base` of models of another part of the log, where those are to be judged on this part.

    Raises:
        ConfigurationError: the discount is 1 and no episode ends, so that rewards would add up without end.
    """
    given = base or {}
    here = features.table[log.observation_index]
    found = [fit_values(log, features, gamma, given.get(VALUES))]
    action = features.actions(log) if (log.num_actions or 0) <= MOST_ACTIONS else None
    if action is not None:
        average = given.get(ACTIONS, action.mean(0))
        fit = LinearFit(here, here, action - average, log.episode_start, _ridge(here, features, ACTIONS))
        found.append(LogModel(ACTIONS, fit, here, np.ones(log.num_transitions, bool), average))
    if action is not None and features.columns.shape[1] and _followed(log).any():
        found.append(_observations(log, here, action, features, given.get(OBSERVATIONS)))
    return found


def fit_values(
    log: Dataset, features: LogFeatures, gamma: float, base: Float[NumpyArray, " _"] | None = None
) -> LogModel:
    """The model of values alone; arguments and errors as in `fit_models`."""
    if gamma == 1 and not log.terminated.any():
        raise ConfigurationError(
            "No episode of this log ends, so that at a discount of 1 rewards would add up without end: rank the episodes with a "
            "discount below 1, `gamma=0.99` or `--gamma 0.99`."
        )
    here = features.table[log.observation_index]
    after = features.table[np.maximum(log.next_observation_index, 0)]
    known = log.can_bootstrap
    go_on = np.where(known, log.discount(gamma), 0.0)
    start = np.array([log.episode_returns(gamma).mean()]) if base is None else base
    target = np.where(known, log.reward.astype(np.float64) + (go_on - 1.0) * start, 0.0)[:, None]
    instruments = scaled(here, known.astype(np.float64))
    change = instruments - scaled(after, go_on)
    fit = LinearFit(instruments, change, target, log.episode_start, _ridge(here, features, VALUES))
    return LogModel(VALUES, fit, here, known, start)


def _observations(
    log: Dataset, here: Any, action: NumpyArray, features: LogFeatures, base: NumpyArray | None
) -> LogModel:
    columns = features.columns
    if columns.shape[1] > MOST_TARGETS:
        directions = np.random.default_rng(1).normal(size=(columns.shape[1], MOST_TARGETS))
        columns = columns @ (directions / np.sqrt(columns.shape[1]))
    known = _followed(log)
    change = columns[np.maximum(log.next_observation_index, 0)] - columns[log.observation_index]
    average = change[known].mean(0) if base is None else base
    both = sparse.hstack([here, action], "csr") if sparse.issparse(here) else np.hstack([here, action])
    rows = scaled(both, known.astype(np.float64))
    ridge = _ridge(rows, features, OBSERVATIONS)
    fit = LinearFit(rows, rows, (change - average) * known[:, None], log.episode_start, ridge)
    return LogModel(OBSERVATIONS, fit, rows, known, average)


def _followed(log: Dataset) -> Bool[NumpyArray, " N"]:
    """(N,) rows whose next observation is logged and does not follow an end, where it may be a mere filler."""
    return (log.next_observation_index != NO_OBSERVATION) & ~log.terminated


def _ridge(rows: Any, features: LogFeatures, name: str) -> float:
    return features.ridge.get(name, RIDGES[0]) * mean_diagonal(rows)


def mean_diagonal(rows: Any) -> float:
    """The mean diagonal of rows^T rows."""
    squares = rows.multiply(rows) if sparse.issparse(rows) else rows**2
    return max(float(squares.sum()), 1.0) / rows.shape[1]


def chosen_ridges(
    log: Dataset, features: LogFeatures, halves: Sequence[Int[NumpyArray, " _"]], gamma: float
) -> LogFeatures:
    """The features with, for each model, the ridge with which one half of the episodes predicts the other half best.

    With too small a ridge a model follows the noise of its episodes, and predicts others better without some of them, however
    true these are.
    """
    parts = [log.select_episodes(half) for half in halves]
    total: dict[str, NumpyArray] = {}
    for own, other in (parts, parts[::-1]):
        models = fit_models(own, features, gamma)
        read = {one.name: one for one in fit_models(other, features, gamma, {m.name: m.base for m in models})}
        for model in models:
            if model.name not in read:
                continue
            scale = mean_diagonal(model.states)
            thetas = (model.fit.theta_with(share * scale) for share in RIDGES)
            errors = np.array([read[model.name].errors(other, theta, gamma).sum() for theta in thetas])
            total[model.name] = total.get(model.name, 0.0) + errors
    best = {name: RIDGES[int(np.argmin(errors))] for name, errors in total.items()}
    return dataclasses.replace(features, ridge=best)


def _surprise(log: Dataset, probs: Float[NumpyArray, "N A"]) -> Float[NumpyArray, " N"]:
    """(N,) minus the logarithm of the probability of the logged action, less its expectation under these probabilities."""
    probs = np.maximum(probs, LEAST_PROBABILITY)
    if log.action_mask is not None:
        probs = np.where(log.action_mask, probs, LEAST_PROBABILITY)
    probs = probs / probs.sum(1, keepdims=True)
    logs = np.log(probs)
    return -(logs[np.arange(len(logs)), log.action] - (probs * logs).sum(1))


def _summed_to_the_end(
    steps: Float[NumpyArray, "N K"], log: Dataset, go_on: Float[NumpyArray, " N"]
) -> Float[NumpyArray, "N K"]:
    """(N, K) the discounted sums of the numbers of each row and of all later rows of its episode, up to a gap."""
    found = steps.copy()
    order = np.argsort(log.position, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(log.position[order])) + 1)[::-1]:
        rows = rows[log.continues[rows]]
        found[rows] += go_on[rows, None] * found[rows + 1]
    return found
