"""Grid worlds against values by hand, a written-out transition table, and the statistics of their own logs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stitchrl as st
from stitchrl.errors import ConfigurationError
from stitchrl.mdp.gridworld import ACTION_NAMES, GridWorld

UP, RIGHT, DOWN, LEFT = range(4)
CORRIDOR = GridWorld(("S.G",), gamma=0.9, step_reward=-1.0, goal_reward=10.0)
ROOM = GridWorld(("S#G", "..X"), slip=0.2, gamma=0.9)


def always(grid: GridWorld, action: int) -> np.ndarray:
    return np.tile(np.eye(4)[action], (grid.num_states, 1))


def test_a_corridor_by_hand() -> None:
    # from the middle -1 + 10; from the start -1 + 0.9 9; up and down stay, at the price of a step
    np.testing.assert_allclose(CORRIDOR.state_values(always(CORRIDOR, RIGHT)), [7.1, 9.0, 0.0])
    np.testing.assert_allclose(CORRIDOR.state_values(always(CORRIDOR, UP)), [-10.0, -10.0, 0.0])
    q = CORRIDOR.action_values(CORRIDOR.optimal_policy())
    np.testing.assert_allclose(q[0], [-1 + 0.9 * 7.1, 7.1, -1 + 0.9 * 7.1, -1 + 0.9 * 7.1])
    np.testing.assert_allclose(q[1], [-1 + 0.9 * 9, 9.0, -1 + 0.9 * 9, -1 + 0.9 * 7.1])


def test_moves_walls_edges_and_slips() -> None:
    start, goal, below, middle, pit = range(5)
    assert ROOM.cells == ((0, 0), (0, 2), (1, 0), (1, 1), (1, 2))
    moves = ROOM.mdp.transition
    # right from S is a wall: it stays, as it does slipping up; slipping down it goes down
    np.testing.assert_allclose(moves[start, RIGHT], [0.9, 0, 0.1, 0, 0])
    np.testing.assert_allclose(moves[start, DOWN], [0.2, 0, 0.8, 0, 0])
    np.testing.assert_allclose(moves[middle, RIGHT], [0, 0, 0, 0.2, 0.8])
    np.testing.assert_allclose(moves[middle, UP], [0, 0, 0.1, 0.8, 0.1])
    np.testing.assert_allclose(moves[below, LEFT], [0.1, 0, 0.9, 0, 0])
    assert ROOM.mdp.terminal.tolist() == [False, True, False, False, True]
    assert ROOM.mdp.reward[middle, RIGHT, [pit, goal, below]].tolist() == [-1.0, 1.0, 0.0]
    assert ACTION_NAMES[LEFT] == "left"


def test_cells_and_states() -> None:
    assert all(ROOM.state_of(*cell) == state for state, cell in enumerate(ROOM.cells))
    np.testing.assert_array_equal(ROOM.on_grid(np.arange(5.0)), [[0, np.nan, 1], [2, 3, 4]])
    with pytest.raises(ConfigurationError, match="Row 0, column 1 of this GridWorld is a wall"):
        ROOM.state_of(0, 1)


def test_a_log_has_the_propensities_and_the_value_of_its_behaviour() -> None:
    grid = GridWorld(("S..", ".#.", "..G"), slip=0.1, gamma=0.9, step_reward=-0.1)
    behavior = 0.4 * np.eye(4)[[UP, RIGHT, DOWN, DOWN, DOWN, RIGHT, RIGHT, 0]] + 0.15
    log = grid.draw(behavior, 4000, seed=0)
    assert isinstance(log, st.Dataset)
    assert (log.num_episodes, log.num_actions, log.schema.gamma) == (4000, 4, 0.9)
    state = log.observation.argmax(1)
    np.testing.assert_allclose(log.behavior_probs, behavior[state], rtol=1e-6)
    returns = np.bincount(log.episode_of_transition, log.reward * 0.9**log.position)
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - grid.mdp.initial @ grid.state_values(behavior)) < 4 * error


def test_cut_episodes_keep_what_followed() -> None:
    log = CORRIDOR.draw(always(CORRIDOR, UP), 2, seed=0, max_steps=3)
    assert log.truncated.tolist() == [False, False, True] * 2
    assert log.next_observation.argmax(1).tolist() == [0] * 6


def test_a_whole_number_as_a_reward_is_a_reward() -> None:
    grid = GridWorld(("SG",), gamma=1.0, step_reward=-1, goal_reward=3)

    assert grid.mdp.policy_value(np.eye(4)[[1, 1]]) == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": ("S.", "G")}, "texts of one length"),
        ({"rows": ("S?G",)}, "made of the signs"),
        ({"rows": ("..G",)}, "an S to start in"),
        ({"rows": ("SG",), "slip": 1.5}, r"`slip` of GridWorld must be in \[0, 1\]; got 1.5"),
    ],
)
def test_what_is_no_grid_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GridWorld(**settings)
