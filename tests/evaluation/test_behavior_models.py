"""Models of the behaviour against known probabilities, and what the noise of their fit does to numbers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from evaluation_worlds import QUICK, draw, small_world, without_propensities

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.behavior_model import BehaviorData, FittedBehavior
from stitchrl.evaluation.behavior_models.counts import CountNoise, States
from stitchrl.evaluation.behavior_models.logistic import logistic_policy
from stitchrl.evaluation.behavior_registry import BEHAVIOR_MODELS, fit_behavior
from stitchrl.evaluation.probabilities import policy_probabilities, taken
from stitchrl.evaluation.reliability import calibration_curve
from stitchrl.evaluation.settings import BEHAVIORS, FitSettings
from stitchrl.evaluation.softmax_regression import action_counts, regress
from stitchrl.evaluation.units import Units
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.reading.read import read

CONTINUOUS = ("gaussian", "squashed", "mixture")
MODELS = tuple(name for name in BEHAVIOR_MODELS if name not in CONTINUOUS)
FAST = [pytest.param(name, marks=pytest.mark.slow) if name == "mlp" else name for name in MODELS]
"""The network takes longest to fit."""
SAVED = tuple(name for name in MODELS if name != "knn")


def fitted(log: Dataset, name: str) -> FittedBehavior:
    return fit_behavior(log, dataclasses.replace(QUICK, behavior=name))


def bandit(action: np.ndarray, obs: np.ndarray, mask: np.ndarray | None = None, actions: int = 3) -> Dataset:
    """A log of episodes of one step."""
    count = len(action)
    columns = {
        "episode": np.arange(count),
        "observation": obs.astype(np.float32),
        "action": action,
        "reward": np.ones(count),
        "terminated": np.ones(count, bool),
        "truncated": np.zeros(count, bool),
    }
    if mask is not None:
        columns["action_mask"] = mask
    return read(columns, Schema.infer(list(columns), num_actions=actions, gamma=1.0))


def test_the_names_that_can_be_asked_for_are_those_that_there_are() -> None:
    assert ("auto", *BEHAVIOR_MODELS) == BEHAVIORS
    names = "auto, counts, logistic, mlp, knn, gaussian, squashed, mixture"
    with pytest.raises(ConfigurationError, match=f"`behavior` must be one of {names}; got 'forest'"):
        FitSettings(behavior="forest")
    for setting, value in (("updates", 0), ("batch_size", -3), ("hidden_sizes", (64, 0)), ("learning_rate", 0.0)):
        with pytest.raises(
            ConfigurationError, match=rf"`{setting}` of FitSettings must be .*; got {re.escape(str(value))}"
        ):
            FitSettings(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_finds_known_probabilities_and_the_same_twice(name: str) -> None:
    world, behavior, _ = small_world()
    log = without_propensities(draw(world, behavior, 4000, 3))
    model = fitted(log, name)
    states = np.eye(5, dtype=np.float32)[:4]
    found = policy_probabilities(model.policy, states, None)
    error = np.sqrt(0.25 / np.bincount(log.observation_id, minlength=5)[:4])
    assert (np.abs(found[:, 0] - behavior[:4, 0]) < 4 * error + (0.05 if name == "mlp" else 0.01)).all()
    again = policy_probabilities(fitted(log, name).policy, states, None)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("name", MODELS)
def test_masks_are_honoured_and_an_action_never_taken_stays_possible(name: str) -> None:
    rng = np.random.default_rng(0)
    state = rng.integers(0, 4, 1200)
    mask = np.ones((1200, 3), bool)
    mask[state == 0, 1] = False  # action 1 is forbidden in state 0, and action 2 is never taken in state 3
    chance = np.where(state[:, None] == 0, [0.7, 0.0, 0.3], [0.5, 0.3, 0.2])
    chance = np.where(state[:, None] == 3, [0.6, 0.4, 0.0], chance)
    action = (rng.random(1200)[:, None] > chance.cumsum(1)).sum(1)
    log = bandit(action, np.eye(4)[state], mask)
    allowed = np.ones((4, 3), bool)
    allowed[0, 1] = False
    found = policy_probabilities(fitted(log, name).policy, np.eye(4, dtype=np.float32), allowed)
    assert found[0, 1] == 0.0
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-5)
    assert found[0, 0] == pytest.approx(0.7, abs=0.1)
    assert 1e-6 < found[3, 2] < 0.08
    # A like observation under a mask that the log never had is renormalised, and nothing becomes impossible.
    freed = policy_probabilities(fitted(log, name).policy, np.eye(4, dtype=np.float32)[:1], np.ones((1, 3), bool))
    assert freed[0, 1] > 1e-6


@pytest.mark.parametrize("name", FAST)
def test_where_one_action_is_all_that_was_done_it_is_all_but_certain(name: str) -> None:
    log = bandit(np.zeros(300, int), np.eye(3)[np.arange(300) % 3], actions=2)
    found = policy_probabilities(fitted(log, name).policy, log.observation, None)
    assert (found[:, 0] > 0.93).all()
    assert (found[:, 1] > 0).all()
    only = np.tile([True, False], (300, 1))
    np.testing.assert_array_equal(policy_probabilities(fitted(log, name).policy, log.observation, only)[:, 0], 1.0)


@pytest.mark.slow
def test_auto_takes_the_model_that_predicts_held_out_episodes_and_the_simplest_of_equals() -> None:
    rng = np.random.default_rng(1)
    state = rng.integers(0, 30, 4000)
    share = rng.uniform(0.05, 0.95, 30)
    action = (rng.random(4000) < share[state]).astype(int)
    # The number of the state as its observation: a regression cannot follow it, counts can.
    log = bandit(action, state[:, None], actions=2)
    model = fit_behavior(log, QUICK)
    assert model.name == "counts"
    assert model.tried["counts"] > model.tried["logistic"] + 0.05
    # Observations that never repeat: counts refuse, and the regression is right.
    obs = rng.normal(size=(4000, 2))
    action = (rng.random(4000) < 1 / (1 + np.exp(-2 * obs[:, 0]))).astype(int)
    model = fit_behavior(bandit(action, obs, actions=2), QUICK)
    assert model.name == "logistic"
    assert "counts" not in model.tried


def test_counts_refuse_observations_that_do_not_repeat() -> None:
    rng = np.random.default_rng(2)
    log = bandit(rng.integers(0, 2, 400), rng.normal(size=(400, 2)), actions=2)
    with pytest.raises(EvaluationError, match="need at most 5,000 distinct observations, seen 10 times each"):
        fitted(log, "counts")


def test_the_effect_of_counts_is_their_derivative() -> None:
    """With hardly any smoothing the regression has no part, and one row more in a cell can be counted by hand."""
    world, behavior, _ = small_world()
    log, other = draw(world, behavior, 300, 1), draw(world, behavior, 200, 2)
    gradient = np.random.default_rng(0).normal(size=(other.num_transitions, 2)) / other.num_episodes
    states, strength = States(log), 1e-6
    tables = states.count(log)
    effect = CountNoise(states, tables, strength, log).effect(other, gradient)

    def numbers(t: np.ndarray) -> np.ndarray:
        return np.log(t / t.sum(1, keepdims=True))[states.of(other), other.action] @ gradient

    step, episode = 1e-5, 7
    rows = slice(log.episode_start[episode], log.episode_start[episode + 1])
    more = tables.taken.copy()
    np.add.at(more, (states.of(log)[rows], log.action[rows]), step)
    np.testing.assert_allclose(
        effect.episodes[episode], (numbers(more) - numbers(tables.taken)) / step, rtol=1e-2, atol=1e-6
    )
    np.testing.assert_allclose(effect.episodes.sum(0), 0.0, atol=1e-6)
    seen = effect.episodes.T @ effect.episodes
    assert np.sqrt(np.diag(seen)) == pytest.approx(np.sqrt(np.diag(effect.expected)), rel=0.15)


def test_the_effect_of_a_regression_is_what_leaving_episodes_out_does() -> None:
    rng = np.random.default_rng(3)
    obs = rng.normal(size=(3000, 2))
    action = (rng.random(3000) < 1 / (1 + np.exp(-obs[:, 0]))).astype(int)
    log = bandit(action, obs, actions=2)
    model = BEHAVIOR_MODELS["logistic"].fit(BehaviorData(log, QUICK))
    assert model.noise is not None
    gradient = rng.normal(size=(3000, 1)) * obs[:, :1] / 3000
    effect = model.noise.effect(log, gradient)
    scaling = Scaling.fit(log)

    def number(part: Dataset) -> float:
        policy = logistic_policy(scaling, regress(action_counts(part, scaling), model.noise.penalty))  # type: ignore[union-attr]
        return float(np.log(taken(policy_probabilities(policy, log.observation, None), log)) @ gradient[:, 0])

    for first in (0, 500):
        gone = np.arange(first, first + 60)
        moved = number(log.select_episodes(np.setdiff1d(np.arange(3000), gone))) - number(log)
        assert moved == pytest.approx(-effect.episodes[gone, 0].sum(), rel=0.15, abs=2e-6)


def test_the_curve_passes_right_probabilities_and_sees_wrong_ones() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 3000, 5)
    assert log.behavior_probs is not None
    units = Units(log.num_episodes)
    right = calibration_curve(log.behavior_probs, log, units)
    assert right.expected_error < 2.5 * right.by_chance
    assert sum(right.pairs) == 2 * log.num_transitions
    assert all(low <= p <= high for (low, high), p in zip(right.edges, right.predicted, strict=True))
    sure = log.behavior_probs**2 / (log.behavior_probs**2).sum(1, keepdims=True)
    wrong = calibration_curve(sure, log, units)
    assert wrong.expected_error > 5 * wrong.by_chance
    assert wrong.expected_error > 10 * wrong.standard_error
    # By hand: two decisions that give .75 to what is then taken once.
    two = bandit(np.array([0, 1]), np.zeros((2, 1)), actions=2)
    curve = calibration_curve(np.tile([0.75, 0.25], (2, 1)), two, Units(2))
    assert curve.taken == (0.5, 0.5)
    assert curve.expected_error == pytest.approx(0.5)


@pytest.mark.parametrize("name", SAVED)
def test_a_fitted_behaviour_is_saved_with_what_contains_it(name: str, tmp_path: Path) -> None:
    """A bundle of a rung of the ladder holds the behaviour."""
    rng = np.random.default_rng(5)
    log = bandit(rng.integers(0, 2, 300), np.eye(3)[np.arange(300) % 3], actions=2)
    policy = fitted(log, name).policy
    save_policy_file(tmp_path / "policy.safetensors", policy)
    loaded = load_policy_file(tmp_path / "policy.safetensors")
    states = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(
        policy_probabilities(loaded, states, None), policy_probabilities(policy, states, None)
    )
