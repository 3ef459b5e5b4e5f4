"""The numbers of the lesson on CQL, against the library's own loss and against what is known by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.algorithms.cql_discrete import conservative_penalty
from stitchrl.algorithms.losses import td_loss
from stitchrl.lab.lessons.cql import (
    ARROWS,
    GRID,
    WEIGHTS,
    conservative_q,
    logged_actions,
    solved,
    subtracted_from_target,
)

SHARES = np.array([[0.5, 0.25, 0.25, 0.0]])
TARGETS = np.array([[1.0, 3.0, -2.0, 9.0]])


@pytest.mark.parametrize("weight", [0.1, 3.0, 50.0])
def test_the_slope_of_the_librarys_loss_is_zero_at_the_exact_minimum(weight: float) -> None:
    q = conservative_q(TARGETS, SHARES, weight)
    assert q[0, 3] == -np.inf
    action = jnp.array([0, 0, 1, 2])  # a log of these shares; the action that nobody took is forbidden, as at its limit
    mask = jnp.ones((4, 3), bool)
    targets = jnp.asarray(TARGETS[0, np.asarray(action)], jnp.float32)

    def loss(table: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(table, (1, 4, 3))
        td = td_loss(rows[:, jnp.arange(4), action], targets, jnp.ones(4))
        return td + weight * conservative_penalty(rows, action, mask, jnp.ones(4))

    assert np.abs(np.asarray(jax.grad(loss)(jnp.asarray(q[0, :3], jnp.float32)))).max() < 1e-4


def test_the_log_keeps_its_mean_and_the_softmax_policy_loses_half_the_weight_times_chi_squared() -> None:
    logged = SHARES[:, :3]
    for weight in (0.1, 3.0, 1e5):
        q = conservative_q(TARGETS[:, :3], logged, weight)[0]
        p = np.exp(q - q.max())
        p /= p.sum()
        lowered = q - TARGETS[0, :3]
        assert logged[0] @ lowered == pytest.approx(0.0, abs=1e-7)
        assert p @ lowered == pytest.approx(-weight / 2 * ((p**2 / logged[0]).sum() - 1), rel=1e-4)
    assert p == pytest.approx(logged[0], abs=1e-4)


def test_the_answer_of_the_grid_is_the_fixed_point() -> None:
    logged, weight = logged_actions(), 0.3
    q = solved(weight).q
    target = GRID.mdp.expected_reward + GRID.gamma * GRID.mdp.transition @ np.where(GRID.mdp.terminal, 0.0, q.max(1))
    order = np.argsort(-GRID.action_values(GRID.optimal_policy()), axis=1, kind="stable")
    p = np.exp(q - q.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    share = np.array([0.35, 0.2, 0.1, 0.05])[np.arange(len(q)) % 4]
    for column, b in ((0, share), (1, 1 - share)):
        at = (np.arange(len(q)), order[:, column])
        assert logged[at].all()
        assert q[at] == pytest.approx(target[at] - weight / 2 * (p[at] / b - 1), abs=1e-7)


def test_too_little_enough_and_too_much() -> None:
    found = {weight: solved(weight) for weight in WEIGHTS}
    assert found[0.0].unlogged > 0
    assert all(answer.unlogged == 0 for weight, answer in found.items() if weight)
    assert found[0.1].claimed < found[0.1].true
    assert found[10.0].claimed > found[10.0].true + 3  # no bound any more
    assert subtracted_from_target(1.0).unlogged > found[0.0].unlogged
    assert len(ARROWS) == GRID.mdp.num_actions
