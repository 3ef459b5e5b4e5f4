"""How several critics become one number, and rewards with noise of each critic's own, in all algorithms that have both."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, CASES, KEY, LEARNERS, Case, fitted, one_hand, plain, row
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.critic_settings import CriticSettings, RewardNoise, mean_less_deviations, noise_of_rows
from stitchrl.algorithms.losses import td_loss
from stitchrl.errors import ConfigurationError
from stitchrl.nn.critics import DiscreteCritics
from stitchrl.nn.networks import Ensemble
from stitchrl.pipeline.assignments import with_assignments

SEVERAL = [name for name in LEARNERS if isinstance(CASES[name].algorithm, CriticSettings)]

NOISY = [name for name in LEARNERS if isinstance(CASES[name].algorithm, RewardNoise)]


def test_who_can_be_told() -> None:
    # All that count their critics, and nobody else; of those with a rule of their own the flows take the noise.
    assert set(NOISY) == {*SEVERAL, "FQL continuous", "QChunking continuous"}
    assert set(SEVERAL) == {name for name in LEARNERS if hasattr(CASES[name].algorithm, "num_critics")} - OTHERS


OTHERS: set[str] = {name for name in LEARNERS if name.startswith(("BCQ ", "BEAR ", "FQL ", "QChunking "))}
"""Those with a rule of their own for several critics."""


# --- deviations ------------------------------------------------------------------------------------------------------


def test_the_mean_less_deviations_and_its_gradient_by_hand() -> None:
    q = np.random.default_rng(0).normal(size=(4, 3))
    found = mean_less_deviations(jnp.asarray(q, jnp.float32), 1.5)
    np.testing.assert_allclose(found, q.mean(0) - 1.5 * q.std(0), rtol=1e-5)
    gradient = jax.grad(lambda q: jnp.sum(mean_less_deviations(q, 1.5)))(jnp.asarray(q, jnp.float32))
    # d mean = 1 / C, d deviation = (q - mean) / (C deviation)
    np.testing.assert_allclose(gradient, (1 - 1.5 * (q - q.mean(0)) / q.std(0)) / 4, rtol=1e-4)


def test_where_all_critics_agree_there_is_nothing_to_take_and_no_gradient() -> None:
    q = jnp.asarray([[2.0, 1.0], [2.0, 3.0]], jnp.float32)
    value, gradient = jax.value_and_grad(lambda q: jnp.sum(mean_less_deviations(q, 2.0)))(q)
    assert float(value) == pytest.approx(2.0 + (2.0 - 2.0))
    np.testing.assert_allclose(gradient, [[0.5, 1.5], [0.5, -0.5]], rtol=1e-6)


def test_of_two_critics_one_deviation_under_the_mean_is_the_minimum() -> None:
    q = jnp.asarray(np.random.default_rng(1).normal(size=(2, 50, 3)), jnp.float32)
    np.testing.assert_allclose(mean_less_deviations(q, 1.0), jnp.min(q, axis=0), rtol=1e-5, atol=1e-6)


QUICK = ("IQL discrete", "SACN continuous")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SEVERAL])
def test_an_update_with_two_critics_is_the_same_by_either_rule(name: str) -> None:
    # Whatever place of it asks for one number: target, advantage, actor.
    usual = CASES[name].with_settings(num_critics=2, gamma=0.9)
    by_deviation = usual.with_settings(deviations=1.0)
    state, batch = usual.state(), usual.batch()
    one, two = usual.update(state, batch), by_deviation.update(state, batch)
    # Adam divides by a gradient's own size, so that where it is nearly 0 rounding moves a parameter.
    assert_trees_equal(one[1], two[1], rtol=1e-3, atol=1e-4)
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(two[0]), strict=True):
        assert np.mean(np.abs(np.asarray(a, float) - np.asarray(b, float)) < 1e-4) > 0.97


def program_text(case: Case, batch: Any) -> str:
    def update(state: Any, batch: Any) -> Any:
        return case.algorithm.update(state, batch, case.given, KEY, Step(jnp.int32(1), jnp.int32(9)))

    return str(jax.make_jaxpr(update)(case.state(), batch))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NOISY])
def test_the_settings_reach_every_algorithm(name: str) -> None:
    case = CASES[name]
    batch = case.batch()
    plainly = program_text(case, batch)
    both: tuple[dict[str, float], ...] = ({"reward_noise": 0.5}, {"deviations": 2.0})
    for settings in both if name in SEVERAL else both[:1]:
        assert program_text(case.with_settings(**settings), batch) != plainly, settings


# --- noise on rewards ------------------------------------------------------------------------------------------------


def test_the_noise_of_a_row_is_each_critics_own_and_never_changes() -> None:
    rows = jnp.arange(4000, dtype=jnp.int32)
    noise = np.asarray(noise_of_rows(rows, 3))
    assert noise.shape == (3, 4000)
    np.testing.assert_array_equal(np.asarray(noise_of_rows(rows[::-1][:7], 3)), noise[:, ::-1][:, :7])
    # Standard normal, and unrelated between critics and between rows: five standard errors.
    assert np.abs(noise.mean(1)).max() < 5 / math.sqrt(4000)
    assert np.abs(noise.std(1) - 1).max() < 5 / math.sqrt(8000)
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 5 / math.sqrt(4000)
    assert abs(np.corrcoef(noise[0, 1:], noise[0, :-1])[0, 1]) < 5 / math.sqrt(4000)


def test_each_critic_is_told_rewards_of_its_own() -> None:
    mask = jnp.ones((1, 2), jnp.bool_)
    critics = DiscreteCritics(Ensemble(plain(weights=np.zeros((3, 1, 2)), biases=[[1, 0], [2, 0], [5, 0]])))
    _, metrics = one_hand(
        st.SACN(gamma=0.0, num_critics=3, reward_noise=0.5, network=st.Network(())),
        Spec.vectors(1, 2),
        row(action=jnp.zeros(1, jnp.int32), action_mask=mask, next_action_mask=mask, row=jnp.asarray([17], jnp.int32)),
        critics=critics,
        target_critics=critics,
    )
    told = 2.0 + 0.5 * np.asarray(noise_of_rows(jnp.asarray([17], jnp.int32), 3))[:, 0]
    assert metrics["loss/critic"] == pytest.approx(np.sum((told - [1, 2, 5]) ** 2), rel=1e-5)


def test_the_td_loss_takes_a_target_for_each_critic() -> None:
    q, target = np.asarray([[1.0, 2.0], [3.0, 5.0]]), np.asarray([[0.0, 2.0], [4.0, 1.0]])
    loss, gradient = jax.value_and_grad(td_loss)(
        jnp.asarray(q, jnp.float32), jnp.asarray(target, jnp.float32), jnp.asarray([1.0, 0.0], jnp.float32)
    )
    assert float(loss) == pytest.approx((1.0 + 1.0) / 2)
    np.testing.assert_allclose(gradient, [[1.0, 0.0], [-1.0, 0.0]])


@pytest.mark.slow
def test_critics_disagree_where_an_action_has_few_rows() -> None:
    # One state; action 0 pays 1 in 64 rows, action 1 pays 2 in 16. Least squares of critics without hidden layers.
    action = (np.arange(80) >= 64).astype(np.int32)
    columns = {
        "episode": np.arange(80),
        "observation": np.ones((80, 1), np.float32),
        "action": action,
        "reward": 1.0 + action.astype(np.float32),
        "terminated": np.ones(80, bool),
    }
    log, critics, noise = st.read(columns, schema_of(columns, 2, 0.0)), 30, 0.8
    algorithm = st.IQL(
        gamma=0.0, num_critics=critics, reward_noise=noise, learning_rate=0.05, decay_updates=400, hidden_sizes=()
    )
    run = fitted(
        algorithm, log, updates=400, batch_size=80, log_every_updates=400, sampling="shuffled", reward_scale=0.5
    )
    value, obs = run.values[0], jnp.ones((2, 1), jnp.float32)
    told = noise * np.asarray(noise_of_rows(jnp.arange(80, dtype=jnp.int32), critics))
    means = np.stack([told[:, action == a].mean(1) for a in (0, 1)])
    # In the units of the log, whose rewards were halved.
    spread = np.asarray(value.spread(obs, jnp.asarray([0, 1], jnp.int32)))
    np.testing.assert_allclose(spread, 2.0 * means.std(1), rtol=0.05)
    np.testing.assert_allclose(spread, [2 * 0.8 / 8, 2 * 0.8 / 4], rtol=0.35)
    np.testing.assert_allclose(value.q_all(obs)[0], [1.0, 2.0] + 2.0 * means.mean(1), atol=0.03)


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_of_several_critics() -> None:
    assert st.IQL().deviations is None
    for value in (-1.0, float("inf")):
        with pytest.raises(ConfigurationError, match=r"`deviations` of IQL must be in \[0, inf\); got"):
            st.IQL(deviations=value)
    with pytest.raises(ConfigurationError, match="`reward_noise` of CQL must be in"):
        st.CQL(reward_noise=-0.1)
    told = with_assignments({"IQL": st.IQL()}, ["IQL.deviations=2", "IQL.reward_noise=0.5"])
    assert told == {"IQL": st.IQL(deviations=2.0, reward_noise=0.5)}
    assert with_assignments(told, ["IQL.deviations=none"]) == {"IQL": st.IQL(reward_noise=0.5)}
    with pytest.raises(ConfigurationError, match="BC has no setting 'deviations'"):
        with_assignments({"BC": st.BC()}, ["BC.deviations=1"])


def test_a_value_without_critics_has_no_spread() -> None:
    run = fitted(ALL["VILCB"], st.read(*counted()), updates=0)
    with pytest.raises(TypeError, match="has no critics that could disagree"):
        run.values[0].spread(jnp.ones((1, 1)), jnp.zeros(1, jnp.int32))


def counted() -> tuple[dict[str, np.ndarray], Any]:
    """A log of one numbered state."""
    columns: dict[str, np.ndarray] = {
        "episode": np.arange(4), "observation": np.ones((4, 1), np.float32), "observation_id": np.zeros(4, np.int32),
        "action": np.asarray([0, 1, 0, 1], np.int32), "reward": np.ones(4, np.float32), "terminated": np.ones(4, bool),
    }  # fmt: skip
    return columns, schema_of(columns, 2)
