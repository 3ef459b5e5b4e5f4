"""ReBRAC: losses and an update by hand, the next logged action, what each penalty does, and the published settings."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, KEY, differ, last_bias, mlp_of, model, one_hand, plain, row

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.rebrac import penalized_actor_loss, squared_distance
from stitchrl.checking.subject import small_log
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import transition_source
from stitchrl.feeds.streaming import read_transitions
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import Ensemble


def test_the_actors_loss_and_its_gradients_by_hand() -> None:
    q = jnp.asarray([2.0, -6.0], jnp.float32)
    policy_action = jnp.asarray([[0.5, 0.0], [-0.5, 1.0]], jnp.float32)
    action = jnp.asarray([[0.0, 0.0], [0.5, 0.5]], jnp.float32)
    # Squared distances 0.25 and 1.25; mean |q| = 4, so q / 4 is 0.5 and -1.5: mean of 0.4 d - q / 4.
    np.testing.assert_allclose(squared_distance(policy_action, action), [0.25, 1.25])
    loss = penalized_actor_loss(q, policy_action, action, 0.4)
    assert float(loss) == pytest.approx((0.4 * 0.25 - 0.5 + 0.4 * 1.25 + 1.5) / 2, rel=1e-6)
    by_q, by_action = jax.grad(penalized_actor_loss, argnums=(0, 1))(q, policy_action, action, 0.4)
    np.testing.assert_allclose(by_q, [-1 / 8, -1 / 8], rtol=1e-6)  # the scale is a constant
    np.testing.assert_allclose(by_action, 0.4 * np.asarray(policy_action - action), rtol=1e-6, atol=1e-7)
    assert float(penalized_actor_loss(0.0 * q, policy_action, action, 0.0)) == 0.0


@pytest.mark.parametrize(("known", "terminated", "target"), [(1.0, 0.0, 2.72), (0.0, 0.0, 2.9), (1.0, 1.0, 2.0)])
def test_an_update_of_rebrac_by_hand(known: float, terminated: float, target: float) -> None:
    # The target actor says 0.5, the target critics 1 and 2 of it; the log did -0.5 next, a penalty of 0.2 1: y = 2 + 0.9
    # (1 - 0.2), without that penalty where the log has no next action, and 2 at an end.
    start = math.atanh(0.5)
    shared = {
        "target_noise": 0.0, "learning_rate": 0.1, "actor_learning_rate": 0.05, "target_rate": 0.25, "network": st.Network(()),
    }  # fmt: skip
    after, metrics = one_hand(
        st.ReBRAC(gamma=0.9, actor_bc_weight=0.1, critic_bc_weight=0.2, **shared),  # type: ignore[arg-type]
        Spec.vectors(1, None, 1),
        row(
            action=jnp.full((1, 1), 0.5, jnp.float32),
            next_action=jnp.full((1, 1), -0.5, jnp.float32),
            next_action_known=jnp.full(1, known, jnp.float32),
            terminated=jnp.full(1, terminated, jnp.float32),
        ),
        actor=DeterministicPolicy(plain(weights=[[0]], biases=[0])),
        target_actor=DeterministicPolicy(plain(weights=[[0]], biases=[start])),
        critics=ContinuousCritics(Ensemble(plain(weights=[[[0], [2]], [[0], [4]]], biases=[[1], [0]]))),
        target_critics=ContinuousCritics(Ensemble(plain(weights=[[[0], [2]], [[0], [4]]], biases=[[0], [0]]))),
    )
    # Both critics say 2 of the logged action; at an end, where y is 2 too, they stay. At the actor's 0 the second one,
    # the smaller, says its bias.
    step = 0.0 if terminated else 0.1
    expected = {
        "loss/critic": 2 * (target - 2.0) ** 2,
        "q/data_mean": 2.0,
        "bc/next": known,
        "q/policy_mean": step,
        "loss/actor": 0.1 * 0.25 - (1.0 if step else 0.0),
        "policy/mode_error": 0.5,
    }
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1 + step], [step]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[0.25 + 0.25 * step], [0.25 * step]], atol=1e-6)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.05], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_actor"), [start + 0.25 * (0.05 - start)], rtol=1e-4)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_next_logged_action_is_never_another_episodes(n_steps: int) -> None:
    log, algorithm = small_log("continuous"), CASES["ReBRAC continuous"].algorithm
    scaling = Scaling.of(log, standardize=False)
    columns = algorithm.prepare(log, scaling, key=KEY).columns
    assert not columns["next_action"][~log.continues].any()
    assert log.truncated.any()  # an end where a value follows, but no action
    source = transition_source(log, scaling, columns=columns, n_steps=n_steps)
    rows = np.arange(log.num_transitions)
    batch = source.sample(source.arrays, jnp.asarray(rows), jnp.int32(0))
    last = np.minimum(rows + n_steps - 1, log.run_end)
    inside = last < log.run_end
    np.testing.assert_array_equal(batch["next_action_known"], inside)
    np.testing.assert_array_equal(np.asarray(batch["next_action"])[inside], log.action[last[inside] + 1])
    np.testing.assert_array_equal(batch["obs"], log.observation)
    streamed = read_transitions(log, scaling, rows, n_steps, columns)
    for name in ("next_action", "next_action_known"):
        np.testing.assert_array_equal(streamed[name], batch[name])


def test_each_penalty_moves_its_own_network() -> None:
    case = CASES["ReBRAC continuous"]
    batch = case.batch(terminated=0.0, td_weight=1.0)
    (usual, _), (actor, _), (critic, _) = (
        case.with_settings(**changed).update(case.state(), batch, update=0)
        for changed in ({}, {"actor_bc_weight": 0.9}, {"critic_bc_weight": 0.9})
    )
    assert not differ(usual, actor)  # the actor is not due in this update
    assert differ(usual.critics, critic.critics)
    states = [case.with_settings(actor_bc_weight=weight).update(case.state(), batch)[0].actor for weight in (0.01, 0.9)]
    assert differ(*states)
    # What the next action was does not matter where it is not known.
    moved = {"next_action": batch["next_action"] + 0.25}
    for known in (0.0, 1.0):
        pair = [
            case.update(case.state(), {**b, "next_action_known": jnp.full(8, known, jnp.float32)})[0].critics
            for b in (batch, batch | moved)
        ]
        assert differ(*pair) == bool(known)


def test_critics_are_normalised_and_start_small() -> None:
    state = st.ReBRAC(hidden_sizes=(64, 64)).init(KEY, Spec.vectors(3, None, 2), None)
    actor, critics = (mlp_of(model(state, name)) for name in ("actor", "critics"))
    assert critics.layer_norm == "after"
    assert actor.layer_norm == "none"
    for network, inputs, most in ((actor, 3, 1e-3), (critics, 5, 3e-3)):
        assert 0.9 * inputs**-0.5 < float(jnp.abs(network.weights[0]).max()) <= inputs**-0.5
        assert all((np.asarray(bias) == np.float32(0.1)).all() for bias in network.biases[:-1])
        assert 0.9 * most < float(jnp.abs(network.weights[-1]).max()) <= most
        assert 0 < float(jnp.abs(network.biases[-1]).max()) <= most


def test_published_settings() -> None:
    antmaze = st.ReBRAC.preset("antmaze-large-play", gamma=0.99)
    assert (antmaze.actor_bc_weight, antmaze.critic_bc_weight, antmaze.gamma) == (0.002, 0.001, 0.99)
    assert (antmaze.learning_rate, antmaze.actor_learning_rate) == (5e-5, 3e-4)
    hopper = st.ReBRAC.preset("hopper-medium-replay")
    assert hopper == st.ReBRAC(actor_bc_weight=0.05, critic_bc_weight=0.5)
    assert "batch_size=1024" in st.ReBRAC.presets["hopper-medium-replay"].training
    assert "times 100" in st.ReBRAC.presets["antmaze-umaze"].training
    with pytest.raises(ConfigurationError, match="has no preset 'hopper'"):
        st.ReBRAC.preset("hopper")
