"""Divergence from the behaviour: bits and supports worked out by hand, each finding on a planted fault and on no sound policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hand_policies import BEHAVIOR, Normals, Numbers, Table, numbers_log, subject_of, two_states
from memory_policies import Sticky

import stitchrl as st
from stitchrl.diagnosis.checks.divergence import (
    actions_without_support,
    divergence_numbers,
    far_from_behavior,
    takes_forbidden_actions,
)
from stitchrl.diagnosis.first_departures import first_departures
from stitchrl.diagnosis.knobs import nearer_to_log
from stitchrl.diagnosis.subject import NotLookedAtError, Subject
from stitchrl.diagnosis.support import MOST_BITS, bits_of, support_of
from stitchrl.evaluation.settings import FitSettings

CHECKS = (takes_forbidden_actions, far_from_behavior, actions_without_support)


def always(*actions: int) -> Table:
    """The policy that takes one action in each state."""
    return Table(np.eye(4)[list(actions)])


def found(subject: Subject) -> dict[str, Any]:
    return {finding.code: finding for check in CHECKS for finding in check(subject)}


@pytest.mark.parametrize(
    ("policy", "state_0", "state_1"),
    [
        (Table(BEHAVIOR), 0.0, 0.0),
        (always(0, 0), 1.0, -np.log2(0.98)),
        (always(1, 2), 2.0, -np.log2(0.01)),
        (always(3, 3), MOST_BITS, MOST_BITS),
        (Table([[0.0, 0.5, 0.5, 0.0], BEHAVIOR[1]]), 1.0, 0.0),
        (Table([[0.5, 0.0, 0.0, 0.5], BEHAVIOR[1]]), -1.0 + 0.5 * (1.0 + MOST_BITS), 0.0),
    ],
)
def test_bits_are_exact(policy: Table, state_0: float, state_1: float) -> None:
    bits = bits_of(subject_of(policy, two_states(4)))
    np.testing.assert_allclose(bits.of_row, [state_0, state_0, state_1] * 4, atol=1e-5)
    np.testing.assert_allclose(bits.least, [1.0, 1.0, -np.log2(0.98)] * 4, atol=1e-5)


def test_the_bands() -> None:
    """Over the states 0, 0, 1 of every episode."""
    log = two_states()
    for policy, band, codes in (
        (Table(BEHAVIOR), "close", set()),
        (always(0, 0), "close", set()),
        (always(1, 0), "watch", {"departs-from-behavior"}),
        (always(3, 0), "severe", {"far-from-behavior", "actions-without-support"}),
    ):
        subject = subject_of(policy, log)
        assert divergence_numbers(subject)["band"] == band
        assert set(found(subject)) == codes
    assert "13 bits" in found(subject)["far-from-behavior"].seen


def test_many_equally_usual_actions_make_no_policy_severe() -> None:
    """Where 64 actions are taken alike, every policy with one action is 6 bits away, and the behaviour has no more support."""
    log = two_states(10)
    uniform = np.full((log.num_transitions, 64), 1 / 64, np.float32)
    log = dataclasses.replace(
        log,
        behavior_probs=uniform,
        behavior_log_prob=np.log(uniform[:, 0]),
        schema=dataclasses.replace(log.schema, num_actions=64),
    )
    assert set(found(subject_of(Table(np.eye(64)[[5, 7]]), log))) == {"departs-from-behavior"}


def test_support_and_first_departures_are_exact() -> None:
    """In state 1 the policy takes an action of probability 0.01, which the behaviour takes in 1% of such decisions each."""
    log = two_states()
    subject = subject_of(always(0, 1), log)
    support = support_of(subject)
    np.testing.assert_allclose(support.off, [0.0, 0.0, 1.0] * 40)
    np.testing.assert_allclose(support.off_logged, [0.0, 0.0, 0.02] * 40, atol=1e-6)
    where = first_departures(log, support)
    assert (where.episodes, where.looked_at, where.step, where.at_once) == (40, 40, 3.0, 0.0)
    (column,) = where.columns
    assert (column.here, column.elsewhere, column.chance) == (1.0, 0.0, 1.0)
    seen = found(subject)["actions-without-support"].seen
    assert "33.3% of the policy's decisions" in seen
    assert (
        "40 of 40 episodes, first at decision 3 (median), in states with higher values of observation column 0" in seen
    )


def test_later_departures_of_an_episode_are_not_first_ones() -> None:
    log = two_states(3, first=(0, 1, 1, 0))
    where = first_departures(log, support_of(subject_of(always(0, 3), log)))
    assert (where.episodes, where.step, where.columns) == (3, 2.0, ())


def test_a_behaviour_without_propensities_is_fitted() -> None:
    """Its shares in the log stand for its probabilities."""
    subject = subject_of(always(0, 1), two_states(400, propensities=False), settings=FitSettings(behavior="counts"))
    assert divergence_numbers(subject)["bits"] == pytest.approx((2.0 - np.log2(0.01)) / 3, abs=0.4)
    assert set(found(subject)) == {"departs-from-behavior", "actions-without-support"}


MASKED = Table([[0.5, 0.25, 0.0, 0.25], BEHAVIOR[1]])
"""Gives the forbidden action 3 a quarter in state 0."""


@pytest.mark.parametrize(
    ("policy", "severity"),
    [(Table(BEHAVIOR), None), (MASKED, "info"), (Table(MASKED.table, honest=False), "error")],
)
def test_forbidden_actions(policy: Table, severity: str | None) -> None:
    subject = subject_of(policy, two_states(mask=True))
    findings = list(takes_forbidden_actions(subject))
    assert [finding.severity for finding in findings] == ([] if severity is None else [severity])
    if findings:
        assert "16.7% of its probability" in findings[0].seen
    if severity != "error":
        assert divergence_numbers(subject)["forbidden_without_mask"] == pytest.approx(
            0.0 if severity is None else 1 / 6
        )
    else:  # whoever needs its probabilities says why there are none
        with pytest.raises(NotLookedAtError, match="Honour `action_mask`"):
            list(far_from_behavior(subject))


def test_a_policy_that_learned_with_the_mask_may_need_it() -> None:
    log = two_states(mask=True)
    for learned_from, severities in ((log, []), (two_states(), ["warning"])):
        policy = Table(MASKED.table)
        policy.schema = learned_from.schema  # type: ignore[attr-defined]
        assert [finding.severity for finding in takes_forbidden_actions(subject_of(policy, log))] == severities


def test_actions_of_numbers_by_their_nearest_logged_ones() -> None:
    """The behaviour's own rule with its own noise is sound; three standard deviations of the log aside is not."""
    log = numbers_log()
    noise = 0.1 * np.random.default_rng(5).normal(size=(log.num_transitions, 1))
    sound = subject_of(Numbers(lambda obs: 0.5 * obs[:, :1] + noise), log)
    assert found_without_bits(sound) == set()
    numbers = divergence_numbers(sound)
    assert numbers["unsupported"] < 0.05
    assert numbers["mmd"] <= numbers["mmd_by_chance"]
    aside = float(3 * log.action.std())
    planted = subject_of(Numbers(lambda obs: 0.5 * obs[:, :1] + aside), log)
    assert found_without_bits(planted) == {"actions-without-support"}
    numbers = divergence_numbers(planted)
    assert numbers["unsupported"] > 0.95
    assert numbers["distance_to_nearest_action"] == pytest.approx(2.5, abs=0.5)
    assert numbers["mmd"] > 3 * numbers["mmd_by_chance"]
    assert "no density" in numbers["bits_missing"]


def found_without_bits(subject: Subject) -> set[str]:
    with pytest.raises(NotLookedAtError, match="no density"):
        list(far_from_behavior(subject))
    return {finding.code for check in (takes_forbidden_actions, actions_without_support) for finding in check(subject)}


@pytest.mark.parametrize(("shift", "bits", "codes"), [(0.0, 0.0, set()), (0.3, 6.49, {"far-from-behavior"})])
def test_bits_of_densities(shift: float, bits: float, codes: set[str]) -> None:
    """Two normals of one standard deviation 0.1, so (shift / 0.1)^2 / 2 nats apart."""
    subject = subject_of(Normals(shift), numbers_log())
    subject.shared.__dict__["behavior_model"] = Normals(0.0)  # in the place of a fitted one
    assert bits_of(subject).of_row.mean() == pytest.approx(bits, abs=0.15)
    assert {finding.code for finding in far_from_behavior(subject)} == codes


@pytest.mark.parametrize(
    ("std", "codes"), [(0.18, set()), (0.25, {"actions-without-support", "departs-from-behavior"})]
)
def test_a_density_that_is_only_wider_than_the_behaviours(std: float, codes: set[str]) -> None:
    """More than a tenth of the draws of both lie outside of the log; a noise of 0.18 against 0.1 is under 1 bit, 0.25 is not."""
    subject = subject_of(Normals(0.0, std), numbers_log(400))
    subject.shared.__dict__["behavior_model"] = Normals(0.0)
    assert support_of(subject).off.mean() > 0.1
    assert set(found(subject)) == codes


def test_what_cannot_be_looked_at_is_said() -> None:
    log = two_states(4)
    with pytest.raises(NotLookedAtError, match="memory of the episode"):
        list(far_from_behavior(subject_of(Sticky(np.float32(0.8)), log)))
    numbers = numbers_log(4)
    images = dataclasses.replace(
        numbers, observation_table=np.zeros((len(numbers.observation_table), 4, 4, 1), np.uint8)
    )
    with pytest.raises(NotLookedAtError, match="images"):
        list(actions_without_support(subject_of(Numbers(lambda obs: np.zeros((len(obs), 1))), images)))


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [
        (st.CQL(), "a larger `cql_weight` (now 5)"),
        (st.IQL(), "a smaller `inverse_temperature` (now 3) or a smaller `expectile` (now 0.7)"),
        (st.SACN(), "a larger `num_critics` (now 10)"),
        (st.DQN(), "Nothing holds DQN to the actions of the log"),
        (None, "IQL, BCQ, CQL"),
    ],
)
def test_the_remedy_names_a_setting_of_the_algorithm(algorithm: Any, told: str) -> None:
    assert told in nearer_to_log(algorithm)
