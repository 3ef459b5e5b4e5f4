"""A small exact world, logs drawn from it, and policies on it, for the tests of evaluation.

Logs on which a Q is fitted have one number of rows, `ROWS`, and no final observations, so that the tests share one
compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation.contributions import Episodes, Estimand
from stitchrl.evaluation.estimators.contextual_bandits import CONTEXTUAL_BANDITS
from stitchrl.evaluation.refit import FittedValues
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.weights import Weights, cumulative_weights
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read

UNDISCOUNTED = Estimand(1.0)
ROWS = 1599
QUICK = FitSettings(updates=200, hidden_sizes=(16,))
OF_EPISODES = tuple(
    name for name in ESTIMATORS if name not in {"lstdq", "model", *(one.name for one in CONTEXTUAL_BANDITS)}
)
"""The estimators with intervals that apply to episodes of several steps with discrete actions."""


@functools.cache
def small_world() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """Four live states and an end, two actions, random rewards; a behaviour and another policy."""
    rng = np.random.default_rng(7)
    transition = rng.dirichlet(np.ones(5) * 0.8, size=(5, 2))
    transition[..., 4] += 0.3
    transition /= transition.sum(-1, keepdims=True)
    terminal = np.arange(5) == 4
    initial = np.array([0.6, 0.2, 0.1, 0.1, 0.0])
    reward = rng.normal(size=(5, 2, 5)).round(2)
    behavior, policy = rng.dirichlet([3, 3], size=5), rng.dirichlet([2, 4], size=5)
    return FiniteMDP(transition, reward, initial, terminal), behavior, policy


@functools.cache
def corridor() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """Five states in a row that one walks up by action 1 and down by action 0, and that hardly ever end; a behaviour
    and another policy. Only the last state pays, so what a state is worth depends on the steps that are left."""
    transition = np.zeros((6, 2, 6))
    for state in range(5):
        for action, way in enumerate((-1, 1)):
            transition[state, action, min(max(state + way, 0), 4)] += 0.8
            transition[state, action, state] += 0.18
            transition[state, action, 5] += 0.02
    reward = np.zeros((6, 2, 6))
    reward[4], reward[:, :, 5] = 1.0, -1.0
    world = FiniteMDP(transition, reward, np.array([0.7, 0.3, 0, 0, 0, 0]), np.arange(6) == 5)
    return world, np.tile([0.4, 0.6], (6, 1)), np.tile([0.25, 0.75], (6, 1))


def exact_visits(world: FiniteMDP, probs: np.ndarray, gamma: float) -> np.ndarray:
    """(live states,) discounted visits of a policy, by a linear solve."""
    live = ~world.terminal
    step = np.einsum("sa,sat->st", probs, world.transition)[np.ix_(live, live)]
    found: np.ndarray = np.linalg.solve(np.eye(live.sum()) - gamma * step.T, world.initial[live])
    return found


def exact_ratio(world: FiniteMDP, policy: np.ndarray, behavior: np.ndarray, gamma: float) -> np.ndarray:
    """(live states,) discounted visits of a policy over those of the behaviour."""
    return exact_visits(world, policy, gamma) / exact_visits(world, behavior, gamma)


def draw(
    world: FiniteMDP, behavior: np.ndarray, episodes: int, seed: int, *, last: bool = True, **kwargs: Any
) -> Dataset:
    """A log of the small world: one-hot observations, propensities; without `last` the final ones are not stored."""
    e = world.draw(behavior, episodes, seed=seed, **kwargs)
    columns = {
        "episode": e.episode,
        "step": e.step,
        "observation": np.eye(world.num_states, dtype=np.float32)[e.state],
        "next_observation": np.eye(world.num_states, dtype=np.float32)[e.next_state],
        "observation_id": e.state,
        "action": e.action,
        "reward": e.reward,
        "terminated": e.terminated,
        "truncated": e.truncated,
        "behavior_probs": behavior[e.state],
    }
    if not last:
        del columns["next_observation"]
    return read(columns, Schema.infer(list(columns), num_actions=world.num_actions, gamma=1.0))


def sized(log: Dataset, rows: int = ROWS) -> Dataset:
    """The first episodes of a log that together have so many rows; the last of them are chosen to fit."""
    lengths = log.episode_lengths
    assert lengths.sum() >= rows
    kept = int(np.searchsorted(np.cumsum(lengths), rows - 2 * lengths.max()))
    chosen, left = list(range(kept)), rows - int(lengths[:kept].sum())
    for episode in range(kept, log.num_episodes):
        if lengths[episode] <= left:
            chosen.append(episode)
            left -= int(lengths[episode])
    assert left == 0
    return log.select_episodes(chosen)


@functools.cache
def small_log(seed: int) -> Dataset:
    """`ROWS` rows of the small world under its behaviour: about 650 episodes."""
    world, behavior, _ = small_world()
    return sized(draw(world, behavior, 1000, seed, last=False))


class Table:
    """A duck-typed NumPy policy: probabilities by one-hot state."""

    def __init__(self, probs: np.ndarray) -> None:
        self.table = probs

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return self.table[np.asarray(obs).argmax(1)]


class Uniform:
    """Every allowed action with the same probability."""

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        assert action_mask is not None
        return (action_mask / action_mask.sum(1, keepdims=True)).astype(np.float32)


class Broken:
    """The same row everywhere, whatever it is."""

    def __init__(self, row: list[float]) -> None:
        self.row = np.array(row)

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return np.tile(self.row, (len(obs), 1))


def weights(log: Dataset, policy: np.ndarray, behavior: np.ndarray) -> tuple[Episodes, Weights]:
    """The padded episodes and cumulative weights of a table of probabilities."""
    state = log.observation_id
    assert state is not None
    log_ratio = np.log(policy[state, log.action]) - np.log(behavior[state, log.action])
    episodes = Episodes.of(log, UNDISCOUNTED)
    return episodes, cumulative_weights(episodes, log_ratio)


def values(log: Dataset, q: np.ndarray, policy: np.ndarray) -> FittedValues:
    """A table of Q as if it had been fitted."""
    state = log.observation_id
    assert state is not None
    return FittedValues(q[state, log.action], (policy * q).sum(1)[state])


def by_hand() -> tuple[Episodes, Weights]:
    """Three episodes: two terminate (2 steps, 1 step), one is cut after its first step.

    ratios  [2, .5] [3] [4]   rewards  [1, 2] [5] [7]   gamma .5
    One is cut after step 0 and one runs on, so that one counts twice at step 1: its weight there is 2 * .5 * 2.
    """
    reward = np.array([[1.0, 2.0], [5.0, 0.0], [7.0, 0.0]])
    valid = np.array([[True, True], [True, False], [True, False]])
    index = np.array([[0, 1], [2, 0], [3, 0]])
    episodes = Episodes(reward, valid, np.array([True, True, False]), index, np.array([1.0, 0.5]))
    return episodes, cumulative_weights(episodes, np.log([2.0, 0.5, 3.0, 4.0]))


def long_episodes(steps: int = 1100, n: int = 4) -> Episodes:
    """Episodes that all have so many steps, with reward k / steps in each step of episode k."""
    reward = np.tile(np.arange(1.0, n + 1)[:, None] / steps, (1, steps))
    index = np.arange(n * steps).reshape(n, steps)
    return Episodes(reward, np.ones((n, steps), bool), np.ones(n, bool), index, np.ones(steps))


def cut_at_random(log: Dataset, chance: float, seed: int) -> Dataset:
    """Each episode is cut after a step with a chance that depends on nothing, and its later rows are dropped."""
    cut = (np.random.default_rng(seed).random(log.num_transitions) < chance) & ~log.terminated
    ended = np.zeros(log.num_transitions, bool)
    for start, end in zip(log.episode_start[:-1], log.episode_start[1:], strict=True):
        first = np.flatnonzero(cut[start:end])
        if len(first):
            cut[start + first[0] + 1 : end] = False
            ended[start + first[0] + 1 : end] = True
    keep = ~ended
    assert log.observation_id is not None
    assert log.behavior_probs is not None
    columns = {
        "episode": np.repeat(log.episode_id, log.episode_lengths),
        "step": log.step,
        "observation": log.observation,
        "next_observation": log.next_observation,
        "observation_id": log.observation_id,
        "action": log.action,
        "reward": log.reward,
        "terminated": log.terminated,
        "truncated": cut | log.truncated,
        "behavior_probs": log.behavior_probs,
    }
    return read({role: column[keep] for role, column in columns.items()}, log.schema)


def tabular(log: Dataset, states: int) -> dict[str, np.ndarray]:
    """A fitted Q of 0 with one-hot state features: the refit must do all the work."""
    zeros = np.zeros(log.num_transitions)
    one_hot = np.eye(states)
    return {
        "q": zeros,
        "v": zeros,
        "next_v": zeros,
        "psi": one_hot[log.observation_id],
        "next_psi": one_hot[log.next_observation.argmax(1)],
    }


def without_propensities(log: Dataset) -> Dataset:
    """The same log with a behaviour that has to be fitted."""
    return dataclasses.replace(log, behavior_log_prob=None, behavior_probs=None)
