"""The linear system: its exact values against simulation, and its densities."""

from __future__ import annotations

import linear_worlds as lw
import numpy as np
import pytest
from scipy import stats

from stitchrl.errors import ConfigurationError


def test_the_exact_value_is_that_of_many_simulated_episodes() -> None:
    columns = lw.WORLD.log(lw.BETTER, lw.STD, episodes=4000, steps=250, seed=3)
    returns = columns["reward"].reshape(4000, 250).astype(np.float64) @ lw.GAMMA ** np.arange(250)
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - lw.value(lw.BETTER, lw.STD)) < 4 * error
    assert abs(returns.mean() - lw.value(lw.BEHAVIOR, lw.STD)) > 10 * error  # another policy is told apart


def test_logged_densities_are_those_of_the_policy_and_of_scipy() -> None:
    log = lw.log(20, 10, seed=0)
    found = np.asarray(lw.policy(lw.BEHAVIOR, lw.STD).log_prob(log.observation, log.action))
    mean = log.observation @ lw.BEHAVIOR.T
    exact = stats.norm.logpdf(log.action, mean, lw.STD).sum(1)
    np.testing.assert_allclose(found, exact, atol=1e-4)
    np.testing.assert_allclose(log.behavior_log_prob, exact, atol=1e-4)


def test_a_policy_that_does_not_hold_the_system_has_no_value() -> None:
    with pytest.raises(ConfigurationError, match="not finite"):
        lw.value(np.array([[3.0, 0.0], [0.0, 3.0]]), lw.STD)


def test_a_linear_policy_without_noise_has_no_density() -> None:
    assert lw.policy(lw.BETTER, lw.STD).has_density
    assert not lw.policy(lw.BETTER, np.zeros(2)).has_density
