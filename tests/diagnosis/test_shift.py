"""What changed in newer data: each planted change is found under its own name, and chance alone is not taken for one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from run_subjects import codes_of, episodes_log
from scipy import stats
from shifting_worlds import shifting_log

import stitchrl as st
from stitchrl.auditing.audit import audit
from stitchrl.diagnosis.checks import shift
from stitchrl.diagnosis.matching import effective_share, matching_weights
from stitchrl.diagnosis.subject import Member, NotLookedAtError, Shared, Subject
from stitchrl.diagnosis.two_samples import Side, changed, compare
from stitchrl.errors import ConfigurationError


def subjects(log: st.Dataset, newer: st.Dataset | None) -> list[Subject]:
    return [Subject(Member("the policy", None), Shared(log, newer=newer))]


def found(log: st.Dataset, newer: st.Dataset) -> dict[str, Any]:
    """Kind -> what changed."""
    return {
        kind: () if one is None else one["found"] for kind, one in shift.shift_numbers(subjects(log, newer)).items()
    }


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"effect": 0.7}, "dynamics-shift"),
        ({"noise": 0.45}, "dynamics-shift"),
        ({"end": 0.1}, "dynamics-shift"),
        ({"bonus": 0.15}, "reward-shift"),
        ({"habit": 0.2}, "behavior-shift"),
        ({"start": 4.0, "spread": 0.1}, "newer-not-comparable"),
    ],
)
def test_each_change_is_found_under_its_own_name(discrete: bool, change: dict[str, float], code: str) -> None:
    log, newer = (shifting_log(seed, 80, 20, discrete=discrete, **given) for seed, given in ((1, {}), (10_001, change)))
    found = {f.code: f for f in shift.change_in_newer_data(subjects(log, newer)) if f.severity == "warning"}
    assert found.keys() - {"observation-shift"} == {code}
    if code in ("dynamics-shift", "reward-shift"):  # which another mix of cases alone brings as well
        assert "mix of cases" in found[code].action


def test_a_column_in_another_unit_is_named() -> None:
    log = shifting_log(1, discrete=True)
    newer = shifting_log(2, discrete=True)
    table = newer.observation_table.copy()
    table[:, 1] = 32 + 1.8 * table[:, 1]
    (first, *_) = shift.change_in_newer_data(subjects(log, dataclasses.replace(newer, observation_table=table)))
    assert (first.code, first.severity, first.where) == ("observation-shift", "warning", "observation: column 1")


def test_chance_is_rarely_taken_for_a_change() -> None:
    """1% for each kind is stated. Observations that moved are no change of what follows them, although it is nonlinear."""
    draws, episodes = 100, 25
    log, same, moved = (shifting_log(k, draws * episodes, 8, start=start) for k, start in enumerate((0.0, 0.0, 0.7)))
    alarms: Counter[str] = Counter()
    for draw in range(draws):
        chosen = np.arange(draw * episodes, (draw + 1) * episodes)
        newer = (same, moved)[draw % 2]
        for kind, one in found(log.select_episodes(chosen), newer.select_episodes(chosen)).items():
            alarms[kind] += bool(one) and (kind != "observations" or newer is same)
    # At 1% more than 4 of 100 come in 0.3% of such trials, and a rate of 10% is found in 98% of them.
    assert max(alarms.values()) <= 4, alarms


def test_standard_errors_count_episodes() -> None:
    """Each episode is one value, ten times over: the p-value is that of Welch's test on the episodes."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, 12), rng.normal(1, 2, 20)
    sides = [Side(np.repeat(v, 10)[:, None], np.repeat(np.arange(len(v)), 10)) for v in (one, other)]
    welch = stats.ttest_ind(one, other, equal_var=False)
    np.testing.assert_allclose(compare(*sides).p, welch.pvalue, rtol=1e-9)
    np.testing.assert_allclose(compare(*sides).freedom, welch.df, rtol=1e-9)


def test_holms_procedure() -> None:
    """By hand, at 1% over four: .002 <= .0025, .003 <= .0033, .006 > .005, and what is larger fails with it."""
    assert changed(np.array([0.006, 0.002, 0.007, 0.003])).tolist() == [False, True, False, True]
    assert changed(np.array([0.001, 0.001])).all()


def test_weights_match_the_means_of_another_log() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2000, 3)), rng.normal(0.5, 0.5, size=(500, 3))
    weight = matching_weights(old, new)
    np.testing.assert_allclose(weight @ old / weight.sum(), new.mean(0), atol=1e-3)
    np.testing.assert_allclose(weight.mean(), 1.0)
    # Tilting a standard normal by half a standard deviation leaves exp(-.25) of it, three times over.
    np.testing.assert_allclose(effective_share(weight), np.exp(-0.75), rtol=0.15)


def test_drift_within_the_log_is_what_the_audit_says() -> None:
    early, late = np.zeros((400, 1)), np.ones((400, 1))
    rng = np.random.default_rng(0)
    observation = np.concatenate([early, late]) + 0.3 * rng.normal(size=(800, 1))
    log = episodes_log([[0.0] * 9 + [1.0]] * 80, observation=observation)
    (here,) = shift.drift_in_log(subjects(log, log))
    assert dataclasses.replace(here, where=here.where.removeprefix("within the log, ")) in audit(log).findings


def test_what_cannot_be_compared_is_said() -> None:
    log = episodes_log([[1.0]] * 30)
    for newer, why in ((None, "No newer data was given"), (episodes_log([[1.0]] * 19), "at least 20 episodes")):
        with pytest.raises(NotLookedAtError, match=why):
            codes_of(shift.change_in_newer_data, subjects(log, newer))


def test_newer_data_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"of the log, continuous actions of shape \(1,\).*got 2 actions"):
        Shared(shifting_log(1, 5), newer=shifting_log(2, 5, discrete=True))


def test_an_action_that_only_the_newer_log_takes_is_a_change_of_behavior() -> None:
    rng = np.random.default_rng(0)
    rewards, observation = [[0.0] * 9 + [1.0]] * 60, rng.normal(size=(600, 1))
    probs = np.tile([0.4, 0.4, 0.2], (600, 1))
    log = episodes_log(rewards, observation=observation, action=rng.integers(0, 2, 600), behavior_probs=probs)
    newer = episodes_log(rewards, observation=observation, action=rng.integers(0, 3, 600), behavior_probs=probs)
    (finding,) = shift.change_in_newer_data(subjects(log, newer))
    assert finding.code == "behavior-shift"
    assert "2" in finding.where


def test_logs_without_a_common_action_cannot_be_compared() -> None:
    rng = np.random.default_rng(0)
    rewards, observation = [[0.0] * 9 + [1.0]] * 30, rng.normal(size=(300, 1))
    rare = np.arange(300) % 60  # each action five times
    log = episodes_log(rewards, observation=observation, action=rare)
    (finding,) = shift.change_in_newer_data(subjects(log, log))
    assert (finding.code, finding.severity) == ("newer-not-comparable", "info")
    assert "no action was taken 30 times in both logs" in finding.seen  # it is like itself, only small


def test_a_rare_event_that_a_short_newer_log_lacks_is_no_change() -> None:
    """One row in ten of the older log, and by chance none of 30 newer ones, which happens in 4% of such logs."""
    old = Side(np.tile([1.0] + [0.0] * 9, 100)[:, None] - 0.1, np.arange(1000))
    rng = np.random.default_rng(0)
    new = Side(np.full((30, 1), -0.1) + 1e-3 * rng.normal(size=(30, 1)), np.arange(30))
    assert compare(old, new).p[0] < 1e-10
    assert 0.01 < compare(old, new, same_spread=True).p[0] < 0.1
