"""The variants of CQL: whom the penalty reaches, by which weights, and what holds the policy to the log."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, KEY, assert_finite, differ, plain, with_models
from scipy.optimize import approx_fprime
from scipy.special import logsumexp, softmax
from worlds import assert_trees_equal, bandit_log, schema_of

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.cql_continuous import _near_the_log, _next_value, _rarities
from stitchrl.algorithms.cql_discrete import conservative_penalty, divergence
from stitchrl.algorithms.cql_terms import rarity, return_weights
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.distributions import TanhNormal
from stitchrl.nn.networks import Ensemble
from stitchrl.testing import check_algorithm

Q = np.array([[[0.0, math.log(2), 5.0], [1.0, -1.0, 0.5]], [[0.5, 0.0, 0.0], [2.0, 1.0, 0.0]]])
MASK = np.array([[True, True, False], [True, True, True]])
ACTION, TD_WEIGHT = np.array([1, 0]), np.array([1.0, 0.5])
B = np.array([[0.75, 0.25, 0.0], [0.5, 0.4, 0.1]])


def f32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


# --- weights of the penalty, discrete ----------------------------------------------------------------------------------


def test_rarities_by_hand() -> None:
    # (1 - b) / (1 + b): 1 for what is never done, 1/3 at one half, and not quite 0 for what is always done.
    found = np.exp(rarity(jnp.log(f32([0.0, 0.5, 0.25, 1.0]))))
    np.testing.assert_allclose(found, [1.0, 1 / 3, 0.6, 1e-6], rtol=1e-4)


@pytest.mark.parametrize("name", ["omega", "rho", "return"])
def test_a_weighted_penalty_and_its_gradient(name: str) -> None:
    """Against NumPy in float64 and finite differences of it."""
    weight = {"omega": np.exp(np.asarray(rarity(jnp.log(f32(B))))), "rho": B}.get(name)
    pushed = np.array([2.0, 0.5]) if name == "return" else np.ones(2)

    def expected(flat: np.ndarray) -> float:
        q = flat.reshape(Q.shape)
        counts = np.where(MASK, 1.0 if weight is None else weight, 0.0)
        data = np.take_along_axis(q, ACTION[None, :, None], axis=2)[..., 0]
        return float((TD_WEIGHT * (logsumexp(q, axis=2, b=counts[None]) - pushed * data)).mean(1).sum())

    def ours(q: jax.Array) -> jax.Array:
        log_weight = None if weight is None else jnp.log(f32(weight))
        return_weight = f32(pushed) if name == "return" else None
        mask = jnp.asarray(MASK)
        return conservative_penalty(q, jnp.asarray(ACTION), mask, f32(TD_WEIGHT), log_weight, return_weight)

    assert float(jax.jit(ours)(f32(Q))) == pytest.approx(expected(Q.ravel()), rel=1e-5)
    np.testing.assert_allclose(
        np.ravel(jax.jit(jax.grad(ours))(f32(Q))), approx_fprime(Q.ravel(), expected, 1e-7), atol=1e-5
    )
    plain_one = conservative_penalty(f32(Q), jnp.asarray(ACTION), jnp.asarray(MASK), f32(TD_WEIGHT))
    assert abs(expected(Q.ravel()) - float(plain_one)) > 0.01


def test_a_rare_action_is_pushed_down_harder_than_a_common_one() -> None:
    """At equal values CQL(H) pushes all alike; weighted by the behaviour, what was never taken is pushed most."""
    b = f32([[0.7, 0.3, 0.0]])

    def down(log_weight: jax.Array | None) -> np.ndarray:
        q, mask = jnp.zeros((1, 1, 3), jnp.float32), jnp.ones((1, 3), jnp.bool_)
        no_data = f32([0.0])  # the penalty's first term alone
        return np.asarray(
            jax.grad(conservative_penalty)(q, jnp.zeros(1, jnp.int32), mask, f32([1.0]), log_weight, no_data)
        ).ravel()

    np.testing.assert_allclose(down(None), np.full(3, 1 / 3), rtol=1e-5)
    omega = np.array([0.3 / 1.7, 0.7 / 1.3, 1.0])
    np.testing.assert_allclose(down(rarity(jnp.log(b))), omega / omega.sum(), rtol=1e-5)


def test_the_divergence_of_discrete_values_by_hand() -> None:
    found = divergence(f32(Q), jnp.log(f32(np.where(MASK, B, 1.0))), jnp.asarray(MASK), f32(TD_WEIGHT))
    p = softmax(np.where(MASK, Q, -np.inf), axis=2)
    inside = np.where(MASK, p * np.log(np.where(MASK, p, 1.0) / np.where(MASK, B, 1.0)), 0.0)
    np.testing.assert_allclose(found, (TD_WEIGHT * inside.sum(2)).mean(1), rtol=1e-5)


def test_weights_by_return_by_hand() -> None:
    """Three episodes of returns 0, 1, 2 and of 1, 2, 1 rows: z is -1.22, 0, 1.22; the same return everywhere is weight 1."""
    columns: dict[str, np.ndarray] = {
        "episode": np.array([0, 1, 1, 2]),
        "observation": np.zeros((4, 1), np.float32),
        "action": np.array([0, 1, 0, 1]),
        "reward": np.array([0.0, 0.4, 0.6, 2.0], np.float32),
        "terminated": np.array([True, False, True, True]),
    }
    e = np.exp(np.array([-1, 0, 0, 1]) * math.sqrt(1.5))
    np.testing.assert_allclose(return_weights(st.read(columns, schema_of(columns, 2))), e / e.mean(), rtol=1e-5)
    columns["reward"] = np.array([1.0, 0.5, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(return_weights(st.read(columns, schema_of(columns, 2))), np.ones(4, np.float32))


# --- the behaviour -----------------------------------------------------------------------------------------------------


def test_the_behaviour_is_fitted_before_learning_and_then_fixed() -> None:
    log = bandit_log()
    algorithm = st.CQL(penalty="behavior", hidden_sizes=(8,), behavior_updates=1500, return_weighted=True)
    ready = algorithm.prepare(log, Scaling.of(log, standardize=False), key=KEY)
    share = np.bincount(log.action, minlength=2) / log.num_transitions
    np.testing.assert_allclose(ready.given["behavior"].probs(jnp.ones((1, 1)))[0], share, atol=0.05)
    assert set(ready.columns) == {"return_weight"}
    assert np.mean(ready.columns["return_weight"]) == pytest.approx(1.0, rel=1e-5)


ALL_AT_ONCE = {"return_weighted": True, "kl_weight": 0.1, "lagrange_gap": 1.0, "behavior_updates": 20}


VARIED = {
    "discrete": {"penalty": "behavior", **ALL_AT_ONCE},
    "continuous": {"penalty": "behavior", "bc_weight": 0.1, "target_samples": 2, **ALL_AT_ONCE},
}


@pytest.mark.parametrize("kind", ["continuous", pytest.param("discrete", marks=pytest.mark.slow)])
def test_all_variants_at_once(kind: str) -> None:
    plain_case = CASES[f"CQL {kind}"]
    case = plain_case.with_settings(**VARIED[kind])
    after, metrics = case.update(case.state(), case.batch())
    assert_finite((after, metrics))
    assert {"policy/kl", "cql/multiplier"} <= set(metrics)
    assert ("loss/bc" in metrics) == (kind == "continuous")
    assert differ(after.critics, plain_case.update(plain_case.state(), plain_case.batch())[0].critics)


@pytest.mark.slow
@pytest.mark.parametrize("kind", VARIED)
def test_all_variants_at_once_pass_the_check_of_algorithms(kind: str) -> None:
    check_algorithm(CASES[f"CQL {kind}"].with_settings(**VARIED[kind]).algorithm, kinds=[kind])


def test_cloning_is_for_continuous_actions() -> None:
    with pytest.raises(ConfigurationError, match=r"`bc_weight` of CQL is for continuous actions; got 0.5 on a log of"):
        st.CQL(bc_weight=0.5).init(KEY, Spec.vectors(3, 3), None)


# --- the multiplier, discrete ------------------------------------------------------------------------------------------


def test_the_multiplier_of_discrete_actions() -> None:
    """It rises above its gap and falls below, multiplies the penalty, and shifts nothing else."""
    case = CASES["CQL discrete"].with_settings(cql_weight=1.0)
    state, batch = case.state(), case.batch()
    after, metrics = case.update(state, batch)
    assert after.log_multiplier is None
    penalty = float(metrics["loss/cql"]) / 2
    for gap, direction in ((0.5 * penalty, 1), (2 * penalty, -1)):
        held = case.with_settings(lagrange_gap=gap)
        after, metrics = held.update(held.state(), batch)
        assert float(after.log_multiplier.model) == pytest.approx(direction * 1e-2, rel=1e-3)
        assert float(metrics["cql/multiplier"]) == 1.0
    held = case.with_settings(lagrange_gap=1.0)
    doubled = with_models(held.state(), log_multiplier=f32(math.log(2.0)))
    twice = case.with_settings(cql_weight=2.0)
    assert_trees_equal(
        held.update(doubled, batch)[0].critics, twice.update(state, batch)[0].critics, rtol=1e-3, atol=1e-5
    )


# --- continuous actions ------------------------------------------------------------------------------------------------


def test_weights_of_continuous_actions_are_relative_to_the_mode() -> None:
    behavior = GaussianPolicy(plain(weights=np.zeros((1, 2)), biases=[0.0, 0.0]), f32([0.0, math.log(0.5)]))
    action = f32([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, -0.5]]])
    relative = np.exp([-0.5, -1.0])
    expected = [math.log(1e-6), *np.log((1 - relative) / (1 + relative))]
    np.testing.assert_allclose(_rarities(behavior, f32([[0.0]]), action)[:, 0], expected, rtol=1e-4)


def test_cloning_and_divergence_of_the_actor_by_hand() -> None:
    behavior = GaussianPolicy(plain(weights=[[0.0]], biases=[0.0]), f32([0.0]))
    settings = st.CQL(bc_weight=2.0, kl_weight=3.0)
    term = _near_the_log(settings, {"obs": f32([[0.0]]), "action": f32([[0.5]])}, {"behavior": behavior})
    pi = TanhNormal(f32([[0.2]]), f32([[-0.3]]))
    value, metrics = term(pi, f32([[0.6]]), f32([-0.7]))
    inner = (math.atanh(0.5) - 0.2) / math.exp(-0.3)
    log_prob = -0.5 * inner**2 + 0.3 - 0.5 * math.log(2 * math.pi) - math.log(1 - 0.25)
    kl = -0.7 + 0.5 * 0.36 + 0.5 * math.log(2 * math.pi)
    expected = {"loss/bc": -log_prob, "policy/kl": kl}
    assert {name: float(number) for name, number in metrics.items()} == pytest.approx(expected, rel=1e-4)
    assert float(value) == pytest.approx(-2 * log_prob + 3 * kl, rel=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_the_best_of_several_actions_for_each_critic(count: int) -> None:
    # The critics say a and 1 - 2 a. A policy of hardly any spread has one action; a wide one's best is another for each.
    critics = ContinuousCritics(Ensemble(plain(weights=[[[0], [1]], [[0], [-2]]], biases=[[0], [1]])))
    pi, settings = TanhNormal(f32([[0.0]]), f32([[0.5]])), st.CQL(target_samples=count)
    drawn = np.ravel(pi.sample_with_log_prob(key=KEY, count=(count,))[0])
    expected = min(drawn.max(), 1 - 2 * drawn.min())
    found = float(_next_value(settings, critics, f32([[0.0]]), pi, key=KEY)[0])
    assert found == pytest.approx(expected if count > 1 else min(drawn[0], 1 - 2 * drawn[0]), rel=1e-5)


def test_presets_are_whole() -> None:
    for name in st.CQL.presets:
        algorithm = st.CQL.preset(name, hidden_sizes=(8,), samples=1)
        assert algorithm.init(KEY, Spec.vectors(3, None, 2), None) is not None
    assert st.CQL.preset("corl antmaze").lagrange_gap == pytest.approx(0.8 * st.CQL.preset("corl antmaze").cql_weight)
