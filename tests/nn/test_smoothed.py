"""A smoothed policy: its density and its draws are those of a truncated normal about the mode."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from linear_worlds import policy
from scipy import stats

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
