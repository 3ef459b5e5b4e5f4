"""The error of claimed values in its parts, on worlds that are solved by hand and on random ones that are solved exactly."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import random_mdp

from stitchrl.diagnosis.error_parts import error_parts
from stitchrl.errors import ConfigurationError
from stitchrl.mdp.finite import FiniteMDP

GAMMA = 0.9
LOOP = FiniteMDP(
    transition=np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]),
    reward=np.ones((2, 2, 2)),
    initial=np.array([1.0, 0.0]),
    terminal=np.array([False, True]),
)
"""One state in which both actions pay 1 and come back, so that everything is worth 10 at gamma 0.9; and an end not reached."""
SECOND = np.array([[0.0, 1.0], [0.0, 1.0]])
"""The policy that always takes action 1."""
LOGGED = np.array([[True, False], [True, False]])
"""The log shows action 0 alone."""


def test_an_error_of_one_at_an_action_that_was_not_logged_becomes_ten() -> None:
    """Q(0) = 1 + 0.9 Q(1) fits the log without any error, and Q(1) = 20 is 1 above its own backup 1 + 0.9 x 20."""
    parts = error_parts(LOOP, np.array([[19.0, 20.0], [7.0, 7.0]]), SECOND, LOGGED, gamma=GAMMA)
    np.testing.assert_allclose(parts.bellman, [[0.0, 1.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(parts.approximation, 0.0, atol=1e-12)
    np.testing.assert_allclose(parts.extrapolation, [[9.0, 10.0], [0.0, 0.0]])
    assert parts.bound == pytest.approx(10.0)


def test_an_error_at_a_logged_action_that_the_policy_leaves_is_not_amplified() -> None:
    parts = error_parts(LOOP, np.array([[13.0, 10.0], [0.0, 0.0]]), SECOND, LOGGED, gamma=GAMMA)
    np.testing.assert_allclose(parts.bellman, [[3.0, 0.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(parts.approximation, [[3.0, 0.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(parts.extrapolation, 0.0, atol=1e-12)
    assert parts.bound == pytest.approx(0.0)


def test_the_parts_add_up_on_a_random_world() -> None:
    mdp, rng = random_mdp(5, 3), np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), mdp.num_states)
    q, logged = rng.normal(size=probs.shape), rng.random(probs.shape) < 0.5
    parts = error_parts(mdp, q, probs, logged, gamma=GAMMA)
    exact = np.where(mdp.terminal[:, None], 0.0, q - mdp.action_values(probs, gamma=GAMMA))
    np.testing.assert_allclose(parts.total, exact, atol=1e-10)
    assert np.abs(parts.extrapolation).max() <= parts.bound + 1e-10
    assert (
        np.abs(error_parts(mdp, mdp.action_values(probs, gamma=GAMMA), probs, logged, gamma=GAMMA).total).max() < 1e-10
    )


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"`q` of error_parts must have the world's shape \(2, 2\); got \(2, 3\)"
    ):
        error_parts(LOOP, np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3), bool), gamma=GAMMA)
