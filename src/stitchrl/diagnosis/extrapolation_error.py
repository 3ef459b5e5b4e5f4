"""How far the claimed values of the policy's actions lie above what one step of the log says about them.

    (1)  y = r + gamma (1 - terminated) V(s'),   V as the critics claim it
    (2)  f_1, f_2: ridge regressions of y on the state and the action, each on the logged rows of one half of the episodes
    (3)  excess = mean of Q(s, pi(s)) - f(s, pi(s)),   f = (f_1 + f_2) / 2;   the same at the logged actions is close to 0
    (4)  noise = root mean square of (f_1 - f_2) / 2 at (s, pi(s)),   the standard error of f

The features are the columns of the state, with a slope of their own for every action (for every number of a continuous
action, whose square is a feature too); many columns are projected to fewer at random. The penalty is the one with which
each half predicts the logged rows of the other half best; at an action with few rows it pulls f towards what is usual
in that state.

(3) measures the extrapolation error of one backup as far as a log allows: the truth at actions that were not logged is
unknown, and f, a regression without networks, is a guess there too, but one that was not selected for being high.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.subject import NO_CRITICS, NotLookedAtError, Subject
from stitchrl.diagnosis.support import check_acts_alone
from stitchrl.types import NumpyArray

__all__ = ["OneStepError", "one_step_error"]

MOST_FEATURES = 600
MOST_ACTIONS = 500
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties that are tried, per row and in units of the variances of the features."""
LEAST_EPISODES = 4


class OneStepError(NamedTuple):
    """Equations (3) and (4), in the log's reward units.

    Attributes:
        policy, logged: equation (3) at the policy's actions, and at the logged ones.
        noise: equation (4).
        steps: over how many steps it can add up: 1 / (1 - gamma), and no more than the longest episode where none was cut;
            infinite without a discount where episodes were cut, since it is not known how long these would have been.
    """

    policy: float
    logged: float
    noise: float
    steps: float

    @property
    def bound(self) -> float:
        """What the excess adds up to if every step makes it: eps / (1 - gamma) for long episodes; 0 where it is not above 0."""
        return self.policy * self.steps if self.policy > 0 else 0.0


def one_step_error(subject: Subject) -> OneStepError:
    """The error of one backup. Raises `NotLookedAtError` where it cannot be measured."""
    check_acts_alone(subject)
    log, known = subject.rows, subject.rows.can_bootstrap
    if not known.any():
        raise NotLookedAtError(
            "The error of one backup can be measured only on rows whose next observation is known; this log has none."
        )
    halves, target, state = _halves(log), _targets(subject), _state_features(log)
    middle = float(target[known].mean())
    features = _with_numbers(state, log.action) if log.num_actions is None else _with_choices(state, log)
    fits = [_fitted(features, target - middle, half & known, ~half & known) for half in (halves, ~halves)]
    best = int((fits[0].missed + fits[1].missed).argmin())
    mean, apart = (fits[0].weights + fits[1].weights)[best] / 2, (fits[0].weights - fits[1].weights)[best] / 2
    if log.num_actions is None:
        of_policy = _with_numbers(state, subject.actions)
        expected, squared = of_policy @ mean, (of_policy @ apart) ** 2
    else:
        expected = (subject.probs * _every_action(state, mean, log.num_actions)).sum(1)
        squared = (subject.probs * _every_action(state, apart, log.num_actions) ** 2).sum(1)
    excess = [
        float((np.asarray(claimed) - middle - found)[known].mean())
        for claimed, found in ((subject.q_policy, expected), (subject.q_logged, features @ mean))
    ]
    return OneStepError(excess[0], excess[1], float(np.sqrt(squared[known].mean())), _steps(subject))


def _targets(subject: Subject) -> Float[NumpyArray, " N"]:
    """Equation (1); for rows whose target is unknown the number means nothing."""
    value, log = subject.member.value, subject.rows
    if value is None:
        raise NotLookedAtError(NO_CRITICS)
    after = log.observation_table[np.maximum(log.next_observation_index, 0)]
    claimed = np.asarray(value.v(after, action_mask=log.next_action_mask), np.float64)
    return log.reward + log.discount(subject.gamma) * claimed


def _steps(subject: Subject) -> float:
    log = subject.shared.log
    discount = log.largest_discount(subject.gamma)
    ended = bool(log.terminated[log.episode_start[1:] - 1].all())
    longest = float(log.episode_lengths.max())
    without_end = 1 / (1 - discount) if discount < 1 else math.inf
    return min(without_end, longest) if ended else without_end


def _halves(log: Dataset) -> Bool[NumpyArray, " N"]:
    """(N,) whether a row is of the first half of the episodes, which are drawn at random."""
    if log.num_episodes < LEAST_EPISODES or log.observation_table.ndim != 2 or (log.num_actions or 0) > MOST_ACTIONS:
        raise NotLookedAtError(
            f"The error of one backup is measured on two halves of at least {LEAST_EPISODES} episodes whose observations are "
            f"columns of numbers, with at most {MOST_ACTIONS} actions; this log has {log.num_episodes} episodes, observations of "
            f"shape {log.observation_shape} and {log.num_actions or 'continuous'} actions."
        )
    order = np.random.default_rng(0).permutation(log.num_episodes)
    halves: NumpyArray = (order < log.num_episodes // 2)[log.episode_of_transition]
    return halves


def _state_features(log: Dataset) -> Float[NumpyArray, "N d_plus_1"]:
    """A constant, and the standardised columns of each state, as many as the features of actions leave room for."""
    size = log.num_actions + 1 if log.num_actions is not None else log.action.shape[1] + 1
    room = max(MOST_FEATURES // size - 1, 0)
    table = log.observation_table[log.observation_index].astype(np.float64)
    spread = table.std(0)
    columns = (table - table.mean(0))[:, spread > 0] / spread[spread > 0]
    if columns.shape[1] > room:
        mixed = np.random.default_rng(0).normal(size=(columns.shape[1], room)) / np.sqrt(columns.shape[1])
        columns = columns @ mixed
    return np.concatenate([np.ones((len(table), 1)), columns], axis=1)


def _with_choices(state: NumpyArray, log: Dataset) -> Float[NumpyArray, "N features"]:
    """Features shared by all actions, then those of each action, 0 where another one was taken."""
    count, size = state.shape
    features = np.zeros((count, (log.num_actions or 0) + 1, size))
    features[:, 0] = state
    features[np.arange(count), log.action + 1] = state
    return features.reshape(count, -1)


def _every_action(state: NumpyArray, weights: NumpyArray, actions: int) -> Float[NumpyArray, "N A"]:
    """What weights of the features of `_with_choices` say about every action."""
    table = np.reshape(weights, (actions + 1, -1))
    return state @ (table[:1] + table[1:]).T


def _with_numbers(state: NumpyArray, action: NumpyArray) -> Float[NumpyArray, "N features"]:
    """Features of the state, their products with each number of the action, and the squares of these."""
    numbers = action.astype(np.float64)
    crossed = (state[:, None, :] * numbers[:, :, None]).reshape(len(state), -1)
    return np.concatenate([state, crossed, numbers**2], axis=1)


class _Fit(NamedTuple):
    """Weights of a regression for each penalty, and the mean square by which each missed the rows of the other half."""

    weights: Float[NumpyArray, "penalties features"]
    missed: Float[NumpyArray, " penalties"]


def _fitted(features: NumpyArray, target: NumpyArray, fit: NumpyArray, other: NumpyArray) -> _Fit:
    rows = features[fit]
    levels, directions = np.linalg.eigh(rows.T @ rows / max(len(rows), 1))
    along = directions.T @ (rows.T @ target[fit]) / max(len(rows), 1)
    weights = np.stack([directions @ (along / (np.maximum(levels, 0) + penalty)) for penalty in PENALTIES])
    return _Fit(weights, ((target[other][:, None] - features[other] @ weights.T) ** 2).mean(0))
