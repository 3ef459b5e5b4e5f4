"""`collect`: an environment -> a log, by the recipes of D4RL (Fu et al. 2020, arXiv 2004.07219).

    random         uniform actions
    medium         a learner stopped early: the first of its snapshots that reaches a third of the way from random to expert
    expert         the same learner at the end of its training
    medium-replay  all that the learner did up to the medium snapshot, while it learned
    mixed          half of the episodes medium, half expert (D4RL's medium-expert)

Every action is logged with its exact probability (all actions', where they are numbered) or its density. The learner is DQN for
numbered actions, acting greedily but for a share of uniform actions, and SAC for vectors, acting by draws. A model of
Stable-Baselines3 can act in its place; then there is no recipe and nothing is trained.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.dqn import DQN
from stitchrl.algorithms.sac import SAC
from stitchrl.collection.acting import Actor, EpsilonGreedy, Space, Squashed, Steps, Uniform, steps_of
from stitchrl.collection.model_actors import actor_of_model, model_policy
from stitchrl.collection.online import Snapshot, learn_online
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.environments import make_copies
from stitchrl.errors import ConfigurationError, StitchRLWarning
from stitchrl.messages import listed, shown
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.policy import DiscretePolicy, Policy
from stitchrl.progress import ProgressDisplay
from stitchrl.reading.read import read
from stitchrl.types import NumpyArray

__all__ = ["RECIPES", "collect"]

RECIPES = ("random", "medium", "medium-replay", "expert", "mixed")
MEDIUM = 1 / 3
"""How far from random to expert a medium policy is, by the return of its episodes."""
PLAYED = 20
"""Episodes by which a snapshot is judged."""
COPIES = 8
LARGE = 32
"""The longest side of an image from which on three convolutions reduce it, rather than one."""
SNAPSHOTS = 60
"""Snapshots of a training."""
EPSILON = 0.1
"""Share of uniform actions in a log of DQN's, where none is asked for."""
EXPLORING = 0.3
"""Share of a training in which DQN's share of uniform actions falls from 1 to that of its log."""


def collect(
    environment: str | Callable[[], gym.Env[Any, Any]],
    *,
    recipe: str | None = None,
    policy: Any = None,
    episodes: int = 200,
    steps: int = 20_000,
    seed: int = 0,
    epsilon: float | None = None,
    noise: float | None = None,
    algorithm: Algorithm | None = None,
    trust_pickle: bool = False,
    progress: bool = True,
) -> Dataset:
    """Collect a log from a Gymnasium environment.

    Args:
        environment: the id of a registered environment, or a function that makes one. Observations are vectors, or images
            where actions are numbered; actions are numbered or vectors between bounds.
        recipe: "random", "medium" (the default), "medium-replay", "expert" or "mixed", as above. "medium-replay" has as many
            episodes as the learner needed.
        policy: acts in place of a learner: a Stable-Baselines3 model, the path of a saved one, or an `st.SB3Policy`.
        episodes: of the log, at least 1.
        steps: of the environment, on which the learner is trained; ignored where nothing is.
        seed: of everything that is random.
        epsilon: in (0, 1], share of uniform actions in the logged behaviour where actions are numbered; None is 0.1 for a
            learner, and the chance that the model itself takes for a `policy`; one that takes none needs it.
        noise: above 0, standard deviation of normal noise on the actions of a `policy` that leaves nothing to chance, as a
            share of half of the action's range; what leaves the bounds is clipped.
        algorithm: the learner, DQN or SAC with other settings.
        trust_pickle: allows the code that was pickled into the file of a model to run, without which it cannot be loaded.
        progress: whether to show a progress bar.

    Returns:
        The log: gamma 0.99, `source` says which policy acted.

    Raises:
        ConfigurationError: a setting outside its range, an environment that cannot be made or has other spaces, a model that
            cannot be loaded or is for another environment, or a learner that did not get better than random in so many steps.

    Warns:
        StitchRLWarning: the learner got hardly better than random, by less than a standard deviation of random returns.
    """
    _check(recipe, episodes, steps, seed, epsilon, noise)
    _check_who_acts(policy, recipe, algorithm, noise)
    acting = None if policy is None else model_policy(policy, trust_pickle=trust_pickle)
    name = environment if isinstance(environment, str) else getattr(environment, "__name__", "environment")
    env = make_copies(environment, COPIES)
    try:
        space = Space.of(env, str(name))
        log = _Log(space, str(name))
        if acting is not None:
            actor = actor_of_model(acting, space, environment=str(name), epsilon=epsilon, noise=noise)
            log.add(
                steps_of(env, space, lambda: actor, seed=seed, purpose="log of a model", episodes=episodes),
                type(acting.model).__name__,
            )
            return log.dataset()
        learns = _learner(space, algorithm)
        if recipe == "random":
            log.add(
                steps_of(env, space, lambda: Uniform(space), seed=seed, purpose="log of random", episodes=episodes),
                "random",
            )
            return log.dataset()
        if space.observations.image and space.num_actions is None:
            raise ConfigurationError(
                f"SAC learns from vectors here, and {name} shows {space.observations} where actions are vectors. Take the "
                "recipe random, a `policy`, or a wrapper that makes vectors, such as `gymnasium.wrappers.FlattenObservation`."
            )
        learner = _Learner(env, space, learns, EPSILON if epsilon is None else epsilon, seed)
        shots = learner.snapshots(steps, progress=progress)
        return _learned_log(log, learner, shots, recipe or "medium", episodes)
    finally:
        env.close()


def _learned_log(log: _Log, learner: _Learner, shots: Sequence[Snapshot], recipe: str, episodes: int) -> Dataset:
    """The log of a recipe that needs a learner, given its snapshots."""
    expert, medium = shots[-1], learner.medium(shots)
    if recipe == "medium-replay":
        log.add([made for shot in shots[: medium + 1] for made in shot.played], "replay")
        return log.dataset(whole_episodes=True)
    parts = {
        "medium": [("medium", shots[medium], episodes)],
        "expert": [("expert", expert, episodes)],
        "mixed": [("medium", shots[medium], episodes - episodes // 2), ("expert", expert, episodes // 2)],
    }[recipe]
    for source, shot, count in parts:
        if count:
            played = learner.play(shot, count, f"log of {source}")
            log.add(played, source)
            _warn_if_hardly_better(source, _returns(played), learner.random_returns, shot.steps)
    return log.dataset()


def _warn_if_hardly_better(source: str, returns: NumpyArray, random: NumpyArray, steps: int) -> None:
    """Warn of a policy that returns less than a standard deviation of random returns more than random, or no more than chance."""
    if len(returns) < 2:
        return
    spread = float(random.std(ddof=1))
    chance = 2.0 * float(np.sqrt(random.var(ddof=1) / len(random) + returns.var(ddof=1) / len(returns)))
    if returns.mean() - random.mean() < max(spread, chance):
        warnings.warn(
            f"The {source} policy is hardly better than random: it returns {returns.mean():.4g} an episode in this log, and "
            f"uniform actions return {random.mean():.4g}, with a standard deviation of {spread:.4g}. It was trained for "
            f"{steps:,} steps of the environment: give more `steps` (--steps).",
            StitchRLWarning,
            stacklevel=4,
        )


def _check(
    recipe: str | None, episodes: Any, steps: Any, seed: Any, epsilon: float | None, noise: float | None
) -> None:
    if recipe is not None and recipe not in RECIPES:
        raise ConfigurationError(f"`recipe` of collect must be one of {listed(RECIPES)}; got {shown(recipe)}.")
    for name, value in (("episodes", episodes), ("steps", steps), ("seed", seed)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise ConfigurationError(f"`{name}` of collect must be a whole number; got {shown(value)}.")
    for name, value, least in (("episodes", episodes, 1), ("steps", steps, 2_000), ("seed", seed, 0)):
        if value < least:
            raise ConfigurationError(f"`{name}` of collect must be at least {least:,}; got {value:,}.")
    if epsilon is not None and not 0 < epsilon <= 1:
        raise ConfigurationError(f"`epsilon` of collect must be in (0, 1]; got {epsilon}.")
    if noise is not None and not 0 < noise < np.inf:
        raise ConfigurationError(f"`noise` of collect must be above 0; got {noise}. 0.1 is usual.")


def _check_who_acts(policy: Any, recipe: str | None, algorithm: Algorithm | None, noise: float | None) -> None:
    if policy is None and noise is not None:
        raise ConfigurationError(
            "`noise` of collect is for a `policy` that leaves nothing to chance; no policy was given."
        )
    for name, given in (("recipe", recipe), ("algorithm", algorithm)):
        if policy is not None and given is not None:
            raise ConfigurationError(
                f"`{name}` of collect says how a learner is trained, and with `policy` none is; both were given. Leave one out."
            )


def _learner(space: Space, algorithm: Algorithm | None) -> Algorithm:
    """The learner that was asked for, or one that is quick on small environments.

    Raises:
        ConfigurationError: it is neither of those that act while they learn, or is for other actions.
    """
    wanted = SAC if space.num_actions is None else DQN
    if algorithm is not None and not isinstance(algorithm, wanted):
        raise ConfigurationError(
            f"`algorithm` of collect must be {wanted.__name__} in this environment, whose actions are "
            f"{'vectors' if space.num_actions is None else 'numbered'}; got {algorithm.name}."
        )
    if algorithm is not None:
        return algorithm
    if space.num_actions is None:
        return SAC(gamma=0.99, learning_rate=1e-3, actor_learning_rate=1e-3, target_rate=0.01, hidden_sizes=(64, 64))
    if not space.observations.image:
        return DQN(gamma=0.99, learning_rate=1e-3, target_rate=0.01, hidden_sizes=(64, 64))
    channels = (16,) if max(space.observations.shape[:2]) < LARGE else (32, 32, 32)
    return DQN(gamma=0.99, learning_rate=3e-4, target_rate=0.01, network=Network((128,), channels=channels))


@dataclasses.dataclass(frozen=True, eq=False)
class _Learner:
    """A learner in an environment."""

    env: SyncVectorEnv
    space: Space
    algorithm: Algorithm
    epsilon: float
    seed: int

    def acting(self, policy: Policy, share: float) -> Actor:
        """Who decides after this share of the training."""
        if self.space.num_actions is None:
            assert isinstance(policy, SquashedGaussianPolicy)
            return Squashed(policy, self.space)
        assert isinstance(policy, DiscretePolicy)
        left = max(0.0, 1.0 - share / EXPLORING)
        return EpsilonGreedy(policy, self.space.num_actions, self.epsilon + (1 - self.epsilon) * left)

    def snapshots(self, steps: int, *, progress: bool) -> list[Snapshot]:
        """Those of a whole training."""
        every = max(steps // SNAPSHOTS, COPIES)
        shots = []
        with ProgressDisplay(enabled=progress) as display:
            show = display.track(f"{self.algorithm.name} acts and learns", unit="steps/s")
            for shot in learn_online(
                self.algorithm, self.env, self.space, self.acting, steps=steps, seed=self.seed, snapshot_every=every
            ):
                shots.append(shot)
                show(min(shot.steps, steps), steps, {})
        return shots

    def play(self, shot: Snapshot, episodes: int, purpose: str) -> list[Steps]:
        """Episodes of a snapshot, as its log has them."""
        actor = self.acting(shot.policy, 1.0)
        return list(steps_of(self.env, self.space, lambda: actor, seed=self.seed, purpose=purpose, episodes=episodes))

    @cached_property
    def random_returns(self) -> NumpyArray:
        """The returns of episodes in which actions are drawn uniformly."""
        return _returns(
            steps_of(
                self.env, self.space, lambda: Uniform(self.space), seed=self.seed, purpose="random", episodes=PLAYED
            )
        )

    def medium(self, shots: Sequence[Snapshot]) -> int:
        """Which snapshot is the first that reaches a third of the way from random to the last one.

        Raises:
            ConfigurationError: the last one is no better than random.
        """
        random = float(self.random_returns.mean())
        expert = float(_returns(self.play(shots[-1], PLAYED, "judging the expert")).mean())
        if expert <= random:
            raise ConfigurationError(
                f"After {shots[-1].steps:,} steps {self.algorithm.name} returns {expert:.4g} an episode, no more than uniform "
                f"actions, {random:.4g}: give more `steps`, or another `algorithm`."
            )
        wanted = random + MEDIUM * (expert - random)
        for k, shot in enumerate(shots):
            if _returns(self.play(shot, PLAYED, f"judging snapshot {k}")).mean() >= wanted:
                return k
        return len(shots) - 1


def _returns(played: Iterable[Steps]) -> NumpyArray:
    """The return of each episode of some steps."""
    totals: dict[int, float] = {}
    for made in played:
        for episode, reward in zip(made.copy_episode, made.reward, strict=True):
            totals[int(episode)] = totals.get(int(episode), 0.0) + float(reward)
    return np.array(list(totals.values()))


class _Log:
    """Steps of several copies, put in the order of their episodes."""

    def __init__(self, space: Space, name: str) -> None:
        self._space, self._name = space, name
        self._parts: list[dict[str, Any]] = []
        self._episodes = 0

    def add(self, played: Any, source: str) -> None:
        """Steps of one source, whose episodes are counted on from those before."""
        steps = list(played)
        joined = Steps(*(np.concatenate(column) for column in zip(*steps, strict=True)))
        columns = {
            "episode": joined.copy_episode + self._episodes,
            "step": joined.step,
            "observation": joined.obs,
            "action": joined.action
            if self._space.num_actions is not None
            else self._space.to_environment(joined.action),
            "reward": joined.reward,
            "next_observation": joined.next_obs,
            "terminated": joined.terminated,
            "truncated": joined.truncated,
            "behavior_log_prob": joined.log_prob,
            "source": np.full(len(joined.reward), source),
        }
        if joined.probs.shape[1]:
            columns["behavior_probs"] = joined.probs
            del columns["behavior_log_prob"]
        self._episodes = int(columns["episode"].max()) + 1
        self._parts.append(columns)

    def dataset(self, *, whole_episodes: bool = False) -> Dataset:
        """The log; with `whole_episodes` what is left of an episode that did not end is cut at its last step."""
        columns = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        order = np.lexsort((columns["step"], columns["episode"]))
        columns = {name: values[order] for name, values in columns.items()}
        if whole_episodes:
            last = np.append(np.diff(columns["episode"]) != 0, [True])
            columns["truncated"] = columns["truncated"] | (last & ~columns["terminated"])
        discrete = self._space.num_actions is not None
        schema = Schema(
            {name: name for name in columns},
            num_actions=self._space.num_actions,
            gamma=0.99,
            name=self._name,
            action_low=None if discrete else tuple(map(float, self._space.low)),
            action_high=None if discrete else tuple(map(float, self._space.high)),
        )
        return read(columns, schema)
