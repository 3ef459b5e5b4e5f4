"""Adapters of Stable-Baselines3 and d3rlpy, on stand-ins with the methods, the shapes and the conventions of both libraries."""

from __future__ import annotations

from enum import Enum

import jax
import numpy as np
import pytest
from gymnasium import spaces
from sb3_models import OBS, WEIGHT, Model, off_policy, on_policy, softmax
from scipy import integrate, stats

import stitchrl as st
from stitchrl.errors import ConfigurationError, DataError

KEY = jax.random.key(0)


# --- Stable-Baselines3 -------------------------------------------------------------------------------------------


def test_discrete_actions_have_the_probabilities_of_the_model() -> None:
    policy = st.SB3Policy(on_policy(spaces.Discrete(3)))
    np.testing.assert_allclose(policy.probs(OBS), softmax(OBS @ WEIGHT), rtol=1e-6)
    mask = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
    allowed = softmax(OBS @ WEIGHT) * mask
    np.testing.assert_allclose(policy.probs(OBS, action_mask=mask), allowed / allowed.sum(1, keepdims=True), rtol=1e-6)
    greedy = st.SB3Policy(on_policy(spaces.Discrete(3)), deterministic=True)
    np.testing.assert_array_equal(greedy.probs(OBS), np.eye(3)[(OBS @ WEIGHT).argmax(1)])


def test_components_become_one_number_the_last_changing_fastest() -> None:
    space = spaces.MultiDiscrete([2, 3])
    probs = st.SB3Policy(on_policy(space)).probs(OBS)
    one, other = softmax((OBS @ WEIGHT)[:, :2]), softmax(OBS @ WEIGHT)
    np.testing.assert_allclose(probs[:, 1 * 3 + 2], one[:, 1] * other[:, 2], rtol=1e-6)
    taken = st.SB3Policy(on_policy(space), deterministic=True).probs(OBS).argmax(1)
    np.testing.assert_array_equal(taken, (OBS @ WEIGHT)[:, :2].argmax(1) * 3 + (OBS @ WEIGHT).argmax(1))


def test_a_value_based_model_explores_as_predict_does() -> None:
    model = Model(spaces.Discrete(3))
    model.exploration_rate = 0.3
    expected = 0.7 * np.eye(3)[(OBS @ WEIGHT).argmax(1)] + 0.1
    np.testing.assert_allclose(st.SB3Policy(model).probs(OBS), expected)
    np.testing.assert_array_equal(st.SB3Policy(model, deterministic=True).probs(OBS), np.round(expected))


def test_a_clipped_normal_has_the_law_of_what_is_executed_and_the_normal_itself_its_density() -> None:
    model = on_policy(spaces.Box(-0.5, 0.5, (2,), np.float32))
    clipped, whole = st.SB3Policy(model), st.SB3Policy(model, clip=False)
    assert clipped.has_density
    assert whole.has_density
    assert not st.SB3Policy(model, deterministic=True).has_density
    assert np.abs(clipped.sample(OBS, key=KEY)).max() == 0.5
    assert np.abs(clipped.mode(OBS)).max() <= 0.5
    mean = (OBS @ WEIGHT)[:, :2]
    np.testing.assert_allclose(whole.mode(OBS), mean, rtol=1e-6)
    action = mean + np.float32(0.3)
    np.testing.assert_allclose(whole.log_prob(OBS, action), stats.norm(mean, 0.5).logpdf(action).sum(1), rtol=1e-5)
    drawn = whole.sample(np.repeat(OBS[:1], 20_000, 0), key=KEY)
    np.testing.assert_allclose([drawn.mean(0), drawn.std(0)], [mean[0], [0.5, 0.5]], atol=0.02)
    law = stats.norm(mean, 0.5)  # the executed actions: on a lower bound, on an upper one, inside
    acted = np.array([[-0.5, 0.5], [0.1, -0.5], [0.5, 0.2]], np.float32)
    each = np.where(acted == -0.5, law.logcdf(-0.5), np.where(acted == 0.5, law.logsf(0.5), law.logpdf(acted)))
    np.testing.assert_allclose(clipped.log_prob(OBS, acted), each.sum(1), rtol=1e-4)
    assert clipped.log_prob(OBS[:1], np.array([[0.1, 0.6]], np.float32)) == -np.inf
    with pytest.raises(DataError, match="has no density"):
        st.SB3Policy(model, deterministic=True).log_prob(OBS, acted)
    unbounded = st.SB3Policy(on_policy(spaces.Box(-np.inf, np.inf, (2,), np.float32)))
    assert unbounded.has_density


def test_a_squashed_normal_has_the_density_of_the_scaled_action() -> None:
    policy = st.SB3Policy(off_policy(-1.0, 3.0))
    assert policy.has_density
    row = OBS[:1]
    # It integrates to 1 over the action's own range, and its draws follow it.
    density = lambda a: float(np.exp(policy.log_prob(row, np.array([[a]], np.float32)))[0])  # noqa: E731
    grid = np.linspace(-0.9999, 2.9999, 4001)
    values = np.exp(policy.log_prob(np.repeat(row, len(grid), 0), grid[:, None].astype(np.float32)))
    assert integrate.trapezoid(values, grid) == pytest.approx(1.0, abs=2e-3)
    assert density(1.0) == pytest.approx(stats.norm(row @ WEIGHT[:, 0], np.exp(-0.5)).pdf(0.0)[0] / 2, rel=1e-5)
    drawn = policy.sample(np.repeat(row, 20_000, 0), key=KEY)
    assert drawn.min() >= -1.0
    assert drawn.mean() == pytest.approx(integrate.trapezoid(values * grid, grid), abs=0.02)
    assert not st.SB3Policy(off_policy(-1.0, 3.0), deterministic=True).has_density


def test_a_model_without_chance_is_its_prediction() -> None:
    policy = st.SB3Policy(Model(spaces.Box(-9, 9, (2,), np.float32)))
    assert not policy.has_density
    np.testing.assert_array_equal(policy.sample(OBS, key=KEY), policy.mode(OBS))
    np.testing.assert_allclose(policy.mode(OBS), (OBS @ WEIGHT)[:, :2], rtol=1e-6)


def test_observations_are_normalised_only_where_it_is_asked_for() -> None:
    policy = st.SB3Policy(on_policy(spaces.Discrete(3)), normalize=lambda obs: obs * 2.0)
    np.testing.assert_allclose(policy.probs(OBS), softmax(2 * OBS @ WEIGHT), rtol=1e-5)
    with pytest.raises(DataError, match=r"takes observations of shape \(2,\); the log's have \(3,\)"):
        policy.probs(np.zeros((4, 3), np.float32))


def test_models_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got MultiBinary"):
        st.SB3Policy(Model(spaces.MultiBinary(2)))
    with pytest.raises(ConfigurationError, match="has an LSTM"):
        st.SB3Policy(Model(spaces.Discrete(2), lstm_actor=None))
    noisy = Model(spaces.Box(-1, 1, (2,)))
    noisy.use_sde = True
    with pytest.raises(ConfigurationError, match="depends on earlier steps"):
        st.SB3Policy(noisy)
    st.SB3Policy(noisy, deterministic=True)


# --- d3rlpy ------------------------------------------------------------------------------------------------------


class ActionSpace(Enum):
    """As d3rlpy's."""

    CONTINUOUS = 1
    DISCRETE = 2


class Algo:
    """An algorithm of d3rlpy: draws come from a generator of its own."""

    def __init__(self, kind: ActionSpace, built: bool = True) -> None:
        self._kind, self.impl, self.action_size = kind, object() if built else None, 3
        self.observation_shape = (2,)

    def get_action_type(self) -> ActionSpace:
        return self._kind

    def predict(self, x: np.ndarray) -> np.ndarray:
        scores = x @ WEIGHT
        return scores.argmax(1) if self._kind is ActionSpace.DISCRETE else scores

    def sample_action(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.predict(x) + 0.25)


def test_d3rlpy_discrete_actions_are_taken_without_chance() -> None:
    policy = st.D3RLPyPolicy(Algo(ActionSpace.DISCRETE))
    np.testing.assert_array_equal(policy.probs(OBS), np.eye(3)[(OBS @ WEIGHT).argmax(1)])
    with pytest.raises(ConfigurationError, match="without giving their probabilities"):
        st.D3RLPyPolicy(Algo(ActionSpace.DISCRETE), deterministic=False)
    with pytest.raises(ConfigurationError, match="Algo has no network yet"):
        st.D3RLPyPolicy(Algo(ActionSpace.DISCRETE, built=False))
    with pytest.raises(DataError, match=r"takes observations of shape \(2,\)"):
        policy.probs(np.zeros((4, 3), np.float32))


def test_d3rlpy_continuous_actions_have_no_density() -> None:
    for deterministic, apart in ((True, 0.0), (False, 0.25)):
        policy = st.D3RLPyPolicy(Algo(ActionSpace.CONTINUOUS), deterministic=deterministic)
        assert not policy.has_density
        np.testing.assert_allclose(policy.mode(OBS), OBS @ WEIGHT)
        np.testing.assert_allclose(policy.sample(OBS, key=KEY), OBS @ WEIGHT + apart)
        with pytest.raises(DataError, match="no density"):
            policy.log_prob(OBS, OBS @ WEIGHT)
