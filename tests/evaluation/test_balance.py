"""Tests of ratios that can fail: wrong ratios, wrong propensities, and a log that does not go where the policy goes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, draw, small_log, small_world, tabular

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.balance import RegionIndex, balance_test, calibration_test
from stitchrl.evaluation.balance_checks import UNLIKELY, check_calibration, check_regional_balance
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP


def ratios(log: Dataset) -> np.ndarray:
    _, behavior, policy = small_world()
    return policy[log.observation_id, log.action] / behavior[log.observation_id, log.action]


def test_right_ratios_pass_and_wrong_ones_do_not() -> None:
    world, behavior, _ = small_world()
    level = {"calibration": [], "balance": []}
    for seed in range(40):
        log = draw(world, behavior, 800, 700 + seed)
        right, regions, units = ratios(log), RegionIndex(log), Units(log.num_episodes)
        assert regions.count > 1
        level["calibration"].append(calibration_test(regions, right, units).p_value)
        weights = refit(log, tabular(log, 5), right, gamma=1.0).weights
        level["balance"].append(balance_test(log, regions, weights, 1.0, units).p_value)
        wrong = right * np.where(log.action == 0, 1.25, 1.0)
        found = check_calibration(calibration_test(regions, wrong, units), fitted=False)
        assert not found.passed
        assert "are not those of the logged actions" in found.sentence
    for p_values in level.values():
        assert min(p_values) > UNLIKELY
        assert np.mean(p_values) > 0.3
    assert np.mean(level["calibration"]) < 0.7  # the weights of the refit balance these few states by construction


def test_weights_that_carry_too_much_or_too_little_do_not_balance() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 2000, 3)
    regions, units = RegionIndex(log), Units(log.num_episodes)
    weights = refit(log, tabular(log, 5), ratios(log), gamma=1.0).weights
    assert check_regional_balance(balance_test(log, regions, weights, 1.0, units)).passed
    assert not check_regional_balance(balance_test(log, regions, 1.3 * weights, 1.0, units)).passed
    assert not check_regional_balance(balance_test(log, regions, weights, 0.5, units)).passed


def test_a_log_that_does_not_go_where_the_policy_goes_is_caught() -> None:
    """A fork whose one way the behaviour takes once in 200 times, and the policy always: no state of that way is known."""
    transition = np.zeros((4, 2, 4))
    transition[0, 0, 1] = transition[0, 1, 2] = 1.0
    transition[1:3, :, :] = [0.0, 0.45, 0.0, 0.55]
    transition[2, :, :] = [0.0, 0.0, 0.45, 0.55]
    transition[3, :, 3] = 1.0
    reward = np.zeros((4, 2, 4))
    reward[1, :, 3] = 1.0
    world = FiniteMDP(transition, reward, np.array([1.0, 0, 0, 0]), np.arange(4) == 3)
    behavior = np.tile([0.995, 0.005], (4, 1))
    log = draw(world, behavior, 600, 4)
    log = log.filter(np.add.reduceat(log.observation_id == 2, log.episode_start[:-1]) == 0)  # and it happened not to
    policy = np.tile([0.0, 1.0], (4, 1))
    found = evaluate(Table(policy), log, settings=QUICK, estimators=("fqe",)).estimates["fqe"]
    failed = {check.key for check in found.checks if not check.passed}
    assert {"calibration", "regional-balance"} <= failed


def test_wrong_logged_propensities_fail_the_verdict_s_line_e_and_c() -> None:
    _, _, policy = small_world()
    log = small_log(11)
    assert log.behavior_probs is not None
    assert log.behavior_log_prob is not None
    wrong = log.behavior_probs * np.array([0.6, 1.0])
    wrong /= wrong.sum(1, keepdims=True)
    taken = np.log(np.take_along_axis(wrong, log.action[:, None], 1)[:, 0])
    spoiled = dataclasses.replace(
        log, behavior_probs=wrong.astype(np.float32), behavior_log_prob=taken.astype(np.float32)
    )
    arguments = {"settings": QUICK, "fit_on": small_log(12), "estimators": ("wdr", "fqe")}
    right, found = evaluate(Table(policy), log, **arguments), evaluate(Table(policy), spoiled, **arguments)
    assert right.confirmation is not None
    assert right.confirmation.calibration.passed
    assert right.verdict.lines[-1].passed
    assert found.verdict.lines[-1].key == "e"
    assert found.verdict.lines[-1].passed is False
    assert "differs from 1" in found.verdict.lines[-1].seen
    assert not found.gain["fqe"].healthy


def test_one_episode_or_one_region_tests_nothing() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 2, 3)
    regions = RegionIndex(log)
    test = calibration_test(regions, np.full(log.num_transitions, 3.0), Units(2))
    assert test.p_value == 1.0
    assert test.size == pytest.approx(2.0)


def test_images_are_one_region_and_still_tested() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 800, 3)
    images = dataclasses.replace(log, observation_table=np.zeros((len(log.observation_table), 8, 8, 1), np.uint8))
    regions, units = RegionIndex(images), Units(log.num_episodes)
    assert regions.count == 1
    assert calibration_test(regions, ratios(log), units).p_value > UNLIKELY
    assert calibration_test(regions, 1.2 * ratios(log), units).p_value < UNLIKELY
