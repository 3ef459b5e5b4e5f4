"""`rollout`: a policy in a Gymnasium environment -> returns and lengths of its episodes.

Episodes are numbered, and each has its own reset seed. Copies of the environment step side by side; a copy whose
episode ends takes the next number not yet begun, and every number below `episodes` that was begun is played to its end.
So exactly the first `episodes` episodes in order of their START count. (Counting the first to FINISH would prefer
short episodes, which in most environments are the bad ones.) Autoreset is off: a copy is reset by its number's seed.

A policy with memory (`nn/memory.py`) has a carry for every copy, which is reset at the start of each episode. It gets the last
action as the environment executed it, and the last reward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import SyncVectorEnv
from jaxtyping import Float, Int

from stitchrl.environments import Observations, make_copies
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.history import HistoryPolicy
from stitchrl.nn.memory import MemoryPolicy, has_memory, nothing_yet, restarted
from stitchrl.nn.units import RescaledMemoryPolicy, RescaledPolicy, StandardizedPolicy
from stitchrl.types import NumpyArray

__all__ = ["Rollout", "episode_seeds", "rollout"]


@dataclasses.dataclass(frozen=True, eq=False)
class Rollout:
    """Episodes of one policy in one environment, in order of their start.

    Attributes:
        returns: (episodes,) float64 sum of rewards, undiscounted.
        lengths: (episodes,) int64 steps.
    """

    returns: Float[NumpyArray, " episodes"]
    lengths: Int[NumpyArray, " episodes"]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return over episodes; nan for a single episode."""
        count = len(self.returns)
        return float(self.returns.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")


def rollout(
    policy: Any,
    environment: str | Callable[[], gym.Env[Any, Any]],
    *,
    episodes: int,
    seed: int = 0,
    num_envs: int = 16,
    max_steps: int | None = None,
    mode: bool = True,
) -> Rollout:
    """Play a policy.

    Continuous actions are clipped to the bounds of the environment's Box; discrete action 0 is the first the
    environment knows. Episode i depends on `seed` and i alone, whatever `num_envs` (up to rounding in the network).

    Args:
        policy: has `mode(obs)` or `sample(obs, *, key)` over observations, written in JAX; or is a `MemoryPolicy`. Observations
            are (B, D) numbers, or (B, height, width, channels) bytes where the environment shows images.
        environment: the id of a registered environment, or a function that makes one.
        episodes: how many, at least 1.
        seed: at least 0; for the resets (see `episode_seeds`) and for sampled actions.
        num_envs: copies that step side by side, at least 1; one call of the policy serves all.
        max_steps: episodes are cut after this many steps; None leaves ends to the environment.
        mode: act by `policy.mode`; False acts by `policy.sample`.

    Raises:
        ConfigurationError: a number outside its range, a bundle in place of a policy, an unknown environment, one that needs a
            package that is not installed, or spaces that are not a vector or an image as observation and a vector or one number
            as action.
    """
    for name, value, least in (
        ("episodes", episodes, 1),
        ("seed", seed, 0),
        ("num_envs", num_envs, 1),
        ("max_steps", 1 if max_steps is None else max_steps, 1),
    ):
        if value < least:
            raise ConfigurationError(f"`{name}` of rollout must be at least {least}; got {value}.")
    if hasattr(policy, "provenance"):
        raise ConfigurationError(
            "`policy` of rollout is a bundle, whose guard cannot act inside a compiled program. Give what is inside, which acts "
            "without a guard: `st.load_policy(folder).policy`."
        )
    envs = make_copies(environment, min(num_envs, episodes))
    try:
        observe = Observations.of(envs.single_observation_space, whose="rollout")
        _check_spaces(envs, observe, policy, mode)
        return _play(policy, envs, observe, episodes=episodes, seed=seed, max_steps=max_steps, mode=mode)
    finally:
        envs.close()


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """The seed each episode's reset is given: to start another program's episodes from the same states."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(episodes)]


def _play(
    policy: Any,
    envs: SyncVectorEnv,
    observe: Observations,
    *,
    episodes: int,
    seed: int,
    max_steps: int | None,
    mode: bool,
) -> Rollout:
    seeds, key, copies = episode_seeds(seed, episodes), jax.random.key(seed), envs.num_envs
    space = envs.single_action_space
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    number = np.arange(copies)  # the episode of each copy; `episodes` and above: idle, steps without counting
    step = np.zeros(copies, np.int64)
    decides = (_Remembering if has_memory(policy) else _Forgetful)(policy, copies, mode, key)
    begun, unfinished = copies, episodes
    obs, _ = envs.reset(seed=list(seeds[:copies]))
    while unfinished:
        rows = observe(obs)
        place = np.stack([number, step], axis=1).astype(np.int32)
        chosen = _to_environment(np.asarray(decides.choose(rows, place)), space)
        obs, reward, terminated, truncated, _ = envs.step(chosen)
        decides.learn(_from_environment(chosen, space), reward)
        step += 1
        counted = number < episodes
        returns[number[counted]] += reward[counted]
        ended = terminated | truncated
        if max_steps is not None:
            ended |= step >= max_steps
        if not ended.any():
            continue
        lengths[number[ended & counted]] = step[ended & counted]
        unfinished -= int((ended & counted).sum())
        for copy in np.flatnonzero(ended):
            number[copy] = begun
            begun += 1
        step[ended] = 0
        decides.restart(ended)
        following: list[int | None] = [seeds[n] if n < episodes else 0 for n in number]
        obs, _ = envs.reset(seed=following, options={"reset_mask": ended})
    return Rollout(returns, lengths)


class _Forgetful:
    """Acts by the observation alone."""

    def __init__(self, policy: Any, copies: int, mode: bool, key: Key) -> None:
        self._policy, self._mode, self._key = policy, mode, key

    def choose(self, rows: AnyArray, place: AnyArray) -> Array:
        """(copies, ...) actions, given each copy's (episode, step)."""
        return _modes(self._policy, rows) if self._mode else _samples(self._policy, rows, place, self._key)

    def learn(self, action: NumpyArray, reward: NumpyArray) -> None:
        """Takes the actions of this step, as a policy gives them, and its rewards; nothing is kept here."""

    def restart(self, ended: NumpyArray) -> None:
        """Takes which copies begin another episode; there is nothing to forget here."""


class _Remembering(_Forgetful):
    """Acts by the episode so far: what each copy saw, did and was paid."""

    def __init__(self, policy: MemoryPolicy, copies: int, mode: bool, key: Key) -> None:
        super().__init__(policy, copies, mode, key)
        self._carry = policy.initial_carry(copies)
        self._last: tuple[Any, Any] = nothing_yet(policy, copies)

    def choose(self, rows: AnyArray, place: AnyArray) -> Array:
        """(copies, ...) actions, given each copy's (episode, step); the carry of every copy moves on by one step."""
        action, self._carry = _steps(self._policy, self._carry, rows, *self._last, place, self._key, self._mode)
        return action

    def learn(self, action: NumpyArray, reward: NumpyArray) -> None:
        """Keeps the actions and rewards of this step for the next one."""
        self._last = action, np.asarray(reward, np.float32)

    def restart(self, ended: NumpyArray) -> None:
        """Gives the copies that begin another episode a fresh carry."""
        self._carry = _restarted(self._policy, self._carry, ended)


@eqx.filter_jit
def _steps(
    policy: MemoryPolicy, carry: Any, obs: Any, last_action: Any, last_reward: Any, place: Any, key: Key, mode: bool
) -> tuple[Array, Any]:
    """A step of every copy; draws have keys as in `_samples`."""
    if mode:
        return policy.step(carry, obs, last_action, last_reward)

    def one(place: Any, *inputs: Any) -> Any:
        own = jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1])
        alone = jax.tree.map(lambda leaf: leaf[None], inputs)
        return jax.tree.map(lambda leaf: leaf[0], policy.step(*alone, key=own))

    return jax.vmap(one)(place, carry, obs, last_action, last_reward)


@eqx.filter_jit
def _restarted(policy: MemoryPolicy, carry: Any, ended: Any) -> Any:
    return restarted(policy, carry, ended)


@eqx.filter_jit
def _modes(policy: Any, obs: Any) -> Array:
    return policy.mode(obs)


@eqx.filter_jit
def _samples(policy: Any, obs: Any, place: Any, key: Key) -> Array:
    """Draws with a key of its own for every place (episode, step), so that no draw depends on the other copies."""

    def one(row: Any, place: Any) -> Array:
        return policy.sample(row[None], key=jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1]))[0]

    return jax.vmap(one)(obs, place)


def _to_environment(action: NumpyArray, space: gym.Space[Any]) -> NumpyArray:
    """Actions (B, ...) as a policy gives them -> as the environment takes them."""
    if isinstance(space, gym.spaces.Discrete):
        return action.astype(space.dtype) + space.start
    assert isinstance(space, gym.spaces.Box)
    return np.clip(action, space.low, space.high).astype(space.dtype)


def _from_environment(action: NumpyArray, space: gym.Space[Any]) -> NumpyArray:
    """Inverse of `_to_environment`, but for the clipping."""
    if isinstance(space, gym.spaces.Discrete):
        return (action - space.start).astype(np.int32)
    return action.astype(np.float32)


def _check_spaces(envs: SyncVectorEnv, observe: Observations, policy: Any, mode: bool) -> None:
    """Refuse an environment whose spaces do not fit, or a policy that does not fit them."""
    action = envs.single_action_space
    if isinstance(action, gym.spaces.Discrete):
        wanted: tuple[int, ...] = (envs.num_envs,)
    elif isinstance(action, gym.spaces.Box) and len(action.shape) == 1:
        wanted = (envs.num_envs, *action.shape)
    else:
        raise ConfigurationError(
            f"rollout needs an environment whose action is one number (Discrete) or a vector (a Box of one dimension); "
            f"this one's is {action}. Wrap the environment, for example by `gymnasium.ActionWrapper`."
        )
    known = _learned_numbers(policy)
    if known and not observe.image and observe.shape != (known,):
        raise ConfigurationError(
            f"The policy learned from observations of {known:,} numbers, and this environment's have {observe.shape[0]:,}. Was "
            "it trained on another environment's log?"
        )
    rows = np.zeros((envs.num_envs, *observe.shape), observe.dtype)
    place = np.zeros((envs.num_envs, 2), np.int32)
    asked = (_Remembering if has_memory(policy) else _Forgetful)(policy, envs.num_envs, mode, jax.random.key(0))
    try:
        given = eqx.filter_eval_shape(asked.choose, rows, place)
    except (TypeError, ValueError) as error:
        # JAX's message about shapes inside a policy of this package would not help the user.
        own = type(policy).__module__.startswith("stitchrl.")
        said = "" if own else f"; it failed with {str(error).strip().splitlines()[0]!r}"
        raise ConfigurationError(
            f"The policy must take this environment's observations, {observe}{said}. Was it trained on another environment's log?"
        ) from error
    kind = "i" if len(wanted) == 1 else "f"
    if given.shape != wanted or np.dtype(given.dtype).kind not in kind + "u" * (kind == "i"):
        raise ConfigurationError(
            f"The policy must give this environment's actions, {action}; for {envs.num_envs} observations it gives "
            f"an array of shape {tuple(given.shape)} and type {given.dtype}, not {wanted}. "
            "Was it trained on another environment's log?"
        )


def _learned_numbers(policy: Any) -> int:
    """Numbers of an observation of the log that a policy learned from; 0 where that is not known."""
    while type(policy).__module__.startswith("stitchrl."):  # what another class does with observations is not known
        if isinstance(policy, HistoryPolicy):
            return policy.observation_size
        scaled = isinstance(policy, StandardizedPolicy | RescaledPolicy | RescaledMemoryPolicy)
        if scaled and np.size(policy.mean):  # where it is empty, observations are scaled further inside, or are images
            return int(np.size(policy.mean))
        policy = getattr(policy, "policy", None)
    return 0
