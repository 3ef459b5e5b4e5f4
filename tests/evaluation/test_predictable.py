"""The variance to be expected from ratios, by hand and against what logs without the rare action show."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import draw, tabular

from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.predictable import VisitRatios, variance_of_difference, variance_of_value
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.statistic import minus
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP

BEHAVIOR = np.array([[0.8, 0.2], [0.5, 0.5]])
POLICY = np.array([[0.4, 0.6], [0.5, 0.5]])


def test_by_hand() -> None:
    visits, residual = np.array([1.0, 2.0]), np.array([3.0, 0.5])
    one = VisitRatios(visits, POLICY, BEHAVIOR, residual, np.array([1.0, 3.0]))
    chi = np.array([0.4**2 / 0.8 + 0.6**2 / 0.2, 1.0])
    expected = (9 * chi[0] + 0.25 * 4 * chi[1]) / 4
    assert variance_of_value(one, 2) == pytest.approx(expected + 1.0 / 2)
    logged = VisitRatios(np.ones(2), None, np.ones((2, 0)))
    gain = 9 * (chi[0] - 2 + 1) + 0.25 * (4 * 1.0 - 2 * 2 + 1)
    assert variance_of_difference(one, logged, 2) == pytest.approx(gain / 4)
    other = VisitRatios(np.array([1.0, 1.0]), BEHAVIOR, BEHAVIOR, residual)
    assert variance_of_difference(one, other, 2) == pytest.approx(gain / 4)  # the behaviour, written out
    assert variance_of_difference(one, one, 2) == 0
    assert variance_of_value(logged, 2) is None
    assert one.largest() == pytest.approx([3.0, 2.0])


def test_actions_that_are_never_taken_are_counted_and_not_divided_by() -> None:
    ratios = VisitRatios(np.array([1.0, 3.0]), POLICY, np.array([[1.0, 0.0], [0.5, 0.5]]), np.ones(2))
    assert ratios.never_tried(2) == pytest.approx(0.6 / 2)
    assert np.isfinite(ratios.largest()).all()
    assert variance_of_value(ratios, 2) is not None


def rare_world() -> tuple[FiniteMDP, np.ndarray, np.ndarray, float]:
    """One decision between an action of probability .01, which pays 1 in 10 times, and one that pays in half of them."""
    transition = np.zeros((3, 2, 3))
    transition[0, :, 1:] = [[0.1, 0.9], [0.5, 0.5]]
    transition[1:] = np.eye(3)[1:, None]
    reward = np.zeros((3, 2, 3))
    reward[0, :, 1] = 1.0
    world = FiniteMDP(transition, reward, np.array([1.0, 0, 0]), np.array([False, True, True]))
    behavior, policy = np.tile([0.01, 0.99], (3, 1)), np.tile([0.3, 0.7], (3, 1))
    return world, behavior, policy, world.policy_value(policy) - world.policy_value(behavior)


def test_an_interval_that_expects_the_rare_action_does_not_miss_when_it_is_absent() -> None:
    world, behavior, policy, truth = rare_world()
    misses = {"sample": 0, "expected": 0}
    replicates, errors = 200, []
    for seed in range(replicates):
        log = draw(world, behavior, 100, 100 + seed)
        state = log.observation_id
        ratio = policy[state, log.action] / behavior[state, log.action]
        found = refit(log, tabular(log, 3), ratio, gamma=1.0)
        gain = minus(Contributions.average(found.contributions), Contributions.average(log.episode_returns()))
        ratios = VisitRatios(found.visits, policy[state], behavior[state], found.residual)
        expected = variance_of_difference(ratios, VisitRatios(np.ones(len(state)), None, behavior[state]), gain.n)
        resampler = Resampler(Units(100))
        for way, variance in (("sample", None), ("expected", expected)):
            interval = resampler.interval(gain, variance)
            misses[way] += not interval.lower <= truth <= interval.upper
        assert expected is not None
        errors.append(np.sqrt(expected))
    # About 37% of the logs have no rare action at all.
    assert misses["sample"] > 0.25 * replicates
    assert misses["expected"] < 0.06 * replicates
    # Nearly all rewards are of the other action, whose spread is a half.
    assert np.median(errors) == pytest.approx(0.5 * np.sqrt((0.3**2 / 0.01 + 0.7**2 / 0.99 - 1) / 100), rel=0.1)
