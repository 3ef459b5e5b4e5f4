"""Logs of environments that show images: bytes from the environment to the file, to the network and back to the environment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catching import Catch, CatchInBytes, best

import stitchrl as st
from stitchrl.environments import Observations
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.feeds.replay import Replay
from stitchrl.nn.networks import Network

TINY = Network((16,), channels=(8,))


class Catcher:
    """As a DQN model of Stable-Baselines3 that knows the game, with a fifth of its actions uniform."""

    observation_space, action_space = Catch.observation_space, Catch.action_space
    exploration_rate, policy = 0.2, SimpleNamespace()

    def predict(self, obs: Any, deterministic: bool = False) -> tuple[Any, None]:
        assert deterministic
        assert obs.dtype == bool  # what it was trained on, and not the bytes of the log
        return best(obs), None


class Known(eqx.Module):
    """The policy that never misses, for what `rollout` shows it."""

    def mode(self, obs: Any) -> Any:
        ball, paddle = (jnp.argmax(jnp.max(obs[..., k], axis=1), axis=1) for k in range(2))
        return 1 + jnp.sign(ball - paddle)


class Upright(Catch):
    """With the channels first."""

    observation_space = gym.spaces.Box(0, 255, (3, 32, 32), np.uint8)


class Signed(Catch):
    """With numbers that are neither bytes nor between 0 and 1."""

    observation_space = gym.spaces.Box(-1, 1, (6, 6, 2), np.float32)


class Pushing(Catch):
    """With a vector as action."""

    action_space: gym.Space[Any] = gym.spaces.Box(-1, 1, (1,), np.float32)  # type: ignore[assignment]


def test_a_log_of_images_is_learned_from_and_what_was_learned_plays(tmp_path: Path) -> None:
    log = st.collect(Catch, policy=Catcher(), episodes=200, progress=False)
    assert log.behavior_probs is not None
    assert (log.observation_shape, log.observation_dtype) == ((6, 6, 2), np.uint8)
    assert set(np.unique(log.observation_table)) == {0, 255}  # truth values, which a network sees as 0 and 1
    assert log.observation.reshape(1000, -1).sum(1).tolist() == [2 * 255] * 1000
    np.testing.assert_allclose(log.behavior_probs[np.arange(1000), best(log.observation)], 0.8 + 0.2 / 3, rtol=1e-6)
    for out in ("log.parquet", "store"):
        again = st.read(st.convert(log, tmp_path / out))
        assert again.content_hash == log.content_hash
        np.testing.assert_array_equal(again.next_observation, log.next_observation)
    bc = st.BC(network=TINY, learning_rate=1e-2)
    run = st.fit(bc, log, updates=150, batch_size=64, progress=False)
    assert st.rollout(run.policy, Catch, episodes=50).mean > 0.8  # a paddle that stays returns -0.67


def test_a_policy_sees_the_bytes_that_a_log_holds() -> None:
    assert st.rollout(Known(), Catch, episodes=40, num_envs=7).returns.tolist() == [1.0] * 40
    flat = st.collect(CatchInBytes, recipe="random", episodes=20, progress=False)
    assert flat.observation_shape == (6, 6, 1)
    assert set(np.unique(flat.observation_table)) == {0, 100, 255}


@pytest.mark.slow
def test_what_a_learner_did_in_images_while_it_learned() -> None:
    learner = st.DQN(network=TINY, learning_rate=3e-3, target_rate=0.05)
    log = st.collect(Catch, recipe="medium-replay", steps=2000, algorithm=learner, progress=False)
    assert log.behavior_probs is not None
    np.testing.assert_allclose(log.behavior_probs[:8], 1 / 3)
    assert (log.behavior_probs.max(1) > 0.6).any()  # later it is greedy but for a share of uniform actions
    assert log.truncated[-1] or log.terminated[-1]
    inverse = 1 / (3 * log.behavior_probs[np.arange(log.num_transitions), log.action])
    assert abs(inverse.mean() - 1) < 5 * inverse.std() / np.sqrt(log.num_transitions)
    replay = Replay(4, 3)
    replay.add({
        "obs": log.observation[:2], "action": log.action[:2], "reward": log.reward[:2],
        "next_obs": log.next_observation[:2], "terminated": log.terminated[:2],
    })  # fmt: skip
    batch = replay.draw(replay.arrays, jax.random.key(0), jnp.int32(0), jnp.int32(0), 8)
    assert (batch["obs"].dtype, batch["next_obs"].dtype, batch["action"].dtype) == (jnp.uint8, jnp.uint8, jnp.int32)


@pytest.mark.slow
def test_the_learner_gets_good_at_it() -> None:
    log = st.collect(Catch, recipe="expert", steps=4000, episodes=100, progress=False)
    assert log.reward.sum() / log.num_episodes > 0.6


def test_numbers_from_0_to_1_become_bytes_and_back_to_the_nearest() -> None:
    observe = Observations.of(gym.spaces.Box(0, 1, (2, 2, 1), np.float32), whose="the test")
    grey = np.array([0, 0.25, 0.5, 1], np.float32).reshape(1, 2, 2, 1)
    assert observe(grey).ravel().tolist() == [0, 64, 128, 255]
    assert observe(grey).dtype == np.uint8
    assert str(observe) == "images of 2 x 2 x 1"
    switches = Observations.of(gym.spaces.MultiBinary([4, 4]), whose="the test")
    assert (switches.shape, switches.scale) == ((4, 4, 1), 255)
    vector = Observations.of(gym.spaces.Box(0, 255, (128,), np.uint8), whose="the test")  # the memory of a console
    assert (vector.shape, vector.dtype, vector.image) == ((128,), "float32", False)


@pytest.mark.parametrize(
    ("environment", "recipe", "message"),
    [
        (Upright, "random", r"images whose channels come last; those of this environment are \(3, 32, 32\)"),
        (Signed, "random", "a vector or an image of .*; this one's is Box"),
        (Pushing, "medium", "Pushing shows images of 6 x 6 x 2 where actions are vectors"),
    ],
)
def test_what_is_refused(environment: Any, recipe: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        st.collect(environment, recipe=recipe, episodes=1, progress=False)


def test_images_that_are_not_known_cannot_be_written_as_parquet(tmp_path: Path) -> None:
    images = np.zeros((2, 2, 2, 1), np.uint8)
    images[1] = 1
    columns = {
        "episode": [0, 1],
        "observation": images,
        "next_observation": images[::-1],
        "action": [0, 1],
        "reward": [0.0, 1.0],
        "terminated": [False, False],
        "truncated": [True, True],
    }
    log = st.read(columns)
    assert st.read(st.convert(log, tmp_path / "known.parquet")).content_hash == log.content_hash
    blind = st.read({name: column for name, column in columns.items() if name != "next_observation"})
    assert st.read(st.convert(blind, tmp_path / "blind.parquet")).content_hash == blind.content_hash
    with pytest.raises(DataError, match=r"Parquet has no missing images.*convert to a native store"):
        st.convert(log.concat(blind), tmp_path / "partly.parquet")
