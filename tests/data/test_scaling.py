"""Scaling fitted on a log, and the scale of returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from worlds import next_observations, random_log, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.scaling import MINIMUM_STD, Scaling, unit_return_scale


def test_scaling_is_numpys_mean_and_std_over_transitions() -> None:
    log = random_log(30)
    scaling = Scaling.fit(log)
    observed = log.observation.astype(np.float64)
    np.testing.assert_allclose(scaling.mean, observed.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(scaling.std, observed.std(0) + MINIMUM_STD, rtol=1e-6)
    assert scaling.mean.dtype == np.float32
    assert scaling.std.dtype == np.float32


def test_scaling_does_not_count_what_came_last() -> None:
    # The stored final observations belong to no transition and do not count.
    with_last = Scaling.fit(tiny_log(next_observation=next_observations() * 100))
    np.testing.assert_array_equal(with_last.mean, Scaling.fit(tiny_log()).mean)
    np.testing.assert_array_equal(with_last.std, Scaling.fit(tiny_log()).std)


def test_scaling_of_a_part_knows_only_that_part() -> None:
    # Parts share the observation table; the rest of it must not leak in.
    part = tiny_log().select_episodes([1])
    np.testing.assert_allclose(Scaling.fit(part).mean, [3.5, 12.0], rtol=1e-6)


def test_scaled_observations_by_hand() -> None:
    scaling = Scaling(np.array([1, 2], np.float32), np.array([2, 4], np.float32))
    np.testing.assert_array_equal(scaling.observations(np.array([[3, 10]], np.float32)), [[1, 2]])


def test_a_constant_column_stays_finite() -> None:
    observation = np.tile(np.array([5, 0], np.float32), (6, 1))
    log = tiny_log(observation=observation)
    scaling = Scaling.fit(log)
    scaled = scaling.observations(log.observation)
    assert (scaling.std > 0).all()
    np.testing.assert_allclose(scaled, 0.0, atol=1e-6)


def test_identity_leaves_observations_as_they_are() -> None:
    log = tiny_log()
    np.testing.assert_array_equal(Scaling.identity(2).observations(log.observation), log.observation)
    assert Scaling.identity(2).reward_scale == 1.0
    assert Scaling.fit(log, reward_scale=0.5).reward_scale == 0.5


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_unit_return_scale_gives_returns_a_standard_deviation_of_one(gamma: float) -> None:
    log = random_log(30)
    scale = unit_return_scale(log, gamma=gamma)
    assert np.std(log.episode_returns(gamma) * scale) == pytest.approx(1.0)


def test_unit_return_scale_is_one_where_all_returns_are_equal() -> None:
    bandit = {
        "episode": np.arange(3),
        "observation": np.zeros((3, 1), np.float32),
        "action": np.array([0, 1, 0]),
        "reward": np.full(3, 7.0, np.float32),
        "terminated": np.ones(3, bool),
    }
    assert unit_return_scale(st.read(bandit)) == 1.0


def test_ranges_by_hand() -> None:
    scaling = Scaling.of(tiny_log(), standardize="min-max")  # columns 0 to 5 and 1 to 32
    np.testing.assert_array_equal(scaling.mean, [2.5, 16.5])
    np.testing.assert_array_equal(scaling.std, [2.5, 15.5])
    scaled = scaling.observations(tiny_log().observation)
    assert (scaled.min(), scaled.max()) == (-1, 1)


def test_a_constant_column_has_a_range_of_1() -> None:
    log = tiny_log(observation=np.full((6, 2), 3, np.float32))
    assert Scaling.fit_range(log).std.tolist() == [1, 1]


def test_actions_are_scaled_by_the_schemas_bounds_where_it_gives_them() -> None:
    log = st.read({**tiny_columns(), "action": np.linspace(0, 3, 6, dtype=np.float32)})
    assert Scaling.of(log).action_center.tolist() == [1.5]
    bounded = dataclasses.replace(log, schema=dataclasses.replace(log.schema, action_low=(-2,), action_high=(8,)))
    scaling = Scaling.of(bounded)
    assert (scaling.action_center.tolist(), scaling.action_half_width.tolist()) == ([3], [5])


def doses(low: float, high: float, **bounds: Any) -> st.Dataset:
    """A log of doses between two numbers, with the bounds that a schema may declare."""
    log = st.read({**tiny_columns(), "action": np.linspace(low, high, 6, dtype=np.float32)})
    return dataclasses.replace(log, schema=dataclasses.replace(log.schema, **bounds))


@pytest.mark.parametrize(
    ("log", "center", "half_width"),
    [
        (doses(0.1, 0.8, action_low=(0.0,), action_high=(1.0,)), 0.5, 0.5),  # inside [-1, 1], and yet declared
        (doses(0.1, 0.8), 0.0, 1.0),  # undeclared, and in [-1, 1]: left as they are
        (doses(0.0, 3.0), 1.5, 1.5),  # undeclared, and not: their range
        (doses(0.1, 0.8, action_low=(0.0,)), 0.5, 0.5),  # the undeclared end is 1
        (doses(0.5, 3.0, action_high=(4.0,)), 2.25, 1.75),
        (doses(-0.5, 0.5, action_low=(-0.5,), action_high=(0.5,)), 0.0, 0.5),
    ],
)
def test_declared_bounds_are_used_and_undeclared_ones_inferred(
    log: st.Dataset, center: float, half_width: float
) -> None:
    scaling = Scaling.of(log)
    np.testing.assert_allclose(scaling.action_center, [center], rtol=1e-6)
    np.testing.assert_allclose(scaling.action_half_width, [half_width], rtol=1e-6)
    np.testing.assert_allclose(scaling.actions(log.action), (log.action - center) / half_width, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", [st.TD3BC(hidden_sizes=(4,)), st.CQL(hidden_sizes=(4,))], ids=lambda a: a.name)
def test_a_policy_never_puts_out_a_dose_outside_the_declared_bounds(algorithm: Any) -> None:
    import jax

    log = doses(0.1, 0.8, action_low=(0.0,), action_high=(1.0,))
    policy = st.fit(algorithm, log, updates=0).policy
    far = np.random.default_rng(0).normal(scale=1000.0, size=(200, 2)).astype(np.float32)
    for dose in (policy.mode(far), policy.sample(far, key=jax.random.key(0))):
        assert np.asarray(dose).min() >= 0.0
        assert np.asarray(dose).max() <= 1.0
    ends = np.asarray(policy.mode(far))
    assert ends.min() < 0.2  # the network goes to both ends: within [-1, 1] it would put out negative doses
    assert ends.max() > 0.8
