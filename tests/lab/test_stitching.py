"""The lesson on stitching: its numbers against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.lab.lessons.stitching import backed_up, monte_carlo, policies, route_value

FIRST = (0, 0)


def test_what_the_first_move_is_worth() -> None:
    assert monte_carlo(("A", "B", "C"))[FIRST] == 3.0
    for expectile, worth in ((0.5, 6.5), (0.7, 7.9), (0.9, 9.3), (1.0, 10.0)):
        assert backed_up(expectile)[-1][FIRST] == pytest.approx(worth)


def test_a_value_travels_one_move_a_sweep() -> None:
    q = backed_up(1.0)
    assert [table[5, 0] for table in q] == [0, 10, 10, 10, 10]
    assert [table[2, 1] for table in q] == [0, 0, 10, 10, 10]
    assert [table[FIRST] for table in q] == [0, 0, 0, 10, 10]


def test_the_four_learners_solve_their_equations() -> None:
    found = policies(1.0, 0.7)
    at_s1, at_s3 = ({name: probs[s] for name, probs in found.items()} for s in (0, 2))
    logistic = lambda gap: 1 / (1 + np.exp(-gap))  # noqa: E731
    assert at_s1["BC"][0] == at_s3["BC"][1] == 0.5
    assert at_s1["AWR"][0] == pytest.approx(logistic(3 - 7))
    assert at_s3["AWR"][1] == at_s3["IQL"][1] == pytest.approx(logistic(7))
    assert at_s1["IQL"][0] == pytest.approx(logistic(7.9 - 7))
    # AWAC's first move is worth what its own policy earns at s3.
    own = 3 * at_s3["AWAC"][0] + 10 * at_s3["AWAC"][1]
    assert at_s1["AWAC"][0] == pytest.approx(logistic(own - 7))
    # What they earn is what the exact world pays for these probabilities.
    for name, probs in found.items():
        through = probs[0, 0] * (3 * probs[2, 0] + 10 * probs[2, 1]) + probs[0, 1] * 7
        assert route_value(found[name]) == pytest.approx(through)


def test_with_two_routes_everyone_who_weighs_returns_arrives() -> None:
    found = policies(1.0, 0.7, routes=("A", "B"))
    assert all(probs[0, 0] == 1 for probs in found.values())
    assert route_value(found["AWR"]) > 9.9
    assert route_value(found["BC"]) == pytest.approx(6.5)
