"""SQL, EQL and XQL: their losses and minimisers by hand, one update, and what sets them apart from IQL."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, differ, last_bias, one_hand, plain, raised, row
from scipy.optimize import brentq
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.sql import exponential_value_loss, sparse_value_loss
from stitchrl.algorithms.xql import gumbel_loss, huber_td_loss
from stitchrl.nn.critics import DiscreteCritics
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import CategoricalPolicy

Q, V = np.array([1.0, -2.0, 0.5, 40.0]), np.array([0.0, 1.0, 0.5, 2.0])
TD_WEIGHT = np.array([1.0, 0.5, 1.0, 0.0])
T = 0.8


def f32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def sparse(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    t = 1 + (q - v) / (2 * T)
    return np.where(t > 0, t**2, 0.0) + v / T


def exponential(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    z = (q - v) / T
    return (np.exp(z) + v / T) / np.exp(1.25)


def gumbel(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    z = (q - v) / T
    return (np.exp(z) - z - 1) / np.exp(1.25)


LOSSES: dict[str, tuple[Callable[..., jax.Array], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "SQL": (lambda q, v, w: sparse_value_loss(q, v, w, T), sparse),
    "EQL": (lambda q, v, w: exponential_value_loss(q, v, w, T), exponential),
    "XQL": (lambda q, v, w: gumbel_loss(q, v, w, T, 7.0), gumbel),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_losses_and_their_gradients(name: str) -> None:
    """In float64, by central differences; the largest exponent is 1.25, for the row of 40 has no target."""
    ours, official = LOSSES[name]
    assert float(ours(f32(Q), f32(V), f32(TD_WEIGHT))) == pytest.approx(
        float((TD_WEIGHT[:3] * official(Q[:3], V[:3])).sum() / 4), rel=1e-5
    )
    slope = (official(Q[:3], V[:3] + 1e-5) - official(Q[:3], V[:3] - 1e-5)) / 2e-5
    found = jax.grad(ours, argnums=1)(f32(Q), f32(V), f32(TD_WEIGHT))
    np.testing.assert_allclose(found, [*(TD_WEIGHT[:3] * slope / 4), 0.0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "minimiser"),
    [
        # Of 3, 5, 8 at T = 0.8: 5 is left out where V is above 6.6, and (1 + (8 - V) / 1.6) / 3 = 1 at V = 4.8, so it is not:
        # (2 + (13 - 2 V) / 1.6) / 3 = 1 at V = 5.7, above 4.6, where 3 would count.
        ("SQL", 5.7),
        ("EQL", T * math.log((math.exp(3 / T) + math.exp(5 / T) + math.exp(8 / T)) / 3)),
        ("XQL", T * math.log((math.exp(3 / T) + math.exp(5 / T) + math.exp(8 / T)) / 3)),
    ],
)
def test_minimisers_of_three_numbers(name: str, minimiser: float) -> None:
    targets, ones = f32([3, 5, 8]), jnp.ones(3)
    slope = jax.jit(jax.grad(lambda v: LOSSES[name][0](targets, jnp.broadcast_to(v, (3,)), ones)))
    found = brentq(lambda v: float(slope(jnp.float32(v))), 4.5, 8.0, xtol=1e-6)
    assert found == pytest.approx(minimiser, abs=1e-4)
    assert 16 / 3 < found < 8


def test_where_exponents_are_cut_off_eql_still_pulls_v_down_and_xql_does_not() -> None:
    q, v, one = f32([10.0]), f32([0.0]), jnp.ones(1)
    eql = jax.grad(lambda v: exponential_value_loss(q, v, one, 1.0))(v)
    np.testing.assert_allclose(eql, [math.exp(-5)], rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(lambda v: gumbel_loss(q, v, one, 1.0, 7.0))(v), [0.0])


def test_errors_beyond_the_threshold_pull_with_the_same_force() -> None:
    q, target, weight = f32([[3.0, 50.0, -50.0, 9.0]]), f32([1.0, 0.0, 0.0, 0.0]), f32([1.0, 1.0, 0.5, 0.0])
    assert float(huber_td_loss(q, target, weight)) == pytest.approx((2 + 1.5 * (200 + 20 * 30)) / 4)
    np.testing.assert_allclose(jax.grad(huber_td_loss)(q, target, weight), [[0.5, 5.0, -2.5, 0.0]], rtol=1e-5)


# --- an update by hand -------------------------------------------------------------------------------------------------

NUMBERS = {
    # min Qbar = 1 and V = 0.5, which rises by 0.1 to 0.6, which is what the rest sees; y = 2 + 0.9 0.6 against 1.5 and 2.5.
    "SQL": {"loss/value": 1.125**2 + 0.25, "weight/mean": 0.4, "weight/zero": 0.0, "loss/critic": 1.04**2 + 0.04**2},
    "EQL": {"loss/value": 1 + math.exp(-0.25) * 0.25, "weight/mean": math.exp(2), "loss/critic": 1.04**2 + 0.04**2},
    "XQL": {
        "loss/value": 1 - 1.25 * math.exp(-0.25),
        "weight/mean": math.exp(1.2),
        "loss/critic": (1.04**2 + 0.04**2) / 2,
    },
}


@pytest.mark.parametrize("name", NUMBERS)
def test_an_update_by_hand(name: str) -> None:
    kind: Any = getattr(st, name)
    algorithm = kind(
        gamma=0.9, temperature=2.0, learning_rate=0.1, target_rate=0.25, hidden_sizes=(), value_layer_norm=False
    )
    after, metrics = one_hand(
        algorithm,
        Spec.vectors(1, 2),
        row(action=jnp.zeros(1, jnp.int32), action_mask=jnp.ones((1, 2), jnp.bool_)),
        value=plain(weights=[[0]], biases=[0.5]),
        actor=CategoricalPolicy(plain(weights=[[0, 0]], biases=[0, 0])),
        critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1.5, 4], [2.5, 5]]))),
        target_critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1, 3], [2, 0]]))),
    )
    # In SQL and EQL the pull of V / T is weaker than that of t: V rises; in XQL too, for z is above 0.
    common = {"v/mean": 0.6, "adv/mean": 0.4, "q/data_mean": 2.0, "weight/clipped": 0.0, "weight/effective_share": 1.0}
    actor = {"loss/actor": NUMBERS[name]["weight/mean"] * math.log(2), "policy/entropy": math.log(2)}
    assert metrics == pytest.approx(NUMBERS[name] | common | actor | {"policy/agreement": 1.0}, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "value"), [0.6], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1, -0.1], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[1.15, 3.25], [2.15, 1.25]], rtol=1e-4)


# --- what sets them apart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SQL", "EQL", "XQL", "IQL"])
def test_only_sql_leaves_an_action_that_is_worse_than_v_out_altogether(name: str) -> None:
    case = CASES[f"{name} discrete"]
    state = case.state()
    for action in range(3):
        state = raised(state, "target_critics", action, -4.0)
    after, metrics = case.update(state, case.batch(td_weight=1.0))
    assert float(metrics["adv/mean"]) < -2
    assert differ(after.actor.model, state.actor.model) == (name != "SQL")
    if name == "SQL":
        assert (float(metrics["weight/mean"]), float(metrics["weight/zero"])) == (0.0, 1.0)


@pytest.mark.parametrize(("name", "weight"), [("SQL", 0.0), ("EQL", 1.0), ("XQL", 1.0)])
def test_a_row_without_a_target_counts_as_advantage_zero(name: str, weight: float) -> None:
    case = CASES[f"{name} discrete"]
    state, batch = case.state(), case.batch(td_weight=1.0, terminated=0.0)
    nothing = {"td_weight": batch["td_weight"].at[3].set(0.0)}
    moved = {"obs": batch["obs"].at[3].set(5.0), "next_obs": batch["next_obs"].at[3].set(-4.0)}
    one, two = (case.update(state, b)[0] for b in (batch | nothing, batch | nothing | moved))
    assert_trees_equal((one.value, one.critics), (two.value, two.critics))
    after, metrics = case.update(state, case.batch(td_weight=0.0))
    assert float(metrics["weight/mean"]) == weight
    assert_trees_equal((after.value.model, after.critics.model), (state.value.model, state.critics.model))


def test_presets_have_the_temperatures_of_each() -> None:
    found = {(kind.__name__, name): kind.preset(name).temperature for kind in (st.SQL, st.EQL) for name in kind.presets}
    assert found["SQL", "antmaze"] == 0.1
    assert found["EQL", "antmaze"] == 0.5
    assert found["EQL", "kitchen"] == 2.0
    assert st.SQL.preset("antmaze").learning_rate == 2e-4
