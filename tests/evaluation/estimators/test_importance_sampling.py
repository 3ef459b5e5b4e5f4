"""The importance-sampling family: tables by hand and limit identities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_worlds import Table, by_hand, draw, long_episodes, small_world, weights

from stitchrl.evaluation.balance_checks import check_termination_mass
from stitchrl.evaluation.contributions import Episodes
from stitchrl.evaluation.estimators.importance_sampling import (
    importance_sampling,
    per_decision,
    termination_mass,
    weighted,
    weighted_per_decision,
)
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.weights import cumulative_weights


def test_importance_sampling_by_hand() -> None:
    episodes, weight = by_hand()
    # is: (2 * (1 + .5 * 2) + 3 * 5) / 3
    assert importance_sampling(episodes, weight).value() == pytest.approx((4 + 15) / 3)
    # pdis: (2 * 1 + .5 * 2 * 2 + 3 * 5 + 4 * 7) / 3
    assert per_decision(episodes, weight).value() == pytest.approx((4 + 15 + 28) / 3)
    # wis: (4 + 15) / (2 + 3)
    assert weighted(episodes, weight).value() == pytest.approx(19 / 5)
    # pdwis: step 0 (2 + 15 + 28) / 9; step 1: the terminated episode of weight 3 stays, the cut one leaves: .5 * 4 / 5
    assert weighted_per_decision(episodes, weight).value() == pytest.approx(45 / 9 + 2 / 5)


def test_behaviour_as_policy_gives_the_logged_mean() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 300, 1)
    episodes, weight = weights(log, behavior, behavior)
    mean = log.episode_returns().mean()
    for estimator in (importance_sampling, per_decision, weighted, weighted_per_decision):
        assert estimator(episodes, weight).value() == pytest.approx(mean, abs=1e-6)


def test_normalised_estimates_survive_products_beyond_float64() -> None:
    """Weights of about 2^1100 in proportion 1 : 2 : 3 : 4, by hand; returns are 1, 2, 3, 4."""
    episodes = long_episodes()
    ratio = np.full((4, 1100), np.log(2.0))
    ratio[:, 0] += np.log([1.0, 2.0, 3.0, 4.0])
    weight = cumulative_weights(episodes, ratio.reshape(-1))
    expected = (1 + 4 + 9 + 16) / 10
    assert weighted(episodes, weight).value() == pytest.approx(expected)
    assert weighted_per_decision(episodes, weight).value() == pytest.approx(expected)


def test_steps_normalised_apart_say_so_where_their_endings_do_not_sum_to_one() -> None:
    """By hand: ratios [2, .5] [3] [4], the third episode cut: at the first step 3 of 9 end, at the second 2 of 5."""
    episodes, weight = by_hand()
    assert termination_mass(episodes, weight) == pytest.approx(3 / 9 + 2 / 5)
    world, behavior, policy = small_world()
    log = draw(world, behavior, 20_000, 4)
    assert termination_mass(*weights(log, policy, behavior)) == pytest.approx(1.0, abs=0.03)
    assert termination_mass(*weights(log, behavior, behavior)) == pytest.approx(1.0)
    # A policy that leaves the log behind step by step, and a constant more on every return.
    small = draw(world, behavior, 40, 5)
    far = np.where(policy > 0.5, 0.999, 0.001)
    episodes, weight = weights(small, far, behavior)
    mass = termination_mass(episodes, weight)
    plus = dataclasses.replace(episodes, reward=episodes.reward + 10.0 * _at_the_end(episodes))
    shift = weighted_per_decision(plus, weight).value() - weighted_per_decision(episodes, weight).value()
    assert shift == pytest.approx(10 * mass)
    assert check_termination_mass(mass).passed == (abs(mass - 1) <= 0.1)
    found = evaluate(Table(far), small, estimators=("pdwis",)).estimates["pdwis"]
    assert any(check.key == "termination-mass" for check in found.checks)


def _at_the_end(episodes: Episodes) -> np.ndarray:
    ends = np.zeros_like(episodes.reward)
    ends[np.arange(len(ends)), episodes.valid.sum(1) - 1] = 1.0
    return ends
