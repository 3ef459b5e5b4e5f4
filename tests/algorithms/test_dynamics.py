"""The dynamics ensemble: its loss by hand, which rows it learns what from, and members that differ by their weights alone."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import next_observations, tiny_columns

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.dynamics import (
    LEAST_LOG_STD,
    MOST_LOG_STD,
    Dynamics,
    Prediction,
    dynamics_losses,
    member_weights,
    model_inputs,
    prediction_of,
)
from stitchrl.data.scaling import Scaling


def f32(values: object) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def test_the_losses_by_hand() -> None:
    """Four rows: one goes on, one ends, one is cut and nothing is known of what followed, one is cut and went on."""
    mean = f32([[[1, 0], [9, 0], [9, 1], [0, 2]]])  # one change and the reward
    log_std = f32([[[0, 0], [5, math.log(2)], [5, 0], [math.log(2), 0]]])
    found = Prediction(mean, log_std, f32([[0, math.log(3), 50, -math.log(3)]]))
    target = f32([[3, 1], [0, 2], [0, 1], [4, 0]])
    weight = f32([[1, 1, 1, 2]])
    change, reward, end = dynamics_losses(found, target, f32([0, 1, 0, 0]), f32([1, 1, 0, 1]), weight)
    # Change: (3 - 1)^2 / 2, and twice ((4 / 2)^2 / 2 + log 2). The row that ended and the unknown one count 0.
    np.testing.assert_allclose(change, [(2 + 2 * (2 + math.log(2))) / 4], rtol=1e-6)
    # Reward: 1 / 2, (2 / 2)^2 / 2 + log 2, 0, and twice 2^2 / 2.
    np.testing.assert_allclose(reward, [(0.5 + 0.5 + math.log(2) + 4) / 4], rtol=1e-6)
    # End: -log of 1/2, of 3/4 (it ended), nothing, and twice of 3/4 (it did not).
    np.testing.assert_allclose(end, [(math.log(2) + 3 * math.log(4 / 3)) / 4], rtol=1e-6)


def test_standard_deviations_stay_between_their_ends() -> None:
    raw = f32([[0, 0, -1e3, 1e3, 0], [0, 0, 0, -2, 0]])
    log_std = prediction_of(raw).log_std
    np.testing.assert_allclose(log_std[0], [LEAST_LOG_STD, MOST_LOG_STD], atol=0.02)
    assert float(log_std.min()) > LEAST_LOG_STD - 1e-6
    np.testing.assert_allclose(log_std[1, 1], -2, atol=0.1)


def test_a_row_has_the_same_weight_whenever_it_is_drawn_and_another_for_each_member() -> None:
    weight = np.asarray(member_weights(jnp.asarray([5, 7, 5]), 3))
    assert weight.shape == (3, 3)
    np.testing.assert_array_equal(weight[:, 0], weight[:, 2])
    assert len(np.unique(weight[:, :2])) == 6
    many = np.asarray(member_weights(jnp.arange(4000), 2))
    assert many.mean() == pytest.approx(1.0, abs=0.05)


def test_whole_numbers_enter_one_hot_and_continuous_actions_as_they_are() -> None:
    obs = f32([[0.5], [0.25]])
    np.testing.assert_array_equal(model_inputs(obs, jnp.asarray([2, 0]), 4), [[0.5, 0, 0, 1], [0.25, 1, 0, 0]])
    np.testing.assert_array_equal(model_inputs(obs, f32([[3], [4]]), 2), [[0.5, 3], [0.25, 4]])


def test_changes_are_those_that_the_log_shows() -> None:
    columns = tiny_columns()
    log = st.read(columns | {"next_observation": next_observations()})
    rows = np.flatnonzero(log.can_bootstrap & ~log.terminated)
    given = Dynamics().prepare(log, Scaling.identity(2), key=jax.random.key(0)).given
    change = (log.next_observation - log.observation)[rows]
    np.testing.assert_allclose(given.mean, change.mean(0), rtol=1e-5)
    np.testing.assert_allclose(given.spread, change.std(0) + 1e-3, rtol=1e-5)


def test_it_has_no_policy() -> None:
    algorithm = Dynamics(members=2, hidden_sizes=(4,))
    state = algorithm.init(jax.random.key(0), Spec.vectors(2, 3), None)
    with pytest.raises(TypeError, match="no policy"):
        algorithm.policy(state, None)
