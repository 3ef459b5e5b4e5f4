"""IQL: an update by hand, what its parts see of each other, and rows without a target."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, Case, differ, last_bias, mlp_of, model, one_hand, plain, row
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import CategoricalPolicy

IQL_BY_HAND = st.IQL(
    gamma=0.9, expectile=0.7, inverse_temperature=3.0, learning_rate=0.1, target_rate=0.25, hidden_sizes=()
)
IQL_NUMBERS = {
    # u = min(1, 2) - 0.5, of the target critics; V rises by 0.1 to 0.6, which is what the rest sees.
    "loss/value": 0.7 * 0.5**2,
    "v/mean": 0.6,
    "adv/mean": 0.4,
    "weight/mean": math.exp(3 * 0.4),
    "weight/clipped": 0.0,
    "weight/effective_share": 1.0,  # every row weighs the same
    # y = 2 + 0.9 0.6, against 1.5 and 2.5.
    "loss/critic": 1.04**2 + 0.04**2,
    "q/data_mean": 2.0,
}


def test_an_update_of_iql_by_hand_discrete() -> None:
    batch = row(action=jnp.zeros(1, jnp.int32), action_mask=jnp.ones((1, 2), jnp.bool_))
    after, metrics = one_hand(
        IQL_BY_HAND,
        Spec.vectors(1, 2),
        batch,
        value=plain(weights=[[0]], biases=[0.5]),
        actor=CategoricalPolicy(plain(weights=[[0, 0]], biases=[0, 0])),
        critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1.5, 4], [2.5, 5]]))),
        target_critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1, 3], [2, 0]]))),
    )
    expected = IQL_NUMBERS | {"loss/actor": math.exp(1.2) * math.log(2), "policy/entropy": math.log(2)}
    assert metrics == pytest.approx(expected | {"policy/agreement": 1.0}, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "value"), [0.6], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1, -0.1], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1.6, 4], [2.6, 5]], rtol=1e-4)
    # A quarter of the way from (1, 3) to (1.6, 4), from (2, 0) to (2.6, 5).
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[1.15, 3.25], [2.15, 1.25]], rtol=1e-4)


def test_an_update_of_iql_by_hand_continuous() -> None:
    # The logged action is 0.5: of it the critics 3 a and 5 a say 1.5 and 2.5, the target critics 2 a and 4 a 1 and 2.
    critics, target_critics = (
        ContinuousCritics(Ensemble(plain(weights=[[[0], [w]], [[0], [w + 2]]], biases=[[0], [0]]))) for w in (3, 2)
    )
    after, metrics = one_hand(
        IQL_BY_HAND,
        Spec.vectors(1, None, 1),
        row(action=jnp.full((1, 1), 0.5, jnp.float32)),
        value=plain(weights=[[0]], biases=[0.5]),
        actor=GaussianPolicy(plain(weights=[[0]], biases=[0]), jnp.zeros(1, jnp.float32)),
        critics=critics,
        target_critics=target_critics,
    )
    half_log_two_pi = 0.5 * math.log(2 * math.pi)
    expected = IQL_NUMBERS | {
        "loss/actor": math.exp(1.2) * (0.5 * 0.5**2 + half_log_two_pi),
        "policy/mode_error": 0.5,
        "policy/entropy": 0.5 + half_log_two_pi,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1], rtol=1e-4)  # towards the action
    np.testing.assert_allclose(
        model(after, "actor").log_std, [-0.1], rtol=1e-4
    )  # which is nearer than one standard deviation
    np.testing.assert_allclose(mlp_of(model(after, "critics")).weights[0], [[[0], [3.1]], [[0], [5.1]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "critics"), [[0.1], [0.1]], rtol=1e-4)
    np.testing.assert_allclose(mlp_of(after.target_critics).weights[0], [[[0], [2.275]], [[0], [4.275]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[0.025], [0.025]], rtol=1e-4)


def test_the_target_of_iql_asks_for_no_next_action() -> None:
    case = CASES["IQL discrete"]
    without = {name: field for name, field in case.batch().items() if name != "next_action_mask"}
    masked = without | {"next_action_mask": jnp.zeros((8, 3), jnp.bool_)}
    one, two = (case.update(case.state(), batch) for batch in (case.batch(), masked))
    assert_trees_equal(one, two)
    jax.eval_shape(lambda state, batch: case.update(state, batch), case.state(), without)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_the_actor_of_iql_sends_nothing_back_to_value_and_critics(kind: str) -> None:
    # The advantage is a constant of the actor's loss: with or without it, the rest moves alike.
    case = CASES[f"IQL {kind}"]
    state = case.state()
    other = state._replace(actor=case.state(9).actor)
    one, two = (case.update(s, case.batch())[0] for s in (state, other))
    assert_trees_equal((one.value, one.critics, one.target_critics), (two.value, two.critics, two.target_critics))
    assert differ(one.actor, two.actor)


def test_only_the_actor_of_iql_decays_with_its_own_setting() -> None:
    # Step sizes 1, 1/2, 0: the third update leaves the actor where it was, and nothing else.
    for settings, resting in (
        ({"actor_decay_updates": 2, "decay_updates": 50}, {"actor"}),
        ({"decay_updates": 2}, {"actor", "value", "critics"}),
    ):
        case = CASES["IQL continuous"].with_settings(**settings)
        state = case.state()
        for _ in range(2):
            before, state = state, case.update(state, case.batch())[0]
        assert all(differ(model(before, name), model(state, name)) for name in ("actor", "value", "critics"))
        after = case.update(state, case.batch())[0]
        still = {name for name in ("actor", "value", "critics") if not differ(model(state, name), model(after, name))}
        assert still == resting


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_a_row_without_a_target_is_imitated_and_moves_neither_value_nor_critics(kind: str) -> None:
    """No target anchors Q there: what Q and V say of it must not become a weight of up to 100, nor lift V."""
    case = CASES[f"IQL {kind}"]
    state, batch = case.state(), case.batch(td_weight=1.0, terminated=0.0)
    nothing = {"td_weight": batch["td_weight"].at[3].set(0.0)}
    # Another observation there: V, Q and the advantage of that row are others.
    moved = {"obs": batch["obs"].at[3].set(5.0), "next_obs": batch["next_obs"].at[3].set(-4.0)}
    one, two = (case.update(state, b)[0] for b in (batch | nothing, batch | nothing | moved))
    assert_trees_equal((one.value, one.critics), (two.value, two.critics))
    one, two = (case.update(state, b)[0] for b in (batch, batch | moved))
    assert differ(one.value, two.value)
    assert differ(one.critics, two.critics)


def test_the_weight_of_a_row_without_a_target_is_one() -> None:
    case = CASES["IQL discrete"]
    state, batch = raised_target(case, 30.0), case.batch(td_weight=1.0, terminated=0.0)
    _, metrics = case.update(state, batch)
    assert float(metrics["weight/mean"]) == pytest.approx(100.0)  # all at their cap
    assert float(metrics["weight/clipped"]) == 1.0
    _, metrics = case.update(state, batch | {"td_weight": batch["td_weight"].at[:2].set(0.0)})
    assert float(metrics["weight/mean"]) == pytest.approx((2 * 1 + 6 * 100) / 8)
    assert float(metrics["weight/clipped"]) == pytest.approx(6 / 8)
    assert float(metrics["weight/effective_share"]) == pytest.approx(602**2 / (8 * (2 + 6 * 100**2)))
    # With no target at all an update is one of behaviour cloning.
    after, metrics = case.update(state, case.batch(td_weight=0.0))
    assert float(metrics["weight/mean"]) == 1.0
    assert float(metrics["loss/value"]) == float(metrics["loss/critic"]) == 0.0
    assert_trees_equal((after.value.model, after.critics.model), (state.value.model, state.critics.model))
    cloning = CASES["BC discrete"]
    cloned, _ = cloning.update(cloning.state()._replace(actor=state.actor), cloning.batch())
    assert_trees_equal(after.actor, cloned.actor, rtol=1e-5, atol=1e-7)


def raised_target(case: Case, by: float) -> Any:
    """A fresh state whose target critics claim far more than V says."""
    state = case.state()
    higher = jax.tree.map(lambda leaf: leaf, state.target_critics)
    bias = mlp_of(higher).biases[-1] + jnp.float32(by)
    return state._replace(target_critics=eqx.tree_at(lambda q: mlp_of(q).biases[-1], higher, bias))
