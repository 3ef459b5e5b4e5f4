"""The ratio of state visits against exact ones, and double reinforcement learning against counting by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_worlds import (
    QUICK,
    Table,
    cut_at_random,
    draw,
    exact_ratio,
    exact_visits,
    small_log,
    small_world,
    values,
)

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.estimators.double_reinforcement import by_transitions
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.refit import FittedValues
from stitchrl.evaluation.visits import FitVisits, StateFeatures, VisitModel, balance_terms, solve_visits


def next_values(log: Dataset, q: np.ndarray, policy: np.ndarray) -> FittedValues:
    """A table of Q as if it had been fitted, with V of the next states."""
    v = np.append((policy * q).sum(1), 0.0)
    return dataclasses.replace(values(log, q, policy), next_v=v[log.next_observation.argmax(1)])


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("cut", [0.0, 0.2])
def test_the_ratio_of_visits_is_the_exact_one(gamma: float, cut: float) -> None:
    """At gamma 1 too, and where episodes were cut: what was cut is seen less often by the behaviour, not by the policy."""
    world, behavior, policy = small_world()
    log = draw(world, behavior, 20_000, 3)
    if cut:
        log = cut_at_random(log, cut, 0)
    state = log.observation_id
    assert state is not None
    features = StateFeatures.fit(log, seed=0)
    here, after = features.on(log)
    ratio = policy[state, log.action] / behavior[state, log.action]
    model = VisitModel(features, solve_visits(balance_terms(log, here, after, ratio, gamma=gamma)))
    visits = model.on(log)
    found = np.array([visits[state == s][0] for s in range(4)])
    # The behaviour's visits are those in the log, cut as it is: counted, gamma^t each. The policy's are exact.
    counted = np.bincount(state, np.power(gamma, log.position) * log.can_bootstrap, minlength=4)[:4]
    exact = exact_visits(world, policy, gamma) / (counted / log.num_episodes)
    assert found == pytest.approx(exact, rel=0.04)
    # The behaviour's own visits are far from these, so that a ratio of 1 would be seen.
    assert np.abs(exact - 1.0).max() > 0.1


def test_the_ridge_pulls_to_the_behaviour_where_there_is_little_to_learn_from() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 40, 5)
    state = log.observation_id
    assert state is not None
    features = StateFeatures.fit(log, seed=0)
    here, after = features.on(log)
    ratio = policy[state, log.action] / behavior[state, log.action]
    terms = balance_terms(log, here, after, ratio, gamma=1.0)
    own = balance_terms(log, here, after, np.ones(len(ratio)), gamma=1.0)
    assert np.abs(solve_visits(own)).max() < 1e-9  # of the behaviour itself w is 1 in any sample
    assert np.abs(solve_visits(terms)).max() > 0.01


def test_observations_that_were_not_fitted_count_as_often_as_in_the_log() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 50, 6)
    features = StateFeatures.fit(log, seed=0)
    model = VisitModel(features, np.full(features.count, 0.5))
    moved = dataclasses.replace(log, observation_table=log.observation_table + np.float32(2))
    assert (model.on(moved) == 1.0).all()
    assert (model.on(log) == 1.5).all()


def test_fourier_features_learn_the_ratio_of_many_observations() -> None:
    """Every row has an observation of its own, a state with noise: the ratio is still that of its state."""
    world, behavior, _ = small_world()
    policy = np.tile([0.05, 0.95], (5, 1))
    log = draw(world, behavior, 6000, 7, last=False)
    noise = np.random.default_rng(0).normal(size=log.observation.shape) * 0.1
    row = np.arange(log.num_transitions)
    noisy = dataclasses.replace(
        log,
        observation_table=(log.observation + noise).astype(np.float32),
        observation_index=row,
        next_observation_index=np.where(log.continues, row + 1, NO_OBSERVATION),
    )
    fits = Fits([Table(policy)], noisy, noisy, estimand=Estimand(1.0), settings=QUICK)
    (visits,) = fits.get(FitVisits())
    assert fits._data_of_others.models(FitVisits())[0].features.frequency is not None
    exact = exact_ratio(world, policy, behavior, 1.0)
    means = np.array([visits[log.observation_id == s].mean() for s in range(4)])
    assert np.abs(means - exact).max() < 0.5 * np.abs(exact - 1.0).max()


def test_two_ragged_episodes_by_hand() -> None:
    """gamma .5; rewards [1, 2 end] and [4 end]; Q [3, 1] and [2]; V(next) [6, -] and [-]; V [5, 6] and [7]; mu [2, 3] and [.5].

    First  5 + 1 * 2 * (1 + .5 * 6 - 3) + .5 * 3 * (2 - 1) = 5 + 2 + 1.5;  second  7 + .5 * (4 - 2) = 8.
    In the order of the paper: 5 + [2 (1 - 3)] + .5 [3 (2 - 1) + 2 * 6] = 5 - 4 + 7.5 = 8.5.
    """
    world, behavior, _ = small_world()
    log = draw(world, behavior, 400, 8)
    lengths = log.episode_lengths
    two, one = int(np.flatnonzero(lengths == 2)[0]), int(np.flatnonzero(lengths == 1)[0])
    log = dataclasses.replace(log.select_episodes([two, one]), reward=np.array([1, 2, 4], np.float32))
    assert log.terminated.tolist() == [False, True, True]
    fitted = FittedValues(np.array([3.0, 1, 2]), np.array([5.0, 6, 7]), np.array([6.0, 99, 99]))
    weight = np.array([2.0, 3, 0.5]) * np.array([1.0, 0.5, 1])
    contributions, residual = by_transitions(log, weight, fitted, gamma=0.5)
    assert contributions.tolist() == [8.5, 8.0]
    assert residual.tolist() == [1.0, 1.0, 2.0]


def test_it_is_right_where_either_model_is_and_wrong_where_neither_is() -> None:
    world, behavior, policy = small_world()
    gamma, log = 0.8, draw(world, behavior, 20_000, 9)
    state = log.observation_id
    assert state is not None
    ratio = policy[state, log.action] / behavior[state, log.action]
    right_w, wrong_w = np.append(exact_ratio(world, policy, behavior, gamma), 1.0), np.full(5, 1.4)
    right_q, wrong_q = world.action_values(policy, gamma=gamma), world.action_values(behavior, gamma=gamma) + 0.7
    found = {}
    for name, w, q in (
        ("both", right_w, right_q),
        ("visits", right_w, wrong_q),
        ("value", wrong_w, right_q),
        ("neither", wrong_w, wrong_q),
    ):
        weight = np.power(gamma, log.position) * w[state] * ratio
        one, _ = by_transitions(log, weight, next_values(log, q, policy), gamma=gamma)
        found[name] = (one.mean() - world.policy_value(policy, gamma=gamma)) / (one.std() / np.sqrt(len(one)))
    assert max(abs(found[name]) for name in ("both", "visits", "value")) < 4
    assert abs(found["neither"]) > 8


def test_it_is_no_copy_of_the_refit() -> None:
    _, _, policy = small_world()
    found = evaluate(Table(policy), small_log(31), estimators=("fqe", "drl"), fit_on=small_log(32), settings=QUICK)
    one, other = found.estimates["fqe"], found.estimates["drl"]
    assert one.value is not None
    assert other.value is not None
    assert other.standard_error is not None
    assert 1e-4 < abs(one.value - other.value) < 2 * other.standard_error
    assert other.healthy, other.reasons
