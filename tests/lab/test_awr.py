"""The numbers of the lesson on AWR against values known by hand."""

import numpy as np
import pytest

from stitchrl.lab.lessons.awr import divergence, effective_number, gamble_share, monte_carlo_policy, shares


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_the_shares_are_those_of_the_exponentials_of_the_advantages(temperature):
    weight = np.exp((np.array([3.0, 7.0, 1.0]) - 11 / 3) / temperature)

    np.testing.assert_allclose(shares([3, 7, 1], temperature), weight / weight.sum(), rtol=1e-12)


def test_equal_weights_count_as_all_rows_and_a_single_weight_as_one():
    assert effective_number([2.0, 2.0, 2.0]) == pytest.approx(3.0)
    assert effective_number([0.0, 5.0, 0.0]) == pytest.approx(1.0)
    assert effective_number([0.9, 0.1]) == pytest.approx(1 / 0.82)


def test_no_policy_as_near_to_the_log_earns_more_than_the_exponential_weights():
    returns, uniform = np.array([3.0, 7.0, 1.0]), np.full(3, 1 / 3)
    best = shares(returns, 5.0)
    others = np.random.default_rng(0).dirichlet(np.ones(3), 5000)

    as_near = [p for p in others if divergence(p, uniform) <= divergence(best, uniform)]

    assert len(as_near) > 100
    assert max(p @ returns for p in as_near) <= best @ returns


def test_monte_carlo_weights_of_the_stitching_world_are_those_of_two_returns_a_state():
    probs = monte_carlo_policy(2.0)

    assert probs[0, 0] == pytest.approx(1 / (1 + np.exp((7 - 3) / 2)))
    assert probs[2, 1] == pytest.approx(1 / (1 + np.exp((3 - 10) / 2)))


def test_a_gamble_is_weighted_by_the_mean_of_its_exponentials():
    gamble, sure = 0.9 + 0.1 * np.exp(10 / 4), np.exp(2 / 4)

    assert gamble_share(4.0) == pytest.approx(gamble / (gamble + sure))
