"""The ward of the lesson on off-policy evaluation: its world, logs of it, and what estimators say of them."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from stitchrl.evaluation.contributions import Episodes
from stitchrl.evaluation.doubly_robust_form import doubly_robust, weighted_doubly_robust
from stitchrl.evaluation.estimator import weighted
from stitchrl.evaluation.estimators.importance_sampling import (
    importance_sampling,
    per_decision,
    weighted_per_decision,
)
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.refit import FittedValues
from stitchrl.evaluation.units import Units, effective_sample_size
from stitchrl.evaluation.weights import Weights, cumulative_weights, final_weights
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.types import NumpyArray

__all__ = [
    "EPISODES",
    "HORIZONS",
    "LOGGED",
    "LOGS",
    "all_estimates",
    "corrections",
    "coverage",
    "fitted_values",
    "logs",
    "padded",
    "q_by_step",
    "treats",
    "ward",
    "weights_of",
]

MOVES = {0: (0.25, 0.40, 0.35), 1: (0.55, 0.30, 0.15)}
"""Action (0 waits, 1 treats) -> chance that the patient is better, the same, worse on the next day."""
LOGGED = 0.5
"""Chance of a treatment in the log, whatever the state of the patient."""
HORIZONS = (5, 10, 20)
EPISODES, LOGS = 200, 150
"""Patients in a log, and logs that are drawn."""
RESAMPLES = 200


def ward() -> FiniteMDP:
    """Four states of health, two actions (0 waits, 1 treats), and a reward of 1 on each day that ends in one of the two better
    states. Nobody leaves; what is counted is a number of days, by `horizon`."""
    transition, reward = np.zeros((4, 2, 4)), np.zeros((4, 2, 4))
    for state, (action, chances) in itertools.product(range(4), MOVES.items()):
        for change, chance in zip((1, 0, -1), chances, strict=True):
            transition[state, action, min(max(state + change, 0), 3)] += chance
    reward[:, :, 2:] = 1.0
    return FiniteMDP(transition, reward, np.array([0.0, 0.8, 0.2, 0.0]), np.zeros(4, bool))


def treats(chance: float) -> NumpyArray:
    """(4, 2) the policy that treats with this chance in every state."""
    return np.tile([1 - chance, chance], (4, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Logs of the ward: (logs, n, T) arrays."""

    state: NumpyArray
    action: NumpyArray
    following: NumpyArray
    reward: NumpyArray


@cache
def logs(logs: int, episodes: int, steps: int, seed: int) -> Drawn:
    drawn = ward().draw(treats(LOGGED), logs * episodes, seed=seed, max_steps=steps)
    shape = (logs, episodes, steps)
    columns = (drawn.state, drawn.action, drawn.next_state, drawn.reward)
    return Drawn(*(column.reshape(shape) for column in columns))


def q_by_step(transition: NumpyArray, policy: NumpyArray, steps: int) -> tuple[NumpyArray, NumpyArray]:
    """Q (T, ..., S, A) and V (T, ..., S) of a policy in the ward, at each step of so many, by going backwards from the last.

    Args:
        transition: (..., S, A, S) the world, or a model of it, or several.
        policy: (S, A) probabilities.
        steps: T, days that are counted.
    """
    reward = (transition * ward().reward).sum(-1)
    after, q, v = np.zeros(transition.shape[:-2]), [], []
    for _ in range(steps):
        of_action = reward + np.einsum("...sat,...t->...sa", transition, after)
        after = (policy * of_action).sum(-1)
        q.append(of_action)
        v.append(after)
    return np.stack(q[::-1]), np.stack(v[::-1])


def counted(state: NumpyArray, action: NumpyArray, following: NumpyArray) -> NumpyArray:
    """(4, 2, 4) the world as a log shows it: how often each next state followed."""
    counts = np.zeros((4, 2, 4))
    np.add.at(counts, (state.ravel(), action.ravel(), following.ravel()), 1.0)
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1.0)


def padded(reward: NumpyArray) -> Episodes:
    n, steps = reward.shape
    index = np.arange(n * steps).reshape(n, steps)
    return Episodes(reward, np.ones((n, steps), bool), np.ones(n, bool), index, np.ones(steps))


def weights_of(
    episodes: Episodes, state: NumpyArray, action: NumpyArray, policy: NumpyArray, behavior: NumpyArray
) -> Weights:
    return cumulative_weights(episodes, np.log(policy[state, action] / behavior[state, action]).ravel())


def fitted_values(q: NumpyArray, v: NumpyArray, state: NumpyArray, action: NumpyArray) -> FittedValues:
    """Values of a model on the transitions of a log."""
    time = np.arange(state.shape[1])[None]
    return FittedValues(q[time, state, action].ravel(), v[time, state].ravel())


@cache
def all_estimates(chance: float, steps: int) -> dict[str, NumpyArray]:
    """Name -> (logs,) estimates; "RIS" and the effective sample size "ess" too. The model of a log is fitted to the next log."""
    drawn, policy, behavior = logs(LOGS, EPISODES, max(HORIZONS), 0), treats(chance), treats(LOGGED)
    found: dict[str, list[float]] = {}
    for k in range(LOGS):
        state, action, reward = (column[k, :, :steps] for column in (drawn.state, drawn.action, drawn.reward))
        other = (k + 1) % LOGS
        model = counted(*(c[other, :, :steps] for c in (drawn.state, drawn.action, drawn.following)))
        q, v = q_by_step(model, policy, steps)
        episodes, fitted = padded(reward), fitted_values(q, v, state, action)
        weight = weights_of(episodes, state, action, policy, behavior)
        counts = np.zeros((4, 2))
        np.add.at(counts, (state.ravel(), action.ravel()), 1.0)
        own = weights_of(episodes, state, action, policy, counts / counts.sum(1, keepdims=True))
        made = {
            "IS": importance_sampling(episodes, weight).value(),
            "PDIS": per_decision(episodes, weight).value(),
            "WIS": weighted(episodes, weight).value(),
            "PDWIS": weighted_per_decision(episodes, weight).value(),
            "DR": doubly_robust(episodes, weight, fitted).value(),
            "WDR": weighted_doubly_robust(episodes, weight, fitted).value(),
            "model": float(v[0][state[:, 0]].mean()),
            "RIS": weighted(episodes, own).value(),
            "ess": effective_sample_size(final_weights(episodes, weight)),
        }
        for name, value in made.items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


@cache
def corrections(claimed: float) -> dict[str, NumpyArray]:
    """(logs,) PDIS and DR with the exact Q, where the log claims that it treated with this chance; and the exact V of
    first states."""
    steps, policy = 10, treats(0.75)
    drawn = logs(LOGS, EPISODES, max(HORIZONS), 0)
    q, v = q_by_step(ward().transition, policy, steps)
    found: dict[str, list[float]] = {"PDIS": [], "DR": [], "model": []}
    for state, action, reward in zip(drawn.state, drawn.action, drawn.reward, strict=True):
        s, a, episodes = state[:, :steps], action[:, :steps], padded(reward[:, :steps])
        weight = weights_of(episodes, s, a, policy, treats(claimed))
        found["PDIS"].append(per_decision(episodes, weight).value())
        found["DR"].append(doubly_robust(episodes, weight, fitted_values(q, v, s, a)).value())
        found["model"].append(float(v[0][s[:, 0]].mean()))
    return {name: np.array(values) for name, values in found.items()}


@cache
def coverage(episodes: int, count: int = LOGS) -> dict[str, NumpyArray]:
    """Two 95% intervals of the model's value V(s_0) on each of many logs: way -> (logs, 2) lower and upper ends.

    "spread" takes the fitted model as known, and looks at how V(s_0) differs from patient to patient. "refit" fits the model anew
    in each bootstrap resample of the episodes.
    """
    steps, policy = 10, treats(0.75)
    drawn = logs(count, episodes, steps, 1)
    cell = (drawn.state * 2 + drawn.action) * 4 + drawn.following
    reach = float(stats.norm.ppf(0.975))
    found: dict[str, list[Any]] = {"spread": [], "refit": []}
    for k in range(count):
        per_episode = np.zeros((episodes, 32))
        np.add.at(per_episode, (np.repeat(np.arange(episodes), steps), cell[k].ravel()), 1.0)
        first = np.eye(4)[drawn.state[k, :, 0]]
        resamples = next(Resampler(Units(episodes), resamples=RESAMPLES, seed=k).counts())
        counts = np.concatenate([np.ones((1, episodes)), resamples])
        tables = (counts @ per_episode).reshape(-1, 4, 2, 4)
        _, v = q_by_step(tables / np.maximum(tables.sum(-1, keepdims=True), 1.0), policy, steps)
        values = (v[0] * (counts @ first) / episodes).sum(-1)
        of_patients = first @ v[0][0]
        error = reach * of_patients.std(ddof=1) / np.sqrt(episodes)
        found["spread"].append([values[0] - error, values[0] + error])
        found["refit"].append(np.quantile(values[1:], [0.025, 0.975]))
    return {way: np.array(ends) for way, ends in found.items()}
