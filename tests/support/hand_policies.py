"""Logs and policies for the diagnosis whose probabilities are worked out by hand. States are numbered in column 0."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from worlds import schema_of

from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.subject import Member, Shared, Subject
from stitchrl.evaluation.settings import FitSettings
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.reading.read import read

BEHAVIOR = np.array([[0.5, 0.25, 0.25, 0.0], [0.98, 0.01, 0.01, 0.0]])
"""Probabilities of 4 actions in state 0, where three are usual, and in state 1, where one is."""


class Table:
    """A policy by the number of the state, with `probs` alone; a mask is honoured unless it is told otherwise."""

    def __init__(self, table: Any, *, honest: bool = True) -> None:
        self.table, self.honest = np.asarray(table, np.float64), honest

    def probs(self, obs: Any, *, action_mask: Any = None) -> np.ndarray:
        found = self.table[np.clip(np.rint(np.asarray(obs)[:, 0]), 0, len(self.table) - 1).astype(int)]
        if action_mask is not None and self.honest:
            found = np.where(action_mask, found, 0.0)
            found = found / found.sum(1, keepdims=True)
        return found


class Numbers:
    """A policy over continuous actions without chance or density: a function of the observations."""

    has_density = False

    def __init__(self, act: Any) -> None:
        self.act = act

    def mode(self, obs: Any, *, action_mask: Any = None) -> np.ndarray:
        return np.asarray(self.act(np.asarray(obs)), np.float32)


class Normals:
    """A policy over one number: half the first column and a shift, with normal noise."""

    def __init__(self, shift: float, std: float = 0.1) -> None:
        self.shift, self.std = shift, std

    def _mean(self, obs: Any) -> np.ndarray:
        return 0.5 * np.asarray(obs)[:, :1] + self.shift

    def sample(self, obs: Any, *, key: Any) -> np.ndarray:
        return self._mean(obs) + self.std * np.asarray(jax.random.normal(key, (len(obs), 1)))

    def log_prob(self, obs: Any, action: Any) -> np.ndarray:
        apart = (np.asarray(action, np.float64) - self._mean(obs))[:, 0] / self.std
        return -0.5 * apart**2 - np.log(self.std * np.sqrt(2 * np.pi))


class TableValue(DiscreteValue):
    """Claimed values, and what critics disagree by, by the number of the state."""

    table: jax.Array
    apart: jax.Array

    def q_all(self, obs: Any) -> jax.Array:
        return self.table[jnp.rint(obs[:, 0]).astype(jnp.int32)]

    def v(self, obs: Any, *, action_mask: Any = None) -> jax.Array:
        return self.q_all(obs).max(axis=1)

    def spread(self, obs: Any, action: Any) -> jax.Array:
        return self.apart[jnp.rint(obs[:, 0]).astype(jnp.int32), action]


class NumbersValue(ContinuousValue):
    """Claims `slope` times the distance of an action from half the first column; critics disagree by 0.1 and that distance."""

    slope: float

    def _apart(self, obs: Any, action: Any) -> jax.Array:
        return jnp.abs(jnp.asarray(action)[:, 0] - 0.5 * jnp.asarray(obs)[:, 0])

    def q(self, obs: Any, action: Any) -> jax.Array:
        return self.slope * self._apart(obs, action)

    def v(self, obs: Any, *, action_mask: Any = None) -> jax.Array:
        return jnp.zeros(len(obs))

    def spread(self, obs: Any, action: Any) -> jax.Array:
        return 0.1 + self._apart(obs, action)


def two_states(
    episodes: int = 40, *, propensities: bool = True, mask: bool = False, noise: bool = False, first: Any = (0, 0, 1)
) -> Dataset:
    """Episodes of three decisions in the states `first`, whose actions are those of `BEHAVIOR` in their shares.

    Args:
        episodes: 40 times some number give exact shares in state 0.
        propensities: whether the log has the probability of every action.
        mask: whether action 3 is forbidden.
        noise: a second observation column that says nothing.
        first: the state of each decision.
    """
    rng = np.random.default_rng(0)
    state = np.tile(first, episodes)
    action = np.array([rng.choice(4, p=BEHAVIOR[s]) for s in state], np.int32)
    observed = state[:, None].astype(np.float32)
    if noise:
        observed = np.concatenate([observed, rng.normal(size=observed.shape).astype(np.float32)], axis=1)
    columns: dict[str, Any] = {
        "episode": np.repeat(np.arange(episodes), len(first)),
        "observation": observed,
        "action": action,
        "reward": rng.normal(size=len(state)).astype(np.float32),
        "terminated": np.tile([False] * (len(first) - 1) + [True], episodes),
    }
    if propensities:
        columns["behavior_probs"] = BEHAVIOR[state].astype(np.float32)
        columns["behavior_log_prob"] = np.log(BEHAVIOR[state, action])
    if mask:
        columns["action_mask"] = np.repeat([[True, True, True, False]], len(state), axis=0)
    return read(columns, schema_of(columns, num_actions=4))


def numbers_log(episodes: int = 60, steps: int = 5, *, seed: int = 0) -> Dataset:
    """Two observed numbers, and one action that is half the first plus normal noise of standard deviation 0.1."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(episodes * steps, 2)).astype(np.float32)
    columns = {
        "episode": np.repeat(np.arange(episodes), steps),
        "observation": obs,
        "action": (0.5 * obs[:, :1] + 0.1 * rng.normal(size=(len(obs), 1))).astype(np.float32),
        "reward": rng.normal(size=len(obs)).astype(np.float32),
        "terminated": np.tile([False] * (steps - 1) + [True], episodes),
    }
    return read(columns, schema_of(columns, num_actions=None))


def subject_of(policy: Any, log: Dataset, value: Any = None, settings: FitSettings | None = None) -> Subject:
    """A policy as the checks of a diagnosis look at it."""
    return Subject(Member("the policy", policy, value), Shared(log, settings))
