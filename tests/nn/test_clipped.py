"""A clipped policy: the law of its draws, its gradients far away, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_worlds import policy
from scipy import stats

import stitchrl as st
from stitchrl.errors import ConfigurationError
from stitchrl.nn.clipped import ClippedPolicy
from stitchrl.nn.clipped_normal import clipped_log_prob
from stitchrl.nn.continuous_policy import DeterministicPolicy, GaussianPolicy, SquashedGaussianPolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.nn.smoothed import SmoothedPolicy
from stitchrl.nn.units import RescaledPolicy

INNER = policy(np.array([[1.0], [-0.5]]), np.array([0.4, 0.8]))
LOW, HIGH = np.array([-1.0, -np.inf], np.float32), np.array([1.0, 0.5], np.float32)


def test_it_gives_densities_inside_and_tails_on_bounds_by_dimension() -> None:
    found = ClippedPolicy(INNER, LOW, HIGH)
    action = np.array([[0.2, 0.1], [-1.0, 0.1], [1.0, 0.5], [0.2, -7.0], [1.1, 0.0]], np.float32)
    each = np.asarray(found.log_prob(np.full((5, 1), 0.9, np.float32), action))
    first, second = stats.norm(0.9, 0.4), stats.norm(-0.45, 0.8)
    exact = [
        first.logpdf(0.2) + second.logpdf(0.1),
        first.logcdf(-1) + second.logpdf(0.1),
        first.logsf(1) + second.logsf(0.5),
        first.logpdf(0.2) + second.logpdf(-7),
        -np.inf,
    ]
    np.testing.assert_allclose(each, exact, rtol=1e-5)


@pytest.mark.parametrize("high", [np.inf, 1e6])
def test_doses_far_smaller_than_one_have_densities_next_to_a_bound(high: float) -> None:
    found = ClippedPolicy(policy(np.array([[1e-5]]), np.array([1e-5])), 0.0, high)
    action = np.array([[0.0], [1e-9], [1e-5]], np.float32)
    law = stats.norm(1e-5, 1e-5)
    exact = [law.logcdf(0), law.logpdf(1e-9), law.logpdf(1e-5)]
    np.testing.assert_allclose(found.log_prob(np.ones((3, 1), np.float32), action), exact, rtol=1e-4)
    if np.isinf(high):
        assert found.log_prob(np.ones((1, 1), np.float32), np.array([[-1e-6]], np.float32))[0] == -np.inf


def test_its_draws_lie_on_bounds_as_often_as_it_says() -> None:
    found, obs = ClippedPolicy(INNER, LOW, HIGH), np.full((20_000, 1), 0.9, np.float32)
    drawn = np.asarray(found.sample(obs, key=jax.random.key(0)))
    for share, exact in (
        ((drawn[:, 0] == 1).mean(), stats.norm.sf(1, 0.9, 0.4)),
        ((drawn[:, 1] == 0.5).mean(), stats.norm.sf(0.5, -0.45, 0.8)),
    ):
        assert abs(share - exact) < 4 * np.sqrt(exact * (1 - exact) / len(drawn))
    np.testing.assert_allclose(found.mode(np.full((1, 1), 3.0, np.float32)), [[1.0, -1.5]])


def test_tails_and_their_gradients_are_numbers_however_far_the_mean_is() -> None:
    @jax.jit
    @jax.value_and_grad
    def total(mean: jax.Array) -> jax.Array:
        action = jnp.asarray([[-1.0, 1.0, 1.0]], jnp.float32)
        bounds = jnp.asarray([-1.0, -1.0, -jnp.inf]), jnp.asarray([jnp.inf, 1.0, 1.0])
        return jnp.sum(clipped_log_prob(action, mean, jnp.full_like(mean, np.log(0.01)), *bounds))

    value, slope = total(jnp.asarray([[2.0, -1.0, 1.0]], jnp.float32))
    exact = stats.norm.logcdf(-300) + stats.norm.logsf(200) + np.log(0.5)
    assert float(value) == pytest.approx(exact, rel=1e-5)
    assert np.isfinite(slope).all()


def test_rescaled_and_smoothed_policies_are_clipped_in_logged_units(tmp_path: Path) -> None:
    network = MLP.create(2, Network((4,)), 1, key=jax.random.key(0))
    half, one = jnp.full(1, 4.0), jnp.ones(2)
    trained = RescaledPolicy(0 * one, one, 0 * half, half, GaussianPolicy(network, jnp.full(1, -1.0)))
    obs = np.ones((3, 2), np.float32)
    mean, std = np.asarray(trained.mode(obs))[:, 0], 4 * np.exp(-1.0)
    action = np.array([[-2.0], [0.5], [2.0]], np.float32)
    exact = [
        stats.norm.logcdf(-2, mean[0], std),
        stats.norm.logpdf(0.5, mean[0], std),
        stats.norm.logsf(2, mean[0], std),
    ]
    clipped = st.ClippedPolicy(trained, -2.0, 2.0)
    np.testing.assert_allclose(clipped.log_prob(obs, action), exact, rtol=1e-5)
    save_policy_file(tmp_path / "policy.safetensors", clipped)
    np.testing.assert_array_equal(
        load_policy_file(tmp_path / "policy.safetensors").log_prob(obs, action), clipped.log_prob(obs, action)
    )
    smoothed = SmoothedPolicy(DeterministicPolicy(network), 0.3, -np.inf, np.inf)
    both = ClippedPolicy(smoothed, -1.0, 1.0)
    mode = float(smoothed.mode(obs)[0, 0])
    np.testing.assert_allclose(
        both.log_prob(obs[:1], np.ones((1, 1), np.float32)), [stats.norm.logsf(1, mode, 0.3)], rtol=1e-5
    )
    assert both.described == "smoothed by normal noise of 0.3, then clipped to [-1, 1]"


def test_what_is_not_normal_and_bounds_without_room_are_refused() -> None:
    network = MLP.create(2, Network((4,)), 2, key=jax.random.key(0))
    for wrong in (SquashedGaussianPolicy(network), INNER.greedy(), SmoothedPolicy(INNER, 0.2, -1.0, 1.0)):
        with pytest.raises(ConfigurationError, match=r"are not\. Give it normal noise first"):
            ClippedPolicy(wrong, -1.0, 1.0)
    with pytest.raises(ConfigurationError, match="`low` of ClippedPolicy must be below `high`"):
        ClippedPolicy(INNER, 1.0, 1.0)
