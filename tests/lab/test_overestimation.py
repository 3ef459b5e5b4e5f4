"""The lesson on overestimation: its grid against the bound and the exact world."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.lab.lessons.overestimation import GRID, amplified, backed_up, course, in_the_end


def test_an_error_is_multiplied_by_the_horizon() -> None:
    error = 0.0
    for k in range(1, 6):
        error = 3.0 + 0.9 * error
        assert amplified(3.0, 0.9, k) == pytest.approx(error)
    assert amplified(3.0, 0.99, 10_000) == pytest.approx(300)


def test_the_bound_holds_in_the_grid_and_is_not_reached() -> None:
    eps = np.array([0.0, 0.3, 1.0, 2.0])
    final = in_the_end(eps, 0.9, seed=5)
    assert final[0] < 1e-4  # without errors the exact values are found
    assert (final[1:] > 0).all()
    assert (final[1:] < 0.9 * eps[1:] / (1 - 0.9)).all()


def test_the_backup_leaves_the_best_values_as_they_are() -> None:
    q = GRID.action_values(GRID.optimal_policy())
    np.testing.assert_allclose(backed_up(q[None], GRID.gamma)[0], q, atol=1e-9)


def test_longer_training_makes_it_worse_and_acting_mends_it() -> None:
    best = GRID.mdp.policy_value(GRID.optimal_policy(), gamma=GRID.gamma)
    fixed, acting = (course(2.0, online=online, backups=60) for online in (False, True))
    assert fixed.true[-1] < fixed.true.max() - 3
    assert fixed.claimed[-1] > best + 3
    assert fixed.claimed[-1] > fixed.claimed[20] > fixed.claimed[10]
    assert acting.true[-1] > best - 0.3
    assert acting.claimed[-1] == pytest.approx(best, abs=0.1)
    assert acting.unlogged[-1] < fixed.unlogged[-1]
