"""SAC, TD3 and DDPG without any constraint: updates by hand, and where they go on a log that stops short."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, CASES, fitted, last_bias, mlp_of, model, one_hand, plain, row
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import CategoricalPolicy


def test_an_update_of_discrete_sac_by_hand() -> None:
    mask = jnp.asarray([[True, True, False]])
    critics = DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 3)), biases=[[1, 3, 9], [2, 1, 9]])))
    after, metrics = one_hand(
        st.SAC(
            gamma=0.9, learning_rate=0.1, actor_learning_rate=0.2, target_rate=0.25, entropy_share=0.5, hidden_sizes=()
        ),
        Spec.vectors(1, 3),
        row(action=jnp.zeros(1, jnp.int32), action_mask=mask, next_action_mask=mask),
        actor=CategoricalPolicy(plain(weights=np.zeros((1, 3)), biases=[0, 0, 7])),
        critics=critics,
        target_critics=critics,
    )
    # First the critics, at the temperature 1: both allowed actions have the minimum 1 and half the probability.
    ln2, temperature = math.log(2.0), math.exp(-0.2)
    target = 2.0 + 0.9 * (1.0 + ln2)
    expected = {
        "loss/critic": (target - 1.0) ** 2 + (target - 2.0) ** 2,
        "q/data_mean": 1.5,
        "q/spread": 0.5,
        # Then the actor: the minima are 1.1 and 1 by now, and entropy log 2 is above its target, half of it.
        "temperature": temperature,
        "loss/actor": -temperature * ln2 - 1.05,
        "q/policy_mean": 1.05,
        "policy/entropy": ln2,
        "policy/agreement": 1.0,
    }
    assert metrics == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1.1, 3, 9], [2.1, 1, 9]], rtol=1e-5)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.2, -0.2, 7], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[1.025, 3, 9], [2.025, 1, 9]], rtol=1e-5)


@pytest.mark.parametrize(("kind", "target"), [(st.TD3, 2.9), (st.DDPG, 3.8)])
def test_an_update_of_td3_and_of_ddpg_by_hand(kind: Any, target: float) -> None:
    # The target actor says 0.5; the target critics say 1 and 2 of it (twice and four times it), or, of DDPG's one, 2.
    single, start = kind is st.DDPG, math.atanh(0.5)
    settings = {"actor_learning_rate": 0.1} if single else {"target_noise": 0.0}
    critics = plain(
        weights=[[[0], [4]]] if single else [[[0], [2]], [[0], [4]]], biases=[[0]] if single else [[1], [0]]
    )
    slow = plain(weights=[[[0], [4]]] if single else [[[0], [2]], [[0], [4]]], biases=[[0]] * (1 if single else 2))
    after, metrics = one_hand(
        kind(gamma=0.9, learning_rate=0.1, target_rate=0.25, hidden_sizes=(), **settings),
        Spec.vectors(1, None, 1),
        row(action=jnp.full((1, 1), 0.5, jnp.float32)),
        actor=DeterministicPolicy(plain(weights=[[0]], biases=[0])),
        target_actor=DeterministicPolicy(plain(weights=[[0]], biases=[start])),
        critics=ContinuousCritics(Ensemble(critics)),
        target_critics=ContinuousCritics(Ensemble(slow)),
    )
    first = 0.1 if single else 1.1  # what the first critic says at the actor's 0 after its step
    expected = {
        "loss/critic": (1 if single else 2) * (target - 2.0) ** 2,
        "q/data_mean": 2.0,
        "q/policy_mean": first,
        "loss/actor": -first,
        "policy/mode_error": 0.5,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_actor"), [start + 0.25 * (0.1 - start)], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics")[-1], [0.025], rtol=1e-4)


def test_td3_is_td3bc_but_for_the_actor() -> None:
    td3, td3bc = CASES["TD3 continuous"], CASES["TD3BC continuous"]
    state, batch = td3.state(), td3.batch()
    assert_trees_equal(state, td3bc.state())
    one, two = (case.update(state, batch)[0] for case in (td3, td3bc))
    assert_trees_equal(one.critics, two.critics, rtol=1e-5, atol=1e-7)
    # Without imitation both climb the first critic: Adam's first step knows no scale.
    free = td3bc.with_settings(q_weight=1e6).update(state, batch)[0]
    weights = [mlp_of(model(s, "actor")).weights[-1] for s in (state, one, free)]
    clear = np.abs(np.asarray(weights[1] - weights[0])) > 9e-3
    assert clear.any()
    np.testing.assert_array_equal(np.sign(weights[1] - weights[0])[clear], np.sign(weights[2] - weights[0])[clear])


# --- a log that stops short ------------------------------------------------------------------------------------------

STATE = jnp.ones((1, 1), jnp.float32)


def paid(action: np.ndarray) -> np.ndarray:
    """What an action pays: more and more up to 0.5, then nothing. The log ends where the fall begins."""
    return np.where(action <= 0.5, 1.0 + action, 0.0)


@cache
def short_run(name: str) -> Any:
    """A run on one-step episodes of actions in [-0.5, 0.5]."""
    action = np.linspace(-0.5, 0.5, 400).astype(np.float32)
    columns = {
        "episode": np.arange(400),
        "observation": np.ones((400, 1), np.float32),
        "action": action[:, None],
        "reward": paid(action).astype(np.float32),
        "terminated": np.ones(400, bool),
    }
    schema = dataclasses.replace(schema_of(columns, num_actions=None), action_low=(-1.0,), action_high=(1.0,))
    tuned = {"ReBRAC": {"actor_bc_weight": 0.8}}.get(name, {})
    algorithm = dataclasses.replace(ALL[name], **tuned)
    return fitted(algorithm, st.read(columns, schema), updates=400, log_every_updates=400)


@pytest.mark.parametrize(
    "name", [pytest.param("SAC", marks=pytest.mark.slow), "TD3", pytest.param("DDPG", marks=pytest.mark.slow), "ReBRAC"]
)
def test_only_what_is_held_to_the_log_stays_in_it_and_tells_the_truth(name: str) -> None:
    run = short_run(name)
    action = np.asarray(run.policy.mode(STATE))
    claimed, true = float(run.values[0].q(STATE, jnp.asarray(action))[0]), float(paid(action)[0, 0])
    if name == "ReBRAC":
        assert action[0, 0] < 0.5
        assert claimed == pytest.approx(true, abs=0.2)
    else:
        assert action[0, 0] > 0.6
        assert claimed > true + 1.5
