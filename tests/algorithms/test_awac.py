"""AWAC: an update by hand, the weights of a batch, and what the policy is asked about."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, KEY, differ, last_bias, mlp_of, model, one_hand, plain, raised, row, with_models
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.awac import batch_weighted_loss
from stitchrl.algorithms.base import Spec, Step
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import CategoricalPolicy

BY_HAND = st.AWAC(gamma=0.9, inverse_temperature=2.0, learning_rate=0.1, target_rate=0.25, hidden_sizes=())


@pytest.mark.parametrize("weighting", ["clipped", "batch"])
def test_an_update_by_hand_discrete(weighting: str) -> None:
    # pi is (1/4, 3/4) here and, where the second action is forbidden, (1, 0) next: y = 2 + 0.9 min(1, 2) = 2.9.
    batch = row(
        action=jnp.zeros(1, jnp.int32),
        action_mask=jnp.ones((1, 2), jnp.bool_),
        next_action_mask=jnp.asarray([[True, False]]),
    )
    after, metrics = one_hand(
        st.AWAC(gamma=0.9, inverse_temperature=2.0, learning_rate=0.1, hidden_sizes=(), weighting=weighting),
        Spec.vectors(1, 2),
        batch,
        actor=CategoricalPolicy(plain(weights=[[0, 0]], biases=[0, math.log(3)])),
        critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1.5, 1], [2.5, 0.5]]))),
        target_critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1, 30], [2, 40]]))),
    )
    # After their step the critics say (1.6, 1) and (2.6, 0.5), the smaller (1.6, 0.5): V = 1.6 / 4 + 0.5 3 / 4.
    v = 0.775
    weight = math.exp(2 * (1.6 - v)) if weighting == "clipped" else 1.0
    expected = {
        "loss/critic": 1.4**2 + 0.4**2,
        "q/data_mean": 2.0,
        "v/mean": v,
        "adv/mean": 1.6 - v,
        "weight/mean": weight,
        "weight/largest": weight,
        "weight/effective_share": 1.0,  # every row weighs the same
        "loss/actor": weight * math.log(4),
        "policy/agreement": 0.0,
        "policy/entropy": 0.25 * math.log(4) + 0.75 * math.log(4 / 3),
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1.6, 1], [2.6, 0.5]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1, math.log(3) - 0.1], rtol=1e-4)


def test_an_update_by_hand_continuous() -> None:
    # The actor's draws are its mean 0 and 2 standard deviations of 1: 2 is clipped to the box at 1, and 0 stays.
    critics, target_critics = (
        ContinuousCritics(Ensemble(plain(weights=[[[0], [w]], [[0], [w + 2]]], biases=[[0], [0]]))) for w in (3, 2)
    )
    draws = iter([jnp.full((1, 1), 2.0, jnp.float32), jnp.full((1, 1), -0.5, jnp.float32)])
    state = BY_HAND.init(KEY, Spec.vectors(1, None, 1), None)
    actor = GaussianPolicy(plain(weights=[[0]], biases=[0]), jnp.zeros(1, jnp.float32))
    state = with_models(state, actor=actor, critics=critics, target_critics=target_critics)
    batch, step = row(action=jnp.full((1, 1), 0.5, jnp.float32)), Step(jnp.int32(1), jnp.int32(100))
    with mock.patch.object(jax.random, "normal", side_effect=draws):
        after, metrics = jax.jit(BY_HAND.update)(state, batch, None, KEY, step)
    # y = 2 + 0.9 min(2, 4), against 1.5 and 2.5. Then the critics are 3.1 a + 0.1 and 5.1 a + 0.1: of 0.5 the smaller says
    # 1.65, and of the draw -0.5 it says -2.45.
    adv = 1.65 + 2.45
    expected = {
        "loss/critic": 2.3**2 + 1.3**2,
        "q/data_mean": 2.0,
        "v/mean": -2.45,
        "adv/mean": adv,
        "weight/mean": 100.0,
        "weight/largest": 100.0,
        "weight/effective_share": 1.0,  # every row weighs the same
        "loss/actor": 100 * (0.5 * 0.5**2 + 0.5 * math.log(2 * math.pi)),
    }
    assert math.exp(2 * adv) > 100
    assert {name: float(metrics[name]) for name in expected} == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(mlp_of(model(after, "critics")).weights[0], [[[0], [3.1]], [[0], [5.1]]], rtol=1e-4)
    np.testing.assert_allclose(mlp_of(after.target_critics).weights[0], [[[0], [2.275]], [[0], [4.275]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1], rtol=1e-4)


def test_weights_of_a_batch_by_hand() -> None:
    # Three rows have a target, with shares 1/6, 2/6, 3/6 of their number; the fourth, which has none, is imitated.
    adv = jnp.log(jnp.asarray([1.0, 2.0, 3.0, 1e6], jnp.float32)) / 2 + 700.0
    log_prob, td_weight = jnp.asarray([-1.0, -2, -3, -4], jnp.float32), jnp.asarray([1.0, 1, 1, 0], jnp.float32)
    loss, weight = batch_weighted_loss(log_prob, adv, td_weight, 2.0)
    np.testing.assert_allclose(weight, [0.5, 1.0, 1.5, 1.0], rtol=1e-4)
    assert float(loss) == pytest.approx((0.5 + 2 + 4.5 + 4) / 4, rel=1e-4)
    by_log_prob, by_adv = jax.grad(lambda *a: batch_weighted_loss(*a, td_weight, 2.0)[0], argnums=(0, 1))(log_prob, adv)
    np.testing.assert_allclose(by_log_prob, -np.array([0.5, 1, 1.5, 1]) / 4, rtol=1e-4)
    assert not np.asarray(by_adv).any()
    np.testing.assert_array_equal(batch_weighted_loss(log_prob, adv, jnp.zeros(4), 2.0)[1], np.ones(4))


def test_unlike_iql_its_target_follows_the_actor() -> None:
    """What sets the two apart: AWAC values its own actions, IQL only logged ones."""
    moved = {}
    for name in ("AWAC", "IQL"):
        case = CASES[f"{name} discrete"]
        state, batch = case.state(), case.batch(terminated=0.0, td_weight=1.0)
        one, two = (case.update(s, batch)[0].critics for s in (state, raised(state, "actor", 1, 2.0)))
        moved[name] = differ(one, two)
    assert moved == {"AWAC": True, "IQL": False}


def test_a_row_without_a_target_is_imitated() -> None:
    case = CASES["AWAC discrete"]
    state: Any = case.state()
    after, metrics = case.update(state, case.batch(td_weight=0.0))
    assert float(metrics["weight/mean"]) == float(metrics["weight/largest"]) == 1.0
    cloning = CASES["BC discrete"]
    cloned, _ = cloning.update(cloning.state()._replace(actor=state.actor), cloning.batch())
    assert_trees_equal(after.actor, cloned.actor, rtol=1e-5, atol=1e-7)
