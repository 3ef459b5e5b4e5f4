"""Logs of models of Stable-Baselines3, on stand-ins: exact probabilities of what was executed, and files that are not trusted."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from commands import Command
from gymnasium import spaces
from sb3_models import IMAGE_WEIGHT, OBS, WEIGHT, Model, off_policy, on_policy, seeing, softmax
from scipy import stats

import stitchrl as st
from stitchrl.collection.acting import Choice, Space
from stitchrl.collection.model_actors import actor_of_model
from stitchrl.environments import Observations
from stitchrl.errors import ConfigurationError

ROWS = 20_000
THREE = spaces.Discrete(3)
NUMBERED = Space(Observations((2,)), 3, np.zeros(0), np.zeros(0), start=1)
LOW, HIGH = np.array([-0.5, -1.0]), np.array([0.5, 3.0])
BOX = spaces.Box(LOW.astype(np.float32), HIGH.astype(np.float32))
VECTORS = Space(Observations((2,)), None, LOW, HIGH)


class Doors(gym.Env[Any, Any]):
    """Three steps an episode; observations as wide as those of the stand-ins."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 3
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.left -= 1
        return self.np_random.normal(size=2).astype(np.float32), float(action), self.left == 0, False, {}


def chosen(model: Any, space: Space, row: int = 0, **settings: Any) -> Choice:
    """Many choices at one observation."""
    policy = model if isinstance(model, st.SB3Policy) else st.SB3Policy(model)
    asked: dict[str, Any] = {"environment": "the test", "epsilon": None, "noise": None} | settings
    actor = actor_of_model(policy, space, **asked)
    return actor(np.repeat(OBS[row : row + 1], ROWS, 0), np.random.default_rng(0))


def value_model() -> Model:
    model = Model(THREE)
    model.exploration_rate = 0.3
    return model


GREEDY = np.eye(3)[int((OBS @ WEIGHT)[0].argmax())]
OWN = softmax(OBS @ WEIGHT)[0]


@pytest.mark.parametrize(
    ("model", "epsilon", "expected"),
    [
        (value_model(), None, 0.7 * GREEDY + 0.1),  # as its own `predict` explores
        (value_model(), 0.6, 0.4 * GREEDY + 0.2),  # in place of its own rate, not on top of it
        (on_policy(THREE), None, OWN),
        (on_policy(THREE), 0.6, 0.4 * OWN + 0.2),
        (st.SB3Policy(on_policy(THREE), deterministic=True), 0.6, 0.4 * np.eye(3)[OWN.argmax()] + 0.2),
    ],
)
def test_numbered_actions_have_their_exact_probabilities(model: Any, epsilon: Any, expected: Any) -> None:
    choice = chosen(model, NUMBERED, epsilon=epsilon)
    np.testing.assert_allclose(choice.probs[0], expected, rtol=1e-6)
    np.testing.assert_allclose(np.exp(choice.log_prob), choice.probs[0][choice.action], rtol=1e-6)
    np.testing.assert_allclose(np.bincount(choice.action, minlength=3) / ROWS, expected, atol=4 * 0.5 / ROWS**0.5)


def check_clipped(choice: Choice, space: Space, mean: Any, std: Any) -> None:
    """Actions and densities are those of normals that are clipped to the bounds, which this computes by SciPy."""
    acted = space.to_environment(choice.action).astype(np.float64)
    low, high = acted <= space.low, acted >= space.high
    law = stats.norm(mean, std)
    each = np.where(low, law.logcdf(space.low), np.where(high, law.logsf(space.high), law.logpdf(acted)))
    np.testing.assert_allclose(choice.log_prob, each.sum(1), rtol=1e-5, atol=1e-5)
    error = 4 * 0.5 / ROWS**0.5
    np.testing.assert_allclose(low.mean(0), law.cdf(space.low), atol=error)
    np.testing.assert_allclose(high.mean(0), law.sf(space.high), atol=error)
    for share in (0.2, 0.5, 0.8):
        inside = space.low + share * (space.high - space.low)
        np.testing.assert_allclose((acted <= inside).mean(0), law.cdf(inside), atol=error)


def test_a_normal_that_is_clipped_has_densities_inside_and_probabilities_on_the_bounds() -> None:
    choice = chosen(on_policy(BOX), VECTORS)
    acted = VECTORS.to_environment(choice.action)
    assert {-0.5, 0.5} <= set(acted[:, 0].tolist())
    check_clipped(choice, VECTORS, (OBS @ WEIGHT)[0, :2], 0.5)
    own = st.SB3Policy(on_policy(BOX)).log_prob(np.repeat(OBS[:1], ROWS, 0), acted)
    np.testing.assert_allclose(own, choice.log_prob, rtol=1e-3, atol=1e-3)  # its ratios on its own log are 1


def test_a_model_without_chance_acts_with_the_noise_that_is_given() -> None:
    """The noise is a share of half of each range: 0.2 of 0.5 and of 2."""
    choice = chosen(Model(BOX), VECTORS, noise=0.2)
    mean = np.clip((OBS @ WEIGHT)[0, :2], LOW, HIGH)
    check_clipped(choice, VECTORS, mean, [0.1, 0.4])
    preferred = st.SB3Policy(on_policy(BOX), deterministic=True)
    check_clipped(chosen(preferred, VECTORS, noise=0.2), VECTORS, mean, [0.1, 0.4])


def test_a_squashed_normal_has_its_density_in_the_units_of_the_environment() -> None:
    space = Space(Observations((2,)), None, np.array([-1.0]), np.array([3.0]))
    choice = chosen(off_policy(-1.0, 3.0), space)
    acted = space.to_environment(choice.action)
    np.testing.assert_allclose(choice.log_prob[:500], st.SB3Policy(off_policy(-1.0, 3.0)).log_prob(
        np.repeat(OBS[:1], 500, 0), acted[:500]), rtol=1e-3, atol=1e-3)  # fmt: skip
    law = stats.norm((OBS @ WEIGHT)[0, 0], np.exp(-0.5))
    assert abs((acted[:, 0] <= 1.5).mean() - law.cdf(np.arctanh(0.25))) < 4 * 0.5 / ROWS**0.5


def test_a_model_in_memory_makes_a_log_with_the_probabilities_of_its_rows() -> None:
    log = st.collect(Doors, policy=on_policy(THREE), episodes=150, progress=False)
    assert (log.num_episodes, log.num_transitions, log.num_actions) == (150, 450, 3)
    assert log.behavior_probs is not None
    np.testing.assert_allclose(log.behavior_probs, softmax(log.observation @ WEIGHT), rtol=1e-5)
    assert set(log.source) == {"Model"}
    inverse = 1 / (3 * log.behavior_probs[np.arange(450), log.action])  # its mean is 1 if these are the probabilities
    assert abs(inverse.mean() - 1) < 4 * inverse.std() / 450**0.5


class Pictures(gym.Env[Any, Any]):
    """Two steps an episode; images of 2 x 3 and two channels, with numbers that a byte holds exactly."""

    action_space = spaces.Discrete(3)

    def __init__(self, kind: str) -> None:
        top = 255 if kind == "uint8" else 1
        self.observation_space = spaces.Box(0, top, (2, 3, 2), np.dtype(kind).type)

    def _shown(self) -> Any:
        drawn = self.np_random.integers(0, 256, (2, 3, 2))
        shown = {"uint8": drawn, "bool": drawn > 127, "float32": drawn / 255}[str(self.observation_space.dtype)]
        return shown.astype(self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 2
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._shown(), 0.0, self.left == 0, False, {}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bool", "uint8"])
def test_a_model_of_images_is_given_the_numbers_and_the_order_of_its_own_space(kind: str, first: bool) -> None:
    model, top = seeing((2, 2, 3) if first else (2, 3, 2), kind), 1 if kind == "uint8" else 255
    log = st.collect(lambda: Pictures(kind), policy=model, episodes=8, progress=False)
    held = log.observation.astype(np.float64)
    assert (held.shape[1:], held.max() > 1) == ((2, 3, 2), True)
    logits = (np.moveaxis(held, -1, 1) if first else held).reshape(len(held), -1) @ IMAGE_WEIGHT / top
    np.testing.assert_allclose(log.behavior_probs, softmax(logits), rtol=1e-4)
    np.testing.assert_allclose(st.SB3Policy(model).probs(log.observation), log.behavior_probs, rtol=1e-4)


def test_a_model_of_images_on_another_scale_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"takes images of Box\(0, 255.*this environment shows truth values or num"
    ):
        st.collect(lambda: Pictures("float32"), policy=seeing((2, 3, 2), "uint8"), episodes=1, progress=False)


# --- files ---------------------------------------------------------------------------------------------------------


def saved(path: Path, settings: dict[str, Any]) -> Path:
    """A file as `model.save` writes it, as far as it is read without loading it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(settings))
    return path


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"exploration_rate": 0.05}, "DQN"),
        ({"clip_range": 0.2, "gae_lambda": 0.95}, "PPO"),
        ({"gae_lambda": 1.0}, "A2C"),
        ({"target_entropy": -1.0}, "SAC"),
        ({"policy_delay": 2}, "TD3"),
    ],
)
def test_a_file_is_loaded_by_its_class_and_only_if_it_is_trusted(
    settings: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, loaded = saved(tmp_path / "model.zip", settings), []

    def load(path: Path, device: str) -> Any:
        loaded.append(path)
        return on_policy(THREE)

    library = SimpleNamespace(**{name: SimpleNamespace(load=load)}, __version__="2.0")
    imported = importlib.import_module

    def found(asked: str, package: str | None = None) -> ModuleType | SimpleNamespace:
        return library if asked == "stable_baselines3" else imported(asked, package)

    monkeypatch.setattr(importlib, "import_module", found)
    with pytest.raises(ConfigurationError, match=rf"\({name}\), and loading it runs whatever code was pickled"):
        st.collect(Doors, policy=path, progress=False)
    assert not loaded
    log = st.collect(Doors, policy=path, trust_pickle=True, episodes=2, progress=False)
    assert (loaded, log.num_episodes) == ([path], 2)


def test_the_command_says_what_is_missing_or_wrong(
    tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, package: str | None = None) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}")

    path = saved(tmp_path / "model.zip", {"policy_delay": 2})
    words = ["collect", "--env", "CartPole-v1", "--out", tmp_path / "log.parquet", "--policy"]
    done = stitchrl(*words, path)
    assert (done.status, "allow that by `--trust-pickle`" in done.err) == (2, True)
    done = stitchrl(*words, tmp_path / "none.zip", "--trust-pickle")
    assert (done.status, "There is no file" in done.err) == (2, True)
    (tmp_path / "other.zip").write_bytes(b"no archive")
    done = stitchrl(*words, tmp_path / "other.zip", "--trust-pickle")
    assert (done.status, "that `model.save` of Stable-Baselines3 wrote, and it is none" in done.err) == (2, True)
    monkeypatch.setattr(importlib, "import_module", missing)
    done = stitchrl(*words, path, "--trust-pickle")
    assert (done.status, 'Run: pip install "stitchrl[sb3]"' in done.err) == (2, True)


@pytest.mark.parametrize(
    ("model", "space", "settings", "message"),
    [
        (on_policy(THREE), NUMBERED, {"noise": 0.1}, "`noise` is for vectors of actions"),
        (on_policy(BOX), VECTORS, {"epsilon": 0.1}, "`epsilon` is for numbered actions"),
        (on_policy(BOX), VECTORS, {"noise": 0.1}, "draws its own"),
        (Model(BOX), VECTORS, {}, "The Model model leaves nothing to chance.*give `noise`"),
        (Model(THREE), NUMBERED, {}, "The Model model leaves nothing to chance.*give `epsilon`"),
        (
            st.SB3Policy(on_policy(THREE), deterministic=True),
            NUMBERED,
            {},
            "model with `deterministic=True` leaves nothing to chance.*give `epsilon`",
        ),
        (Model(BOX), NUMBERED, {}, "has actions Box.*those of the test are 3 numbers"),
        (off_policy(-1.0, 3.0), VECTORS, {}, "has actions Box.*those of the test are from"),
        (
            on_policy(THREE),
            Space(Observations((4,)), 3, LOW, HIGH),
            {},
            r"takes observations of shape \(2,\); those of the test have \(4,\)",
        ),
    ],
)
def test_models_for_other_environments_are_refused(model: Any, space: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chosen(model, space, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": 3}, "must be a Stable-Baselines3 model, the path of a saved one, or an `st.SB3Policy`; got 3"),
        ({"policy": on_policy(THREE), "recipe": "random"}, "`recipe` of collect says how a learner is trained"),
        ({"policy": on_policy(THREE), "algorithm": st.DQN()}, "`algorithm` of collect says how a learner is trained"),
        ({"noise": 0.1}, "no policy was given"),
        ({"policy": Model(BOX), "noise": 0.0}, "`noise` of collect must be above 0; got 0.0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        st.collect(**({"environment": Doors, "progress": False} | settings))
