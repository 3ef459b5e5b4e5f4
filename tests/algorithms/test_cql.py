"""CQL: an update by hand, the penalty and whom it reaches, temperature and multiplier."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import (
    CASES,
    KEY,
    Case,
    assert_finite,
    differ,
    last_bias,
    mlp_of,
    model,
    one_hand,
    plain,
    row,
    shifted,
    with_models,
)
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms import cql_continuous
from stitchrl.algorithms.base import Spec, Step
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP, Ensemble


@pytest.mark.parametrize(("cql_weight", "moved"), [(0.0, -0.1), (1.5, -0.1), (2.5, 0.1)])
def test_an_update_of_discrete_cql_by_hand(cql_weight: float, moved: float) -> None:
    # min over the target critics is (1, 5, 0.5), the best allowed 1: y = r + 0.9 = ln 2 - 0.5. The first critic says
    # ln 2 of the logged action: the squared error pulls it down with 2 0.5, the penalty up with cql_weight (1 - 0.5).
    two, four = math.log(2), math.log(4)
    batch = row(
        reward=jnp.full(1, two - 0.5 - 0.9, jnp.float32),
        action=jnp.ones(1, jnp.int32),
        action_mask=jnp.ones((1, 3), jnp.bool_),
        next_action_mask=jnp.asarray([[True, False, True]]),
    )
    after, metrics = one_hand(
        st.CQL(gamma=0.9, cql_weight=cql_weight, learning_rate=0.1, target_rate=0.25, hidden_sizes=()),
        Spec.vectors(1, 3),
        batch,
        critics=Ensemble(plain(weights=np.zeros((2, 1, 3)), biases=[[0, two, 0], [0, 0, two]])),
        target_critics=Ensemble(plain(weights=np.zeros((2, 1, 3)), biases=[[1, 5, 4], [3, 6, 0.5]])),
    )
    expected = {
        "loss/critic": 0.5**2 + (two - 0.5) ** 2,
        "loss/cql": (four - two) + four,
        "q/data_mean": two / 2,
        # Means over critics: (0, ln 2 / 2, ln 2 / 2); the first of equals is the mode.
        "q/gap": 0.0,
        "policy/agreement": 1.0,
    }
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    others = 0.0 if cql_weight == 0 else -0.1
    biases = np.asarray(last_bias(after, "critics"))
    np.testing.assert_allclose(biases[0], [others, two + moved, others], atol=1e-4)
    np.testing.assert_allclose(biases[1], [others, 0.1, two + others], atol=1e-4)
    old = np.array([[1, 5, 4], [3, 6, 0.5]])
    np.testing.assert_allclose(last_bias(after, "target_critics"), old + 0.25 * (biases - old), rtol=1e-4)


# --- rows without a target -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_a_row_without_a_target_is_not_pushed_up_either(kind: str) -> None:
    """The penalty has the weight of the squared error: pushing a Q up that no target answers to would have no end."""
    case = CASES[f"CQL {kind}"].with_settings(cql_weight=5.0)
    state, batch = case.state(), case.batch(td_weight=1.0, terminated=0.0)
    nothing = batch | {"td_weight": batch["td_weight"].at[3].set(0.0)}
    moved = {"obs": batch["obs"].at[3].set(5.0), "action": batch["action"].at[3].set(batch["action"][3] * 0)}
    moved["next_obs"] = batch["next_obs"].at[3].set(-4.0)
    if kind == "discrete":
        moved["action_mask"] = batch["action_mask"].at[3].set(True)
    one, two = (case.update(state, b)[0].critics for b in (nothing, nothing | moved))
    assert_trees_equal(one, two)
    assert differ(*(case.update(state, b)[0].critics for b in (batch, batch | moved)))


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_without_any_target_the_penalty_moves_nothing(kind: str) -> None:
    case = CASES[f"CQL {kind}"].with_settings(cql_weight=5.0)
    after, metrics = case.update(case.state(), case.batch(td_weight=0.0))
    assert float(metrics["loss/critic"]) == float(metrics["loss/cql"]) == 0.0
    assert_trees_equal(after.critics.model, case.state().critics.model)
    half, _ = case.update(case.state(), case.batch(td_weight=0.0) | {"td_weight": jnp.zeros(8).at[:4].set(1.0)})
    assert differ(half.critics.model, case.state().critics.model)


# --- continuous actions ----------------------------------------------------------------------------------------------

CCQL = CASES["CQL continuous"]


def with_policy_bias(state: Any, mean: float, log_std: float) -> Any:
    """The state with a policy that is the same at every observation."""
    network = mlp_of(model(state, "actor"))
    zeros = jax.tree.map(jnp.zeros_like, network)
    bias = jnp.asarray([mean, mean, log_std, log_std], jnp.float32)
    return with_models(state, actor=SquashedGaussianPolicy(MLP(zeros.weights, (*zeros.biases[:-1], bias))))


def test_the_penalty_of_a_value_that_ignores_the_action_is_the_log_volume() -> None:
    # Every candidate is divided by its own density and valued at the observation of the logged action: with Q(s, a) =
    # f(s) a critic's penalty is log(3 K) + log 4, the box of two actions, whatever f and whatever the policy.
    samples = 300
    case = CCQL.with_settings(samples=samples)
    state = case.state()
    network = mlp_of(model(state, "actor"))  # means that differ by row, and a standard deviation about 1
    last = 160 * network.weights[-1].at[:, 2:].set(jnp.float32(0))
    actor = MLP((*network.weights[:-1], last), (*network.biases[:-1], jnp.asarray([0.1, 0.1, 0.1, 0.1], jnp.float32)))
    members = mlp_of(state.critics.model)
    members = MLP((members.weights[0].at[:, 3:].set(jnp.float32(0)), *members.weights[1:]), members.biases)
    state = with_models(state, actor=SquashedGaussianPolicy(actor), critics=ContinuousCritics(Ensemble(members)))
    assert np.asarray(model(state, "actor").mode(CCQL.batch()["obs"])).std(0).min() > 0.2
    _, metrics = case.update(state, CCQL.batch())
    assert float(metrics["loss/cql"]) == pytest.approx(2 * (math.log(3 * samples) + math.log(4)), abs=0.04)


def test_some_actions_of_the_penalty_come_from_the_policy_at_the_next_observation() -> None:
    batch = CCQL.batch(terminated=1.0)
    moved = batch | {"next_obs": 30.0 * batch["next_obs"] + 7.0}
    one, two = (CCQL.update(CCQL.state(), b)[1] for b in (batch, moved))
    assert float(one["loss/critic"]) == float(two["loss/critic"])
    assert abs(float(one["loss/cql"]) - float(two["loss/cql"])) > 1e-3


def test_the_target_of_cql_has_no_entropy_in_it() -> None:
    # A policy of hardly any spread: the next action is known, and its log-density huge.
    state, batch = with_policy_bias(CCQL.state(), 0.4, -20.0), CCQL.batch()
    _, metrics = CCQL.update(state, batch)
    next_action = jnp.full((8, 2), math.tanh(0.4), jnp.float32)
    next_q = np.asarray(state.target_critics(batch["next_obs"], next_action)).min(0)
    target = np.asarray(batch["reward"]) + 0.9 * (1 - np.asarray(batch["terminated"])) * next_q
    error = np.asarray(state.critics.model(batch["obs"], batch["action"])) - target
    expected = (np.asarray(batch["td_weight"]) * error**2).mean(1).sum()
    assert float(metrics["loss/critic"]) == pytest.approx(expected, rel=1e-3)
    assert float(metrics["policy/entropy"]) < -30


@pytest.mark.parametrize(("log_std", "direction"), [(0.0, -1), (-2.1, -1), (-2.8, 1)])
def test_the_temperature_moves_first_and_the_actor_feels_it(log_std: float, direction: int) -> None:
    # Entropy above -2, the target, cools; below, it heats. The actor's loss has the new temperature in it.
    _, metrics = CCQL.update(with_policy_bias(CCQL.state(), 0.0, log_std), CCQL.batch())
    metrics = {name: float(value) for name, value in metrics.items()}
    assert (metrics["policy/entropy"] > -2) == (direction < 0)
    assert metrics["temperature"] == pytest.approx(math.exp(direction * 1e-2), rel=1e-5)
    expected = -metrics["temperature"] * metrics["policy/entropy"] - metrics["q/policy_mean"]
    assert metrics["loss/actor"] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_actor_and_critics_of_cql_are_updated_from_where_both_were() -> None:
    state, batch = CCQL.state(), CCQL.batch()
    base, _ = CCQL.update(state, batch)
    other_actor, _ = CCQL.with_settings(actor_learning_rate=0.5).update(state, batch)
    assert_trees_equal(base.critics, other_actor.critics)
    assert differ(base.actor, other_actor.actor)
    other_critic, _ = CCQL.with_settings(learning_rate=0.5, cql_weight=7.0).update(state, batch)
    assert_trees_equal(base.actor, other_critic.actor)
    assert differ(base.critics, other_critic.critics)


def lagrange(gap: float, **settings: Any) -> Case:
    return CCQL.with_settings(lagrange_gap=gap, cql_weight=1.0, **settings)


def test_the_multiplier_rises_above_its_gap_and_falls_below() -> None:
    _, metrics = CCQL.update(CCQL.state(), CCQL.batch())
    penalty = float(metrics["loss/cql"]) / 2  # a critic
    assert penalty > 0.5
    for gap, direction in ((0.5 * penalty, 1), (2 * penalty, -1)):
        case, state = lagrange(gap), CCQL.state()
        for update in range(1, 4):
            state, metrics = case.update(state, case.batch(), update=update)
            # Adam's steps are about the step size while the difference stays about the same.
            assert float(state.log_multiplier.model) == pytest.approx(direction * 1e-2 * update, rel=0.1)
        assert float(metrics["cql/multiplier"]) == pytest.approx(math.exp(direction * 2e-2), rel=2e-3)


def test_without_a_gap_the_multiplier_rests_at_one() -> None:
    after, metrics = CCQL.update(CCQL.state(), CCQL.batch())
    assert float(after.log_multiplier.model) == 0.0
    assert float(metrics["cql/multiplier"]) == 1.0


def test_the_multiplier_multiplies_the_penalty_and_the_gap_shifts_nothing_else() -> None:
    state, batch = CCQL.state(), CCQL.batch()
    doubled = with_models(state, log_multiplier=jnp.float32(math.log(2.0)))
    found, _ = lagrange(1.0).update(doubled, batch)
    expected, _ = CCQL.with_settings(cql_weight=2.0).update(state, batch)
    assert_trees_equal(found.critics, expected.critics, rtol=1e-3, atol=1e-5)
    assert_trees_equal(found.actor, expected.actor)


def test_the_multiplier_is_capped() -> None:
    far = with_models(CCQL.state(), log_multiplier=jnp.float32(50.0))
    after, metrics = lagrange(1.0).update(far, CCQL.batch())
    assert float(metrics["cql/multiplier"]) == pytest.approx(1e6)
    assert_finite(after)


def test_a_batch_in_parts_gives_the_update_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    state, batch = CCQL.state(), CCQL.batch()
    whole = CCQL.update(state, batch)
    monkeypatch.setattr(cql_continuous, "tile_count", lambda rows, evaluations: 4)
    step = Step(jnp.int32(1), jnp.int32(100))
    parts = jax.jit(CCQL.algorithm.update)(state, batch, None, KEY, step)
    assert_trees_equal(parts[1], whole[1], rtol=1e-4, atol=1e-5)
    assert_trees_equal(parts[0], whole[0], rtol=1e-2, atol=1e-4)


def test_the_actor_of_cql_follows_the_smaller_critic() -> None:
    case, batch = CCQL, CCQL.batch()
    actors = {by: case.update(shifted(case.state(), "critics", by), batch)[0].actor for by in (-50.0, 50.0, 60.0)}
    assert_trees_equal(actors[50.0], actors[60.0])
    assert differ(actors[-50.0], actors[50.0])
