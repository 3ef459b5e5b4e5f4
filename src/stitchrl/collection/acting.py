"""Acting in copies of a Gymnasium environment, with the exact probability of every action that is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import SyncVectorEnv
from jaxtyping import Float, Shaped

from stitchrl.environments import Observations
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Key
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.distributions import TanhNormal
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.types import NumpyArray

__all__ = ["Actor", "Choice", "EpsilonGreedy", "Space", "Squashed", "Steps", "Uniform", "steps_of"]


LONGEST = 100_000
"""Steps after which an episode is taken to have no end."""


class Choice(NamedTuple):
    """What is done in each copy.

    Attributes:
        action: (n,) numbers of discrete actions, or (n, action) vectors in [-1, 1].
        log_prob: (n,) log-probability, or log-density in the units of the environment.
        probs: (n, A) probability of every discrete action; (n, 0) for vectors.
    """

    action: NumpyArray
    log_prob: Float[NumpyArray, " n"]
    probs: Float[NumpyArray, "n A"]


@runtime_checkable
class Actor(Protocol):
    """Decides what is done."""

    def __call__(self, obs: Shaped[NumpyArray, "n ..."], rng: np.random.Generator) -> Choice:
        """The choice at each observation, drawn from `rng`."""


@dataclasses.dataclass(frozen=True)
class Space:
    """The spaces of an environment.

    Attributes:
        observations: what is observed, as a log holds it.
        num_actions: of discrete actions, the first of which the environment calls `start`; None for vectors.
        low, high: (action,) bounds of vectors.
        start: the environment's number of discrete action 0.
    """

    observations: Observations
    num_actions: int | None
    low: NumpyArray
    high: NumpyArray
    start: int = 0

    @classmethod
    def of(cls, env: SyncVectorEnv, name: str) -> Space:
        """The spaces of copies of an environment.

        Raises:
            ConfigurationError: observations that are neither a vector nor an image, or actions that are neither numbered nor in
                a bounded box.
        """
        observed, none = Observations.of(env.single_observation_space, whose="collect"), np.zeros(0)
        action = env.single_action_space
        if isinstance(action, gym.spaces.Discrete):
            return cls(observed, int(action.n), none, none, int(action.start))
        bounded = isinstance(action, gym.spaces.Box) and len(action.shape) == 1 and action.is_bounded()
        if not bounded:
            raise ConfigurationError(
                f"collect needs an environment whose action is one number (Discrete) or a vector between bounds (Box); that of "
                f"{name} is {action}. Wrap the environment, for example by `gymnasium.wrappers.RescaleAction`."
            )
        assert isinstance(action, gym.spaces.Box)
        return cls(observed, None, action.low.astype(np.float64), action.high.astype(np.float64))

    def to_environment(self, action: NumpyArray) -> NumpyArray:
        """Actions as an actor gives them -> as the environment takes them and a log holds them."""
        if self.num_actions is not None:
            return action + self.start
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return np.clip(middle + half * action, self.low, self.high).astype(np.float32)

    @property
    def log_scale(self) -> float:
        """What the log-density of a vector in [-1, 1] loses in the units of the environment."""
        return float(np.log((self.high - self.low) / 2).sum())


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Every action alike."""

    space: Space

    def __call__(self, obs: Shaped[NumpyArray, "n ..."], rng: np.random.Generator) -> Choice:
        count, actions = len(obs), self.space.num_actions
        if actions is not None:
            probs = np.full((count, actions), 1.0 / actions)
            return Choice(rng.integers(0, actions, count), np.log(probs[:, 0]), probs)
        size = len(self.space.low)
        density = -size * np.log(2.0) - self.space.log_scale
        return Choice(rng.uniform(-1.0, 1.0, (count, size)), np.full(count, density), np.zeros((count, 0)))


@dataclasses.dataclass(frozen=True)
class EpsilonGreedy:
    """The mode of a policy over discrete actions, and with probability `epsilon` any action alike."""

    policy: DiscretePolicy
    num_actions: int
    epsilon: float

    def __call__(self, obs: Shaped[NumpyArray, "n ..."], rng: np.random.Generator) -> Choice:
        count = len(obs)
        best = np.asarray(_mode(self.policy, obs))
        random = rng.random(count) < self.epsilon
        action = np.where(random, rng.integers(0, self.num_actions, count), best)
        probs = np.full((count, self.num_actions), self.epsilon / self.num_actions)
        probs[np.arange(count), best] += 1.0 - self.epsilon
        return Choice(action, np.log(probs[np.arange(count), action]), probs)


@dataclasses.dataclass(frozen=True)
class Squashed:
    """Draws of a policy whose actions are tanh of a normal, with their exact density."""

    policy: SquashedGaussianPolicy
    space: Space

    def __call__(self, obs: Shaped[NumpyArray, "n ..."], rng: np.random.Generator) -> Choice:
        key = jax.random.key(int(rng.integers(2**31)))
        action, log_prob = _drawn(self.policy, obs, key)
        return Choice(
            np.asarray(action), np.asarray(log_prob, np.float64) - self.space.log_scale, np.zeros((len(obs), 0))
        )


@eqx.filter_jit
def _mode(policy: Any, obs: Any) -> Array:
    return policy.mode(obs)


@eqx.filter_jit
def _drawn(policy: Any, obs: Any, key: Key) -> tuple[Array, Array]:
    found = policy(obs)
    assert isinstance(found, TanhNormal)
    return found.sample_with_log_prob(key=key)


class Steps(NamedTuple):
    """One step of every copy: (n, ...) each.

    Attributes:
        copy_episode: the number of the episode that each copy was in, from 0 in the order of their starts.
        step: the place in that episode.
        obs, action, reward, next_obs, terminated, truncated: what happened; actions as an actor gives them.
        log_prob, probs: as of `Choice`.
    """

    copy_episode: NumpyArray
    step: NumpyArray
    obs: NumpyArray
    action: NumpyArray
    reward: NumpyArray
    next_obs: NumpyArray
    terminated: NumpyArray
    truncated: NumpyArray
    log_prob: NumpyArray
    probs: NumpyArray


def steps_of(
    env: SyncVectorEnv,
    space: Space,
    actor: Callable[[], Actor],
    *,
    seed: int,
    purpose: str = "",
    episodes: int | None = None,
) -> Iterator[Steps]:
    """Act without end, or until this many episodes were played.

    Every episode has a reset seed of its own, and each number below `episodes` that was begun is played to its end, so that
    short episodes are not preferred; steps of later episodes are left out.

    Args:
        env: copies of the environment.
        space: its spaces.
        actor: asked before every step who decides.
        seed: of resets and actions.
        purpose: tells the random draws of this use from those of other uses of the same seed.
        episodes: how many; None never ends.
    """
    rng = np.random.default_rng([seed, len(purpose), *purpose.encode()])
    copies = env.num_envs
    number, step = np.arange(copies), np.zeros(copies, np.int64)
    begun, left = copies, episodes
    obs, _ = env.reset(seed=[int(s) for s in rng.integers(2**31, size=copies)])
    while left is None or left > 0:
        seen = space.observations(obs)
        choice = actor()(seen, rng)
        obs, reward, terminated, truncated, _ = env.step(space.to_environment(choice.action))
        made = Steps(
            number.copy(), step.copy(), seen, choice.action, np.asarray(reward, np.float64),
            space.observations(obs), terminated.copy(), truncated & ~terminated, choice.log_prob, choice.probs,
        )  # fmt: skip
        kept = np.ones(copies, bool) if episodes is None else number < episodes
        if kept.any():
            yield Steps(*(part[kept] for part in made))
        step += 1
        if step.max() >= LONGEST:
            raise ConfigurationError(
                f"An episode has not ended after {LONGEST:,} steps: give the environment a limit, as by "
                "`gymnasium.wrappers.TimeLimit`, in a function that makes it."
            )
        ended = terminated | truncated
        if not ended.any():
            continue
        if left is not None:
            left -= int((ended & kept).sum())
        for copy in np.flatnonzero(ended):
            number[copy] = begun
            begun += 1
        step[ended] = 0
        seeds: list[int | None] = [int(s) for s in rng.integers(2**31, size=copies)]
        obs, _ = env.reset(seed=seeds, options={"reset_mask": ended})
