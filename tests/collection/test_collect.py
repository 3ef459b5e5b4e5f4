"""Logs collected from environments: exact probabilities, whole episodes, and a learner that gets better."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import Command

import stitchrl as st
from stitchrl.collection.acting import EpsilonGreedy, Space, Squashed, Steps, Uniform, steps_of
from stitchrl.collection.online import Snapshot
from stitchrl.collection.recipes import _learned_log, _Log
from stitchrl.environments import Observations, make_copies
from stitchrl.errors import ConfigurationError, StitchRLWarning
from stitchrl.feeds.replay import Replay
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.tabular import TabularPolicy


class Corridor(gym.Env[Any, Any]):
    """Episode k after a reset lasts 1 + (seed mod 3) steps; the reward is the step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Discrete(3, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left, self.step_number = 1 + (seed or 0) % 3, 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.left, self.step_number = self.left - 1, self.step_number + 1
        return np.full(2, self.step_number, np.float32), float(self.step_number), self.left == 0, False, {}


class Box(Corridor):
    """The same with a vector of two numbers as action."""

    action_space = gym.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32))


def test_exactly_the_first_episodes_are_kept_whole() -> None:
    env = make_copies(Corridor, 4)
    space = Space.of(env, "corridor")
    made = list(steps_of(env, space, lambda: Uniform(space), seed=0, episodes=11))
    joined = Steps(*(np.concatenate(column) for column in zip(*made, strict=True)))
    assert sorted(set(joined.copy_episode)) == list(range(11))
    for episode in range(11):
        inside = joined.copy_episode == episode
        assert joined.step[inside].tolist() == list(range(inside.sum()))
        assert joined.terminated[inside].tolist() == [False] * (inside.sum() - 1) + [True]
        assert joined.obs[inside][1:].tolist() == joined.next_obs[inside][:-1].tolist()


def test_uniform_actions_have_their_exact_density() -> None:
    space = Space.of(make_copies(Box, 1), "box")
    choice = Uniform(space)(np.zeros((5000, 2), np.float32), np.random.default_rng(0))
    acted = space.to_environment(choice.action)
    assert np.exp(choice.log_prob[0]) == pytest.approx(1 / (4 * 10))
    np.testing.assert_allclose(acted.min(0), [-1, 0], atol=0.02)
    np.testing.assert_allclose(acted.max(0), [3, 10], atol=0.02)


def test_a_greedy_policy_with_a_share_of_uniform_actions_has_its_exact_probabilities() -> None:
    policy = TabularPolicy(jnp.eye(2, dtype=jnp.float32), jnp.log(jnp.asarray([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1]])))
    obs = np.eye(2, dtype=np.float32)[np.arange(6000) % 2]
    choice = EpsilonGreedy(policy, 3, 0.3)(obs, np.random.default_rng(0))
    np.testing.assert_allclose(choice.probs[0], [0.1, 0.8, 0.1])
    np.testing.assert_allclose(choice.probs[1], [0.8, 0.1, 0.1])
    np.testing.assert_allclose(np.exp(choice.log_prob), choice.probs[np.arange(6000), choice.action])
    for state in range(2):
        share = np.bincount(choice.action[state::2], minlength=3) / 3000
        np.testing.assert_allclose(share, choice.probs[state], atol=4 * 0.5 / np.sqrt(3000))


def test_squashed_draws_have_their_exact_density_in_the_units_of_the_environment() -> None:
    """The logged density is that of the histogram of the executed actions, between bounds that are not -1 and 1."""
    space = Space(Observations((2,)), None, np.array([0.0]), np.array([10.0]))
    body = MLP.create(2, Network((4,)), 2, key=jax.random.key(1))
    choice = Squashed(SquashedGaussianPolicy(body), space)(np.ones((40_000, 2), np.float32), np.random.default_rng(0))
    acted = space.to_environment(choice.action)[:, 0]
    heights, edges = np.histogram(acted, bins=20, range=(0, 10), density=True)
    middle = (acted > edges[5]) & (acted < edges[15])
    place = np.digitize(acted[middle], edges) - 1
    density = np.bincount(place, np.exp(choice.log_prob[middle]), 20)[5:15] / np.bincount(place, minlength=20)[5:15]
    np.testing.assert_allclose(density, heights[5:15], rtol=0.12)


def test_the_oldest_transitions_make_way() -> None:
    replay = Replay(5, 2)
    for first in (0, 3, 6):
        values = np.arange(first, first + 3)
        replay.add(
            {
                "obs": np.stack([values, values], 1),
                "action": values % 2,
                "reward": values,
                "next_obs": np.stack([values, values], 1) + 1,
                "terminated": values == 8,
            }
        )
    batch = replay.draw(replay.arrays, jax.random.key(0), jnp.int32(0), jnp.int32(0), 200)
    assert sorted(set(np.asarray(batch["reward"]).tolist())) == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(batch["next_obs"][:, 0], batch["reward"] + 1)
    np.testing.assert_array_equal(batch["terminated"], batch["reward"] == 8)
    assert batch["action_mask"].shape == (200, 2)


@pytest.mark.slow
def test_the_command_collects_a_log_whose_learner_got_better(tmp_path: Path, stitchrl: Command) -> None:
    out = tmp_path / "cartpole.parquet"
    words = ["collect", "--env", "CartPole-v1", "--episodes", 12, "--steps", 2500, "--json"]
    refused = stitchrl(*words, "--out", tmp_path / "h.csv")
    assert (refused.status, "no such ending as .csv" in refused.err, (tmp_path / "h.csv").exists()) == (2, True, False)
    refused = stitchrl(*words, "--out", tmp_path / "none" / "h.parquet")
    assert (refused.status, "none' is not there, and 'h.parquet' would be written into it" in refused.err) == (2, True)
    done = stitchrl(*words, "--recipe", "expert", "--out", out)
    told = json.loads(done.out)
    log = st.read(out)
    assert (log.num_episodes, log.num_transitions) == (12, told["transitions"])
    assert told["mean_return"] > 60  # uniform actions return about 22
    assert log.behavior_probs is not None
    np.testing.assert_allclose(np.sort(log.behavior_probs, 1), [[0.05, 0.95]] * log.num_transitions, atol=1e-6)
    again = stitchrl(*words, "--recipe", "expert", "--out", out)
    assert (again.status, "exists; nothing is overwritten" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"recipe": "best"},
            "`recipe` of collect must be one of random, medium, medium-replay, expert, mixed; got 'best'",
        ),
        ({"episodes": 0}, "`episodes` of collect must be at least 1; got 0"),
        ({"epsilon": 0.0}, r"`epsilon` of collect must be in \(0, 1\]; got 0.0"),
        ({"environment": "Nope-v0"}, "'Nope-v0' could not be made"),
        ({"environment": "FrozenLake-v1"}, "whose observation is a vector or an image.*this one's is Discrete"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        st.collect(**({"environment": "CartPole-v1", "progress": False} | settings))


class Learned:
    """A learner whose policy returns two numbers in turn, two steps an episode, where uniform actions return 8, 10 and 12."""

    random_returns = np.array([8.0, 10.0, 12.0])  # standard deviation 2

    def __init__(self, *returns: float) -> None:
        self.returns = returns

    def medium(self, shots: Any) -> int:
        return 0

    def play(self, shot: Any, episodes: int, purpose: str) -> list[Steps]:
        one, two = np.ones(2 * episodes), np.arange(2 * episodes)
        rewards = np.resize(np.repeat(self.returns, 2), 2 * episodes) / 2
        steps = {"reward": rewards, "copy_episode": two // 2, "step": two % 2, "terminated": two % 2 == 1}
        steps |= {
            "truncated": one == 0,
            "action": two % 2,
            "log_prob": np.log(one / 2),
            "probs": np.tile([0.5, 0.5], (len(one), 1)),
        }
        obs = np.stack([two, two], 1).astype(np.float32)
        return [Steps(**{"obs": obs, "next_obs": obs + 1} | steps)]


SHOTS = [Snapshot(2_000, None, []), Snapshot(4_000, None, [])]  # type: ignore[arg-type]


def collected(learner: Learned, recipe: str = "medium") -> st.Dataset:
    space = Space(Observations((2,)), 2, np.zeros(0), np.zeros(0))
    found: st.Dataset = inspect.unwrap(_learned_log)(_Log(space, "world"), learner, SHOTS, recipe, 40)
    return found


def test_a_learner_that_is_hardly_better_than_random_is_warned_of() -> None:
    message = (
        "The medium policy is hardly better than random: it returns 11.9 an episode in this log, and uniform actions return 10, "
        r"with a standard deviation of 2. It was trained for 2,000 steps of the environment: give more `steps` \(--steps\)."
    )
    with pytest.warns(StitchRLWarning, match=message):
        log = collected(Learned(11.8, 12.0))
    assert log.episode_returns().mean() == pytest.approx(11.9)
    # Two errors of the mean of 3 random episodes are 2.31 or more, whatever the log has.
    with pytest.warns(StitchRLWarning, match="returns 12.2 an episode"):
        collected(Learned(12.2, 12.2))
    with pytest.warns(StitchRLWarning, match="The expert policy .* trained for 4,000 steps"):
        collected(Learned(9.0, 9.0), "expert")
    collected(Learned(12.4, 12.4))  # says nothing: a warning would be an error here
    collected(Learned(20.0, 40.0), "mixed")


@pytest.mark.filterwarnings("default::stitchrl.errors.StitchRLWarning")
def test_the_command_prints_the_warning_as_a_sentence(
    tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st, "collect", lambda *given, **more: collected(Learned(11.8, 12.0)))
    done = stitchrl("collect", "--env", "World-v0", "--out", tmp_path / "world.parquet", "--quiet")
    assert (done.status, done.out) == (0, f"{tmp_path / 'world.parquet'}\n")
    assert done.err.startswith("warning: The medium policy is hardly better than random")
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_sac_learns_the_pendulum_and_its_densities_are_calibrated() -> None:
    log = st.collect("Pendulum-v1", recipe="expert", episodes=100, steps=12_000, progress=False)
    returns = np.add.reduceat(log.reward.astype(np.float64), log.episode_start[:-1])
    assert returns.mean() > -250  # uniform actions return about -1,200
    assert log.behavior_log_prob is not None
    assert not [finding for finding in st.audit(log).findings if "propensities" in finding.code]
