"""What every algorithm learns in two worlds whose answers are known: support/learning_worlds.py describes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from learning_worlds import LEARNED, LOOP_VALUE, looped, names, stitched, takes_unlogged

import stitchrl as st
from stitchrl.mdp.stitching import STATES, stitching_columns, stitching_world

PAYS = {"s7": 3.0, "s8": 7.0, "s9": 10.0}


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_algorithm_that_learns_from_discrete_actions_is_here() -> None:
    wanted = {n for n in st.ALGORITHMS if "discrete" in (kind := getattr(st, n)).actions and not kind.closed_form}
    assert {n.partition(",")[0] for n in LEARNED} == wanted


def test_the_best_route_of_the_stitching_world_is_in_no_episode() -> None:
    world, columns = stitching_world(), stitching_columns(1)
    best = world.optimal_policy()
    assert world.policy_value(best) == 10.0
    returns = np.bincount(columns["episode"], columns["reward"])
    first = columns["observation"][columns["step"] == 0].argmax(1)
    assert {STATES[s]: [] for s in first}.keys() == {"s1", "s4"}
    assert returns[first == 0].tolist() == [3.0, 7.0]


def test_where_it_arrives_from_s1(name: str) -> None:
    wanted = LEARNED[name][1]
    if wanted == "splits":
        assert stitched(name).splits
    else:
        assert (stitched(name).route, stitched(name).splits) == (wanted, False)


@pytest.mark.parametrize(("name", "value"), [("IQL, expectile 0.5", 6.5), ("IQL", 7.9), ("IQL, expectile 0.9", 9.3)])
def test_expectiles_join_the_two_continuations_as_by_hand(name: str, value: float) -> None:
    # of {3, 10} the expectile m solves e (10 - m) = (1 - e) (m - 3)
    expectile = LEARNED[name][0]["expectile"]
    assert expectile * (10 - value) == pytest.approx((1 - expectile) * (value - 3))
    assert stitched(name).q == pytest.approx(value, abs=0.25)


SOFT_MAXIMUM = 2 * math.log((math.exp(3 / 2) + math.exp(10 / 2)) / 2)


@pytest.mark.parametrize(("name", "value"), [("SQL", 8.0), ("EQL", SOFT_MAXIMUM), ("XQL", SOFT_MAXIMUM)])
def test_soft_values_join_the_two_continuations_as_by_hand(name: str, value: float) -> None:
    # of {3, 10} SQL's V at temperature 1 makes the mean of max(1 + (x - V) / 2, 0) one; the others have temperature 2
    assert stitched(name).q == pytest.approx(value, abs=0.25)


def test_who_takes_the_action_that_nobody_took(name: str) -> None:
    found, expected = looped(name), takes_unlogged(name)
    assert found.chosen == expected
    assert (found.probability > 0.5) == expected


def test_who_claims_more_than_the_best_of_the_logged_actions(name: str) -> None:
    claimed = looped(name).claimed
    if not math.isnan(claimed):
        assert (claimed > LOOP_VALUE + 0.5) == takes_unlogged(name), claimed
