"""The worlds of the lesson that compares methods, and its policy extraction, against what is known by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.algorithms.losses import advantage_weighted_loss
from stitchrl.lab.lessons import comparing
from stitchrl.lab.lessons.comparing import LOUD, SIZES, extracted, measured
from stitchrl.lab.two_worlds import (
    ACTIONS,
    DAYS,
    LENGTHS,
    NOISES,
    ROWS,
    joining_log,
    joining_world,
    trap_log,
    trap_world,
)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("noise", NOISES)
def test_the_best_route_of_the_joining_world_is_in_no_episode(length: int, noise: float) -> None:
    world, log = joining_world(length, noise), joining_log(length, noise)
    assert world.policy_value(world.optimal_policy()) == 10.0
    assert len(log.reward) == ROWS
    starts = np.flatnonzero(np.append(True, log.terminated[:-1]))
    from_start = log.observation[starts].argmax(1) == 0
    returns = np.add.reduceat(log.reward, starts)
    assert set(returns[from_start].tolist()) == {pay + sign * noise for pay in (3.0, 7.0) for sign in (-1, 1)}
    # by the log's own shares in each state, going to the crossing is worth the mean of 3 and 10
    counts = np.full((world.num_states, ACTIONS), 1e-12)
    np.add.at(counts, (log.observation.argmax(1), log.action), 1)
    q = world.action_values(counts / counts.sum(1, keepdims=True))
    assert q[0, :2] == pytest.approx([6.5, 7.0])


@pytest.mark.parametrize("days", DAYS)
def test_the_trap_costs_four_a_day_where_the_log_has_nothing(days: int) -> None:
    world, log = trap_world(days, 2.0), trap_log(days, 2.0)
    for action, cost in enumerate((-2.0, -1.0, -4.0, -4.0)):
        assert world.policy_value(np.tile(np.eye(ACTIONS)[action], (world.num_states, 1))) == pytest.approx(days * cost)
    assert len(log.reward) == ROWS
    assert set(log.action.tolist()) == {0, 1}


@pytest.mark.parametrize(("inverse_temperature", "gap"), [(1.0, 1.0), (30.0, 3.0)])
def test_the_slope_of_the_librarys_actor_loss_is_zero_at_the_extracted_mean(
    inverse_temperature: float, gap: float
) -> None:
    mean, weights = extracted(inverse_temperature, gap)
    action, right = comparing._logged()
    high, low = 0.7 * 0.4, 0.3 * 0.6
    adv = np.where(right, gap, 0.0) - gap * high / (high + low)
    assert weights[1] == pytest.approx(min(np.exp(inverse_temperature * adv.max()), 100.0))

    def loss(at: jax.Array) -> jax.Array:
        log_prob = -0.5 * (jnp.asarray(action, jnp.float32) - at) ** 2
        return advantage_weighted_loss(log_prob, jnp.asarray(adv, jnp.float32), jnp.ones(50), inverse_temperature)[0]

    assert abs(float(jax.grad(loss)(jnp.float32(mean)))) < 1e-4 * weights[1]


def test_names_stand_apart_and_in_order() -> None:
    errors = [0.0, -0.3, -0.2, 12.0, -1.1]
    placed = comparing._apart(errors)
    assert np.argsort(placed).tolist() == np.argsort(errors).tolist()
    spacing = np.diff(sorted(comparing._squeezed(height) for height in placed))
    assert (
        spacing.min()
        > 0.9 * comparing.ROOM * (comparing._squeezed(45.0) - comparing._squeezed(-6.0)) / comparing.HEIGHT
    )


@pytest.mark.slow
@pytest.mark.parametrize(("size", "noise"), [(SIZES[1], LOUD[0]), (SIZES[0], LOUD[1])])
def test_who_joins_and_who_believes(size: str, noise: str) -> None:
    for name in ("BC", "FilteredBC", "AWR"):
        found = measured(name, size, noise)
        assert 6.5 < found.joined < 8
        assert found.error is None
    for name in ("AWAC", "IQL", "CQL", "BCQ"):
        found = measured(name, size, noise)
        assert found.joined == pytest.approx(10, abs=0.1)
        assert found.error is not None
        assert -5 < found.error < 0.6
        assert found.unlogged < 0.01
    naive, days = measured("DQN", size, noise), DAYS[SIZES.index(size)]
    assert naive.error == pytest.approx(4 * days, rel=0.05)
    assert naive.trapped == pytest.approx(-4 * days, rel=0.05)
