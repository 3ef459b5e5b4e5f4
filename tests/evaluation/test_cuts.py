"""Logs whose episodes are cut: the policy and the behaviour under one assumption, and what a discount leaves unknown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, draw, small_world, tabular
from scipy import stats

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.attainable import what_follows
from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.health import check_lost_weight
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.predictable import VisitRatios, variance_of_difference
from stitchrl.evaluation.refit import refit, refit_behavior
from stitchrl.evaluation.statistic import minus
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP

GAMMA = 0.9


def endless() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """The small world with an end that leads back to the start, so that no episode ends."""
    world, behavior, policy = small_world()
    transition, reward = world.transition.copy(), world.reward.copy()
    transition[4], reward[4] = world.initial, 0.0
    return FiniteMDP(transition, reward, world.initial, np.zeros(5, bool)), behavior, policy


def cut_at(log: Dataset, steps: int) -> Dataset:
    assert int(log.episode_lengths.max()) == steps
    assert not log.terminated.any()
    return dataclasses.replace(log, schema=dataclasses.replace(log.schema, gamma=GAMMA))


def test_gains_in_an_endless_world_are_right_and_covered() -> None:
    world, behavior, policy = endless()
    truth = world.policy_value(policy, gamma=GAMMA) - world.policy_value(behavior, gamma=GAMMA)
    z, covered = [], 0
    for seed in range(150):
        log = cut_at(draw(world, behavior, 60, 900 + seed, max_steps=30), 30)
        state = log.observation_id
        ratio = policy[state, log.action] / behavior[state, log.action]
        fitted = tabular(log, 5)
        mine, theirs = refit(log, fitted, ratio, gamma=GAMMA), refit_behavior(log, fitted, gamma=GAMMA)
        gain = minus(Contributions.average(mine.contributions), Contributions.average(theirs.contributions))
        known = log.can_bootstrap
        pair = [
            VisitRatios(one.visits * known, probs, behavior[state], None if probs is None else one.residual * known)
            for one, probs in ((mine, policy[state]), (theirs, None))
        ]
        interval = Resampler(Units(60)).interval(gain, variance_of_difference(*pair, n=60))
        covered += interval.lower <= truth <= interval.upper
        z.append((interval.value - truth) / interval.standard_error)
    assert abs(np.mean(z)) < 4 / np.sqrt(150)
    assert 0.88 <= covered / 150 <= 1.0
    assert np.std(z) > 0.6  # and no wider than need be


def test_the_behaviour_s_own_value_bootstraps_at_cuts_as_the_policy_s_does() -> None:
    world, behavior, _ = endless()
    log = cut_at(draw(world, behavior, 4000, 3, max_steps=8), 8)
    found = refit_behavior(log, tabular(log, 5), gamma=GAMMA)
    error = found.contributions.std() / np.sqrt(log.num_episodes)
    assert abs(found.contributions.mean() - world.policy_value(behavior, gamma=GAMMA)) < 4 * error
    # What the log shows of it is much less, and a difference from that would be no gain.
    assert abs(log.episode_returns(GAMMA).mean() - world.policy_value(behavior, gamma=GAMMA)) > 10 * error


def test_by_hand_what_follows_the_last_cut() -> None:
    world, behavior, _ = endless()
    log = cut_at(draw(world, behavior, 50, 4, max_steps=12), 12)
    low, high = float(log.reward.min()), float(log.reward.max())
    found = what_follows(log, Estimand(GAMMA), 0.5, 12)
    assert found == pytest.approx((0.5 * GAMMA**12 / 0.1 * low, 0.5 * GAMMA**12 / 0.1 * high))
    assert what_follows(log, Estimand(1.0), 0.5, 12) == (-np.inf, np.inf)
    assert what_follows(log, Estimand(1.0), 0.0, 12) == (0.0, 0.0)
    assert what_follows(log, Estimand(1.0, 12), 0.5, 12) == (0.0, 0.0)
    assert what_follows(log, Estimand(GAMMA, 14), 1.0, 12) == pytest.approx(
        tuple((GAMMA**12 + GAMMA**13) * end for end in (low, high))
    )
    bounded, not_bounded = (check_lost_weight(0.5, longest=12, unknown=one) for one in (found, (-np.inf, np.inf)))
    assert bounded.passed
    assert "the interval is widened by it" in bounded.sentence
    assert not not_bounded.passed


def test_a_verdict_is_possible_where_every_episode_is_cut_under_a_discount() -> None:
    world, behavior, policy = endless()
    log, other = (cut_at(draw(world, behavior, 300, seed, max_steps=40), 40) for seed in (5, 6))
    found = evaluate(Table(policy), log, fit_on=other, settings=QUICK, estimators=("wis", "pdis", "fqe"))
    truth = world.policy_value(policy, gamma=GAMMA) - world.policy_value(behavior, gamma=GAMMA)
    gain = found.gain["fqe"]
    assert gain.lower is not None
    assert gain.upper is not None
    assert gain.lower < truth < gain.upper
    assert not [check for check in gain.checks if check.key.endswith("lost-weight") and not check.passed]
    # No episode is whole, so there is none for weights of whole episodes.
    assert found.gain["wis"].value is None
    assert found.gain["pdis"].value is None


def test_where_some_weight_is_lost_the_interval_is_wider_by_what_may_follow() -> None:
    """Half of the episodes end; of the others nobody knows what comes after the cut, but it is bounded."""
    world, behavior, policy = small_world()
    log = draw(world, behavior, 2000, 8, max_steps=3)
    log = dataclasses.replace(log, schema=dataclasses.replace(log.schema, gamma=GAMMA))
    found = evaluate(Table(policy), log, estimators=("pdis",)).estimates["pdis"]
    lost = next(check for check in found.checks if check.key == "lost-weight")
    assert lost.passed
    assert lost.seen is not None
    assert lost.seen > 0.05
    bounds = what_follows(log, Estimand(GAMMA), lost.seen, 3)
    reach = stats.t.ppf(0.975, 1999) * (found.standard_error or 0.0)
    assert found.value is not None
    assert (found.lower, found.upper) == pytest.approx(
        (found.value - reach + bounds[0], found.value + reach + bounds[1])
    )
    assert bounds[0] < 0 < bounds[1]
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower < world.policy_value(policy, gamma=GAMMA) < found.upper


def test_without_ends_discount_and_horizon_a_fitted_value_is_refused() -> None:
    world, behavior, policy = endless()
    log = cut_at(draw(world, behavior, 40, 7, max_steps=10), 10)
    found = evaluate(Table(policy), log, gamma=1.0, settings=QUICK, estimators=("fqe",)).estimates["fqe"]
    assert found.value is None
    assert "With `horizon` at most 10 it applies." in found.reasons[0]
