"""Every loss against values and gradients worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

from stitchrl.algorithms.behavior import imitation_loss
from stitchrl.algorithms.cql import conservative_penalty
from stitchrl.algorithms.dqn import max_target
from stitchrl.algorithms.iql import advantage_weighted_loss
from stitchrl.algorithms.losses import apply_gradients, expectile_loss, polyak, td_loss

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def f32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def i32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.int32)


def flags(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.bool_)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)


# --- expectile ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("expectile", "error", "value", "gradient"),
    [
        # value = weight error^2, gradient = 2 weight error; weight = expectile above 0, 1 - expectile below.
        (0.5, 2.0, 2.0, 2.0),
        (0.5, -2.0, 2.0, -2.0),
        (0.7, 2.0, 2.8, 2.8),
        (0.7, -2.0, 1.2, -1.2),
        (0.7, 0.0, 0.0, 0.0),
        (0.9, 1.0, 0.9, 1.8),
        (0.9, -3.0, 0.9, -0.6),
        (0.1, -3.0, 8.1, -5.4),
    ],
)
def test_expectile_loss(expectile: float, error: float, value: float, gradient: float) -> None:
    close(expectile_loss(f32([error]), expectile), [value])
    close(jax.grad(lambda e: expectile_loss(e, expectile)[0])(f32([error])), [gradient])


def test_expectile_loss_is_taken_entry_by_entry() -> None:
    close(expectile_loss(f32([2, -2, 0, 1]), 0.7), [2.8, 1.2, 0, 0.7])


@pytest.mark.parametrize(
    ("expectile", "minimiser"),
    # Between 5 and 8: expectile (8 - m) = (1 - expectile) ((m - 3) + (m - 5)).
    [(0.9, 80 / 11), (0.7, 80 / 13), (0.5, 16 / 3)],
)
def test_expectiles_of_three_numbers(expectile: float, minimiser: float) -> None:
    targets = f32([3, 5, 8])
    slope = jax.grad(lambda m: jnp.sum(expectile_loss(targets - jnp.broadcast_to(m, (3,)), expectile)))
    found = brentq(lambda m: float(slope(jnp.float32(m))), 3.0, 8.0, xtol=1e-6)
    assert found == pytest.approx(minimiser, abs=1e-5)


# --- temporal difference -----------------------------------------------------

Q = f32([[1, 2, 3], [0, 4, 3]])
TARGET = f32([2, 2, 5])


def test_td_loss_by_hand() -> None:
    # Errors: (-1, 0, -2) and (-2, 2, -2). Sum over critics of means: (1 + 0 + 4) / 3 + (4 + 4 + 4) / 3.
    everything = jnp.ones(3, jnp.float32)
    close(td_loss(Q, TARGET, everything), 17 / 3)
    # 2 error / B.
    close(jax.grad(td_loss)(Q, TARGET, everything), [[-2 / 3, 0, -4 / 3], [-4 / 3, 4 / 3, -4 / 3]])


def test_td_loss_of_weight_zero_rows() -> None:
    weight = f32([1, 1, 0])
    close(td_loss(Q, TARGET, weight), 1 / 3 + 8 / 3)
    close(jax.grad(td_loss)(Q, TARGET, weight), [[-2 / 3, 0, 0], [-4 / 3, 4 / 3, 0]])
    nothing = jnp.zeros(3, jnp.float32)
    assert float(td_loss(Q, TARGET, nothing)) == 0.0
    assert not np.asarray(jax.grad(td_loss)(Q, TARGET, nothing)).any()


def test_td_loss_passes_no_gradient_to_its_target() -> None:
    gradient = jax.grad(td_loss, argnums=1)(Q, TARGET, jnp.ones(3, jnp.float32))
    np.testing.assert_array_equal(gradient, np.zeros(3))


@pytest.mark.parametrize(("rate", "expected"), [(0.25, [1.5, -0.25]), (1.0, [3.0, -1.0]), (0.5, [2.0, -0.5])])
def test_polyak(rate: float, expected: list[float]) -> None:
    # target (1, 0), online (3, -1).
    moved = polyak({"w": f32([1])} | {"b": f32([0])}, {"w": f32([3]), "b": f32([-1])}, rate)
    close([moved["w"][0], moved["b"][0]], expected)


def test_apply_gradients_is_one_step_of_the_optimiser() -> None:
    optimizer = optax.sgd(0.1)
    parameters = {"w": f32([1, 2])}
    moved, _ = apply_gradients(optimizer, {"w": f32([10, -5])}, optimizer.init(parameters), parameters)
    close(moved["w"], [0.0, 2.5])


# --- targets -----------------------------------------------------------------


def test_max_target_by_hand() -> None:
    next_q = f32([[1, 5, 4], [9, 8, 7], [2, 4, 6]])
    mask = flags([[1, 0, 0], [1, 1, 1], [1, 1, 0]])
    # 1 + .9 1 (5 and 4 are forbidden); 2 + 0 (terminal); 3 + .5 4 (6 is forbidden).
    reward, discount = f32([1, 2, 3]), f32([0.9, 0.0, 0.5])
    close(max_target(reward, discount, next_q, mask), [1.9, 2.0, 5.0])
    gradient = jax.grad(lambda q: jnp.sum(max_target(reward, discount, q, mask)))(next_q)
    close(gradient, [[0.9, 0, 0], [0, 0, 0], [0, 0.5, 0]])
    close(max_target(reward, discount, next_q, jnp.ones((3, 3), jnp.bool_)), [1 + 4.5, 2.0, 3 + 3.0])


def test_max_target_ignores_a_huge_forbidden_value_and_a_huge_terminal_one() -> None:
    next_q = f32([[1, 1e8], [1e8, 1e8]])
    mask = flags([[1, 0], [1, 1]])
    close(max_target(f32([0, 3]), f32([1, 0]), next_q, mask), [1.0, 3.0])


# --- policies ----------------------------------------------------------------

LOGITS = jnp.log(f32([[1, 2, 1], [1, 1, 2]]))
ACTION = i32([1, 2])
MASK = flags([[1, 1, 1], [1, 0, 1]])


def test_imitation_loss_by_hand() -> None:
    # pi = (.25, .5, .25) and, action 1 forbidden, (1/3, 0, 2/3): -(ln .5 + ln 2/3) / 2 = ln 3 / 2.
    loss, metrics = imitation_loss(LOGITS, ACTION, MASK)
    close(loss, LN3 / 2)
    close(metrics["loss/actor"], LN3 / 2)
    close(metrics["policy/agreement"], 1.0)
    # Entropies 2 (.25 ln 4) + .5 ln 2 = 1.5 ln 2, and ln 3 - 2/3 ln 2.
    close(metrics["policy/entropy"], (1.5 * LN2 + LN3 - 2 / 3 * LN2) / 2)
    # (pi - onehot) / B.
    gradient = jax.grad(lambda logits: imitation_loss(logits, ACTION, MASK)[0])(LOGITS)
    close(gradient, [[1 / 8, -1 / 4, 1 / 8], [1 / 6, 0, -1 / 6]])
    assert float(gradient[1, 1]) == 0.0


def test_imitation_agreement_counts_modes() -> None:
    _, metrics = imitation_loss(LOGITS, i32([0, 2]), MASK)
    close(metrics["policy/agreement"], 0.5)


AW_LOGITS = jnp.log(f32([[1, 1], [1, 3], [1, 1]]))
AW_ACTION = i32([0, 1, 1])
AW_ADV = f32([0, LN2, 10])


@pytest.mark.parametrize(
    ("inverse_temperature", "weights", "clipped"),
    # exp(inverse_temperature adv), e^10 and e^20 capped at 100.
    [(1.0, [1, 2, 100], 1 / 3), (2.0, [1, 4, 100], 1 / 3), (0.0, [1, 1, 1], 0.0)],
)
def test_advantage_weighted_loss_by_hand(inverse_temperature: float, weights: list[float], clipped: float) -> None:
    mask = jnp.ones((3, 2), jnp.bool_)
    loss, metrics = advantage_weighted_loss(AW_LOGITS, AW_ACTION, mask, AW_ADV, inverse_temperature)
    # -ln pi = ln 2, ln 4/3, ln 2.
    close(loss, (weights[0] * LN2 + weights[1] * math.log(4 / 3) + weights[2] * LN2) / 3)
    close(metrics["weight/mean"], sum(weights) / 3)
    close(metrics["weight/clipped"], clipped)

    # weight (pi - onehot) / B, pi = (.5, .5), (.25, .75), (.5, .5).
    def actor_loss(logits: jax.Array) -> jax.Array:
        return advantage_weighted_loss(logits, AW_ACTION, mask, AW_ADV, inverse_temperature)[0]

    expected = np.array(weights)[:, None] * [[-0.5, 0.5], [0.25, -0.25], [0.5, -0.5]] / 3
    close(jax.grad(actor_loss)(AW_LOGITS), expected)


def test_advantage_weights_never_exceed_their_cap() -> None:
    mask = jnp.ones((3, 2), jnp.bool_)
    loss, metrics = advantage_weighted_loss(AW_LOGITS, AW_ACTION, mask, f32([1e4, 4.605, 4.606]), 1.0)
    # e^1e4 overflows to infinity before the cap; e^4.605 = 99.98 stays below it.
    assert np.isfinite(float(loss))
    close(metrics["weight/clipped"], 2 / 3)


def test_advantage_weighted_loss_honours_the_mask() -> None:
    mask = flags([[1, 0], [1, 1], [0, 1]])
    loss, _ = advantage_weighted_loss(AW_LOGITS, AW_ACTION, mask, f32([0, 0, 0]), 1.0)
    # Only one action allowed in rows 0 and 2: nothing to learn there.
    close(loss, math.log(4 / 3) / 3)


# --- conservative penalty ----------------------------------------------------

CQ = jnp.log(f32([[[1, 2, 1], [1, 1, 2]], [[1, 1, 2], [3, 1, 1]]]))


def test_conservative_penalty_by_hand() -> None:
    # Critic 0: ln 4 - ln 2 and ln 3 - ln 2; critic 1: ln 4 - ln 1 and ln 4 - ln 1. Means over rows, summed.
    close(conservative_penalty(CQ, ACTION, MASK), (LN2 + LN3 - LN2) / 2 + LN4)
    # (softmax over the allowed - onehot) / B, each critic alone.
    expected = [
        [[1 / 8, -1 / 4, 1 / 8], [1 / 6, 0, -1 / 6]],
        [[1 / 8, -3 / 8, 1 / 4], [3 / 8, 0, -3 / 8]],
    ]
    close(jax.grad(conservative_penalty)(CQ, ACTION, MASK), expected)


def test_conservative_penalty_ignores_a_huge_forbidden_value() -> None:
    planted = CQ.at[:, 1, 1].set(jnp.float32(1e6))
    close(conservative_penalty(planted, ACTION, MASK), LN3 / 2 + LN4)
    assert not np.asarray(jax.grad(conservative_penalty)(planted, ACTION, MASK))[:, 1, 1].any()


def test_conservative_penalty_is_zero_where_only_one_action_is_allowed() -> None:
    mask = flags([[0, 1, 0], [0, 0, 1]])
    assert float(conservative_penalty(CQ, ACTION, mask)) == 0.0
    close(jax.grad(conservative_penalty)(CQ, ACTION, mask), np.zeros((2, 2, 3)))


@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_conservative_penalty_does_not_see_a_common_shift(shift: float) -> None:
    shifted: Callable[[jax.Array], jax.Array] = lambda q: q + jnp.float32(shift)  # noqa: E731
    np.testing.assert_allclose(
        conservative_penalty(shifted(CQ), ACTION, MASK), conservative_penalty(CQ, ACTION, MASK), rtol=1e-4
    )
