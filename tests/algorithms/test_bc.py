"""BC: imitation of the logged actions, allowed ones only."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, KEY, last_bias, model, one_hand, plain, row
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.policy import CategoricalPolicy

BY_HAND = st.BC(learning_rate=0.1, hidden_sizes=())


def test_an_update_of_bc_by_hand_discrete() -> None:
    # pi = (1/4, 3/4) over the allowed; the third would be best and is forbidden. The logged one is less likely.
    batch = row(action=jnp.zeros(1, jnp.int32), action_mask=jnp.asarray([[True, True, False]]))
    actor = CategoricalPolicy(plain(weights=[[0, 0, 0]], biases=[0, math.log(3), 9]))
    after, metrics = one_hand(BY_HAND, Spec.vectors(1, 3), batch, actor=actor)
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    expected = {"loss/actor": math.log(4), "policy/agreement": 0.0, "policy/entropy": entropy}
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1, math.log(3) - 0.1, 9], rtol=1e-4)


def test_an_update_of_bc_by_hand_continuous() -> None:
    # At mean 0 and standard deviation 1 the logged action 0.5 is half a standard deviation off.
    actor = GaussianPolicy(plain(weights=[[0]], biases=[0]), jnp.zeros(1, jnp.float32))
    batch = row(action=jnp.full((1, 1), 0.5, jnp.float32))
    after, metrics = one_hand(BY_HAND, Spec.vectors(1, None, 1), batch, actor=actor)
    half_log_two_pi = 0.5 * math.log(2 * math.pi)
    expected = {
        "loss/actor": 0.5 * 0.5**2 + half_log_two_pi,
        "policy/mode_error": 0.5,
        "policy/entropy": 0.5 + half_log_two_pi,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1], rtol=1e-4)  # towards the action
    np.testing.assert_allclose(model(after, "actor").log_std, [-0.1], rtol=1e-4)  # nearer than one standard deviation


def test_rewards_and_what_followed_mean_nothing_to_bc() -> None:
    case = CASES["BC discrete"]
    one, two = (
        case.update(
            case.state(), case.batch(reward=reward, terminated=end, td_weight=end, next_obs=case.batch()["obs"])
        )
        for reward, end in ((1.0, 0.0), (-5.0, 1.0))
    )
    assert_trees_equal(one, two)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_an_actor_loses_outputs_while_it_learns_and_none_when_it_acts(kind: str) -> None:
    case = CASES[f"BC {kind}"].with_settings(network=Network((64,), dropout=0.5))
    state, batch = case.state(), case.batch()
    one, again, other = (case.update(state, batch, jax.random.key(k))[1]["loss/actor"] for k in (0, 0, 1))
    assert float(one) == float(again) != float(other)
    policy = case.algorithm.policy(state, None)
    whole = CASES[f"BC {kind}"].with_settings(hidden_sizes=(64,)).algorithm.init(KEY, case.spec, None).actor.model
    np.testing.assert_array_equal(policy.mode(batch["obs"]), whole.mode(batch["obs"]))
