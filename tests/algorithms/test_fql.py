"""FQL: losses by hand, the published settings, and what it makes of a log with two kinds of action in one state."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, KEY, SPECS, fitted, mlp_of, model
from two_modes import SCALED, STATE, near, two_modes

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.flow_losses import distillation_loss, flow_matching_loss, q_loss
from stitchrl.errors import ConfigurationError

ONE = jnp.asarray([[0.5, -1.0], [0.0, 2.0]], jnp.float32)
OTHER = jnp.asarray([[0.5, 0.5], [-1.0, 1.0]], jnp.float32)


def test_the_flow_matching_loss_and_its_gradient_by_hand() -> None:
    # Actions less noise: (0, 1.5) and (-1, -1). Velocities (1, 1) and (-1, 0) miss by (1, -0.5) and (0, 1).
    velocity = jnp.asarray([[1.0, 1.0], [-1.0, 0.0]], jnp.float32)
    loss, gradient = jax.value_and_grad(flow_matching_loss)(velocity, ONE, OTHER)
    assert float(loss) == pytest.approx((1 + 0.25 + 0 + 1) / 4)
    np.testing.assert_allclose(gradient, [[0.5, -0.25], [0.0, 0.5]])


def test_the_distillation_loss_and_its_gradients_by_hand() -> None:
    # Distances (0, -1.5) and (1, 1); nothing is learned through the flow's action.
    loss, gradients = jax.value_and_grad(distillation_loss, argnums=(0, 1))(ONE, OTHER)
    assert float(loss) == pytest.approx((0 + 2.25 + 1 + 1) / 4)
    np.testing.assert_allclose(gradients[0], [[0.0, -0.75], [0.5, 0.5]])
    np.testing.assert_array_equal(gradients[1], np.zeros((2, 2)))


def test_the_loss_of_q_and_its_gradients_by_hand() -> None:
    q = jnp.asarray([2.0, -6.0], jnp.float32)  # mean -2, mean size 4
    for normalize, loss in ((False, 2.0), (True, 0.5)):
        found, gradient = jax.value_and_grad(q_loss)(q, normalize)
        assert float(found) == pytest.approx(loss)
        np.testing.assert_allclose(gradient, [-0.125, -0.125] if normalize else [-0.5, -0.5])  # the scale is a constant
    assert float(q_loss(0.0 * q, True)) == 0.0


# --- two modes -------------------------------------------------------------------------------------------------------

UPDATES = 1500


@cache
def flow_run(distill_weight: float) -> Any:
    """FQL on that log."""
    algorithm = st.FQL(
        gamma=0.9, distill_weight=distill_weight, normalize_q=True, learning_rate=1e-2, target_rate=0.05,
        network=st.Network((64, 64), activation="gelu"), decay_updates=UPDATES,
    )  # fmt: skip
    return fitted(algorithm, two_modes(), updates=UPDATES, log_every_updates=UPDATES, batch_size=128)


@pytest.mark.slow
def test_the_flow_keeps_both_modes_and_one_step_goes_to_the_better() -> None:
    run = flow_run(0.05)
    flow = run.states[0].behavior.model.sample(SCALED, key=jax.random.key(1))
    shares = near(flow, -0.7), near(flow, 0.7)
    assert min(shares) > 0.3
    assert sum(shares) > 0.75
    assert near(run.policy.sample(STATE, key=jax.random.key(2)), 0.7) > 0.85


@pytest.mark.slow
def test_at_one_weight_of_imitation_fql_stays_in_the_log_and_td3bc_goes_between() -> None:
    """Both lose the squared distance and win Q over its mean size, by weights of 2 to 1. TD3+BC's is to every action."""
    drawn = flow_run(2.0).policy.sample(STATE, key=jax.random.key(2))
    shares = near(drawn, -0.7), near(drawn, 0.7)
    assert min(shares) > 0.25
    assert sum(shares) > 0.75
    squared = fitted(dataclasses.replace(ALL["TD3BC"], q_weight=0.5), two_modes(), updates=1000, log_every_updates=400)
    assert abs(float(squared.policy.mode(STATE[:1])[0, 0])) < 0.4


# --- settings --------------------------------------------------------------------------------------------------------


def test_critics_are_normalised_and_policies_are_not() -> None:
    state = jax.eval_shape(lambda key: st.FQL().init(key, Spec.vectors(3, None, 2), None), KEY)
    behavior, actor, critics = (mlp_of(model(state, name)) for name in ("behavior", "actor", "critics"))
    assert critics.layer_norm == "after"
    assert {behavior.layer_norm, actor.layer_norm} == {"none"}
    assert {behavior.activation, actor.activation, critics.activation} == {"gelu"}
    # Observation, noise or point, and for the flow the time.
    assert [network.weights[0].shape[-2] for network in (behavior, actor, critics)] == [6, 5, 5]


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"FQL needs continuous actions; .* IQL or CQL learn from it\."):
        st.FQL().init(KEY, SPECS["discrete"], None)


def test_published_settings() -> None:
    assert len(st.FQL.presets) == 10 + 6 + 12
    assert st.FQL.preset("antmaze-giant-navigate") == st.FQL(gamma=0.995, target_aggregation="min")
    assert st.FQL.preset("antmaze-large-play") == st.FQL(distill_weight=3.0)
    assert st.FQL.preset("pen-expert") == st.FQL(distill_weight=3000.0, target_aggregation="min")
    assert "1 taken from every reward" in st.FQL.presets["antmaze-umaze"].training
