"""The doubly robust family: limit identities, and unbiasedness with a wrong Q beside the estimators without one."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import draw, small_world, values, weights

from stitchrl.evaluation.estimators.doubly_robust import doubly_robust, weighted_doubly_robust
from stitchrl.evaluation.estimators.importance_sampling import (
    importance_sampling,
    per_decision,
    weighted,
    weighted_per_decision,
)
from stitchrl.mdp.finite import FiniteMDP


def test_zero_q_makes_doubly_robust_per_decision() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 200, 2, max_steps=4)
    episodes, weight = weights(log, policy, behavior)
    nothing = values(log, np.zeros((5, 2)), policy)
    assert doubly_robust(episodes, weight, nothing).value() == pytest.approx(per_decision(episodes, weight).value())
    assert weighted_doubly_robust(episodes, weight, nothing).value() == pytest.approx(
        weighted_per_decision(episodes, weight).value()
    )


def test_exact_q_in_a_deterministic_world_makes_doubly_robust_the_model() -> None:
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 1] = transition[0, 1, 2] = transition[1, :, 2] = transition[2, :, 2] = 1.0
    reward = np.zeros((3, 2, 3))
    reward[0, 0, 1], reward[0, 1, 2], reward[1, 0, 2], reward[1, 1, 2] = 1.0, 4.0, 2.0, -1.0
    world = FiniteMDP(transition, reward, np.array([1.0, 0, 0]), np.array([False, False, True]))
    behavior, policy = np.full((3, 2), 0.5), np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    log = draw(world, behavior, 50, 3)
    episodes, weight = weights(log, policy, behavior)
    fitted = values(log, world.action_values(policy), policy)
    # .7 * (1 + .2 * 2 - .8) + .3 * 4
    assert world.policy_value(policy) == pytest.approx(0.7 * 0.6 + 1.2)
    for estimator in (doubly_robust, weighted_doubly_robust):
        found = estimator(episodes, weight, fitted)
        assert found.value() == pytest.approx(world.policy_value(policy), abs=1e-6)
        assert found.influence().std() < 1e-5


def test_unbiased_estimators_are_unbiased_and_normalised_ones_consistent() -> None:
    world, behavior, policy = small_world()
    truth, wrong_q = world.policy_value(policy), world.action_values(behavior) + 1.0
    found: dict[str, list[float]] = {name: [] for name in ("is", "pdis", "dr", "wis", "pdwis", "wdr")}
    for seed in range(150):
        log = draw(world, behavior, 150, 1000 + seed)
        episodes, weight = weights(log, policy, behavior)
        fitted = values(log, wrong_q, policy)
        found["is"].append(importance_sampling(episodes, weight).value())
        found["pdis"].append(per_decision(episodes, weight).value())
        found["dr"].append(doubly_robust(episodes, weight, fitted).value())
        found["wis"].append(weighted(episodes, weight).value())
        found["pdwis"].append(weighted_per_decision(episodes, weight).value())
        found["wdr"].append(weighted_doubly_robust(episodes, weight, fitted).value())
    for name, estimates in found.items():
        error, spread = np.mean(estimates) - truth, np.std(estimates)
        if name in ("is", "pdis", "dr"):
            assert abs(error) < 4 * spread / np.sqrt(len(estimates)), name
        assert abs(error) < 0.5 * spread, name
    # A planted fault is seen: the behaviour's own value is far from the policy's on this scale.
    assert abs(world.policy_value(behavior) - truth) > 4 * np.std(found["pdis"]) / np.sqrt(150)
