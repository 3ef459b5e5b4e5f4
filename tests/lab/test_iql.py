"""The numbers of the lesson on IQL against values known by hand."""

import numpy as np
import pytest

from stitchrl.lab.lessons.iql import expectile_of, iql_policy, luck, pull_up, stitched_values
from stitchrl.mdp.stitching import stitching_world


@pytest.mark.parametrize(("expectile", "known"), [(0.5, 16 / 3), (0.7, 80 / 13), (0.9, 80 / 11)])
def test_the_expectiles_of_3_5_and_8(expectile, known):
    assert expectile_of([3, 5, 8], expectile) == pytest.approx(known, abs=1e-12)


def test_at_the_expectile_the_two_pulls_are_alike():
    m = expectile_of([3, 5, 8], 0.7)

    assert pull_up([3, 5, 8], 0.7) == pytest.approx(0.3 * np.maximum(m - np.array([3, 5, 8]), 0).mean())


def test_weights_are_how_often_a_value_occurs():
    assert expectile_of([0, 6], 0.8, [2, 1]) == pytest.approx(expectile_of([0, 0, 6], 0.8)) == pytest.approx(4.0)


def test_one_half_evaluates_the_behaviour_of_the_stitching_log():
    behavior = np.full((9, 2), 0.5)  # at s1 and s3 each action was logged once; elsewhere both do the same

    np.testing.assert_allclose(stitched_values(0.5), stitching_world().state_values(behavior), atol=1e-12)


def test_s3_overtakes_s2_at_four_sevenths():
    assert stitched_values(0.7)[2] == pytest.approx(3 + 7 * 0.7)
    assert iql_policy(0.57, 3.0)[0, 0] < 0.5 < iql_policy(0.573, 3.0)[0, 0]


def test_one_row_an_action_enters_the_ward_with_two_wins_of_five():
    found = luck(1, 0.5)
    two_or_more = 1 - 0.9**5 - 5 * 0.1 * 0.9**4

    assert found.enters == pytest.approx(two_or_more)
    assert found.worth == pytest.approx(two_or_more * 1.0 + (1 - two_or_more) * 2.5)
    assert found.claim == pytest.approx((2 + 5) / 6)


def test_endless_rows_claim_no_more_than_the_best_action():
    assert luck(0, 0.9).claim == pytest.approx((0.9 * 2 + 0.1 * 5) / (0.9 + 0.1 * 5))
    assert luck(0, 0.99).worth == 2.5
