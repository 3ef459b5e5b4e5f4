"""BCQ and the combination with IQL: losses and updates by hand, and that they never take what the log hardly tried."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, fitted, last_bias, one_hand, plain, row
from worlds import schema_of

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.bcq_discrete import constrained_target, huber_td_loss
from stitchrl.algorithms.bcq_iql import constrained_value_loss
from stitchrl.algorithms.generative import best_candidate_value, vae_loss
from stitchrl.algorithms.losses import damped_imitation_loss
from stitchrl.nn.constrained import ConstrainedGreedyPolicy, likely_actions
from stitchrl.nn.critics import DiscreteCritics
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import CategoricalPolicy


def f32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


# --- the pieces, by hand ---------------------------------------------------------------------------------------------


def test_likely_actions_are_relative_to_the_most_likely_allowed_one() -> None:
    # Probabilities .6, .2, .12, .08: shares 1, 1/3, .2, .133 of the largest; without the first 1, .6, .4 of the second.
    logits = f32(np.log([[0.6, 0.2, 0.12, 0.08]] * 2))
    mask = jnp.asarray([[True] * 4, [False, True, True, True]])
    assert likely_actions(logits, mask, 0.3).tolist() == [[True, True, False, False], [False, True, True, True]]
    assert likely_actions(logits, mask, 0.5).tolist() == [[True, False, False, False], [False, True, True, False]]
    assert likely_actions(logits, mask, 0.0).tolist() == mask.tolist()
    # However small its probability is, the most likely of the allowed actions is in the set.
    alone = f32([[0.0, -80.0, -200.0]])
    assert likely_actions(alone, jnp.asarray([[False, True, True]]), 0.999).tolist() == [[False, True, False]]


def test_the_damped_imitation_loss_by_hand() -> None:
    logits = np.array([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0]])
    mask = np.array([[True, True, True], [True, False, True]])
    action = np.array([0, 2])

    def by_hand(logits: np.ndarray) -> float:
        first = logits[0, 0] - math.log(np.exp(logits[0]).sum())
        second = logits[1, 2] - math.log(math.exp(logits[1, 0]) + math.exp(logits[1, 2]))
        return -(first + second) / 2 + 0.01 * float((np.where(mask, logits, 0.0) ** 2).sum()) / 6

    arguments = jnp.asarray(action), jnp.asarray(mask)
    found, gradient = jax.value_and_grad(damped_imitation_loss)(f32(logits), *arguments)
    assert float(found) == pytest.approx(by_hand(logits), rel=1e-6)
    np.testing.assert_allclose(gradient, slopes(by_hand, logits), atol=1e-5)
    assert np.asarray(gradient)[1, 1] == 0.0


def slopes(function: Any, at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences in float64."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        change = np.zeros_like(at)
        change[place] = step
        found[place] = (function(at + change) - function(at - change)) / (2 * step)
    return found


def test_the_clipped_td_loss_by_hand() -> None:
    # Errors 0.5, -3, 2 (of weight 0), 1: halves of squares up to 1, then |e| - 1/2; slopes are the errors cut at +-1.
    q, target, weight = f32([1.5, -2.0, 2.0, 1.0]), f32([1.0, 1.0, 0.0, 0.0]), f32([1.0, 1.0, 0.0, 1.0])
    found, gradient = jax.value_and_grad(huber_td_loss)(q, target, weight)
    assert float(found) == pytest.approx((0.125 + 2.5 + 0.0 + 0.5) / 4)
    np.testing.assert_allclose(gradient, np.array([0.5, -1.0, 0.0, 1.0]) / 4, rtol=1e-6)
    assert not np.asarray(jax.grad(huber_td_loss, argnums=1)(q, target, weight)).any()


def test_the_constrained_target_by_hand() -> None:
    # The critic prefers action 2, which is unlikely; of the others action 0, which the slow copy values at 0.25.
    found = constrained_target(
        f32([1.0, 1.0]), f32([0.9, 0.0]), f32([[2.0, 1.0, 9.0]] * 2), f32([[0.25, 7.0, 8.0]] * 2),
        jnp.asarray([[True, True, False]] * 2),
    )  # fmt: skip
    np.testing.assert_allclose(found, [1.0 + 0.9 * 0.25, 1.0])


def test_the_value_loss_of_the_combination_by_hand() -> None:
    # u = 2, -1, 3, 1; the third action is unlikely, the fourth row has no target.
    q, v = f32([3.0, 0.0, 4.0, 2.0]), f32([1.0, 1.0, 1.0, 1.0])
    likely, weight = jnp.asarray([True, True, False, True]), f32([1.0, 1.0, 1.0, 0.0])
    found, gradient = jax.value_and_grad(constrained_value_loss, argnums=1)(q, v, likely, weight, 0.8)
    assert float(found) == pytest.approx((0.8 * 4 + 0.2 * 1) / 4)
    np.testing.assert_allclose(gradient, np.array([-2 * 0.8 * 2, 2 * 0.2 * 1, 0.0, 0.0]) / 4, rtol=1e-6)


def test_the_loss_of_the_autoencoder_by_hand() -> None:
    generated, action = np.array([[0.5, -0.5], [0.0, 1.0]]), np.array([[0.3, 0.0], [0.0, 0.6]])
    mean, log_std = np.array([[1.0, 0.0, -2.0], [0.5, 0.0, 0.0]]), np.array([[0.0, 0.7, -1.0], [0.0, 0.0, 0.2]])

    def by_hand(generated: np.ndarray, mean: np.ndarray, log_std: np.ndarray) -> float:
        var = np.exp(log_std) ** 2
        divergence = 0.5 * (var + mean**2 - 1.0 - np.log(var))  # of N(mean, var) from N(0, 1)
        return float(((generated - action) ** 2).sum() / 4 + 0.5 * divergence.sum() / 6)

    loss = jax.value_and_grad(lambda g, m, s: vae_loss(g, f32(action), m, s), argnums=(0, 1, 2))
    found, gradients = loss(f32(generated), f32(mean), f32(log_std))
    assert float(found) == pytest.approx(by_hand(generated, mean, log_std), rel=1e-6)
    arguments = [generated, mean, log_std]
    for i, gradient in enumerate(gradients):
        expected = slopes(lambda at, i=i: by_hand(*[*arguments[:i], at, *arguments[i + 1 :]]), arguments[i])
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_the_value_of_the_best_candidate_by_hand() -> None:
    # Candidates of the first row: .75 * 1 + .25 * 5 = 2, .75 * 2 + .25 * 2.4 = 2.1; of the second 0 and -1.
    q = f32([[[1.0, 0.0], [2.4, -1.0]], [[5.0, 0.0], [2.0, -1.0]]])
    np.testing.assert_allclose(best_candidate_value(q, 0.75), [2.1, 0.0], rtol=1e-6)
    np.testing.assert_allclose(best_candidate_value(q, 1.0), [2.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(best_candidate_value(q, 0.0), [5.0, 0.0], rtol=1e-6)


# --- an update, by hand ----------------------------------------------------------------------------------------------

PROBS = [0.5, 0.3, 0.1, 0.1]
FOUR = {"action": jnp.ones(1, jnp.int32), "action_mask": jnp.ones((1, 4), jnp.bool_)}


def test_an_update_of_bcq_by_hand() -> None:
    # At s', action 0 is forbidden: of .3, .1, .1 the threshold .3 allows all; .35 leaves action 1 alone.
    batch = row(reward=f32([0.5]), next_action_mask=jnp.asarray([[False, True, True, True]]), **FOUR)
    for threshold, next_q in ((0.3, 4.0), (0.35, 5.0)):
        after, metrics = one_hand(
            st.BCQ(gamma=0.9, threshold=threshold, learning_rate=0.1, target_rate=0.25, hidden_sizes=()),
            Spec.vectors(1, 4),
            batch,
            critics=Ensemble(plain(weights=np.zeros((1, 1, 4)), biases=[[9.0, 2.0, 1.0, 3.0]])),
            target_critics=Ensemble(plain(weights=np.zeros((1, 1, 4)), biases=[[7.0, 5.0, 6.0, 4.0]])),
            behavior=CategoricalPolicy(plain(weights=np.zeros((1, 4)), biases=np.log(PROBS))),
        )
        error = abs(0.5 + 0.9 * next_q - 2.0)
        assert metrics == pytest.approx({
            "loss/critic": error - 0.5,
            "loss/behavior": -math.log(0.3) + 0.01 * float(np.mean(np.log(PROBS) ** 2)),
            "q/data_mean": 2.0,
            "policy/agreement": 0.0,  # likely are actions 0 and 1, of which 0 is best
            "behavior/likely": 0.5,
        }, rel=1e-5)  # fmt: skip
        new = np.array([[9.0, 2.1, 1.0, 3.0]])
        np.testing.assert_allclose(last_bias(after, "critics"), new, atol=1e-4)
        old = np.array([[7.0, 5.0, 6.0, 4.0]])
        np.testing.assert_allclose(last_bias(after, "target_critics"), old + 0.25 * (new - old), rtol=1e-5)
        # p - 1(logged) + 0.02 / 4 log p: up for the logged action, down for the others.
        moved = np.asarray(last_bias(after, "behavior")) - np.log(PROBS)
        np.testing.assert_allclose(moved, [-0.1, 0.1, -0.1, -0.1], atol=1e-4)


@pytest.mark.parametrize(("threshold", "counts"), [(0.5, True), (0.9, False)])
def test_an_update_of_the_combination_by_hand(threshold: float, counts: bool) -> None:
    # The logged action has .3 / .5 = .6 of the largest probability, a little more after the step of the behaviour.
    zeros = np.zeros((2, 1, 4))
    after, metrics = one_hand(
        st.BCQIQL(gamma=0.9, threshold=threshold, expectile=0.8, learning_rate=0.1, target_rate=0.25, hidden_sizes=()),
        Spec.vectors(1, 4),
        row(next_action_mask=jnp.ones((1, 4), jnp.bool_), **FOUR),
        behavior=CategoricalPolicy(plain(weights=np.zeros((1, 4)), biases=np.log(PROBS))),
        value=plain(weights=[[0.0]], biases=[1.0]),
        critics=DiscreteCritics(Ensemble(plain(weights=zeros, biases=[[9.0, 5.0, 0.0, 0.0], [9.0, 1.0, 0.0, 0.0]]))),
        target_critics=DiscreteCritics(Ensemble(plain(weights=zeros, biases=[[0.0, 3.0, 0, 0], [0.0, 4.0, 0, 0]]))),
    )
    v = 1.1 if counts else 1.0  # u = min(3, 4) - 1 pulls V up, where the action is likely
    target = 2.0 + 0.9 * v
    assert metrics == pytest.approx({
        "loss/value": 0.8 * 2.0**2 if counts else 0.0,
        "loss/critic": (5.0 - target) ** 2 + (1.0 - target) ** 2,
        "loss/behavior": -math.log(0.3) + 0.01 * float(np.mean(np.log(PROBS) ** 2)),
        "q/data_mean": 3.0,
        "v/mean": v,
        "adv/mean": 3.0 - v,
        "policy/agreement": 0.0,
        "behavior/likely": 0.5 if counts else 0.25,
    }, rel=1e-5)  # fmt: skip
    np.testing.assert_allclose(np.asarray(last_bias(after, "critics"))[:, 1], [4.9, 1.1], atol=1e-4)
    np.testing.assert_allclose(after.value.model.biases[-1], [v], atol=1e-4)


# --- what sets it apart: never an action below the threshold ----------------------------------------------------------


def lucky_log() -> st.Dataset:
    """One state: 60 times action 0 (0.5 on average), 37 times action 1 (0.6), and action 2 three times, by luck paid 1."""
    action = np.repeat([0, 1, 2], [60, 37, 3]).astype(np.int32)
    reward = np.concatenate([np.tile([0.0, 1.0], 30), np.tile([0.0, 1.0, 1.0, 0.0, 1.0], 8)[:37], np.ones(3)])
    columns = {
        "episode": np.arange(100),
        "observation": np.ones((100, 1), np.float32),
        "action": action,
        "reward": reward.astype(np.float32),
        "terminated": np.ones(100, bool),
    }
    return st.read(columns, schema_of(columns, num_actions=3))


@pytest.mark.parametrize("name", ["BCQ", pytest.param("BCQIQL", marks=pytest.mark.slow)])
def test_it_does_not_take_the_lucky_action_that_naive_q_learning_takes(name: str) -> None:
    log, state = lucky_log(), jnp.ones((1, 1), jnp.float32)
    naive, run = (fitted(ALL[one], log, updates=300, log_every_updates=300) for one in ("DQN", name))
    assert int(naive.policy.mode(state)[0]) == 2
    assert int(run.policy.mode(state)[0]) == 1
    assert np.asarray(run.values[0].q_all(state))[0, 2] > 0.8  # it values the third action more, and does not take it
    inner = run.policy.policy
    share = np.exp(np.asarray(inner.behavior.log_probs(state))[0])
    np.testing.assert_allclose(share, [0.6, 0.37, 0.03], atol=0.05)
    # The same networks without the constraint do what naive Q-learning does.
    free = ConstrainedGreedyPolicy(inner.critics, inner.behavior, f32(0.0))
    assert int(free.mode(state)[0]) == 2
    forbidden = run.policy.probs(state, action_mask=jnp.asarray([[False, False, True]]))
    np.testing.assert_array_equal(forbidden, [[0.0, 0.0, 1.0]])  # alone allowed, it is the most likely one


def two_humps_log() -> st.Dataset:
    """One state; half of the actions about -0.9, half about 0.5, each spread over 0.2; an action pays its own number."""
    rng = np.random.default_rng(0)
    action = np.where(rng.random(400) < 0.5, -0.9, 0.5) + rng.uniform(-0.1, 0.1, 400)
    columns = {
        "episode": np.arange(400),
        "observation": np.ones((400, 1), np.float32),
        "action": action[:, None].astype(np.float32),
        "reward": action.astype(np.float32),
        "terminated": np.ones(400, bool),
    }
    return st.read(columns, schema_of(columns, num_actions=None))


@pytest.mark.slow
def test_continuous_bcq_takes_the_better_hump_and_does_not_go_where_its_critic_points() -> None:
    algorithm = dataclasses.replace(ALL["BCQ"], acting_candidates=50)
    run = fitted(algorithm, two_humps_log(), updates=400, log_every_updates=400)
    many = jnp.ones((201, 1), jnp.float32)
    drawn = np.asarray(run.policy.sample(many, key=jax.random.key(1)))
    for action in (drawn, np.asarray(run.policy.mode(many))):
        # Logged are 0.4 to 0.6, and a generated action is moved by 0.05 at most.
        assert (np.abs(action - 0.5) < 0.17).all()
    grid = np.linspace(-1.0, 1.0, 201, dtype=np.float32)[:, None]
    claimed = np.asarray(run.values[0].q(many, jnp.asarray(grid)))
    assert grid[claimed.argmax(), 0] > 0.9
    assert claimed.max() > claimed[150] + 0.1
    # It generates both humps, more than what is between them, where the mean of the log is.
    generated = np.asarray(run.policy.policy.proposal.sample(many * 0.0, key=jax.random.key(2)))
    assert (np.mean(generated < -0.6), np.mean(generated > 0.3)) > (0.25, 0.25)
    assert np.mean(np.abs(generated + 0.2) < 0.3) < 0.25
