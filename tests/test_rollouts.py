"""Rollouts in tiny environments whose returns are known by hand."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.errors import ConfigurationError
from stitchrl.nn.distributions import Categorical
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.networks import MLP
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.rollouts import Rollout, episode_seeds, rollout


class Lengths(gym.Env[Any, Any]):
    """An episode lasts 1 or 5 steps, by its seed; each step earns its number, so it returns 1 or 15. Discrete."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.step_number = (1, 5)[int(self.np_random.integers(2))], 0
        return np.array([self.length, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        obs = np.array([self.length, self.step_number], np.float64)
        return obs, float(self.step_number), self.step_number == self.length, False, {}


class Pushed(gym.Env[Any, Any]):
    """Earns the first number of the action it was given; bounds 0.5 and 2; cut after 4 steps; never terminates."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(np.float32([-0.5, -2.0]), np.float32([0.5, 2.0]))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return self.observation_space.sample() * 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.step_number += 1
        return np.zeros(2, np.float32), float(action[0]), False, self.step_number == 4, {}


class Told(gym.Env[Any, Any]):
    """Two actions numbered from 5; earns the number it was given; one step."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), float(action), True, False, {}


class Constant(eqx.Module):
    """Always the same action."""

    action: jax.Array

    def mode(self, obs: Any) -> jax.Array:
        return jnp.broadcast_to(self.action, (obs.shape[0], *self.action.shape))


class Noise(eqx.Module):
    """Uniform on [-0.5, 0.5]."""

    def sample(self, obs: Any, *, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (obs.shape[0], 2), minval=-0.5, maxval=0.5)


ZERO = Constant(jnp.int32(0))
VECTOR = Constant(jnp.array([0.25, 0.0], jnp.float32))


def lengths_of(seed: int, episodes: int) -> list[int]:
    """What each episode of `Lengths` must last, by its seed."""
    found = []
    for number in episode_seeds(seed, episodes):
        env = Lengths()
        env.reset(seed=number)
        found.append(env.length)
    return found


@pytest.mark.parametrize("num_envs", [1, 3, 7, 40])
def test_the_first_episodes_by_start_count_not_the_first_to_finish(num_envs: int) -> None:
    expected = lengths_of(3, 30)
    assert {1, 5} == set(expected)
    found = rollout(ZERO, Lengths, episodes=30, seed=3, num_envs=num_envs)
    assert found.lengths.tolist() == expected
    assert found.returns.tolist() == [{1: 1.0, 5: 15.0}[n] for n in expected]


def test_more_episodes_begin_with_the_fewer() -> None:
    few, many = (rollout(ZERO, Lengths, episodes=n, seed=1, num_envs=4).lengths for n in (5, 20))
    assert many[:5].tolist() == few.tolist()
    assert episode_seeds(1, 20)[:5] == episode_seeds(1, 5)
    assert not set(episode_seeds(0, 50)) & set(episode_seeds(1, 50))


def test_truncation_ends_an_episode() -> None:
    found = rollout(VECTOR, Pushed, episodes=5, num_envs=2)
    assert found.lengths.tolist() == [4] * 5
    assert found.returns.tolist() == [1.0] * 5
    assert found.returns.dtype == np.float64
    assert found.mean == 1.0
    assert found.standard_error == 0.0


def test_max_steps_cuts_and_the_next_episode_starts_afresh() -> None:
    found = rollout(VECTOR, Pushed, episodes=5, num_envs=2, max_steps=3)
    assert found.lengths.tolist() == [3] * 5
    assert found.returns.tolist() == [0.75] * 5
    assert rollout(ZERO, Lengths, episodes=30, seed=3, num_envs=4, max_steps=2).returns.tolist() == [
        {1: 1.0, 5: 3.0}[n] for n in lengths_of(3, 30)
    ]


def test_actions_are_clipped_to_the_bounds_of_the_box() -> None:
    loud = Constant(jnp.array([7.0, -9.0], jnp.float32))
    assert rollout(loud, Pushed, episodes=2).returns.tolist() == [2.0, 2.0]


def test_discrete_actions_count_from_the_first_the_environment_knows() -> None:
    assert rollout(Constant(jnp.int32(1)), Told, episodes=2).returns.tolist() == [6.0, 6.0]


def test_samples_depend_on_the_seed_and_on_nothing_else() -> None:
    first, again, beside, other = (
        rollout(Noise(), Pushed, episodes=6, seed=seed, num_envs=num_envs, mode=False)
        for seed, num_envs in ((0, 4), (0, 4), (0, 1), (1, 4))
    )
    assert first.returns.tolist() == again.returns.tolist() == beside.returns.tolist()
    assert len(set(first.returns) | set(other.returns)) == 12


def test_a_policy_of_the_library_acts_by_mode_and_by_sample() -> None:
    policy = CategoricalPolicy(MLP.create(2, (4,), 2, key=jax.random.key(0)))
    assert set(rollout(policy, Told, episodes=3).returns) <= {5.0, 6.0}
    assert set(rollout(policy, Told, episodes=40, mode=False).returns) == {5.0, 6.0}


class Counting(MemoryPolicy):
    """Action 1 at the first step of an episode and at steps that follow a reward of 2; else an action drawn, mostly 0."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        return ()

    def initial_carry(self, count: int) -> Any:
        return {"steps": jnp.zeros(count, jnp.int32)}

    def respond(self, carry: Any, obs: Any, last_action: Any, last_reward: Any, *, action_mask: Any = None) -> Any:
        steps = carry["steps"]
        one = jnp.where((steps == 0) | (last_reward == 2.0), 1.0, jnp.where(last_action == 1, 0.3, 0.1))
        return Categorical(jnp.log(jnp.stack([1.0 - one, one], axis=-1))), {"steps": steps + 1}


class Remembered(Lengths):
    """As `Lengths`, with actions numbered from 5; an episode returns the steps, in decimal places, at which 6 was done."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Discrete(2, start=5)
        self.total = 0.0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, ended, cut, more = super().step(action)
        self.total = self.total * (self.step_number > 1) + (action == 6) * 10.0 ** (self.step_number - 1)
        return obs, 1e6 + self.total if ended else reward, ended, cut, more


@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_policy_with_memory_remembers_its_own_episode_alone(num_envs: int) -> None:
    # Step 1 is the first, and step 3 follows the reward of step 2, which is 2: 6 is done there, whoever plays beside it.
    found = rollout(Counting(), Remembered, episodes=12, seed=3, num_envs=num_envs)
    assert found.lengths.tolist() == lengths_of(3, 12)
    paid = np.where(found.lengths == 1, 1e6 + 1.0, 1e6 + 101.0 + sum(range(1, 5)))
    assert found.returns.tolist() == paid.tolist()


def test_draws_of_a_policy_with_memory_depend_on_the_seed_alone() -> None:
    one, other, unlike = (
        rollout(Counting(), Remembered, episodes=12, seed=seed, num_envs=n, mode=False).returns.tolist()
        for seed, n in ((3, 1), (3, 4), (4, 4))
    )
    assert one == other
    assert len(set(one)) > 2
    assert one != unlike


def test_a_registered_environment_is_found_by_its_id() -> None:
    found = rollout(ZERO, "CartPole-v1", episodes=3, seed=0)
    assert (found.lengths < 15).all()  # the cart pushed left only
    assert found.returns.tolist() == found.lengths.tolist()


def test_the_mean_and_its_error() -> None:
    found = Rollout(np.array([1.0, 3.0]), np.array([1, 1]))
    assert (found.mean, found.standard_error) == (2.0, 1.0)
    assert np.isnan(Rollout(np.array([1.0]), np.array([1])).standard_error)


@pytest.mark.parametrize(("setting", "value"), [("episodes", 0), ("num_envs", 0), ("max_steps", 0), ("seed", -1)])
def test_numbers_outside_their_range_are_refused(setting: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"`{setting}` of rollout must be at least .; got {value}"):
        rollout(ZERO, Lengths, **({"episodes": 1} | {setting: value}))


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'Nowhere-v7' could not be made.*pprint_registry"):
        rollout(ZERO, "Nowhere-v7", episodes=1)
    with pytest.raises(ConfigurationError, match="No module named"):
        rollout(ZERO, "no_such_module:Nowhere-v7", episodes=1)
    with pytest.raises(
        ConfigurationError, match=r"the namespace Nowhere belongs to a package.*as in 'module:Nowhere/A-v7'"
    ):
        rollout(ZERO, "Nowhere/A-v7", episodes=1)


def test_a_missing_package_is_named_with_the_way_out() -> None:
    def without_mujoco() -> gym.Env[Any, Any]:
        raise gym.error.DependencyNotInstalled('MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`')

    def without_box2d() -> gym.Env[Any, Any]:
        raise gym.error.DependencyNotInstalled("Box2D is not installed, you can install it by run `pip install swig`")

    def without_a_game() -> gym.Env[Any, Any]:
        raise gym.error.DependencyNotInstalled("The game is not installed")

    with pytest.raises(ConfigurationError, match=r'pip install "stitchrl\[mujoco\]"'):
        rollout(VECTOR, without_mujoco, episodes=1)
    with pytest.raises(
        ConfigurationError, match=r'not installed. Run: pip install swig && pip install "gymnasium\[box2d\]"$'
    ):
        rollout(VECTOR, without_box2d, episodes=1)
    with pytest.raises(ConfigurationError, match=r"The game is not installed. Install it"):
        rollout(VECTOR, without_a_game, episodes=1)


def test_spaces_that_do_not_fit_are_refused() -> None:
    class Picture(Pushed):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Box(-1.0, 1.0, (2, 3), np.float32)

    class Switches(Pushed):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gym.spaces.MultiBinary(2)

    with pytest.raises(ConfigurationError, match=r"observation is a vector.*FlattenObservation"):
        rollout(VECTOR, Picture, episodes=1)
    with pytest.raises(ConfigurationError, match=r"one number \(Discrete\) or a vector.*MultiBinary"):
        rollout(VECTOR, Switches, episodes=1)


def test_a_policy_that_does_not_fit_is_refused() -> None:
    wide = CategoricalPolicy(MLP.create(3, (4,), 2, key=jax.random.key(0)))
    with pytest.raises(ConfigurationError, match=r"observations, 2 numbers each\. Was it trained"):
        rollout(wide, Told, episodes=1)
    learned = StandardizedPolicy(jnp.zeros(3), jnp.ones(3), wide)
    with pytest.raises(
        ConfigurationError, match="learned from observations of 3 numbers, and this environment's have 2"
    ):
        rollout(learned, Told, episodes=1)
    with pytest.raises(ConfigurationError, match="must give this environment's actions"):
        rollout(VECTOR, Told, episodes=1)
    with pytest.raises(ConfigurationError, match="must give this environment's actions"):
        rollout(ZERO, Pushed, episodes=1)
