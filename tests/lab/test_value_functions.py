"""The lesson on value functions: its methods against values worked by hand and against the exact world."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.lab.lessons.value_functions import (
    GRID,
    Log,
    behavior,
    first_visit,
    one_pass,
    settled,
    swept,
    target_variances,
)


def log_of(*episodes: list[tuple[int, int, float]]) -> Log:
    """Episodes of (state, action, reward), which all end."""
    flat = [(e, s, a, r, k == len(rows) - 1) for e, rows in enumerate(episodes) for k, (s, a, r) in enumerate(rows)]
    episode, state, action, reward, ends = (np.array(column) for column in zip(*flat, strict=True))
    return Log(episode, state, action, reward, np.where(ends, 0, np.append(state[1:], 0)), ends)


TWO = log_of([(1, 0, 1.0), (2, 0, 0.0)], [(3, 1, 0.0), (2, 0, 8.0)])


def test_three_methods_on_two_episodes() -> None:
    g = GRID.gamma
    assert first_visit(TWO, 1, None) == 1.0
    assert first_visit(TWO, 2, None) == first_visit(TWO, 2, 0) == 4.0
    assert np.isnan(first_visit(TWO, 2, 1))
    v, q = settled(TWO, moves=False), settled(TWO, moves=True)
    # The value of state 2 is joined over both episodes, and travels to the states before it.
    np.testing.assert_allclose(v[[1, 2, 3]], [1 + g * 4, 4, g * 4])
    np.testing.assert_allclose(q[[1, 3], [0, 1]], [1 + g * 4, g * 4])
    assert np.isnan(v[0])
    once, moves = one_pass([TWO, TWO.first(1)], 0.5)
    np.testing.assert_allclose(once[:, [1, 2, 3]], [[0.5, 4, 0], [0.5, 0, 0]])
    np.testing.assert_allclose(moves[0, [1, 2, 3], [0, 0, 1]], [0.5, 4, 0])


def test_only_the_first_visit_of_an_episode_counts() -> None:
    lingering = log_of([(1, 0, 1.0), (1, 0, 1.0), (2, 0, 0.0)])
    assert first_visit(lingering, 1, None) == pytest.approx(1 + GRID.gamma)


def test_variances_are_those_of_simulated_returns() -> None:
    whole, first = target_variances(behavior())
    start, v = GRID.state_of(0, 0), GRID.state_values(behavior())
    drawn = GRID.mdp.draw(behavior(), 4000, seed=1)
    returns = np.bincount(drawn.episode, drawn.reward * GRID.gamma**drawn.step)
    begin = drawn.step == 0
    chosen = drawn.state[begin] == start
    assert returns[chosen].var() == pytest.approx(whole[start], rel=0.1)
    target = drawn.reward + GRID.gamma * np.where(drawn.terminated, 0, v[drawn.next_state])
    assert target[drawn.state == start].var() == pytest.approx(first[start], rel=0.1)


def test_sweeps_end_at_the_exact_values() -> None:
    np.testing.assert_allclose(swept(1000, best=False), GRID.state_values(behavior()), atol=1e-9)
    np.testing.assert_allclose(swept(1000, best=True), GRID.state_values(GRID.optimal_policy()), atol=1e-9)
