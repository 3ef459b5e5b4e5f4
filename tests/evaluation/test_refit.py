"""The refit of a fitted Q, against counting; and interval coverage of whatever has contributions."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import draw, small_world, tabular, values, weights

from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.estimators.doubly_robust import weighted_doubly_robust
from stitchrl.evaluation.estimators.importance_sampling import weighted, weighted_per_decision
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.statistic import minus
from stitchrl.evaluation.units import Units


def test_refit_solves_the_weighted_bellman_equation_of_the_log() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 3000, 4)
    state = log.observation_id
    assert state is not None
    ratio = policy[state, log.action] / behavior[state, log.action]
    found = refit(log, tabular(log, 5), ratio, gamma=1.0)
    # The same by counting: V(s) = sum ratio (r + V(s')) / sum ratio over visits of s.
    matrix, target = np.eye(5), np.zeros(5)
    for s in range(4):
        rows = state == s
        share = ratio[rows] / ratio[rows].sum()
        target[s] = share @ log.reward[rows]
        for following, w in zip(log.next_observation.argmax(1)[rows], share, strict=True):
            matrix[s, following] -= w
    matrix[4] = np.eye(5)[4]
    value = np.linalg.solve(matrix, target)[state[log.episode_start[:-1]]].mean()
    assert found.contributions.mean() == pytest.approx(value, abs=2e-3)
    error = found.contributions.std() / np.sqrt(log.num_episodes)
    assert abs(found.contributions.mean() - world.policy_value(policy)) < 4 * error


def test_first_states_without_any_feature_are_wholly_unbalanced() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 20, 4)
    fitted = tabular(log, 5)
    nothing = {name: np.zeros_like(value) for name, value in fitted.items()}
    found = refit(log, nothing, np.ones(log.num_transitions), gamma=1.0)
    assert found.imbalance == 1.0
    assert not found.weights.any()


def coverage(way: str, replicates: int, episodes: int) -> tuple[float, float]:
    """Share of 95% intervals of the gain that hold the exact gain, and the mean of (estimate - exact) / SE."""
    world, behavior, policy = small_world()
    truth = world.policy_value(policy) - world.policy_value(behavior)
    hits, z = [], []
    for seed in range(replicates):
        log = draw(world, behavior, episodes, 5000 + seed)
        logged = Contributions.average(log.episode_returns())
        state = log.observation_id
        assert state is not None
        if way == "refit":
            ratio = policy[state, log.action] / behavior[state, log.action]
            found = Contributions.average(refit(log, tabular(log, 5), ratio, gamma=1.0).contributions)
        else:
            padded, weight = weights(log, policy, behavior)
            q = world.action_values(behavior)
            found = {
                "wis": lambda p=padded, w=weight: weighted(p, w),
                "pdwis": lambda p=padded, w=weight: weighted_per_decision(p, w),
                "wdr": lambda p=padded, w=weight, g=log, q=q: weighted_doubly_robust(p, w, values(g, q, policy)),
            }[way]()
        interval = Resampler(Units(episodes), resamples=300, seed=seed).interval(minus(found, logged))
        hits.append(interval.lower <= truth <= interval.upper)
        z.append((interval.value - truth) / interval.standard_error)
    return float(np.mean(hits)), float(np.mean(z))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wis", "pdwis", "wdr", "refit"])
def test_intervals_of_the_gain_cover_many(way: str) -> None:
    share, _ = coverage(way, 1000, 600)
    assert 0.925 <= share <= 0.975
