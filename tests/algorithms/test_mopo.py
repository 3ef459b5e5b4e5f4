"""MOPO and COMBO: rollouts whose every number is known, the rows they learn from, losses by hand, and where they go."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import linear_worlds
import numpy as np
import pytest
from algorithm_cases import ALL, KEY, SPECS, fitted, log_of, plain, updated, with_models
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Prepared, Spec
from stitchrl.algorithms.combo import conservative_penalty
from stitchrl.algorithms.dynamics import Dynamics
from stitchrl.algorithms.dynamics_fit import fitted_dynamics, model_remarks, parts_of, predicted, uncertainty
from stitchrl.algorithms.model_rollouts import ModelRows, RolloutBuffer, added, empty_buffer, rollouts
from stitchrl.algorithms.model_settings import ModelState
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.continuous_policy import DeterministicPolicy, SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.linear_policy import LinearPolicy
from stitchrl.nn.networks import MLP, Ensemble


def f32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


ERROR = {"change": 0.25, "reward": 0.5, "ends_expected": 3.0, "ends_seen": 2.0, "rows": 40.0, "updates": 500.0}


def given_of(members: MLP, *, numbers: int = 1, ends: float = 1.0) -> dict[str, Any]:
    """A planted model of observations of so many numbers, whose outputs are in the units that are learned in."""
    return {
        "ensemble": Ensemble(members),
        "offset": jnp.zeros(numbers + 1, jnp.float32),
        "unit": jnp.ones(numbers + 1, jnp.float32),
        "penalty_unit": jnp.ones(numbers + 1, jnp.float32),
        "ends": f32(ends),
        "error": jax.tree.map(f32, ERROR),
    }


# --- what the model says ---------------------------------------------------------------------------------------------


def test_the_uncertainty_by_hand() -> None:
    # Two members, two rows, one change in units of 3 and a reward in units of 2.
    std = np.asarray([[[1.0, 2.0], [0.5, 0.1]], [[2.0, 0.5], [0.2, 0.2]]])
    found = uncertainty(f32(np.log(std)), f32([3.0, 2.0]))
    rows = [max(math.hypot(3, 4), math.hypot(6, 1)), max(math.hypot(1.5, 0.2), math.hypot(0.6, 0.4))]
    np.testing.assert_allclose(found, rows, rtol=1e-6)


@cache
def linear_fit() -> tuple[st.Dataset, dict[str, Any]]:
    """Networks without hidden layers, fitted to a linear system: what they learn and what they cannot is known."""
    log = linear_worlds.log(60, 20, 0)
    dynamics = Dynamics(members=4, learning_rate=0.02, network=st.Network(()))
    return log, fitted_dynamics(log, Scaling.of(log), dynamics, 1500, 2, key=KEY)


@pytest.mark.slow
def test_the_model_of_a_linear_system_is_its_matrices_and_its_error_is_the_noise() -> None:
    log, model = linear_fit()
    world, scaling = linear_worlds.WORLD, Scaling.of(log)
    found = predicted(model["ensemble"], f32(scaling.observations(log.observation)), f32(scaling.actions(log.action)))
    change = (np.asarray(model["offset"]) + np.asarray(model["unit"]) * np.asarray(found.mean))[..., :-1] * scaling.std
    expected = log.observation @ (world.transition - np.eye(2)).T + log.action @ world.control.T
    off = np.sqrt(((change - expected[None]) ** 2).mean((0, 1)))
    assert (off < 0.25 * world.noise).all(), off  # members differ by sqrt(5 / 540) of the noise or so
    std = (np.asarray(model["unit"]) * np.exp(np.asarray(found.log_std)))[..., :-1] * scaling.std
    np.testing.assert_allclose(np.median(std, axis=(0, 1)), world.noise, rtol=0.15)
    # The noise is all that is left unexplained.
    _, held = parts_of(log, 0)
    real = held.next_observation - held.observation
    noise = real - held.observation @ (world.transition - np.eye(2)).T - held.action @ world.control.T
    share = float(np.mean((noise**2).mean(0) / (real**2).mean(0)))
    assert float(model["error"]["change"]) == pytest.approx(share, rel=0.1)
    assert float(model["error"]["reward"]) > 0.5  # a quadratic, which no linear network is
    assert float(model["error"]["rows"]) == held.num_transitions


@pytest.mark.slow
def test_members_are_ordered_by_their_error_on_held_out_rows() -> None:
    log, model = linear_fit()
    _, held = parts_of(log, 0)
    assert 0 < held.num_episodes < log.num_episodes
    scaling = Scaling.of(log)
    found = predicted(model["ensemble"], f32(scaling.observations(held.observation)), f32(scaling.actions(held.action)))
    change = (scaling.observations(held.next_observation) - scaling.observations(held.observation)) - np.asarray(
        model["offset"]
    )[:-1]
    target = np.column_stack([change, held.reward - np.asarray(model["offset"])[-1]]) / np.asarray(model["unit"])
    errors = ((np.asarray(found.mean) - target[None]) ** 2).mean((1, 2))
    assert len(np.unique(errors)) == 4
    assert (np.diff(errors) > -1e-5).all(), errors


def test_the_penalty_and_the_reward_are_scaled_alike() -> None:
    log, model = linear_fit()
    scaling = dataclasses.replace(Scaling.of(log, reward_scale=0.01), reward_shift=3.0)
    scaled = fitted_dynamics(
        log, scaling, Dynamics(members=4, learning_rate=0.02, network=st.Network(())), 1, 2, key=KEY
    )
    size = log.observation_size
    np.testing.assert_array_equal(scaled["unit"][:size], model["unit"][:size])
    assert float(scaled["unit"][size]) == pytest.approx(0.01 * float(model["unit"][size]), rel=1e-6)
    assert float(scaled["offset"][size]) == pytest.approx(0.01 * (float(model["offset"][size]) + 3.0), rel=1e-6)
    np.testing.assert_allclose(model["penalty_unit"], model["unit"], rtol=1e-6)
    np.testing.assert_allclose(scaled["penalty_unit"], 0.01 * np.asarray(model["unit"]), rtol=1e-6)


def test_nothing_ends_in_the_model_of_a_log_in_which_nothing_ended() -> None:
    log, model = linear_fit()
    assert float(model["ends"]) == 0.0
    assert not log.terminated.any()


def test_a_person_is_told_how_far_the_model_is_off() -> None:
    model = {"error": jax.tree.map(f32, ERROR)}
    assert model_remarks(model) == (
        "The model of the world, after 500 updates: on 40 held-out rows it leaves 25% of the variance of the observation's "
        "changes and 50% of the reward's unexplained, and it expects 3.0 ends where 2 were seen.",
    )
    bad = {"error": model["error"] | {"change": f32(0.95)}}
    assert "say little about the world" in model_remarks(bad)[1]


# --- rollouts --------------------------------------------------------------------------------------------------------


def linear_model(state: Any, control: Any, reward: Any, log_std: float, members: int = 1) -> dict[str, Any]:
    """A planted model s' = A s + B a + noise, r = c s + d a + noise, that never ends; one standard deviation for all."""
    size, numbers = np.shape(control)
    mean = np.concatenate([np.concatenate([np.asarray(state) - np.eye(size), control], axis=1), [reward]], axis=0).T
    weights = np.concatenate([mean, np.zeros((size + numbers, size + 2))], axis=1)
    below = math.log(math.expm1(log_std + 5.0)) - 5.0  # what the ends of log standard deviations leave as it should be
    raw = 1.0 - math.log(math.expm1(1.0 - below))
    biases = np.concatenate([np.zeros(size + 1), np.full(size + 1, raw), [0.0]])
    return given_of(
        plain(weights=np.stack([weights] * members), biases=np.stack([biases] * members)), numbers=size, ends=0.0
    )


def test_rollouts_in_a_linear_world_have_the_returns_and_spreads_of_its_matrices() -> None:
    state, control = np.asarray([[0.9, 0.2], [-0.1, 0.8]]), np.asarray([[0.5], [0.3]])
    gain, std, reward, noise, steps, count = np.asarray([[-0.4, 0.3]]), 0.3, np.asarray([1.0, -0.5, 0.7]), 0.1, 4, 4000
    model = linear_model(state, control, reward, math.log(noise))
    start = np.asarray([1.0, -2.0])
    obs = jnp.broadcast_to(f32(start)[None], (count, 2))
    rows, made = jax.jit(rollouts, static_argnames=("steps", "elites"))(
        model, LinearPolicy(f32(gain), f32([std])), obs, steps=steps, elites=1, key=KEY
    )
    assert np.asarray(made).all()
    # s_t has the mean M^t s_0, and what noise adds to its covariance goes through M likewise.
    closed, added_noise = state + control @ gain, std**2 * control @ control.T + noise**2 * np.eye(2)
    mean, cov = start, np.zeros((2, 2))
    for t in range(steps):
        seen = np.asarray(rows.obs[t], np.float64)
        np.testing.assert_allclose(seen.mean(0), mean, atol=5 * math.sqrt(max(cov.max(), 1e-12) / count) + 1e-6)
        np.testing.assert_allclose(np.cov(seen.T), cov, atol=0.15 * cov.max() + 1e-9)
        expected = reward[:2] @ mean + reward[2:] @ gain @ mean
        spread = (
            reward @ np.block([[cov, cov @ gain.T], [gain @ cov, gain @ cov @ gain.T + std**2]]) @ reward + noise**2
        )
        assert np.asarray(rows.reward[t]).mean() == pytest.approx(expected, abs=5 * math.sqrt(spread / count))
        assert np.asarray(rows.reward[t]).std() == pytest.approx(math.sqrt(spread), rel=0.08)
        mean, cov = closed @ mean, closed @ cov @ closed.T + added_noise
    np.testing.assert_array_equal(rows.next_obs[:-1], rows.obs[1:])
    np.testing.assert_allclose(rows.penalty, noise * math.sqrt(3), rtol=1e-3)


def ending_model() -> dict[str, Any]:
    """s' = s + 1 where member 0 speaks and s - 1 where member 1 does; it ends from 2 on, and from -1 down never."""
    weights = np.zeros((2, 2, 5))
    weights[:, 0, 4] = 1000.0
    biases = np.asarray([[1, 0, -1e3, -1e3, -1500.0], [-1, 0, -1e3, 5.0, -1500.0]])
    return given_of(plain(weights=weights, biases=biases))


def still(numbers: int = 1) -> DeterministicPolicy:
    return DeterministicPolicy(plain(weights=np.zeros((numbers, 1)), biases=[0.0]))


def test_no_row_is_made_after_an_end_and_elites_alone_speak() -> None:
    obs = jnp.full((200, 1), -50.0, jnp.float32).at[:2, 0].set(f32([0.0, 2.0]))

    @jax.jit
    def five(model: Any) -> Any:
        return rollouts(model, still(), obs, 5, 1, key=KEY)

    rows, made = five(ending_model())
    # From 0 the rows of 0, 1 and 2, where it ends; from 2 one; from -50 all.
    np.testing.assert_array_equal(made.T[:3], [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(np.asarray(rows.terminated).T[0, :3], [0, 0, 1])
    np.testing.assert_array_equal(np.asarray(rows.terminated).T[1:, 0], [1] + [0] * 198)
    np.testing.assert_allclose(rows.obs[:3, 0, 0], [0, 1, 2], atol=0.05)  # member 0 alone
    # The uncertainty is that of member 1, which is no elite: exp(1), the upper end, of the reward.
    np.testing.assert_allclose(rows.penalty, math.e, rtol=0.02)
    rows, made = five(ending_model() | {"ends": f32(0.0)})
    assert np.asarray(made).all()
    assert not np.asarray(rows.terminated).any()
    both, _ = rollouts(ending_model(), still(), obs, 1, 2, key=KEY)
    share = float(np.mean(np.asarray(both.next_obs > both.obs)[0, 2:]))
    assert share == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / 198))


def rows_of(values: Any) -> ModelRows:
    column = f32(values)
    return ModelRows(column[:, None], column[:, None], column, column, column, column[:, None])


def test_a_full_buffer_forgets_its_oldest_rows_and_takes_no_row_that_was_not_made() -> None:
    add, buffer = jax.jit(added), empty_buffer(Spec.vectors(1, None, 1), 5)
    assert (int(buffer.held), int(buffer.place)) == (0, 0)
    buffer = add(buffer, rows_of([1, 9, 2, 9, 9]), jnp.asarray([True, False, True, False, False]))
    assert (int(buffer.held), int(buffer.place)) == (2, 2)
    np.testing.assert_array_equal(buffer.rows.reward, [1, 2, 0, 0, 0])
    buffer = add(buffer, rows_of([3, 4, 9, 5, 6]), jnp.asarray([True, True, False, True, True]))
    assert (int(buffer.held), int(buffer.place)) == (5, 1)
    np.testing.assert_array_equal(buffer.rows.reward, [6, 2, 3, 4, 5])
    np.testing.assert_array_equal(buffer.rows.next_obs[:, 0], buffer.rows.reward)
    same = add(buffer, rows_of([9] * 5), jnp.zeros(5, jnp.bool_))
    np.testing.assert_array_equal(same.rows.reward, buffer.rows.reward)


def test_rollouts_begin_at_logged_observations() -> None:
    log, algorithm = log_of("continuous"), ALL["MOPO"]
    state = algorithm.init(KEY, SPECS["continuous"], None)
    # It goes on for ever where the first number of an observation is below 0, and ends elsewhere.
    weights = np.zeros((1, 5, 9))
    weights[0, 0, 8] = 1000.0
    model = given_of(plain(weights=weights, biases=np.zeros((1, 9))), numbers=3)
    arrays = transition_source(log, Scaling.of(log, standardize=False)).arrays
    buffer = jax.jit(algorithm.refresh)(state, arrays, model, KEY).rollouts
    held = int(buffer.held)
    assert len(buffer.rows.reward) == 64  # 16 rollouts of 2 steps, twice kept
    seen = {tuple(row) for row in log.observation.tolist()}
    begun = np.asarray([tuple(row) in seen for row in np.asarray(buffer.rows.obs)[:held].tolist()])
    ended = np.asarray(buffer.rows.terminated)[:held] == 1
    assert begun.sum() == 16
    assert held == 32 - (begun & ended).sum()
    assert 0 < (begun & ended).sum() < 16
    assert len({tuple(row) for row in np.asarray(buffer.rows.obs)[:held][begun].tolist()}) > 3
    assert (np.abs(buffer.rows.action) <= 1).all()


# --- rows to learn from ----------------------------------------------------------------------------------------------


TOLD = {"error": jax.tree.map(f32, ERROR)}


def planted_state(algorithm: Any, rows: ModelRows, held: int) -> ModelState:
    state: ModelState = algorithm.init(KEY, SPECS["continuous"], None)
    return state._replace(rollouts=RolloutBuffer(rows, jnp.int32(held), jnp.int32(0)))


def logged_rows() -> dict[str, jax.Array]:
    """Rows of the log, without a target."""
    source = transition_source(log_of("continuous"), Scaling.of(log_of("continuous"), standardize=False))
    batch = source.sample(source.arrays, jnp.arange(8), jnp.int32(0))
    return dict(batch) | {"td_weight": jnp.zeros(8, jnp.float32)}


def two_made_rows() -> ModelRows:
    obs = f32([[1, 2, 3], [4, 5, 6]])
    return ModelRows(obs, f32([[0.1, 0.2], [0.3, 0.4]]), f32([1.0, -2.0]), f32([0.5, 2.0]), f32([0.0, 1.0]), 10 * obs)


def test_the_mixed_batch_and_the_penalised_reward_by_hand() -> None:
    algorithm: Any = dataclasses.replace(ALL["MOPO"], real_share=0.3)
    batch, state = logged_rows(), planted_state(algorithm, two_made_rows(), 2)
    mix, told = algorithm.mixed_batch(state, batch, TOLD, 3.0, key=KEY)
    for name in ("obs", "action", "reward", "next_obs", "td_weight", "row"):
        np.testing.assert_array_equal(mix[name][:2], batch[name][:2])  # 0.3 of 8 rows
    np.testing.assert_array_equal(mix["discount"][:2], 0.9 * (1 - batch["terminated"][:2]))
    second = np.asarray(mix["obs"][2:, 0]) == 4
    assert 0 < second.sum() < 6
    np.testing.assert_allclose(mix["reward"][2:], np.where(second, -2.0 - 3.0 * 2.0, 1.0 - 3.0 * 0.5))
    np.testing.assert_allclose(
        mix["discount"][2:], np.where(second, 0.0, 0.9)
    )  # an end stops the bootstrap, and no more
    np.testing.assert_array_equal(mix["next_obs"][2:], 10 * mix["obs"][2:])
    np.testing.assert_array_equal(mix["td_weight"][2:], np.ones(6))
    np.testing.assert_array_equal(mix["row"][2:], np.where(second, -2, -1))
    assert float(told["model/penalty"]) == pytest.approx(np.where(second, 2.0, 0.5).mean())
    assert float(told["model/reward"]) == pytest.approx(np.where(second, -2.0, 1.0).mean())
    assert float(told["model/ends"]) == pytest.approx(second.mean())
    # Before anything was made, every row is the log's.
    none = planted_state(algorithm, two_made_rows(), 0)
    mix, _ = algorithm.mixed_batch(none, batch, TOLD, 3.0, key=KEY)
    np.testing.assert_array_equal(mix["reward"], batch["reward"])


def test_over_several_steps_logged_rows_have_their_sum_and_made_rows_one_step() -> None:
    algorithm: Any = ALL["MOPO"]
    steps = {"rewards": jnp.broadcast_to(f32([1.0, 2.0, 4.0])[None], (8, 3)), "steps": jnp.full(8, 3.0, jnp.float32)}
    state, batch = planted_state(algorithm, two_made_rows(), 1), logged_rows() | {"terminated": jnp.zeros(8)}
    mix, _ = algorithm.mixed_batch(state, batch | steps, TOLD, 0.0, key=KEY)
    np.testing.assert_allclose(mix["reward"], [1 + 0.9 * 2 + 0.81 * 4] * 4 + [1.0] * 4, rtol=1e-6)
    np.testing.assert_allclose(mix["discount"], [0.9**3] * 4 + [0.9] * 4, rtol=1e-6)


def hand_state(algorithm: Algorithm, rows: ModelRows, critics: ContinuousCritics) -> Any:
    """One number observed, one an action; the actor does tanh(s / 2) nearly surely, and what the model made is planted."""
    actor = SquashedGaussianPolicy(plain(weights=[[0.5, 0.0]], biases=[0.0, -50.0]))
    state = algorithm.init(KEY, Spec.vectors(1, None, 1), None)
    state = with_models(state, actor=actor, critics=critics, target_critics=critics)
    return state._replace(rollouts=RolloutBuffer(rows, jnp.int32(1), jnp.int32(0)))


def hand_batch() -> dict[str, jax.Array]:
    """A logged row that goes on, and a second one in whose place the model's row stands."""
    columns = {"obs": [[1.0], [7.0]], "action": [[0.5], [0.7]], "reward": [2.0, 7.0], "next_obs": [[-1.0], [7.0]]}
    ends = {"terminated": [0.0, 0.0], "truncated": [0.0, 0.0], "td_weight": [1.0, 1.0]}
    return {name: f32(value) for name, value in (columns | ends).items()}


def linear_critics(slopes: Any) -> ContinuousCritics:
    """Q_i(s, a) = w_i s + v_i a."""
    return ContinuousCritics(Ensemble(plain(weights=np.asarray(slopes)[:, :, None], biases=np.zeros((len(slopes), 1)))))


SLOPES = np.asarray([[1.0, 2.0], [3.0, -1.0]])


def test_an_update_of_mopo_by_hand() -> None:
    algorithm = st.MOPO(
        gamma=0.9, real_share=0.5, penalty_weight=2.0, learning_rate=0.1, actor_learning_rate=0.1, target_rate=0.25,
        first_temperature=1e-12, rollouts=1, rollout_length=1, retained=1, network=st.Network(()),
    )  # fmt: skip
    made = ModelRows(f32([[3.0]]), f32([[-0.5]]), f32([1.0]), f32([0.25]), f32([0.0]), f32([[2.0]]))
    state = hand_state(algorithm, made, linear_critics(SLOPES))
    after, metrics = updated(algorithm, state, hand_batch(), given_of(plain(weights=[[[0.0]]], biases=[[0.0]])), KEY, 1)
    obs, action, following = np.asarray([1.0, 3.0]), np.asarray([0.5, -0.5]), np.asarray([-1.0, 2.0])
    next_q = SLOPES @ np.stack([following, np.tanh(following / 2)])
    target = np.asarray([2.0, 1.0 - 2.0 * 0.25]) + 0.9 * next_q.min(0)
    q = SLOPES @ np.stack([obs, action])
    assert float(metrics["loss/critic"]) == pytest.approx(((q - target[None]) ** 2).mean(1).sum(), rel=1e-5)
    assert float(metrics["q/data_mean"]) == pytest.approx(q[:, 0].mean(), rel=1e-5)
    assert float(metrics["policy/mode_error"]) == pytest.approx(abs(math.tanh(0.5) - 0.5), rel=1e-4)
    assert float(metrics["model/change_error"]) == 0.25
    assert float(metrics["model/penalty"]) == 0.25
    # Adam's first step is 0.1 against the sign of the gradient; target critics go a quarter of the way.
    sign = np.sign((q - target[None]) @ np.stack([obs, action]).T)
    weights = after.critics.model.ensemble.members.weights[0][:, :, 0]
    np.testing.assert_allclose(weights, SLOPES - 0.1 * sign, rtol=1e-5)
    slow = after.target_critics.ensemble.members.weights[0][:, :, 0]
    np.testing.assert_allclose(slow, SLOPES - 0.025 * sign, rtol=1e-5)
    np.testing.assert_array_equal(after.rollouts.rows.reward, [1.0])


# --- COMBO -----------------------------------------------------------------------------------------------------------


def penalty_by_hand(q: np.ndarray, log_density: np.ndarray, q_data: np.ndarray, real: int) -> np.ndarray:
    """The bracket of COMBO's equation (4) in float64: the mean over all rows, and that over the first ones."""
    return np.log(np.exp(q - log_density[None]).sum(1)).mean(1) - q_data[:, :real].mean(1)


def test_the_conservative_penalty_and_its_gradient_by_hand() -> None:
    rng, real = np.random.default_rng(0), 2
    q, log_density, q_data = rng.normal(size=(2, 3, 4)), rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    down, up = np.ones(4), np.asarray([2.0, 2.0, 0.0, 0.0])
    arguments = [f32(x) for x in (q, log_density, q_data, down, up)]
    np.testing.assert_allclose(
        conservative_penalty(*arguments), penalty_by_hand(q, log_density, q_data, real), rtol=1e-5
    )
    slopes = jax.grad(lambda q, data: jnp.sum(conservative_penalty(q, arguments[1], data, *arguments[3:])), (0, 1))(
        arguments[0], arguments[2]
    )
    for index in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        near = [q.copy(), q.copy()]
        near[0][index] += 1e-6
        near[1][index] -= 1e-6
        found = [penalty_by_hand(one, log_density, q_data, real).sum() for one in near]
        assert float(slopes[0][index]) == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4)
    np.testing.assert_allclose(slopes[1], [[-0.5, -0.5, 0, 0]] * 2, rtol=1e-6)
    # Without a target a row has weight 0 in both means.
    nothing = conservative_penalty(*arguments[:3], jnp.zeros(4), jnp.zeros(4))
    np.testing.assert_array_equal(nothing, [0.0, 0.0])


def test_combo_pushes_up_logged_rows_alone_and_its_target_has_no_penalty_and_no_entropy() -> None:
    algorithm = st.COMBO(
        gamma=0.9, real_share=0.5, cql_weight=2.0, samples=4, learning_rate=0.1, actor_learning_rate=1e-12,
        first_temperature=1.0, rollouts=1, rollout_length=1, retained=1, network=st.Network(()),
    )  # fmt: skip

    def told(made_action: float, logged_action: float) -> dict[str, float]:
        made = ModelRows(f32([[3.0]]), f32([[made_action]]), f32([1.0]), f32([0.25]), f32([0.0]), f32([[2.0]]))
        state = hand_state(algorithm, made, linear_critics(SLOPES))
        batch = hand_batch() | {"action": f32([[logged_action], [0.7]])}
        model = given_of(plain(weights=[[[0.0]]], biases=[[0.0]]))
        _, metrics = updated(algorithm, state, batch, model, KEY, 1)
        return {name: float(value) for name, value in metrics.items()}

    usual = told(-0.5, 0.5)
    # The sum over sampled actions knows no logged action: Q_i rises by v_i times what is added to it.
    assert told(0.4, 0.5)["loss/cql"] == pytest.approx(usual["loss/cql"], rel=1e-5)
    assert told(-0.5, 0.7)["loss/cql"] == pytest.approx(usual["loss/cql"] - 0.2 * SLOPES[:, 1].sum(), rel=1e-4)
    following = np.asarray([-1.0, 2.0])
    target = np.asarray([2.0, 1.0]) + 0.9 * (SLOPES @ np.stack([following, np.tanh(following / 2)])).min(0)
    q = SLOPES @ np.asarray([[1.0, 3.0], [0.5, -0.5]])
    assert usual["loss/critic"] == pytest.approx(((q - target[None]) ** 2).mean(1).sum(), rel=1e-4)


# --- where they go ---------------------------------------------------------------------------------------------------

EDGE = 0.5
"""The log has actions up to here, and a reward that rises with them; beyond it the model is a guess."""


def guess(slope: float) -> dict[str, Any]:
    """r = a, sure up to `EDGE`; beyond it the standard deviation of the reward rises from exp(-5) by its logarithm's slope."""
    hidden = np.zeros((1, 2, 3))
    hidden[0, 1] = [1.0, -1.0, 1.0]
    bias = np.asarray([[0.0, 0.0, -EDGE]])
    out = np.zeros((1, 3, 5))
    out[0, :, 1] = [1.0, -1.0, 0.0]
    out[0, 2, 3] = slope
    return given_of(MLP((f32(hidden), f32(out)), (f32(bias), f32([[0.0, 0.0, -50.0, -5.0, -50.0]]))))


@dataclasses.dataclass(frozen=True)
class PlantedMOPO(st.MOPO):
    """MOPO in a planted model that knows where it is a guess."""

    def prepare(self, log: st.Dataset, scaling: Scaling, *, key: jax.Array) -> Prepared:
        return Prepared(log, given=guess(20.0))


@dataclasses.dataclass(frozen=True)
class PlantedCOMBO(st.COMBO):
    """COMBO in a planted model that is sure of what it says everywhere."""

    def prepare(self, log: st.Dataset, scaling: Scaling, *, key: jax.Array) -> Prepared:
        return Prepared(log, given=guess(0.0))


@cache
def narrow_log() -> st.Dataset:
    """One state; actions from -1/2 to 1/2 pay themselves."""
    action = np.linspace(-EDGE, EDGE, 200, dtype=np.float32)
    columns = {
        "episode": np.arange(200),
        "observation": np.ones((200, 1), np.float32),
        "action": action[:, None],
        "reward": action,
        "truncated": np.ones(200, bool),
        "next_observation": np.ones((200, 1), np.float32),
    }
    columns["terminated"] = np.zeros(200, bool)
    schema = dataclasses.replace(schema_of(columns, num_actions=None), action_low=(-1.0,), action_high=(1.0,))
    return st.read(columns, schema)


SHORT: dict[str, Any] = {
    "gamma": 0.0, "real_share": 0.25, "rollout_length": 1, "rollouts": 200, "rollouts_every_updates": 100, "retained": 2,
    "learning_rate": 1e-2, "actor_learning_rate": 1e-2, "hidden_sizes": (16,), "elites": 1, "first_temperature": 0.01,
}  # fmt: skip


def goes_to(algorithm: Algorithm) -> float:
    run = fitted(algorithm, narrow_log(), updates=400, log_every_updates=400, standardize=False)
    return float(run.policy.mode(jnp.ones((1, 1), jnp.float32))[0, 0])


@pytest.mark.slow
def test_the_penalty_keeps_mopo_where_the_model_is_sure() -> None:
    # The same program, with two weights of the penalty.
    assert goes_to(PlantedMOPO(penalty_weight=0.0, **SHORT)) > 0.9
    held = goes_to(PlantedMOPO(penalty_weight=2.0, **SHORT))
    assert 0.3 < held < 0.75, held


@pytest.mark.slow
def test_a_run_that_is_there_does_not_wait_for_its_model_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"updates": 1, "log_every_updates": 400, "standardize": False, "out": tmp_path}
    algorithm = PlantedMOPO(penalty_weight=2.0, **SHORT)
    first = fitted(algorithm, narrow_log(), **settings)
    monkeypatch.setattr(PlantedMOPO, "prepare", lambda *_, **__: pytest.fail("the model is fitted again"))
    capsys.readouterr()
    again = st.fit(algorithm, narrow_log(), batch_size=64, progress=True, **settings)
    assert_trees_equal(again.members, first.members)
    assert_trees_equal(again.given, first.given)
    assert again.remarks == first.remarks == model_remarks(first.given)
    assert f"PlantedMOPO: {first.remarks[0]}" in capsys.readouterr().err


@pytest.mark.slow
def test_combo_stays_with_the_log_though_the_model_is_sure_of_what_it_does_not_know() -> None:
    # MOPO's penalty is the same everywhere here, and would not hold it.
    assert goes_to(PlantedCOMBO(cql_weight=0.0, samples=3, **SHORT)) > 0.9
    held = goes_to(PlantedCOMBO(cql_weight=1.0, samples=3, **SHORT))
    assert -0.2 < held < 0.75, held


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MOPO", "COMBO"])
def test_they_refuse_discrete_actions_streams_and_more_elites_than_members(name: str) -> None:
    kind = type(ALL[name])
    message = f"{name} learns from continuous actions; this log's are discrete. BC, IQL and CQL"
    with pytest.raises(ConfigurationError, match=message):
        st.fit(ALL[name], log_of("discrete"), updates=1, progress=False)
    with pytest.raises(
        ConfigurationError, match=r"needs continuous actions; the log's are discrete\. IQL, CQL or BCQ learn"
    ):
        ALL[name].init(KEY, Spec.vectors(3, 3), None)
    with pytest.raises(ConfigurationError, match=f"{name} reads the whole log every 2 updates, which a streamed log"):
        st.fit(ALL[name], log_of("continuous"), updates=1, stream=True, progress=False)
    with pytest.raises(ConfigurationError, match=rf"`elites` of {name} must be at most `members`, 3; got 4\."):
        kind(members=3, elites=4)


def test_published_settings() -> None:
    assert st.MOPO.preset("hopper-medium-replay") == st.MOPO(rollouts=50_000, rollout_length=5, penalty_weight=2.5)
    assert st.COMBO.preset("walker2d-medium-replay") == st.COMBO(rollouts=50_000, rollout_length=1, cql_weight=0.5)
