"""The least value that a hidden cause in every decision permits, against a plain recursion and a world that has the cause."""

from __future__ import annotations

import numpy as np
import pytest
from confounded import confounded
from evaluation_worlds import small_world

from stitchrl.errors import ConfigurationError
from stitchrl.mdp.hidden_cause import robust_policy_value, robust_state_values

ALWAYS_ONE = np.tile([0.0, 1.0], (5, 1))


def by_recursion(policy: np.ndarray, odds_ratio: float, gamma: float) -> np.ndarray:
    """V(s) <- sum_a pi(a|s) min_z E[z (r + gamma V(s'))], written out outcome by outcome.

    The least mean gives the worst outcomes the largest factor b + Lambda (1 - b) for as long as the factors can still
    average 1 with the least factor b + (1 - b) / Lambda for all others.
    """
    world, behavior, _ = small_world()
    values = np.zeros(5)
    for _ in range(400):
        new = np.zeros(5)
        for s in np.flatnonzero(~world.terminal):
            for a in (0, 1):
                b = behavior[s, a]
                low, high = b + (1 - b) / odds_ratio, b + odds_ratio * (1 - b)
                mean, spare = 0.0, 1.0 - low  # what is left to give beyond the least factor
                outcome = world.reward[s, a] + gamma * values
                for following in np.argsort(outcome):
                    chance = world.transition[s, a, following]
                    more = min((high - low) * chance, spare)
                    spare -= more
                    mean += (low * chance + more) * outcome[following]
                new[s] += policy[s, a] * mean
        values = new
    return values


@pytest.mark.parametrize(("odds_ratio", "gamma"), [(1.0, 1.0), (1.3, 1.0), (3.0, 0.9)])
def test_values_are_those_of_the_recursion(odds_ratio: float, gamma: float) -> None:
    world, behavior, policy = small_world()
    found = robust_state_values(world, policy, behavior, odds_ratio, gamma=gamma)
    assert found == pytest.approx(by_recursion(policy, odds_ratio, gamma), abs=1e-9)


def test_no_cause_changes_nothing_and_stronger_ones_cost_more() -> None:
    world, behavior, policy = small_world()
    strengths = (1.0, 1.01, 1.1, 2.0, 5.0)
    values = [robust_policy_value(world, policy, behavior, odds) for odds in strengths]
    assert values[0] == pytest.approx(world.policy_value(policy), abs=1e-12)
    assert (np.diff(values) < -1e-4).all()
    with pytest.raises(ConfigurationError, match="`odds_ratio` must be at least 1"):
        robust_policy_value(world, policy, behavior, 0.5)


@pytest.mark.parametrize("odds_ratio", [1.5, 3.0])
def test_a_cause_that_attains_the_bound_exists(odds_ratio: float) -> None:
    """The world that has the cause shows the same log, breaks no odds ratio, and gives the policy the robust value."""
    world, behavior, _ = small_world()
    robust = robust_state_values(world, ALWAYS_ONE, behavior, odds_ratio)
    hidden, seen = confounded(world, behavior, world.reward + robust, odds_ratio)
    live = ~world.terminal
    odds = (seen / (1 - seen))[:, 1].reshape(5, 2)[live] / (behavior[live, 1] / behavior[live, 0])[:, None]
    assert odds == pytest.approx(np.tile([1 / odds_ratio, odds_ratio], (4, 1)))
    # What the log shows: the behaviour's value is that of the world without the cause.
    assert hidden.policy_value(seen) == pytest.approx(world.policy_value(behavior))
    truth = hidden.policy_value(np.repeat(ALWAYS_ONE, 2, axis=0))
    assert truth == pytest.approx(robust_policy_value(world, ALWAYS_ONE, behavior, odds_ratio))
    assert truth < world.policy_value(ALWAYS_ONE) - 0.1
