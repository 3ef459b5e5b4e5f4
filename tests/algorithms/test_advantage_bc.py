"""AdvantageBC: who is told that its action was good, by hand; one update by hand; folded networks; and what it learns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import KEY, fitted, plain, row, updated
from worlds import schema_of

import stitchrl as st
from stitchrl.algorithms.advantage_bc import conditions, good_actions
from stitchrl.algorithms.base import Spec
from stitchrl.errors import ConfigurationError
from stitchrl.nn.guided import conditioned, guided
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy


def f32(*numbers: float) -> jax.Array:
    return jnp.asarray(numbers, jnp.float32)


def test_the_best_share_of_known_advantages_is_good() -> None:
    adv, known = f32(3, -1, 0, 5, 100, 1), f32(1, 1, 1, 1, 0, 1)
    # of {-1, 0, 1, 3, 5} the 0.6-quantile is 1 + 0.4 * 2 = 1.8, and the 0.75-quantile is 3, which is not above itself
    assert good_actions(adv, known, 0.4).tolist() == [True, False, False, True, False, False]
    assert good_actions(adv, known, 0.25).tolist() == [False, False, False, True, False, False]
    assert not good_actions(adv, 0.0 * known, 0.4).any()
    assert not good_actions(f32(2, 2, 2), f32(1, 1, 1), 0.4).any()
    assert not good_actions(f32(0.1, 0.1, 0.1, 7), f32(1, 1, 1, 0), 0.4).any()  # a mean of these is rounded


def test_ties_for_the_largest_advantage_are_good_together() -> None:
    # three of five known rows share the largest, so that the 0.7-quantile is it, and nothing is above it
    adv, known = f32(0.5, -0.5, 0.5, -0.5, 0.5, 9), f32(1, 1, 1, 1, 1, 0)
    assert good_actions(adv, known, 0.3).tolist() == [True, False, True, False, True, False]
    assert good_actions(adv, known, 0.8).tolist() == [True, False, True, False, True, False]


def test_the_inputs_of_a_bit() -> None:
    good, told = jnp.asarray([True, False, True, False]), jnp.asarray([True, True, False, False])
    assert conditions(good, told).tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]


def test_one_update_by_hand() -> None:
    # Networks without hidden layers on observations of 0. Returns 2, 0, 0 and V 0.5: A is 1.5, -0.5, -0.5, and the quantile at
    # 0.7 is -0.5 + 0.4 * 2 = 0.3. Nobody is left untold, so the first row is told (1, 0) and the others (0, 1).
    batch = {name: jnp.repeat(jnp.asarray(value), 3, axis=0) for name, value in row(action=jnp.asarray([0])).items()}
    batch |= {"return_to_go": f32(2, 0, 0), "action": jnp.asarray([1, 0, 1]), "row": jnp.arange(3)}
    batch["action_mask"] = jnp.ones((3, 2), bool)
    algorithm = st.AdvantageBC(bit_dropout=0.0, learning_rate=0.1, hidden_sizes=(8,))
    weights = [
        [0.0, 0.0],
        [0.0, np.log(3.0)],
        [0.0, 0.0],
    ]  # told "on", action 1 has probability 3/4; told "off", a half

    state = algorithm.init(KEY, Spec.vectors(1, 2), {"returns": jnp.zeros(0, jnp.float32)})
    value, actor = plain(weights=[[0.0]], biases=[0.5]), CategoricalPolicy(plain(weights=weights, biases=[0.0, 0.0]))
    optimizer = algorithm.adam(0.1)
    state = state._replace(
        value=type(state.value).create(value, optimizer), actor=type(state.actor).create(actor, optimizer)
    )
    after, metrics = updated(algorithm, state, batch, None, KEY, 1)
    assert float(metrics["loss/value"]) == pytest.approx((1.5**2 + 0.5**2 + 0.5**2) / 3)
    assert float(metrics["loss/actor"]) == pytest.approx(-(np.log(3 / 4) + 2 * np.log(1 / 2)) / 3)
    assert float(metrics["bit/on"]) == pytest.approx(1 / 3)
    assert float(metrics["adv/mean"]) == pytest.approx(0.5 / 3)
    # V's error is 0.5 - mean(2, 0, 0) < 0, so it rises; gradients of the logits of "on" are (1/4, -1/4) / 3, those of "off"
    # cancel, for one of its two rows took each action; the first step of Adam is the step size against the sign.
    np.testing.assert_allclose(after.value.model.biases[0], [0.6], rtol=1e-5)
    np.testing.assert_allclose(after.actor.model.network.weights[0][1], [-0.1, np.log(3.0) + 0.1], rtol=1e-5)
    np.testing.assert_allclose(after.actor.model.network.weights[0][2], [0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("widths", [(), (5,), (5, 4)])
def test_folded_networks_are_the_ones_that_were_told(widths: tuple[int, ...]) -> None:
    told = MLP.create(5, Network(widths, activation="tanh"), 2, key=jax.random.key(1))
    told = dataclasses.replace(told, biases=tuple(bias + 0.1 for bias in told.biases))
    obs = jax.random.normal(jax.random.key(2), (7, 3))

    def ask(*condition: float) -> jax.Array:
        return told(jnp.concatenate([obs, jnp.tile(f32(*condition), (7, 1))], axis=1))

    on, off = conditioned(told, f32(1, 0)), conditioned(told, f32(0, 0))
    np.testing.assert_allclose(on(obs), ask(1, 0), atol=1e-6)
    np.testing.assert_allclose(guided(on, off, 2.5)(obs), 2.5 * ask(1, 0) - 1.5 * ask(0, 0), atol=1e-5)


def test_guidance_and_layer_normalisation_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match=r"`guidance` of AdvantageBC adds two networks into one.*got 2\.0"):
        st.AdvantageBC(guidance=2.0, network=Network((8,), layer_norm="after"))


@pytest.mark.slow
def test_bad_actions_are_learned_under_the_other_bit() -> None:
    # Action 0 pays 1 and was taken in half of the rows, more than `positive_share`: told "on" it is taken, told "off" it is not,
    # told nothing as in the log. With guidance 2 probabilities are those of "on" squared over those of the log, renormalised.
    action = (np.arange(200) % 2).astype(np.int32)
    columns = {
        "episode": np.arange(200),
        "observation": np.ones((200, 1), np.float32),
        "action": action,
        "reward": (action == 0).astype(np.float32),
        "terminated": np.ones(200, bool),
    }
    log = st.read(columns, schema_of(columns, 2, 1.0))
    algorithm = st.AdvantageBC(gamma=1.0, learning_rate=1e-2, hidden_sizes=(8,))
    run = fitted(algorithm, log, updates=300, log_every_updates=300, standardize=False)
    network, obs = run.states[0].actor.model.network, jnp.ones((1, 1))
    on, off, untold = (
        float(CategoricalPolicy(conditioned(network, f32(*bit))).probs(obs)[0, 0]) for bit in ((1, 0), (0, 1), (0, 0))
    )
    assert (on > 0.9, off < 0.1) == (True, True), (on, off)
    assert untold == pytest.approx(0.5, abs=0.1)
    assert float(run.policy.probs(obs)[0, 0]) == pytest.approx(on, rel=1e-5)
    strong = dataclasses.replace(algorithm, guidance=2.0).policy(run.states[0], run.given)
    odds = (on / (1 - on)) ** 2 / (untold / (1 - untold))
    assert float(strong.probs(obs)[0, 0]) == pytest.approx(odds / (1 + odds), rel=1e-3)
    assert float(dataclasses.replace(algorithm, guidance=0.0).policy(run.states[0], run.given).probs(obs)[0, 0]) == (
        pytest.approx(untold, rel=1e-4)
    )
