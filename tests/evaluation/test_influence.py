"""Who carries the variance of an estimate."""

from __future__ import annotations

import dataclasses
import json
from typing import cast

import numpy as np
import pytest

from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.estimator import Draft, influence_checks
from stitchrl.evaluation.health import check_influence
from stitchrl.evaluation.influence import LISTED, variance_shares
from stitchrl.evaluation.units import Units


def test_shares_are_those_of_squared_influence_and_the_largest_come_first() -> None:
    found = variance_shares(np.asarray([1.0, -3.0, 2.0, 0.0, 1.0]), Units(5))
    assert found is not None
    assert found.largest == pytest.approx([9 / 15, 4 / 15, 1 / 15, 1 / 15, 0.0])
    assert (found.noun, found.count, found.half) == ("episode", 5, 1)


def test_half_is_reached_exactly_by_equal_shares() -> None:
    influence = np.ones(100)
    found = variance_shares(influence, Units(100))
    assert found is not None
    assert found.half == 50
    assert len(found.largest) == LISTED


def test_groups_are_one_unit_and_the_largest_is_what_the_check_sees() -> None:
    influence, units = np.asarray([1.0, 1.0, -2.0, 2.0, 1.0]), Units(5, np.asarray(["a", "a", "b", "b", "c"]))
    found = variance_shares(influence, units)
    assert found is not None
    assert (found.noun, found.count) == ("group", 3)
    assert found.largest == pytest.approx([4 / 5, 1 / 5, 0.0])  # the two episodes of b cancel
    check = check_influence(units, influence)
    assert (found.largest[0], found.limit) == (pytest.approx(check.seen), check.limit)


def test_nothing_that_varies_has_no_shares() -> None:
    assert variance_shares(np.zeros(4), Units(4)) is None


def test_what_models_add_to_the_variance_is_carried_by_no_unit() -> None:
    """Squares 1, 9, 4, 0, 1 of five episodes: sampling has the variance 15 / 25, and models add as much again."""
    influence, units = np.asarray([1.0, -3.0, 2.0, 0.0, 1.0]), Units(5)
    found = variance_shares(influence, units, 15 / 25)
    assert found is not None
    assert found.largest == pytest.approx([9 / 30, 4 / 30, 1 / 30, 1 / 30, 0.0])
    assert found.half == 1  # of what the episodes carry
    assert found.models == pytest.approx(0.5)
    in_pairs = Units(5, np.array([0, 0, 1, 1, 2]))  # sums -2, 2 and 1
    grouped = variance_shares(influence, in_pairs, 9 / 25)
    assert grouped is not None
    assert grouped.largest == pytest.approx([4 / 18, 4 / 18, 1 / 18])
    assert check_influence(in_pairs, influence, 9 / 25).seen == pytest.approx(4 / 18)
    assert check_influence(units, influence, 15 / 25).seen == pytest.approx(9 / 30)


def test_models_let_an_estimate_pass_only_as_far_as_its_interval_grows_with_them() -> None:
    influence, units = np.asarray([3.0, *([1.0, -1.0] * 36), -3.0]), Units(74)  # one carries 9 of 90
    assert check_influence(units, influence).passed
    heavier = np.asarray([4.0, *([1.0, -1.0] * 36), -4.0])  # 16 of 104
    assert not check_influence(units, heavier).passed
    sampling = 104 / 74**2
    assert not check_influence(units, heavier, 0.5 * sampling).passed  # 16 of 156
    check = check_influence(units, heavier, np.float64(0.6 * sampling))  # 16 of 166.4
    assert check.passed is True  # a plain bool, which JSON can hold, whatever the variance is


def test_the_evaluation_of_a_policy_with_continuous_actions_can_be_kept_as_json() -> None:
    """Numbers of NumPy among the checks would stop the main job when it writes its ranking."""
    draft = Draft(
        Contributions.average(np.asarray([1.0, 2.0, 4.0])), by_network=(1.0, 2.0), moved=cast(float, np.float64(0.5))
    )
    checks = influence_checks(draft, 1.0, Units(3))
    json.dumps([dataclasses.asdict(check) for check in checks])
