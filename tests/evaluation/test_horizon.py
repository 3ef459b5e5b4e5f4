"""A finite horizon: the log of the first steps, the clock, and estimates of an exact world's first steps."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, corridor, cut_at_random, draw, small_log, small_world
from worlds import full_columns, schema_of, tiny_log

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.cases import cases_of
from stitchrl.evaluation.clock import clock, first_steps, with_clock
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read

HORIZON = 8
MODEST = FitSettings(updates=1000, hidden_sizes=(32, 32))
WITH_Q = ("dr", "wdr", "fqe")

# --- the log of the first steps ----------------------------------------------------------------------------------


def full_log() -> Dataset:
    """Episodes of 3 (terminated), 2 (cut) and 1 (terminated) steps, with every optional column."""
    return read(full_columns(), schema_of(full_columns()))


def test_rows_after_the_first_steps_are_dropped() -> None:
    log = full_log()
    found = first_steps(log, 2)
    kept = [0, 1, 3, 4, 5]
    assert found.episode_lengths.tolist() == [2, 2, 1]
    assert found.terminated.tolist() == [False, False, False, False, True]
    assert found.truncated.tolist() == [False, True, False, True, False]
    for name in ("observation", "next_observation", "action", "reward", "behavior_probs", "action_mask", "time"):
        np.testing.assert_array_equal(getattr(found, name), getattr(log, name)[kept], err_msg=name)
    assert first_steps(found, 2) is found
    assert first_steps(log, 3) is log
    assert first_steps(log, None) is log


def test_observations_tell_the_time_and_the_last_step_ends_the_episode() -> None:
    log = full_log()
    timed = with_clock(log, 3)
    time = np.array([0, 1, 2, 0, 1, 0])
    np.testing.assert_array_equal(timed.observation, np.hstack([log.observation, clock(time, 3)]))
    # Row 4 was cut after 2 of 3 steps: what follows is known, and its clock says so. Rows 2 and 5 have ended.
    follows = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(
        timed.next_observation[follows], np.hstack([log.next_observation, clock(time + 1, 3)])[follows]
    )
    assert timed.terminated.tolist() == [False, False, True, False, False, True]
    np.testing.assert_array_equal(timed.continues, log.continues)
    # At the horizon an episode is complete, however it went on.
    short = with_clock(first_steps(log, 2), 2)
    assert short.terminated.tolist() == [False, True, False, True, True]
    assert not short.truncated.any()
    assert short.can_bootstrap.all()
    assert (short.next_observation_index[[1, 3]] == -1).all()
    assert with_clock(log, None) is log


def test_rows_that_share_an_observation_have_clocks_of_their_own() -> None:
    shared = np.zeros(6, np.int32)
    log = dataclasses.replace(
        tiny_log(), observation_table=np.array([[5.0, 6.0]], np.float32), observation_index=shared
    )
    log = dataclasses.replace(log, next_observation_index=np.array([0, 0, -1, 0, 0, -1], np.int32))
    timed = with_clock(log, 3)
    assert len(np.unique(timed.observation[:, 2])) == 3
    np.testing.assert_array_equal(timed.observation[:, 2:], clock(log.position, 3))
    np.testing.assert_array_equal(timed.next_observation[[0, 1, 3, 4], 2:], clock(np.array([1, 2, 1, 2]), 3))


def test_a_cut_before_the_horizon_without_its_next_observation_has_no_target() -> None:
    timed = with_clock(tiny_log(), 3)
    assert timed.can_bootstrap.tolist() == [True, True, True, True, False, True]


def test_the_clock_by_hand() -> None:
    np.testing.assert_allclose(
        clock(np.array([0, 4]), 4), [[0, 1 / 16, 1 / 4, 1 / 2, 2**-0.5], [1, 1, 1, 1, 1]], rtol=1e-6
    )
    assert clock(np.array([0]), 1).shape == (1, 5)


@pytest.mark.parametrize("horizon", [0, -3])
def test_a_horizon_of_no_step_is_refused(horizon: int) -> None:
    with pytest.raises(EvaluationError, match=f"`horizon` must be at least 1 step; got {horizon}"):
        Estimand(1.0, horizon)


# --- estimates of an exact world ---------------------------------------------------------------------------------


def log_of(way: str, seed: int) -> Dataset:
    """Episodes of the corridor: all run past the horizon, all are cut at it, or some are cut before it as well."""
    world, behavior, _ = corridor()
    if way == "longer":
        return draw(world, behavior, 700, seed, max_steps=HORIZON + 3)
    if way == "cut at the horizon":
        return draw(world, behavior, 700, seed, max_steps=HORIZON)
    return cut_at_random(draw(world, behavior, 900, seed, max_steps=HORIZON), 0.06, seed)


@functools.cache
def fits() -> Fits:
    """Q of the corridor's policy, fitted where some episodes are cut before the horizon."""
    _, _, policy = corridor()
    other = log_of("some cut before", 0)
    return Fits([Table(policy)], other, other, estimand=Estimand(1.0, HORIZON), settings=MODEST)


def replicated(way: str, replicates: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Estimator -> values and standard errors of what the policy's first steps are worth, over fresh logs."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WITH_Q}
    for seed in range(1, replicates + 1):
        log = log_of(way, seed)
        (case,) = cases_of(fits().on(log), Units(log.num_episodes))
        for name, pairs in found.items():
            draft = ESTIMATORS[name].estimate(case)
            assert draft.statistic is not None
            pairs.append((draft.statistic.value(), Resampler(case.units).standard_error(draft.statistic)))
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in found.items()}


def truth() -> float:
    world, _, policy = corridor()
    return world.policy_value(policy, horizon=HORIZON)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["longer", "cut at the horizon", "some cut before"])
def test_estimates_of_the_first_steps_are_unbiased(way: str) -> None:
    """Without a clock FQE is .29 too low here, four standard errors of each log."""
    replicates = 12
    for name, (values, errors) in replicated(way, replicates).items():
        z = (values.mean() - truth()) / (values.std(ddof=1) / np.sqrt(replicates))
        assert abs(z) < 4, name
        assert abs(values.mean() - truth()) < 1.3 * errors.mean(), name
        assert 0.5 < errors.mean() / values.std(ddof=1) < 2, name


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cut at the horizon", "some cut before"])
def test_intervals_of_the_first_steps_cover(way: str) -> None:
    for name, (values, errors) in replicated(way, 300).items():
        z = (values.mean() - truth()) / (values.std(ddof=1) / np.sqrt(300))
        covered = np.abs(values - truth()) < 1.96 * errors
        assert abs(z) < 3.5, name
        assert 0.89 <= covered.mean() <= 0.98, name


def test_what_comes_after_the_horizon_changes_nothing() -> None:
    """Episodes that run on, and the same ones cut at the horizon, give the same numbers to the last digit."""
    _, _, policy = corridor()
    found = [
        evaluate(Table(policy), log_of(way, 1), horizon=HORIZON, fit_on=log_of(way, 2), settings=QUICK).to_dict()
        for way in ("longer", "cut at the horizon")
    ]
    assert found[0] == found[1]
    assert found[0]["estimates"]["fqe"]["estimand"] == {"gamma": 1.0, "horizon": HORIZON}
    lost = [c for c in found[0]["gain"]["fqe"]["checks"] if c["key"] == "baseline-lost-weight"]
    assert [(check["seen"], check["passed"]) for check in lost] == [(0.0, True)]
    verdict = found[0]["verdict"]
    assert "in the first 8 steps" in verdict["lines"][0]["seen"]
    assert verdict["caveats"][0] == "Only the first 8 steps of an episode count: what comes after them is not judged."


@pytest.mark.slow
def test_a_horizon_beyond_every_episode_is_as_good_as_none() -> None:
    _, _, policy = small_world()
    log, other = small_log(11), small_log(12)
    assert log.terminated[log.episode_start[1:] - 1].all()
    plain, far = (
        evaluate(Table(policy), log, horizon=horizon, estimators=("wis", *WITH_Q), fit_on=other, settings=QUICK)
        for horizon in (None, int(max(log.episode_lengths.max(), other.episode_lengths.max())))
    )
    assert plain.estimates["wis"].value == far.estimates["wis"].value
    for name, estimate in plain.estimates.items():
        assert estimate.value is not None
        assert estimate.standard_error is not None
        assert far.estimates[name].value == pytest.approx(estimate.value, abs=0.5 * estimate.standard_error), name


def masked_corridor() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """The corridor, where nobody may walk down from its first state."""
    world, behavior, policy = corridor()
    behavior, policy = behavior.copy(), policy.copy()
    behavior[0] = policy[0] = 0.0, 1.0
    return world, behavior, policy


@pytest.mark.slow
def test_cross_fitted_with_groups_masks_and_cuts_it_is_near_the_truth() -> None:
    world, behavior, policy = masked_corridor()
    log = draw(world, behavior, 1600, 3, max_steps=HORIZON + 3)
    mask = np.ones((log.num_transitions, 2), bool)
    mask[log.observation[:, 0] == 1, 0] = False
    log = dataclasses.replace(log, action_mask=mask, group=np.arange(log.num_episodes) // 2)
    found = evaluate(Table(policy), log, horizon=HORIZON, estimators=WITH_Q, settings=MODEST)
    exact = world.policy_value(policy, horizon=HORIZON)
    for name, estimate in found.estimates.items():
        assert estimate.value is not None
        assert estimate.standard_error is not None
        assert abs(estimate.value - exact) < 4 * estimate.standard_error, name
        assert "groups are independent" in " ".join(estimate.assumptions)
    assert found.behavior.value is not None
    assert found.behavior.standard_error is not None
    own = world.policy_value(behavior, horizon=HORIZON)
    assert abs(found.behavior.value - own) < 4 * found.behavior.standard_error


def test_the_advice_that_lost_weight_gives_is_right_where_it_is_shown() -> None:
    """Every episode is cut at the fifth step or ends before: without a horizon nothing can be said."""
    world, behavior, policy = corridor()
    log = draw(world, behavior, 1000, 4, max_steps=5)
    plain = evaluate(Table(policy), log, estimators=("wis",))
    assert any("With `horizon` at most 5 no weight is lost" in reason for reason in plain.gain["wis"].reasons)
    for horizon in (6, 5, 4):
        found = evaluate(Table(policy), log, horizon=horizon, estimators=("wis",))
        lost = [check for check in found.gain["wis"].checks if check.key.endswith("lost-weight")]
        # One step more than was logged is bounded by its reward, by which the interval is wider.
        assert [check.passed for check in lost] == [True, True]
        assert ["the interval is widened" in check.sentence for check in lost] == [horizon == 6] * 2
