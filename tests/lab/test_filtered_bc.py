"""The numbers of the lesson on filtered BC against values known by hand, and the theorem that it proves."""

import numpy as np
import pytest

from stitchrl.lab.lessons.filtered_bc import crossing_world, imitate, rounds_filtered
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.mdp.return_distribution import return_distribution


@pytest.fixture(scope="module")
def grid():
    return GridWorld(("S..", ".#.", "..G"), gamma=1.0, step_reward=-1.0, goal_reward=10.0)


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.05])
def test_where_nothing_is_left_to_chance_the_imitator_earns_the_mean_of_the_kept_episodes(grid, fraction):
    log = grid.draw(np.full((grid.num_states, 4), 0.25), 30, seed=1, max_steps=5000)

    found = imitate(grid, log, fraction)

    assert found.worth == pytest.approx(found.kept_mean, abs=1e-9)
    assert found.strays == 0.0


def test_the_chance_to_meet_an_unseen_cell_is_that_of_one_slip():
    grid = GridWorld(("S.G", ".#."), slip=0.5, gamma=1.0)
    always = np.eye(4)[np.ones(grid.num_states, int)]
    log = grid.draw(always, 40, seed=0, max_steps=1000)
    straight = log.select_episodes(np.flatnonzero(log.episode_lengths == 2))

    found = imitate(grid, straight, 1.0)

    # Each try at the start goes on with 1/2, down with 1/4 and stays with 1/4; in the middle it goes on or stays.
    assert found.strays == pytest.approx(1 / 3)


def test_one_bar_of_the_rounds_by_hand():
    # At least 30 is three wins; at least 22 is three wins, or two wins and a sure payment.
    best = rounds_filtered(0.1, 30.0)
    assert best.share == pytest.approx(0.05**3)
    assert (best.gambles, best.kept_mean, best.worth) == (pytest.approx(1.0), pytest.approx(30.0), pytest.approx(3.0))
    next_best = rounds_filtered(0.1, 22.0)
    wins, pair = 0.05**3, 3 * 0.05**2 * 0.5
    assert next_best.gambles == pytest.approx((wins + pair * 2 / 3) / (wins + pair))


def test_the_imitator_of_two_crossing_routes_beats_both_one_time_in_four():
    returned, probability = return_distribution(crossing_world(), np.full((3, 2), 0.5))

    assert dict(zip(returned, probability, strict=True)) == {0.0: 0.25, 5.0: 0.5, 10.0: 0.25}
