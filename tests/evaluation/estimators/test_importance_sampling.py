"""The importance-sampling family: tables by hand and limit identities."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import by_hand, draw, long_episodes, small_world, weights

from stitchrl.evaluation.estimators.importance_sampling import (
    importance_sampling,
    per_decision,
    weighted,
    weighted_per_decision,
)
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
