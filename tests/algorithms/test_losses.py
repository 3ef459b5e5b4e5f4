"""Every loss against values and gradients worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from worlds import assert_trees_equal

from stitchrl.algorithms.behavior import imitation_loss
from stitchrl.algorithms.cql_continuous import sampled_penalty
from stitchrl.algorithms.cql_discrete import conservative_penalty
from stitchrl.algorithms.deterministic_actor import smoothed_action
from stitchrl.algorithms.dqn import max_target
from stitchrl.algorithms.losses import (
    MAX_WEIGHT,
    advantage_weighted_loss,
    expectile_loss,
    soft_actor_loss,
    td_loss,
    temperature_loss,
)
from stitchrl.algorithms.td3bc import regularized_actor_loss
from stitchrl.nn.distributions import Categorical, Normal, masked_log_softmax
from stitchrl.nn.tiling import tile_count, tiled_value_and_grad

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


def log_prob_of(logits: jax.Array, action: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Log-probability of the actions under a categorical policy with these outputs, as the algorithms take it."""
    return Categorical(masked_log_softmax(logits, mask)).log_prob(action)


def test_imitation_loss_by_hand() -> None:
    # pi = (.25, .5, .25) and, action 1 forbidden, (1/3, 0, 2/3): -(ln .5 + ln 2/3) / 2 = ln 3 / 2.
    pi = Categorical(masked_log_softmax(LOGITS, MASK))
    metrics = pi.metrics(ACTION)
    close(imitation_loss(pi.log_prob(ACTION)), LN3 / 2)
    close(metrics["policy/agreement"], 1.0)
    # Entropies 2 (.25 ln 4) + .5 ln 2 = 1.5 ln 2, and ln 3 - 2/3 ln 2.
    close(metrics["policy/entropy"], (1.5 * LN2 + LN3 - 2 / 3 * LN2) / 2)
    # (pi - onehot) / B.
    gradient = jax.grad(lambda logits: imitation_loss(log_prob_of(logits, ACTION, MASK)))(LOGITS)
    close(gradient, [[1 / 8, -1 / 4, 1 / 8], [1 / 6, 0, -1 / 6]])
    assert float(gradient[1, 1]) == 0.0


def test_imitation_loss_of_plain_numbers() -> None:
    close(imitation_loss(f32([-1, -2, 0, 5])), -0.5)
    close(jax.grad(imitation_loss)(f32([-1, -2, 0, 5])), [-0.25] * 4)


def test_imitation_agreement_counts_modes() -> None:
    metrics = Categorical(masked_log_softmax(LOGITS, MASK)).metrics(i32([0, 2]))
    close(metrics["policy/agreement"], 0.5)


def test_imitation_of_a_normal_by_hand() -> None:
    # Standard deviation 1: half the squared distance and a constant; gradient (mean - action) / B.
    mean, action, log_std = f32([[0.5], [-1.0]]), f32([[0.0], [1.0]]), jnp.zeros((2, 1), jnp.float32)
    loss: Callable[..., jax.Array] = lambda m, s: imitation_loss(Normal(m, s).log_prob(action))  # noqa: E731
    close(loss(mean, log_std), (0.125 + 2.0) / 2 + 0.5 * math.log(2 * math.pi))
    close(jax.grad(loss)(mean, log_std), [[0.25], [-1.0]])
    # By the log standard deviation, (1 - error^2) / B: it falls for errors below it and rises for errors above.
    close(jax.grad(loss, argnums=1)(mean, log_std), [[0.375], [-1.5]])


AW_LOGITS = jnp.log(f32([[1, 1], [1, 3], [1, 1]]))
AW_ACTION = i32([0, 1, 1])
AW_ADV = f32([0, LN2, 10])
ONES = jnp.ones(3, jnp.float32)


@pytest.mark.parametrize(
    ("inverse_temperature", "weights"),
    # exp(inverse_temperature adv), e^10 and e^20 capped at 100.
    [(1.0, [1, 2, 100]), (2.0, [1, 4, 100]), (0.0, [1, 1, 1])],
)
def test_advantage_weighted_loss_by_hand(inverse_temperature: float, weights: list[float]) -> None:
    mask = jnp.ones((3, 2), jnp.bool_)
    log_prob = log_prob_of(AW_LOGITS, AW_ACTION, mask)
    loss, weight = advantage_weighted_loss(log_prob, AW_ADV, ONES, inverse_temperature)
    # -ln pi = ln 2, ln 4/3, ln 2.
    close(loss, (weights[0] * LN2 + weights[1] * math.log(4 / 3) + weights[2] * LN2) / 3)
    close(weight, weights)
    # By log pi: -weight / B.
    gradient = jax.grad(lambda lp: advantage_weighted_loss(lp, AW_ADV, ONES, inverse_temperature)[0])(log_prob)
    close(gradient, -np.array(weights) / 3)

    # weight (pi - onehot) / B, pi = (.5, .5), (.25, .75), (.5, .5).
    def actor_loss(logits: jax.Array) -> jax.Array:
        return advantage_weighted_loss(log_prob_of(logits, AW_ACTION, mask), AW_ADV, ONES, inverse_temperature)[0]

    expected = np.array(weights)[:, None] * [[-0.5, 0.5], [0.25, -0.25], [0.5, -0.5]] / 3
    close(jax.grad(actor_loss)(AW_LOGITS), expected)


def test_advantage_weighted_loss_passes_no_gradient_to_the_advantage() -> None:
    log_prob = f32([-1, -2, -3])
    gradient = jax.grad(lambda adv: advantage_weighted_loss(log_prob, adv, ONES, 2.0)[0])(f32([0, 0.5, -1]))
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_advantage_weights_never_exceed_their_cap() -> None:
    log_prob = log_prob_of(AW_LOGITS, AW_ACTION, None)
    loss, weight = advantage_weighted_loss(log_prob, f32([1e4, 4.605, 4.606]), ONES, 1.0)
    # e^1e4 overflows to infinity before the cap; e^4.605 = 99.98 stays below it.
    assert np.isfinite(float(loss))
    close(weight, [100.0, math.exp(4.605), 100.0])
    assert np.asarray(weight >= MAX_WEIGHT).tolist() == [True, False, True]


def test_advantage_weighted_loss_honours_the_mask() -> None:
    mask = flags([[1, 0], [1, 1], [0, 1]])
    loss, _ = advantage_weighted_loss(log_prob_of(AW_LOGITS, AW_ACTION, mask), f32([0, 0, 0]), ONES, 1.0)
    # Only one action allowed in rows 0 and 2: nothing to learn there.
    close(loss, math.log(4 / 3) / 3)


@pytest.mark.parametrize("adv", [-10.0, 0.0, 3.0, 1e4])
def test_rows_without_a_target_are_imitated_with_weight_one(adv: float) -> None:
    # No target anchors their advantage, so whatever it is, they count as in behaviour cloning.
    log_prob, td_weight = f32([-1, -2, -3]), f32([1, 0, 1])
    loss, weight = advantage_weighted_loss(log_prob, f32([LN2, adv, 0]), td_weight, 1.0)
    close(weight, [2, 1, 1])
    close(loss, (2 * 1 + 2 + 3) / 3)
    by_log_prob, by_adv = jax.grad(lambda *args: advantage_weighted_loss(*args, td_weight, 1.0)[0], argnums=(0, 1))(
        log_prob, f32([LN2, adv, 0])
    )
    close(by_log_prob, [-2 / 3, -1 / 3, -1 / 3])
    np.testing.assert_array_equal(by_adv, np.zeros(3))


# --- conservative penalty ----------------------------------------------------

CQ = jnp.log(f32([[[1, 2, 1], [1, 1, 2]], [[1, 1, 2], [3, 1, 1]]]))
BOTH = jnp.ones(2, jnp.float32)


def test_conservative_penalty_by_hand() -> None:
    # Critic 0: ln 4 - ln 2 and ln 3 - ln 2; critic 1: ln 4 - ln 1 and ln 4 - ln 1. Means over rows, summed.
    close(conservative_penalty(CQ, ACTION, MASK, BOTH), (LN2 + LN3 - LN2) / 2 + LN4)
    # (softmax over the allowed - onehot) / B, each critic alone.
    expected = [
        [[1 / 8, -1 / 4, 1 / 8], [1 / 6, 0, -1 / 6]],
        [[1 / 8, -3 / 8, 1 / 4], [3 / 8, 0, -3 / 8]],
    ]
    close(jax.grad(conservative_penalty)(CQ, ACTION, MASK, BOTH), expected)


def test_conservative_penalty_ignores_a_huge_forbidden_value() -> None:
    planted = CQ.at[:, 1, 1].set(jnp.float32(1e6))
    close(conservative_penalty(planted, ACTION, MASK, BOTH), LN3 / 2 + LN4)
    assert not np.asarray(jax.grad(conservative_penalty)(planted, ACTION, MASK, BOTH))[:, 1, 1].any()


def test_conservative_penalty_is_zero_where_only_one_action_is_allowed() -> None:
    mask = flags([[0, 1, 0], [0, 0, 1]])
    assert float(conservative_penalty(CQ, ACTION, mask, BOTH)) == 0.0
    close(jax.grad(conservative_penalty)(CQ, ACTION, mask, BOTH), np.zeros((2, 2, 3)))


@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_conservative_penalty_does_not_see_a_common_shift(shift: float) -> None:
    shifted: Callable[[jax.Array], jax.Array] = lambda q: q + jnp.float32(shift)  # noqa: E731
    np.testing.assert_allclose(
        conservative_penalty(shifted(CQ), ACTION, MASK, BOTH), conservative_penalty(CQ, ACTION, MASK, BOTH), rtol=1e-4
    )


def test_rows_without_a_target_are_not_pushed_up() -> None:
    # The first row alone counts, in a mean over both: (ln 4 - ln 2 + ln 4) / 2.
    weight = f32([1, 0])
    close(conservative_penalty(CQ, ACTION, MASK, weight), (LN2 + LN4) / 2)
    gradient = np.asarray(jax.grad(conservative_penalty)(CQ, ACTION, MASK, weight))
    close(gradient[:, 0], [[1 / 8, -1 / 4, 1 / 8], [1 / 8, -3 / 8, 1 / 4]])
    assert not gradient[:, 1].any()
    # Sampled: ln 10 - ln 5 and ln 7 - ln 7, halved.
    close(sampled_penalty(SQ, LOG_DENSITY, SQ_DATA, weight), [LN2 / 2, 0.0])
    gradients = jax.grad(lambda *args: jnp.sum(sampled_penalty(*args, weight)), argnums=(0, 2))(
        SQ, LOG_DENSITY, SQ_DATA
    )
    assert not any(np.asarray(gradient)[..., 1].any() for gradient in gradients)
    assert all(np.asarray(gradient)[..., 0].any() for gradient in gradients)


# --- conservative penalty, sampled -------------------------------------------

# exp(q - log density): critic 0, row 0: 1/.5, 2/1, 3/.5 = 2, 2, 6; row 1: 1/1, 1/.5, 2/.25 = 1, 2, 8.
# Critic 1, row 0: 2/.5, 1/1, 1/.5 = 4, 1, 2; row 1: 4/1, 1/.5, .5/.25 = 4, 2, 2.
SQ = jnp.log(f32([[[1, 1], [2, 1], [3, 2]], [[2, 4], [1, 1], [1, 0.5]]]))
LOG_DENSITY = jnp.log(f32([[0.5, 1], [1, 0.5], [0.5, 0.25]]))
SQ_DATA = jnp.log(f32([[5, 1], [7, 2]]))


def test_sampled_penalty_by_hand() -> None:
    # ln 10 - ln 5, ln 11 - ln 1; ln 7 - ln 7, ln 8 - ln 2.
    close(sampled_penalty(SQ, LOG_DENSITY, SQ_DATA, BOTH), [(LN2 + math.log(11)) / 2, LN4 / 2])


def test_gradient_of_the_sampled_penalty_by_hand() -> None:
    total: Callable[..., jax.Array] = lambda *args: jnp.sum(sampled_penalty(*args, BOTH))  # noqa: E731
    by_q, by_density, by_data = jax.grad(total, argnums=(0, 1, 2))(SQ, LOG_DENSITY, SQ_DATA)
    # Weights of the corrected softmax over the K actions, / B.
    weights = np.array(
        [
            [[2 / 10, 1 / 11], [2 / 10, 2 / 11], [6 / 10, 8 / 11]],
            [[4 / 7, 4 / 8], [1 / 7, 2 / 8], [2 / 7, 2 / 8]],
        ]
    )
    close(by_q, weights / 2)
    close(by_data, np.full((2, 2), -0.5))
    close(by_density, -weights.sum(0) / 2)


def test_sampled_penalty_of_equal_densities_is_the_plain_one_and_a_constant() -> None:
    q, data = jnp.swapaxes(CQ, 1, 2), jax.vmap(lambda q: q[jnp.arange(2), ACTION])(CQ)
    everything = jnp.ones((2, 3), jnp.bool_)
    plain = conservative_penalty(CQ, ACTION, everything, BOTH)
    for density in (1.0, 0.5, 0.25):
        log_density = jnp.full((3, 2), math.log(density), jnp.float32)
        close(jnp.sum(sampled_penalty(q, log_density, data, BOTH)), float(plain) - 2 * math.log(density))


def test_sampled_penalty_estimates_the_integral_whatever_the_actions_were_drawn_from() -> None:
    # log of the mean of exp(Q) / density is log of the integral of exp(Q); for Q = a on [-1, 1], 2 sinh 1.
    # Midpoints of equal shares of probability stand in for draws: from the uniform, and from density (1 + a) / 2.
    share = (np.arange(2000) + 0.5) / 2000
    for action, density in (
        (2 * share - 1, np.full(2000, 0.5)),
        (2 * np.sqrt(share) - 1, np.sqrt(share)),
    ):
        q = f32(action)[None, :, None]
        found = sampled_penalty(q, f32(np.log(density))[:, None], jnp.zeros((1, 1), jnp.float32), BOTH[:1])
        np.testing.assert_allclose(found - math.log(2000), [math.log(2 * math.sinh(1))], atol=2e-2)


# --- TD3+BC ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "noise", "target_noise", "noise_clip", "expected", "slope"),
    [
        # action + clip(target_noise noise, +-noise_clip), then into [-1, 1]; the slope by the action is 1 or 0.
        (0.0, 1.0, 0.2, 0.5, 0.2, 1.0),
        (0.3, -1.0, 0.2, 0.5, 0.1, 1.0),
        (0.0, 3.0, 0.2, 0.5, 0.5, 1.0),
        (-0.2, -10.0, 0.2, 0.5, -0.7, 1.0),
        (0.9, 3.0, 0.2, 0.5, 1.0, 0.0),
        (0.9, 0.75, 0.2, 0.5, 1.0, 0.0),
        (-0.8, -2.0, 0.2, 0.5, -1.0, 0.0),
        (0.6, 2.0, 0.0, 0.5, 0.6, 1.0),
        (0.6, 2.0, 0.2, 0.0, 0.6, 1.0),
        (0.1, -2.0, 0.5, 2.0, -0.9, 1.0),
    ],
)
def test_smoothed_action_by_hand(
    action: float, noise: float, target_noise: float, noise_clip: float, expected: float, slope: float
) -> None:
    smooth: Callable[[jax.Array], jax.Array] = lambda a: smoothed_action(  # noqa: E731
        a, f32([[noise]]), target_noise, noise_clip
    )
    close(smooth(f32([[action]])), [[expected]])
    assert abs(float(smooth(f32([[action]]))[0, 0])) <= 1.0
    if (action, noise) != (0.9, 0.75):  # at the very kink it is neither
        close(jax.grad(lambda a: smooth(a)[0, 0])(f32([[action]])), [[slope]])


def test_smoothed_action_is_taken_entry_by_entry() -> None:
    found = smoothed_action(f32([[0.0, 0.9], [-0.2, 0.3]]), f32([[1, 3], [-10, -1]]), 0.2, 0.5)
    close(found, [[0.2, 1.0], [-0.7, 0.1]])


AQ = f32([2, -4, 3])
POLICY_ACTION = f32([[0.5, 0], [1, -1], [0, 0.25]])
LOGGED_ACTION = f32([[0, 0], [0, -0.5], [0, -0.25]])


@pytest.mark.parametrize("q_weight", [2.5, 1.0, 0.0])
def test_regularized_actor_loss_by_hand(q_weight: float) -> None:
    # mean |q| = 3, mean q = 1/3; squared distances .25 0 | 1 .25 | 0 .25, over 6.
    scale = q_weight / 3
    close(regularized_actor_loss(AQ, POLICY_ACTION, LOGGED_ACTION, q_weight), -scale / 3 + 1.75 / 6)
    by_q, by_policy, by_logged = jax.grad(regularized_actor_loss, argnums=(0, 1, 2))(
        AQ, POLICY_ACTION, LOGGED_ACTION, q_weight
    )
    # -lambda / B: nothing of the derivative of lambda, which would add lambda sign(q) mean(q) / (B mean |q|).
    close(by_q, [-scale / 3] * 3)
    # 2 distance / (rows x dimensions).
    distance = np.array([[0.5, 0], [1, -0.5], [0, 0.5]])
    close(by_policy, distance / 3)
    close(by_logged, -distance / 3)


@pytest.mark.parametrize("factor", [0.01, 7.0, 1e4])
def test_regularized_actor_loss_does_not_see_the_scale_of_q(factor: float) -> None:
    scaled = regularized_actor_loss(factor * AQ, POLICY_ACTION, LOGGED_ACTION, 2.5)
    close(scaled, regularized_actor_loss(AQ, POLICY_ACTION, LOGGED_ACTION, 2.5))


# --- a batch in parts --------------------------------------------------------


def squared_error(parameters: dict[str, jax.Array], part: dict[str, jax.Array]) -> tuple[jax.Array, tuple]:
    found = jnp.tanh(part["x"] @ parameters["w"]) + jnp.broadcast_to(parameters["b"], part["y"].shape)
    error = found - part["y"]
    return jnp.mean(error**2), (jnp.mean(error), {"largest": jnp.mean(jnp.stack([found, error]), axis=1)})


@pytest.mark.parametrize(("tiles", "compiled"), [(1, False), (2, False), (4, False), (4, True), (8, True)])
def test_tiled_gradients_are_those_of_the_whole_batch(tiles: int, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    parameters = {"w": f32(rng.normal(size=3)), "b": f32(0.3)}
    batch = {"x": f32(rng.normal(size=(8, 3))), "y": f32(rng.normal(size=8))}
    whole = jax.value_and_grad(squared_error, has_aux=True)(parameters, batch)
    tiled: Any = lambda p, b: tiled_value_and_grad(squared_error, p, b, tiles)  # noqa: E731
    found = (jax.jit(tiled) if compiled else tiled)(parameters, batch)
    assert_trees_equal(found, whole, rtol=1e-5, atol=1e-7)


def test_tiled_gradients_by_hand() -> None:
    # loss w mean(x): value w 2.5, gradient 2.5, whatever the parts.
    loss: Any = lambda w, x: (w * jnp.mean(x), jnp.max(x))  # noqa: E731
    (value, largest), gradient = tiled_value_and_grad(loss, f32(2.0), f32([1, 2, 3, 4]), 2)
    close(value, 5.0)
    close(gradient, 2.5)
    close(largest, (2 + 4) / 2)  # what is no mean over rows becomes one over parts


@pytest.mark.parametrize(
    ("rows", "evaluations", "at_once", "tiles"),
    [
        (256, 31, 1024, 8),  # 8 parts of 32 rows, 992 evaluations; 4 parts have 1984
        (8, 31, 1024, 1),
        (257, 31, 1024, 1),  # a prime divides into single rows only: slivers, so it stays whole
        (7, 200, 1024, 1),
        (26, 80, 1024, 1),  # 13 rows are 1040, 2 rows 160: less than a quarter of 1024
        (26, 128, 1024, 13),  # 2 rows are 256: a quarter
        (32, 32, 1024, 1),  # 1024 exactly
        (33, 32, 1024, 3),
        (1, 5000, 1024, 1),
        (4, 5000, 1024, 4),  # never less than a row
        (6, 400, 1024, 3),
        (7, 300, 1024, 7),  # a prime has no other parts
        (10, 20, 100, 2),
    ],
)
def test_tile_count_by_hand(rows: int, evaluations: int, at_once: int, tiles: int) -> None:
    assert tile_count(rows, evaluations, at_once=at_once) == tiles


def test_tile_count_divides_the_rows_and_is_the_fewest_that_fit_unless_they_are_slivers() -> None:
    for rows in range(1, 40):
        for evaluations in (1, 7, 31, 100, 256, 2000):
            tiles = tile_count(rows, evaluations)
            divisors = [t for t in range(1, rows + 1) if rows % t == 0]
            fitting = [t for t in divisors if rows // t * evaluations <= 1024] or [rows]
            assert tiles == (fitting[0] if rows // fitting[0] * evaluations >= 256 else 1)


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_a_batch_stays_whole_where_there_is_no_cache_to_keep_to(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert tile_count(256, 31) == 1


# --- soft actor-critic ---------------------------------------------------------------------------------------------------


def test_soft_actor_loss_by_hand() -> None:
    log_prob, q = f32([-1, 0.5, 2]), f32([3, -1, 4])
    # .5 (-1) - 3 = -3.5; .5 .5 + 1 = 1.25; .5 2 - 4 = -3: their mean.
    close(soft_actor_loss(log_prob, q, 0.5), -5.25 / 3)
    close(jax.grad(soft_actor_loss)(log_prob, q, 0.5), [0.5 / 3] * 3)
    close(jax.grad(soft_actor_loss, argnums=1)(log_prob, q, 0.5), [-1 / 3] * 3)


@pytest.mark.parametrize(("entropy_target", "slope"), [(-2.0, 1.5), (-0.5, 0.0), (1.0, -1.5)])
def test_temperature_loss_by_hand(entropy_target: float, slope: float) -> None:
    # E[log pi] = .5: entropy -.5. Above its target of -2 the temperature falls, at it it rests, below it rises.
    log_prob = f32([-1, 0.5, 2])
    close(temperature_loss(f32(0.25), log_prob, entropy_target), 0.25 * slope)
    gradient = jax.grad(temperature_loss, argnums=(0, 1))(f32(0.25), log_prob, entropy_target)
    close(gradient[0], slope)
    np.testing.assert_array_equal(gradient[1], np.zeros(3))
