"""AWR: its returns by hand and by the plain recursion, its weights, and what its columns and refreshes bring."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import KEY
from worlds import bandit_log, next_observations, random_log, schema_of, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.algorithms.awr import weighted_imitation_loss
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.returns import returns_to_go, td_lambda_returns
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import transition_source


def f32(values: object) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def test_returns_to_go_by_hand() -> None:
    # Rewards 1, 2, 4 | -1, 3 | 0.5, gamma 1/2; no run hands anything to the next.
    found = returns_to_go(tiny_log(), Scaling.identity(2, reward_scale=2.0), 0.5)
    np.testing.assert_allclose(found, 2 * np.array([1 + 1 + 1, 2 + 2, 4, -1 + 1.5, 3, 0.5]), rtol=1e-6)


def test_td_lambda_returns_by_hand() -> None:
    # One episode of three rows that ends, one cut row whose next value is known, one cut row of which nothing is.
    found = td_lambda_returns(
        f32([1, 2, 4, 8, 16]),
        f32([10, 20, 30, 40, 50]),
        f32([20, 30, 99, 60, 99]),
        f32([0, 0, 1, 0, 0]),
        f32([1, 1, 0, 0, 0]),
        f32([1, 1, 1, 1, 0]),
        0.5,
        0.25,
    )
    third = 4.0
    second = 2 + 0.5 * (0.75 * 30 + 0.25 * third)
    first = 1 + 0.5 * (0.75 * 20 + 0.25 * second)
    np.testing.assert_allclose(found, [first, second, third, 8 + 0.5 * 60, 50], rtol=1e-6)


@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
def test_td_lambda_returns_are_the_recursion_on_a_random_log(td_lambda: float) -> None:
    log, rng = random_log(60, with_masks=False), np.random.default_rng(0)
    n = log.num_transitions
    v, next_v = rng.normal(size=(2, n))
    expected = np.zeros(n)
    for t in range(n - 1, -1, -1):
        if log.terminated[t]:
            expected[t] = log.reward[t]
        elif not log.can_bootstrap[t]:
            expected[t] = v[t]
        elif log.continues[t]:
            expected[t] = log.reward[t] + 0.9 * ((1 - td_lambda) * next_v[t] + td_lambda * expected[t + 1])
        else:
            expected[t] = log.reward[t] + 0.9 * next_v[t]
    columns = (log.reward, v, next_v, log.terminated, log.continues, log.can_bootstrap)
    found = td_lambda_returns(*map(f32, columns), 0.9, td_lambda)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_example_of_three_returns() -> None:
    # Returns 3, 7, 1 and V = 11/3: weights exp(A), the largest cut at 20.
    log_prob, adv = f32(np.log([0.5, 0.25, 0.25])), f32([3, 7, 1]) - 11 / 3
    loss, weight = weighted_imitation_loss(log_prob, adv, 1.0)
    expected = np.minimum(np.exp(np.array([3, 7, 1]) - 11 / 3), 20)
    np.testing.assert_allclose(weight, expected, rtol=1e-5)
    assert expected[1] == 20
    np.testing.assert_allclose(loss, -(expected * np.log([0.5, 0.25, 0.25])).mean(), rtol=1e-5)
    assert float(jax.grad(lambda a: weighted_imitation_loss(log_prob, a, 1.0)[0])(adv)[0]) == 0.0


def test_standardised_advantages_do_not_know_the_scale_of_rewards() -> None:
    # Without hidden layers V is fitted to scaled returns by steps of fixed size, so only a long way round shows scale:
    # here the weights of the first update, where V is as it started, are compared.
    log = random_log(40, with_masks=False)
    weights = {}
    for standardize in (True, False):
        for scale in (1.0, 100.0):
            algorithm = st.AWR(standardize_advantage=standardize, hidden_sizes=(), returns_every_updates=1)
            run = st.fit(algorithm, log, updates=1, reward_scale=scale, progress=False)
            weights[standardize, scale] = run.history[0]["weight/mean"]
    assert weights[True, 1.0] == pytest.approx(weights[True, 100.0], rel=0.1)
    assert abs(weights[False, 1.0] - weights[False, 100.0]) > 0.5


def test_returns_are_computed_from_the_value_function_of_the_time() -> None:
    columns = tiny_columns() | {"next_observation": next_observations()}
    log = st.read(columns)
    algorithm = st.AWR(td_lambda=0.5, gamma=0.9, returns_every_updates=3, learning_rate=1e-2, hidden_sizes=())
    runs = {n: st.fit(algorithm, log, updates=n, log_every_updates=100, progress=False) for n in (3, 4, 5)}
    held = {n: np.asarray(run.states[0].returns.td_lambda) for n, run in runs.items()}
    assert held[3].shape == (6,)
    np.testing.assert_array_equal(held[4], held[5])
    assert (held[3] != held[4]).any()  # the fourth update is the first after a refresh
    # That refresh saw V as three updates had left it.
    value = runs[3].states[0].value.model
    scaled = runs[3].scaling.observations(log.observation_table)
    seen = np.asarray(value(jnp.asarray(scaled)))[:, 0]
    v, next_v = seen[log.observation_index], seen[np.maximum(log.next_observation_index, 0)]
    given = (log.reward, v, next_v, log.terminated, log.continues, log.can_bootstrap)
    np.testing.assert_allclose(held[4], td_lambda_returns(*map(f32, given), 0.9, 0.5), rtol=1e-4, atol=1e-5)


def test_a_log_of_whole_episodes_with_lambda_one_needs_no_returns_in_the_state() -> None:
    run = st.fit(st.AWR(td_lambda=1.0, hidden_sizes=()), bandit_log(50), updates=2, progress=False)
    assert run.states[0].returns.td_lambda.shape == (0,)


@pytest.mark.parametrize("name", ["AWR", "AdvantageBC"])
def test_with_lambda_one_a_gap_is_no_end(name: str) -> None:
    # The row after the first is missing; its observation, 5, is in the log. Nothing was cut.
    columns = {
        "episode": [0, 0, 0],
        "observation": np.float32([[1], [2], [3]]),
        "next_observation": np.float32([[5], [3], [4]]),
        "action": [0, 1, 0],
        "reward": [1.0, 2.0, 4.0],
        "terminated": [False, False, True],
    }
    log = st.read(columns, schema_of(columns, 2, 1.0))
    assert (log.continues.tolist(), log.truncated.any()) == ([False, True, False], False)
    algorithm, scaling = getattr(st, name)(td_lambda=1.0, gamma=0.5, hidden_sizes=(4,)), Scaling.identity(1)
    ready = algorithm.prepare(log, scaling, key=KEY)
    arrays = transition_source(log, scaling, columns=ready.columns).arrays
    state = algorithm.init(KEY, Spec.vectors(1, 2), ready.given)
    after = algorithm.refresh(state, arrays, ready.given, KEY).returns
    value = float(state.value.model(f32([[5.0]]))[0, 0])
    found = after.td_lambda if name == "AWR" else after
    np.testing.assert_allclose(found, [1 + 0.5 * value, 2 + 0.5 * 4, 4], rtol=1e-5)


def test_it_learns_the_better_arm_that_the_log_seldom_took() -> None:
    log = bandit_log(500)
    awr = st.fit(
        st.AWR(inverse_temperature=3.0, learning_rate=1e-2, hidden_sizes=(8,)), log, updates=300, progress=False
    )
    bc = st.fit(st.BC(learning_rate=1e-2, hidden_sizes=(8,)), log, updates=300, progress=False)
    obs = log.observation[:1]
    assert float(awr.policy.probs(obs)[0, 1]) > 0.8 > 0.4 > float(bc.policy.probs(obs)[0, 1])


def test_a_streamed_log_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="whole log every"):
        st.fit(st.AWR(), bandit_log(50), updates=2, stream=True, progress=False)
