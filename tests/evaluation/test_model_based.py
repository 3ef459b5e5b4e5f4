"""Rollouts in a model, exact or learned, against exact values; a model that forgets the end is seen."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import linear_worlds as lw
import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, small_log, small_world

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.cases import cases_of, draft_of
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.learned_model import FitDynamics, LearnedModel, ModelStep, held_out_error
from stitchrl.evaluation.model_health import check_model_ends, check_rollout_cap
from stitchrl.evaluation.model_rollouts import FitModelReturns, RollOuts, cap_of, row_keys
from stitchrl.evaluation.registry import DEFAULT, ESTIMATORS
from stitchrl.evaluation.units import Units

HAZARD = 0.15
SETTINGS = st.FitSettings(updates=200, hidden_sizes=(32, 32), networks=2)


def truth(gamma: float, hazard: float = HAZARD, std: np.ndarray = lw.STD) -> float:
    """With the chance of the end the same in every step, the value is that of the discount gamma (1 - hazard)."""
    return lw.WORLD.value(lw.BETTER, std, gamma=gamma * (1 - hazard))


@dataclasses.dataclass(frozen=True)
class ExactModel:
    """The linear system itself, whose episodes end with one chance in every step."""

    hazard: float
    members: int = 2

    def step(self, obs: jax.Array, action: jax.Array, noise: jax.Array) -> ModelStep:
        following = obs @ lw.WORLD.transition.T + action @ lw.WORLD.control.T + lw.WORLD.noise * noise
        reward = -jnp.sum((obs @ lw.WORLD.state_cost) * obs, -1) - jnp.sum((action @ lw.WORLD.action_cost) * action, -1)
        as_floats = (jnp.asarray(one, jnp.float32) for one in (following, reward))
        return ModelStep(*as_floats, jnp.full(reward.shape, self.hazard, jnp.float32))


def acting(model: Any, gamma: float) -> RollOuts:
    return RollOuts(model, lw.policy(lw.BETTER, lw.STD), None, 2, gamma, 0)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_rollouts_in_the_exact_model_have_the_exact_value(gamma: float) -> None:
    obs = np.random.default_rng(1).normal(size=(4000, 2)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"):
        found = acting(ExactModel(HAZARD), gamma).run(obs, 400)
        forgetful = acting(ExactModel(0.0), gamma).run(obs, 60)
    returns = found.returns.mean(0)
    error = returns.std() / np.sqrt(len(obs))
    assert abs(returns.mean() - truth(gamma)) < 4 * error
    assert not found.left.any()  # they died out before the cap
    # A model that ignores the chance of the end is told apart, whatever the discount.
    assert abs(forgetful.returns.mean() - truth(gamma)) > 10 * error


def test_a_horizon_ends_rollouts_and_a_first_action_is_taken() -> None:
    obs = np.random.default_rng(2).normal(size=(50, 2)).astype(np.float32)
    first = np.ones((50, 2), np.float32)
    with jax.numpy_dtype_promotion("standard"):
        found = acting(ExactModel(0.0), 1.0).run(obs, 5, first_action=first, steps_left=np.full(50, 1))
    np.testing.assert_allclose(found.returns[0], -(obs**2).sum(1) - 0.1 * 2, rtol=1e-4)
    assert not found.left.any()


def test_noise_depends_on_the_observation_and_not_on_its_row() -> None:
    obs = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
    assert len(np.unique(row_keys(obs))) == 6
    order = np.array([3, 1, 3, 0])
    np.testing.assert_array_equal(row_keys(obs)[order], row_keys(obs[order]))


def test_the_cap_is_where_the_discount_leaves_nothing() -> None:
    assert cap_of(Estimand(1.0)) == 1000
    assert cap_of(Estimand(1.0, 7)) == 7
    assert cap_of(Estimand(0.9)) == 66  # .9^66 < .001 < .9^65
    assert check_rollout_cap(0.0, 0.0, 1000).passed
    failed = check_rollout_cap(0.2, 0.25, 1000)
    assert not failed.passed
    assert "25.0% of the rollouts were cut after 1,000 steps" in failed.sentence


# --- a learned model -------------------------------------------------------------------------------------------


def log_with_ends(episodes: int, seed: int) -> Dataset:
    """Episodes of the linear system that end with a chance of `HAZARD` in every step, and are cut after 25."""
    steps, rng = 25, np.random.default_rng(1000 + seed)  # the lengths must not follow the first states
    columns = lw.WORLD.log(lw.BEHAVIOR, lw.STD, episodes=episodes, steps=steps, seed=seed)
    length = np.minimum(rng.geometric(HAZARD, episodes), steps + 1)
    position = np.tile(np.arange(steps), episodes)
    kept = position < np.repeat(length, steps)
    columns["terminated"] = position == np.repeat(length, steps) - 1
    columns["truncated"] = columns["truncated"] & ~columns["terminated"]
    return st.read({name: column[kept] for name, column in columns.items()})


@functools.cache
def learned() -> Fits:
    """A model fitted on episodes of the behaviour, for the better policy, at gamma 1."""
    policy = lw.policy(lw.BETTER, lw.STD)
    return Fits([policy], log_with_ends(1500, 1), log_with_ends(700, 2), estimand=Estimand(1.0), settings=SETTINGS)


def model() -> LearnedModel:
    found: LearnedModel = learned()._data_of_others.models(FitDynamics())[0]
    return found


@pytest.mark.slow
def test_a_learned_model_finds_the_value_of_another_policy_at_gamma_1() -> None:
    (found,) = learned().get(FitModelReturns())
    exact, own = truth(1.0), lw.WORLD.value(lw.BEHAVIOR, lw.STD, gamma=1 - HAZARD)
    # The first states of the log are luck too: 1,500 of them.
    assert abs(found.returns.mean() - exact) < 0.15 * abs(exact)
    assert abs(found.returns.mean() - exact) < 0.5 * abs(own - exact)
    error = found.error
    assert error.change < 0.5
    assert error.reward < 0.2
    assert abs(error.ends_off) < 4
    assert check_model_ends(error).passed


@pytest.mark.slow
def test_a_model_that_ignores_the_chance_of_the_end_is_seen_on_held_out_rows() -> None:
    """The planted fault: the logit of the end is shifted far down."""
    sound = model()
    members = sound.ensemble.members
    biases = (*members.biases[:-1], members.biases[-1].at[:, -1].add(-5.0))
    deaf = dataclasses.replace(sound, ensemble=type(sound.ensemble)(dataclasses.replace(members, biases=biases)))
    held_out = log_with_ends(300, 3)
    assert check_model_ends(held_out_error(sound, held_out)).passed
    found = check_model_ends(held_out_error(deaf, held_out))
    assert not found.passed
    assert "wrong length" in found.sentence


@pytest.mark.slow
def test_simulated_observations_and_rewards_stay_within_what_was_seen() -> None:
    sound, far = model(), np.full((4, 8, 2), 50.0, np.float32)
    found = sound.step(jnp.asarray(far), jnp.asarray(far), jnp.zeros((4, 8, 2)))
    assert np.asarray(found.next_obs).max() <= sound.high.max()
    assert np.asarray(found.reward).min() >= sound.reward_low


# --- the estimators --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_estimators_on_a_finite_world() -> None:
    """model-dr is right with an interval; model is a number that claims nothing, and no verdict looks at it."""
    world, _, policy = small_world()
    names = ("wdr", "model-dr", "model")
    found = evaluate(Table(policy), small_log(11), estimators=names, fit_on=small_log(12), settings=QUICK)
    exact, corrected, alone = world.policy_value(policy), found.estimates["model-dr"], found.estimates["model"]
    assert corrected.value is not None
    assert corrected.standard_error is not None
    assert abs(corrected.value - exact) < 4 * corrected.standard_error
    assert {"model-error", "model-ends"} <= {check.key for check in corrected.checks}
    # One-hot observations are no normal distribution: the model is far off, and weights correct it.
    assert alone.value is not None
    assert alone.lower is alone.upper is alone.standard_error is None
    assert not alone.healthy
    assert "it has no interval" in alone.reasons[0]
    gain = found.gain["model"]
    assert gain.value == pytest.approx(alone.value - (found.behavior.value or 0.0))
    assert gain.lower is None
    assert found.verdict.primary == "wdr"
    assert not {"model", "model-dr"} & set(DEFAULT)


def test_what_a_model_cannot_serve_is_refused_in_one_sentence() -> None:
    _, _, policy = small_world()
    log = small_log(11)
    masked = dataclasses.replace(log, action_mask=np.ones((log.num_transitions, 2), bool))
    for name in ("model", "model-dr"):
        said = ESTIMATORS[name].refusal(masked, Estimand(1.0), [Table(policy)])
        assert said is not None
        assert "action masks" in said
        timed = ESTIMATORS[name].refusal(log, Estimand(1.0, None, "hour"), [Table(policy)])
        assert timed is not None
        assert "by time, per hour" in timed
    fits = Fits([Table(policy)], masked, masked, estimand=Estimand(1.0), settings=QUICK)
    (case,) = cases_of(fits, Units(masked.num_episodes))
    assert draft_of(ESTIMATORS["model"], case).statistic is None
