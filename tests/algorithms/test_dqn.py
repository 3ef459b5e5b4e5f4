"""DQN: an update by hand, and why it is here."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, last_bias, one_hand, plain, row
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.nn.networks import Ensemble


def test_an_update_of_dqn_by_hand() -> None:
    # The target critic says (1, 5, 4), of which the second is forbidden next: y = 2 + 0.9 4. Q says 3 of the logged one.
    batch = row(
        action=jnp.ones(1, jnp.int32),
        action_mask=jnp.ones((1, 3), jnp.bool_),
        next_action_mask=jnp.asarray([[True, False, True]]),
    )
    after, metrics = one_hand(
        st.DQN(gamma=0.9, learning_rate=0.1, target_rate=0.25, hidden_sizes=()),
        Spec.vectors(1, 3),
        batch,
        critics=Ensemble(plain(weights=np.zeros((1, 1, 3)), biases=[[0, 3, 2]])),
        target_critics=Ensemble(plain(weights=np.zeros((1, 1, 3)), biases=[[1, 5, 4]])),
    )
    expected = {"loss/critic": 2.6**2, "q/data_mean": 3.0, "q/next_max_mean": 4.0, "policy/agreement": 1.0}
    assert metrics == pytest.approx(expected, rel=1e-4)
    # Only the logged action's value moves, towards its target.
    np.testing.assert_allclose(last_bias(after, "critics"), [[0, 3.1, 2]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[0.75, 4.525, 3.5]], rtol=1e-4)


def test_dqn_is_discrete_cql_of_one_critic_without_a_penalty() -> None:
    shared = {"gamma": 0.9, "learning_rate": 1e-2, "target_rate": 0.05, "hidden_sizes": (8,)}
    case = CASES["DQN discrete"]
    cql = CASES["CQL discrete"].with_settings(num_critics=1, cql_weight=0.0)
    assert case.algorithm == st.DQN(**shared)
    one, two = (c.update(case.state(), case.batch()) for c in (case, case))
    state, metrics = cql.update(cql.state()._replace(critics=case.state().critics), case.batch())
    assert_trees_equal(one[0].critics, state.critics, rtol=1e-5, atol=1e-7)
    assert float(metrics["loss/critic"]) == pytest.approx(float(two[1]["loss/critic"]), rel=1e-5)


def test_the_failures_say_that_they_must_not_be_deployed() -> None:
    warned = {name for name in st.ALGORITHMS if "never selected" in getattr(st, name).caution}
    assert warned == {"DQN", "SAC", "TD3", "DDPG"}
    assert all(not getattr(st, name).caution for name in st.ALGORITHMS if name not in warned)
