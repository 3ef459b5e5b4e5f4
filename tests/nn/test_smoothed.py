"""A smoothed policy: its density and its draws are those of a truncated normal about the mode."""

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
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.nn.smoothed import SmoothedPolicy

INNER = policy(np.array([[1.0]]), np.array([0.0]))


def test_its_density_integrates_to_one_between_the_bounds() -> None:
    smoothed = SmoothedPolicy(INNER, 0.4, -1.0, 1.0)
    grid = np.linspace(-1, 1, 2001, dtype=np.float32)[:, None]
    for state in (-3.0, 0.0, 0.9):  # the mode of the first lies beyond the bound, and is clipped to it
        density = np.exp(np.asarray(smoothed.log_prob(jnp.full_like(grid, state), grid)))
        assert abs(np.trapezoid(density, grid[:, 0]) - 1) < 1e-3
    outside = smoothed.log_prob(jnp.zeros((1, 1)), jnp.full((1, 1), 1.5))
    assert np.isneginf(np.asarray(outside)).all()


def test_its_draws_follow_its_density() -> None:
    smoothed = SmoothedPolicy(INNER, 0.4, -1.0, 1.0)
    drawn = np.asarray(smoothed.sample(jnp.full((4000, 1), 0.9), key=jax.random.key(0)))[:, 0]
    law = stats.truncnorm((-1 - 0.9) / 0.4, (1 - 0.9) / 0.4, loc=0.9, scale=0.4)
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    assert stats.kstest(drawn, stats.norm(0.9, 0.4).cdf).pvalue < 1e-9  # without the truncation


def test_without_bounds_it_is_a_normal() -> None:
    smoothed = SmoothedPolicy(INNER, np.array([0.5], np.float32), -np.inf, np.inf)
    action = np.array([[0.3], [4.0]], np.float32)
    found = np.asarray(smoothed.log_prob(jnp.zeros((2, 1)), action))
    np.testing.assert_allclose(found, stats.norm.logpdf(action[:, 0], 0, 0.5), rtol=1e-5)


def test_it_is_saved_and_loaded_and_part_of_the_face(tmp_path: Path) -> None:
    network = MLP.create(2, Network((4,)), 1, key=jax.random.key(0))
    smoothed = st.SmoothedPolicy(DeterministicPolicy(network), 0.2, -1.0, 1.0)
    save_policy_file(tmp_path / "policy.safetensors", smoothed)
    loaded = load_policy_file(tmp_path / "policy.safetensors")
    obs, action = np.ones((3, 2), np.float32), np.zeros((3, 1), np.float32)
    np.testing.assert_array_equal(loaded.log_prob(obs, action), smoothed.log_prob(obs, action))


def test_it_says_what_was_done_to_the_policy() -> None:
    assert SmoothedPolicy(INNER, 0.2, -1.0, 1.0).described == "smoothed by normal noise of 0.2"
    two = SmoothedPolicy(INNER, np.array([0.2, 0.5], np.float32), -1.0, 1.0)
    assert two.described == "smoothed by normal noise of 0.2, 0.5"


@pytest.mark.parametrize(("std", "low", "said"), [(0.0, -1.0, "`std`"), (0.1, 2.0, "`low`")])
def test_noise_and_bounds_that_make_no_sense_are_refused(std: float, low: float, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        SmoothedPolicy(INNER, std, low, 1.0)
