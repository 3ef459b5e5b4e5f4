"""SAC-N and EDAC: losses by hand, an update over discrete actions by hand, many critics, and what diversity does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, CASES, KEY, SPECS, differ, fitted, last_bias, model, one_hand, plain, row
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.edac import diversity
from stitchrl.algorithms.losses import expected_soft_actor_loss
from stitchrl.errors import ConfigurationError
from stitchrl.nn.critics import DiscreteCritics
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import CategoricalPolicy

# --- diversity -------------------------------------------------------------------------------------------------------


def pairwise(slope: np.ndarray, td_weight: np.ndarray) -> float:
    """The second term of EDAC's equation (4), pair by pair in float64."""
    critics, rows, _ = slope.shape
    unit = np.float64(slope) / np.linalg.norm(np.float64(slope), axis=2, keepdims=True)
    cosines = [
        td_weight[b] * unit[i, b] @ unit[j, b]
        for b in range(rows) for i in range(critics) for j in range(critics) if i != j
    ]  # fmt: skip
    return sum(cosines) / rows / (critics - 1)


def test_diversity_is_the_sum_of_cosines_of_all_pairs() -> None:
    slope = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    weight = np.asarray([1, 0, 1], np.float32)
    assert float(diversity(jnp.asarray(slope), jnp.asarray(weight))) == pytest.approx(pairwise(slope, weight), rel=1e-5)
    found = jax.grad(lambda s: diversity(s, jnp.asarray(weight)))(jnp.asarray(slope))
    for index in ((0, 0, 0), (2, 0, 1), (3, 2, 0), (1, 1, 1)):
        moved = [np.float64(slope), np.float64(slope)]
        moved[0][index] += 1e-5
        moved[1][index] -= 1e-5
        expected = (pairwise(moved[0], weight) - pairwise(moved[1], weight)) / 2e-5
        assert float(found[index]) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    # Two critics: the cosine, twice.
    right = jnp.asarray([[[3.0, 0.0]], [[1.0, 1.0]]], jnp.float32)
    assert float(diversity(right, jnp.ones(1))) == pytest.approx(2 * math.cos(math.pi / 4), rel=1e-6)
    # All alike is N, whatever their lengths.
    alike = jnp.asarray([[[1.0]], [[2.0]], [[5.0]]], jnp.float32)
    assert float(diversity(alike, jnp.ones(1))) == pytest.approx(3.0, rel=1e-6)


def test_a_flat_critic_has_no_direction_and_no_gradient_that_is_not_a_number() -> None:
    slope = jnp.asarray([[[0.0, 0.0]], [[0.0, 2.0]]], jnp.float32)
    value, gradient = jax.value_and_grad(diversity)(slope, jnp.ones(1))
    assert float(value) == 0.0
    assert np.isfinite(np.asarray(gradient)).all()


def test_edac_without_its_weight_is_sac_n() -> None:
    edac, sac_n = CASES["EDAC continuous"].with_settings(diversity_weight=0.0), CASES["SACN continuous"]
    state, batch = sac_n.state(), sac_n.batch()
    assert_trees_equal(edac.state(), state)
    assert_trees_equal(edac.update(state, batch)[0], sac_n.update(state, batch)[0], rtol=1e-4, atol=1e-6)
    assert differ(CASES["EDAC continuous"].update(state, batch)[0].critics, edac.update(state, batch)[0].critics)


def test_rows_without_a_target_are_not_made_diverse() -> None:
    case = CASES["EDAC continuous"]
    after, _ = case.update(case.state(), case.batch(td_weight=0.0))
    assert_trees_equal(model(after, "critics"), model(case.state(), "critics"))


def test_edac_refuses_discrete_actions_and_a_single_critic() -> None:
    with pytest.raises(
        ConfigurationError, match=r"EDAC needs continuous actions; the log's are discrete\. SACN, IQL or"
    ):
        ALL["EDAC"].init(KEY, SPECS["discrete"], None)
    with pytest.raises(ConfigurationError, match="`num_critics` of EDAC must be at least 2; got 1"):
        st.EDAC(num_critics=1)


@pytest.mark.slow
def test_diversity_keeps_the_actor_inside_the_log() -> None:
    # Two numbers an action, both logged in [-1/2, 1/2] only, and the reward rises beyond: four critics whose slopes agree
    # all point out of the log, four that disagree do not. The same program, with and without the weight.
    action = np.random.default_rng(0).uniform(-0.5, 0.5, (400, 2)).astype(np.float32)
    columns = {
        "episode": np.arange(400),
        "observation": np.ones((400, 1), np.float32),
        "action": action,
        "reward": 1.0 - np.sum((action - 0.5) ** 2, axis=1),
        "terminated": np.ones(400, bool),
    }
    schema = dataclasses.replace(schema_of(columns, num_actions=None), action_low=(-1.0,) * 2, action_high=(1.0,) * 2)
    log, found = st.read(columns, schema), {}
    for weight in (0.0, 1.0):
        run = fitted(dataclasses.replace(ALL["EDAC"], diversity_weight=weight), log, updates=400, log_every_updates=400)
        found[weight] = np.asarray(run.policy.mode(jnp.ones((1, 1), jnp.float32)))[0], run.history[-1]["loss/diversity"]
    (free, alike), (held, diverse) = found[0.0], found[1.0]
    assert (free > 0.7).all(), found
    assert (np.abs(held) < 0.6).all(), found
    assert alike > 3.0  # of 4 where all slopes agree
    assert -1.34 < diverse < -1.0  # -4 / 3 where they cancel


# --- many critics ----------------------------------------------------------------------------------------------------


def equations(algorithm: Algorithm, kind: str) -> tuple[int, int]:
    """How many operations the programs of `init` and `update` have, inner ones included."""
    spec, batch = SPECS[kind], CASES[f"SACN {kind}"].batch()

    def count(jaxpr: Any) -> int:
        inner = [p for e in jaxpr.eqns for p in jax.tree.leaves(list(e.params.values())) if hasattr(p, "eqns")]
        return len(jaxpr.eqns) + sum(count(getattr(p, "jaxpr", p)) for p in inner)

    def init(key: jax.Array) -> Any:
        return algorithm.init(key, spec, None)

    def update(state: Any) -> Any:
        return algorithm.update(state, batch, None, KEY, Step(jnp.int32(0), jnp.int32(1)))

    made = jax.make_jaxpr(init)(KEY)
    return count(made.jaxpr), count(jax.make_jaxpr(update)(jax.eval_shape(init, KEY)).jaxpr)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_five_hundred_critics_are_the_program_of_ten(kind: str) -> None:
    # Batched products: what compiles does not grow with the number of critics.
    ten, many = (dataclasses.replace(ALL["SACN"], num_critics=n) for n in (10, 500))
    assert equations(ten, kind) == equations(many, kind)
    assert equations(ten, kind)[0] < equations(dataclasses.replace(ten, num_critics=8), kind)[0]
    if kind == "continuous":
        state = many.init(KEY, SPECS[kind], None)
        weights = state.critics.model.ensemble.members.weights[0]  # type: ignore[union-attr]
        assert weights.shape == (500, 5, 8)
        assert len(np.unique(np.asarray(weights)[:, 0, 0])) > 490


# --- discrete actions ------------------------------------------------------------------------------------------------


def test_the_expected_loss_of_a_soft_actor_by_hand() -> None:
    probs, q, temperature = np.asarray([[0.2, 0.8], [0.5, 0.5]]), np.asarray([[1.0, -1.0], [0.0, 4.0]]), 0.5
    log_probs = jnp.asarray(np.log(probs), jnp.float32)
    value = np.mean(np.sum(probs * (temperature * np.log(probs) - q), axis=1))
    loss = expected_soft_actor_loss(log_probs, jnp.asarray(q, jnp.float32), temperature)
    assert float(loss) == pytest.approx(value, rel=1e-6)

    def of_logits(logits: jax.Array) -> jax.Array:
        return expected_soft_actor_loss(jax.nn.log_softmax(logits), jnp.asarray(q, jnp.float32), temperature)

    # d/dlogits of sum p f(p) is p (f - E f) with f = temperature log p - q: the gradient of log p has mean 0.
    f = temperature * np.log(probs) - q
    expected = probs * (f - np.sum(probs * f, axis=1, keepdims=True)) / 2
    np.testing.assert_allclose(jax.grad(of_logits)(log_probs), expected, rtol=1e-5)


def test_an_update_of_discrete_sac_n_by_hand() -> None:
    # Two of three actions are allowed, with logits 0 each: half and half, entropy log 2.
    mask = jnp.asarray([[True, True, False]])
    algorithm = st.SACN(
        gamma=0.9, num_critics=2, learning_rate=0.1, actor_learning_rate=0.2, target_rate=0.25, entropy_share=0.5,
        network=st.Network(()),
    )  # fmt: skip
    after, metrics = one_hand(
        algorithm,
        Spec.vectors(1, 3),
        row(action=jnp.zeros(1, jnp.int32), action_mask=mask, next_action_mask=mask),
        actor=CategoricalPolicy(plain(weights=np.zeros((1, 3)), biases=[0, 0, 7])),
        critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 3)), biases=[[1, 3, 9], [2, 1, 9]]))),
        target_critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 3)), biases=[[1, 3, 9], [2, 1, 9]]))),
    )
    ln2 = math.log(2.0)
    # Entropy log 2 is above its target, half of it: the temperature falls by one step, to exp(-0.2). Both actions have
    # the minimum 1, so the actor's loss is -temperature log 2 - 1, and it does not move.
    temperature = math.exp(-0.2)
    target = 2.0 + 0.9 * (1.0 + temperature * ln2)
    expected = {
        "temperature": temperature,
        "loss/actor": -temperature * ln2 - 1.0,
        "q/policy_mean": 1.0,
        "policy/entropy": ln2,
        "policy/agreement": 1.0,
        "loss/critic": (target - 1.0) ** 2 + (target - 2.0) ** 2,
        "q/data_mean": 1.5,
        "q/spread": 0.5,
    }
    assert metrics == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(last_bias(after, "actor"), [0, 0, 7], atol=1e-3)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1.1, 3, 9], [2.1, 1, 9]], rtol=1e-5)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[1.025, 3, 9], [2.025, 1, 9]], rtol=1e-5)


def test_the_actor_follows_the_smallest_critic() -> None:
    case = CASES["SACN discrete"]
    state, batch = case.state(), case.batch(action_mask=jnp.ones((8, 3), jnp.bool_))
    heights = {"first": [[0, 0, 5], *[[0, 0, 0]] * 3], "all": [[0, 0, 5]] * 4}
    moved = {}
    for name, biases in heights.items():
        critics = plain(weights=np.zeros((4, 3, 3)), biases=biases)
        small = CASES["SACN discrete"].with_settings(network=st.Network(()), actor_network=st.Network((8,)))
        planted = small.state()._replace(actor=state.actor)
        planted = planted._replace(
            critics=dataclasses.replace(planted.critics, model=DiscreteCritics(Ensemble(critics))),
        )
        after, _ = small.update(planted, batch)
        moved[name] = np.asarray(last_bias(after, "actor") - last_bias(state, "actor"))
    assert moved["all"][2] > 9e-3  # one step of Adam, up
    assert abs(moved["first"][2]) < abs(moved["all"][2]) or moved["first"][2] < 0


def test_published_settings() -> None:
    assert st.SACN.preset("hopper-medium") == st.SACN(num_critics=500)
    assert st.EDAC.preset("hopper") == st.EDAC(num_critics=50)
    assert st.EDAC.preset("pen-human") == st.EDAC(num_critics=20, diversity_weight=1000.0)
