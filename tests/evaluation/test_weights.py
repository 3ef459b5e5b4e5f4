"""Cumulative weights, by hand and on long episodes."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import UNDISCOUNTED, by_hand, draw, long_episodes, small_world

from stitchrl.evaluation.contributions import Episodes
from stitchrl.evaluation.estimator import weighted
from stitchrl.evaluation.units import effective_sample_size
from stitchrl.evaluation.weights import cumulative_weights


def test_weights_by_hand() -> None:
    _, weight = by_hand()
    np.testing.assert_allclose(weight.now, [[2, 2], [3, 3], [4, 0]])
    np.testing.assert_allclose(weight.before, [[1, 4], [1, 3], [1, 0]])
    assert weight.lost == 0


def test_weight_that_nobody_can_take_over_is_lost() -> None:
    valid = np.array([[True, True], [True, False]])
    episodes = Episodes(np.ones((2, 2)), valid, np.array([False, True]), np.array([[0, 1], [2, 0]]), np.ones(2))
    assert cumulative_weights(episodes, np.zeros(3)).lost == pytest.approx(0.5)


def test_cumulative_weights_are_products_and_survive_long_episodes() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 20, 0)
    episodes = Episodes.of(log, UNDISCOUNTED)
    weight = cumulative_weights(episodes, np.full(log.num_transitions, np.log(2.0))).now
    np.testing.assert_allclose(weight[:, -1], 2.0**log.episode_lengths)
    long = Episodes(
        np.zeros((1, 1000)), np.ones((1, 1000), bool), np.array([True]), np.arange(1000)[None], np.ones(1000)
    )
    # 0.3 / 0.3 a thousand times: a product of probabilities would be 0 / 0.
    ratio = np.log(np.full(1000, 0.3)) - np.log(np.full(1000, 0.3))
    assert cumulative_weights(long, ratio).now[0, -1] == pytest.approx(1.0)


def test_weights_beyond_float64_are_kept_on_a_scale() -> None:
    """1,100 ratios near 2 multiply to about 1e331: beyond float64, whose squares end at 1e154 already."""
    episodes = long_episodes()
    ratio = np.log(2.0) + 1e-3 * np.repeat(np.arange(4), 1100)
    weight = cumulative_weights(episodes, ratio)
    assert np.isfinite(weight.now).all()
    assert np.isfinite(weight.before).all()
    # Whatever the scale, episodes stand to each other as they should, at every step.
    np.testing.assert_allclose(weight.now[1] / weight.now[0], np.exp(1e-3 * np.arange(1, 1101)))
    np.testing.assert_allclose(weight.before[:, 1:], weight.now[:, :-1])
    np.testing.assert_allclose(np.log(weight.now[0]) + weight.log_scale, np.log(2.0) * np.arange(1, 1101))
    assert not weight.representable
    # As long as nothing overflows, nothing is scaled.
    short = cumulative_weights(episodes, ratio / 2)
    assert not short.log_scale[:860].any()
    assert short.representable


def test_weights_too_small_to_be_squared_say_as_much_as_large_ones() -> None:
    ratios = np.log(np.array([0.5, 1.0, 2.0, 4.0]))
    usual = effective_sample_size(np.exp(ratios))
    for moved in (-700.0, -400.0):
        assert effective_sample_size(np.exp(ratios + moved)) == pytest.approx(usual, rel=1e-6)
    assert effective_sample_size(np.zeros(4)) == 0.0


def test_weights_of_many_unlikely_actions_are_scaled_up_and_estimate_what_their_proportions_do() -> None:
    episodes = long_episodes()
    apart = np.repeat(np.arange(4), 1100) * 1e-3
    usual = weighted(episodes, cumulative_weights(episodes, apart))
    found = weighted(episodes, cumulative_weights(episodes, apart - 1.0))  # about e^-1100 an episode
    assert found.value() == pytest.approx(usual.value(), rel=1e-6)
    assert np.isfinite(found.influence()).all()
    np.testing.assert_allclose(found.influence(), usual.influence(), rtol=1e-6)
