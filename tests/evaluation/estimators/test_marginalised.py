"""Marginalised importance sampling: exact weights, the linear form against linear algebra, and DICE against both."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, draw, exact_ratio, exact_visits, small_log, small_world, tabular

from stitchrl.evaluation.balance import RegionIndex, balance_of_choices
from stitchrl.evaluation.balance_checks import check_choice_balance
from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.dice import FitDICE
from stitchrl.evaluation.estimators.marginalised import self_normalised
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.marginal import marginal_weights, pair_features
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.visits import StateFeatures


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_exact_weights_give_the_exact_value_whatever_their_scale(gamma: float) -> None:
    """At gamma 1 as below it: the denominator counts ends, and 1 - gamma divides nothing."""
    world, behavior, policy = small_world()
    log = draw(world, behavior, 20_000, 3)
    state = log.observation_id
    assert state is not None
    exact = exact_ratio(world, policy, behavior, gamma)
    ratio = policy[state, log.action] / behavior[state, log.action]
    weight = (exact[state] * ratio * np.power(gamma, log.position))[:, None]
    numerator, denominator = self_normalised(log, weight, gamma=gamma)
    assert denominator.mean() == pytest.approx(1.0, abs=0.02)
    found = Contributions(numerator, denominator)
    error = found.influence().std() / np.sqrt(found.n)
    truth = world.policy_value(policy, gamma=gamma)
    assert abs(found.value() - truth) < 4 * error
    tripled = Contributions(*self_normalised(log, 3.0 * weight, gamma=gamma))
    assert tripled.value() == pytest.approx(found.value())
    # Visits without the ratio of the action are seen to be wrong.
    alone = Contributions(*self_normalised(log, weight / ratio[:, None], gamma=gamma))
    assert abs(alone.value() - truth) > 4 * error


def test_the_linear_form_is_the_refit_of_a_value_of_nothing() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 3000, 4)
    state = log.observation_id
    assert state is not None
    ratio = policy[state, log.action] / behavior[state, log.action]
    fitted = tabular(log, 5)
    found = marginal_weights(log, fitted | {"q": fitted["q"] + 3.0}, ratio, gamma=1.0)  # whatever Q says
    same = refit(log, fitted, ratio, gamma=1.0)
    np.testing.assert_array_equal(found.carried, same.contributions)
    assert found.ended.mean() == pytest.approx(1.0, abs=1e-3)
    # The weights carry what linear algebra says: sum W r / n, but for the ridge.
    assert found.carried.mean() == pytest.approx(found.reward.weights @ log.reward / 3000, abs=0.03)
    value = found.carried.mean() / found.ended.mean()
    assert abs(value - world.policy_value(policy)) < 4 * found.carried.std() / np.sqrt(3000)


def test_state_and_action_together_need_no_propensity() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 6000, 5)
    state = log.observation_id
    assert state is not None
    following = policy[log.next_observation.argmax(1)]
    fitted = pair_features(StateFeatures.fit(log, seed=0), log, policy[state], following)
    found = marginal_weights(log, fitted, None, gamma=1.0)
    value = found.carried.mean() / found.ended.mean()
    assert abs(value - world.policy_value(policy)) < 4 * found.carried.std() / np.sqrt(6000)
    visits = exact_visits(world, policy, 1.0)[:, None] * policy[:4]
    counted = np.zeros((4, 2))
    np.add.at(counted, (state, log.action), 1 / 6000)
    seen = np.zeros((4, 2))
    np.add.at(seen, (state, log.action), found.reward.weights / 6000)
    assert seen == pytest.approx(visits, abs=0.02)
    assert np.abs(counted - visits).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("best", [False, True])
def test_the_networks_find_the_ratio_of_visits(best: bool) -> None:
    """Averages of zeta by state and action against exact visits of the policy over those in the log, at gamma 1."""
    world, _, policy = small_world()
    log = small_log(7)
    fits = Fits([Table(policy)], log, log, estimand=Estimand(1.0), settings=QUICK)
    (zeta,) = fits.get(FitDICE(best))
    state = log.observation_id
    assert state is not None
    counted = np.zeros((4, 2))
    np.add.at(counted, (state, log.action), 1 / log.num_episodes)
    exact = exact_visits(world, policy, 1.0)[:, None] * policy[:4] / counted
    found = np.zeros((4, 2))
    for s in range(4):
        for a in range(2):
            found[s, a] = zeta[(state == s) & (log.action == a)].mean()
    common = counted > 0.05
    # Half of the episodes each, and few updates: most of the way from the log's own visits, where they start.
    assert np.abs(found - exact)[common].mean() < 0.4 * np.abs(exact - 1.0)[common].mean()
    assert zeta.std(1).max() > 1e-3  # the networks saw different episodes
    assert not best or zeta.min() >= 0


@pytest.mark.slow
def test_what_the_networks_disagree_by_widens_the_interval() -> None:
    world, _, policy = small_world()
    names = ("smis", "samis", "dualdice", "bestdice")
    found = evaluate(Table(policy), small_log(41), estimators=names, fit_on=small_log(42), settings=QUICK)
    for name in names:
        estimate = found.estimates[name]
        assert estimate.value is not None
        assert estimate.standard_error is not None
        assert abs(estimate.value - world.policy_value(policy)) < 4 * estimate.standard_error, name
        assert (estimate.model_error or 0.0) > 0 if name.endswith("dice") else not estimate.model_error
    assert found.verdict.primary is None


def test_weights_that_follow_the_states_and_not_the_actions_are_seen() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 4000, 8)
    state = log.observation_id
    assert state is not None
    regions, units = RegionIndex(log), Units(log.num_episodes)
    visits = exact_ratio(world, policy, behavior, 1.0)[state]
    right = visits * policy[state, log.action] / behavior[state, log.action]
    assert check_choice_balance(balance_of_choices(regions, policy[state], log.action, right, units)).passed
    found = check_choice_balance(balance_of_choices(regions, policy[state], log.action, visits, units))
    assert not found.passed
    assert "do not follow the policy" in found.sentence
