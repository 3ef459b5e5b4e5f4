"""Seeds beside each other: planted disagreement is named with its exact size, and ties are no disagreement."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from run_subjects import PointPolicy, TablePolicy, TableValue, codes_of, episodes_log, run_of, subjects_of

import stitchrl as st
from stitchrl.diagnosis.checks import seeds
from stitchrl.diagnosis.subject import NotLookedAtError

STATES = np.arange(10, dtype=np.float32)[:, None]
LOG = episodes_log(
    [[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, -1.0]], observation=STATES, action=np.arange(10) % 2
)
"""Ten states, each once; returns of 1 and -1."""


def two_seeds(**given: Any) -> Any:
    return subjects_of(run_of(st.IQL(), LOG, seeds=2), LOG, **given)


def always(first: float, states: int = 10) -> np.ndarray:
    """The first action with this probability in so many states, the second one always in the others."""
    table = np.tile([0.0, 1.0], (10, 1))
    table[:states] = first, 1 - first
    return table


@pytest.mark.parametrize(("different", "found"), [(7, ["seeds-disagree"]), (6, [])])
def test_the_share_of_different_choices(different: int, found: list[str]) -> None:
    subjects = two_seeds(policies=[TablePolicy(always(1.0, different)), TablePolicy(always(0.0))])
    assert seeds.seed_numbers(subjects)["actions_apart"] == different / 10
    assert codes_of(seeds.seeds_differ_in_actions, subjects) == found


@pytest.mark.parametrize(("probability", "apart"), [(0.66, 0.0), (0.67, 1.0)])
def test_near_ties_are_no_disagreement(probability: float, apart: float) -> None:
    """Each seed must hold its own choice for twice as probable: .67 to .33, not .66 to .34."""
    subjects = two_seeds(policies=[TablePolicy(always(probability)), TablePolicy(always(1 - probability))])
    assert seeds.seed_numbers(subjects)["actions_apart"] == apart


def test_continuous_actions_in_standard_deviations_of_the_log() -> None:
    action = np.tile([[-2.0, 0.0], [2.0, 0.0]], (5, 1)).astype(np.float32)  # standard deviations of 2 and 0
    log = episodes_log([[0.0] * 5] * 2, observation=STATES, action=action)
    for distance, found in ((2.2, ["seeds-disagree"]), (2.0, [])):  # over both: 2.2 / 2 / sqrt(2) = .78, .71
        policies = [PointPolicy(np.zeros((10, 2))), PointPolicy(np.tile([distance, 0.0], (10, 1)))]
        subjects = subjects_of(run_of(st.IQL(), log, seeds=2), log, policies=policies)
        np.testing.assert_allclose(seeds.seed_numbers(subjects)["actions_apart"], distance / 2 / np.sqrt(2))
        assert codes_of(seeds.seeds_differ_in_actions, subjects) == found


@pytest.mark.parametrize(("claims", "found"), [((0.0, 1.1), ["seeds-claim-differently"]), ((0.0, 0.9), [])])
def test_claims_that_differ_more_than_returns_allow(claims: tuple[float, float], found: list[str]) -> None:
    """Returns have a standard deviation of 1, and two claims half their difference."""
    subjects = two_seeds(values=[TableValue(np.full((10, 2), claim, np.float32)) for claim in claims])
    assert codes_of(seeds.seeds_claim_differently, subjects) == found


def test_returns_are_discounted_as_the_claims_are() -> None:
    """At the gamma of training, 0.5, a reward after four steps counts a sixteenth: claims .2 apart are far apart."""
    for gamma, found in ((0.5, ["seeds-claim-differently"]), (1.0, [])):
        values = [TableValue(np.full((10, 2), claim, np.float32)) for claim in (0.0, 0.2)]
        policies = [TablePolicy(always(1.0))] * 2
        subjects = subjects_of(run_of(st.IQL(gamma=gamma), LOG, seeds=2), LOG, policies=policies, values=values)
        assert codes_of(seeds.seeds_claim_differently, subjects) == found
        assert seeds.seed_numbers(subjects)["return_spread"] == pytest.approx(gamma**4)


@pytest.mark.parametrize(("gap", "found"), [(0.57, ["seeds-evaluate-differently"]), (0.56, [])])
def test_estimates_beyond_their_noise(gap: float, found: list[str]) -> None:
    """Four standard errors of the difference, each estimate having .1: .566."""
    estimates = [st.Estimate("wis", v, v - 0.2, v + 0.2, 0.1, 0.95, st.Estimand(1.0)) for v in (0.5, 0.5 + gap)]
    assert codes_of(seeds.seeds_evaluate_differently, two_seeds(estimates=estimates)) == found


def test_one_seed_is_not_held_against_anything() -> None:
    subjects = subjects_of(run_of(st.IQL(), LOG), LOG, policies=[TablePolicy(always(1.0))])
    with pytest.raises(NotLookedAtError, match="One seed alone"):
        list(seeds.seeds_differ_in_actions(subjects))


def test_seeds_without_critics_say_so_and_without_evaluations_nothing() -> None:
    with pytest.raises(NotLookedAtError, match="no critics"):
        list(seeds.seeds_claim_differently(two_seeds()))
    assert codes_of(seeds.seeds_evaluate_differently, two_seeds()) == []


def test_two_ways_of_acting_are_no_two_seeds() -> None:
    """A seed that acts greedily and as trained, of which the former does much better: no seed decides anything."""
    estimates = [st.Estimate("wis", v, v - 0.2, v + 0.2, 0.1, 0.95, st.Estimand(1.0)) for v in (0.5, 2.0)]
    policies = [TablePolicy(always(1.0)), TablePolicy(always(0.0))]
    one, other = two_seeds(policies=policies, estimates=estimates)
    other.member = dataclasses.replace(other.member, acts="greedy")
    assert codes_of(seeds.seeds_evaluate_differently, [one, other]) == []
    with pytest.raises(NotLookedAtError, match="One seed alone"):
        list(seeds.seeds_differ_in_actions([one, other]))
