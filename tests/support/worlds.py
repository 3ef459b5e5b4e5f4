"""Small logs and worlds that several test files share."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read


def tiny_columns() -> dict[str, np.ndarray]:
    """Three episodes by hand: 3 steps terminated, 2 cut, 1 terminated; 2 numbers seen, 3 actions."""
    return {
        "episode": np.array([7, 7, 7, 8, 8, 9], np.int32),
        "step": np.array([0, 1, 2, 0, 1, 0], np.int32),
        "observation": np.array([[0, 1], [1, 2], [2, 4], [3, 8], [4, 16], [5, 32]], np.float32),
        "action": np.array([0, 1, 2, 0, 0, 1], np.int32),
        "reward": np.array([1, 2, 4, -1, 3, 0.5], np.float32),
        "terminated": np.array([0, 0, 1, 0, 0, 1], bool),
        "truncated": np.array([0, 0, 0, 0, 1, 0], bool),
    }


def next_observations() -> np.ndarray:
    """What followed each row of `tiny_columns`."""
    return np.array([[1, 2], [2, 4], [10, 11], [4, 16], [12, 13], [14, 15]], np.float32)


def masks() -> np.ndarray:
    """Allowed actions of each row of `tiny_columns`; the logged ones are among them."""
    return np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 1], [0, 1, 0]], bool)


def probabilities() -> np.ndarray:
    """Logging probabilities of each row of `tiny_columns`."""
    return np.array([[0.5, 0.5, 0], [0, 0.25, 0.75], [0.2, 0.3, 0.5], [1, 0, 0], [0.4, 0, 0.6], [0, 1, 0]], np.float32)


def tiny_log(**changes: Any) -> Dataset:
    """`tiny_columns` as a Dataset; a change of None drops the column."""
    columns = {name: column for name, column in (tiny_columns() | changes).items() if column is not None}
    return read(columns, schema_of(columns))


def full_columns() -> dict[str, np.ndarray]:
    """`tiny_columns` with every optional column."""
    probs = probabilities()
    columns = tiny_columns()
    return columns | {
        "next_observation": next_observations(),
        "behavior_probs": probs,
        "behavior_log_prob": np.log(probs[np.arange(6), columns["action"]]),
        "policy_probs": probs,
        "policy_log_prob": np.log(probs[np.arange(6), columns["action"]]),
        "action_mask": masks(),
        "source": np.array(["a", "a", "b", "b", "a", "b"]),
        "weight": np.array([1, 2, 3, 4, 5, 6], np.float32),
        "time": np.arange(6, dtype=np.int64) * 60,
        "observation_id": np.array([10, 11, 12, 13, 14, 15], np.int32),
        "cost": np.array([[1, 0], [2, 0], [3, 1], [4, 0], [5, 1], [6, 0]], np.float32),
        "subgroup": np.array(["x", "x", "x", "y", "y", "x"]),
    }


def schema_of(columns: Any, num_actions: int | None = 3, gamma: float = 0.99) -> Schema:
    """The schema of columns named by their roles."""
    return Schema({name: name for name in columns}, num_actions=num_actions, gamma=gamma)


def random_log(
    episodes: int = 40, *, seed: int = 0, constant_reward: float | None = None, with_masks: bool = True
) -> Dataset:
    """Episodes of 1 to 5 steps, 3 numbers seen, 3 actions; every fourth is cut, what followed known."""
    rng = np.random.default_rng(seed)
    lengths = 1 + np.arange(episodes) % 5
    count = int(lengths.sum())
    last = np.cumsum(lengths) - 1
    cut = np.arange(episodes) % 4 == 3
    action = rng.integers(0, 3, count).astype(np.int32)
    allowed = rng.random((count, 3)) < 0.6
    allowed[np.arange(count), action] = True
    columns = {
        "episode": np.repeat(np.arange(episodes), lengths),
        "observation": rng.normal(size=(count, 3)).astype(np.float32),
        "next_observation": rng.normal(size=(count, 3)).astype(np.float32),
        "action": action,
        "reward": rng.normal(size=count).astype(np.float32),
        "terminated": np.zeros(count, bool),
        "truncated": np.zeros(count, bool),
    }
    columns["terminated"][last[~cut]] = True
    columns["truncated"][last[cut]] = True
    inside = np.setdiff1d(np.arange(count - 1), last)
    columns["next_observation"][inside] = columns["observation"][inside + 1]
    if constant_reward is not None:
        columns["reward"] = np.full(count, constant_reward, np.float32)
    if with_masks:
        columns["action_mask"] = allowed
    return read(columns, schema_of(columns))


def random_continuous_log(
    episodes: int = 40,
    *,
    seed: int = 0,
    constant_reward: float | None = None,
    center: float = 0.0,
    half_width: float = 1.0,
) -> Dataset:
    """`random_log` with 2-number actions instead, uniform within `half_width` of `center`."""
    log = random_log(episodes, seed=seed, constant_reward=constant_reward, with_masks=False)
    action = np.random.default_rng(seed + 1).uniform(-1, 1, (log.num_transitions, 2))
    columns = {
        "episode": log.episode_of_transition,
        "observation": log.observation,
        "next_observation": log.next_observation,
        "action": (center + half_width * action).astype(np.float32),
        "reward": log.reward,
        "terminated": log.terminated,
        "truncated": log.truncated,
    }
    return read(columns, schema_of(columns, num_actions=None))


def continuous_bandit_log(
    rows: int = 400, *, center: float = 0.0, half_width: float = 1.0, best: float = 0.0
) -> Dataset:
    """One-step episodes, one state, 1-number actions spread evenly from -1 to 1 (in units of `half_width` about
    `center`): action a pays best - (a - 0.5)^2."""
    inner = np.linspace(-1, 1, rows)
    columns = {
        "episode": np.arange(rows),
        "observation": np.ones((rows, 1), np.float32),
        "action": (center + half_width * inner[:, None]).astype(np.float32),
        "reward": (best - (inner - 0.5) ** 2).astype(np.float32),
        "terminated": np.ones(rows, bool),
    }
    return read(columns, schema_of(columns, num_actions=None))


def bandit_log(rows: int = 500, *, share: float = 0.7, seed: int = 0) -> Dataset:
    """One-step episodes, one state, 2 actions: action 0, in `share` of them, pays .2, action 1 .8."""
    rng = np.random.default_rng(seed)
    action = (rng.random(rows) >= share).astype(np.int32)
    columns = {
        "episode": np.arange(rows),
        "observation": np.ones((rows, 1), np.float32),
        "action": action,
        "reward": (np.where(action == 1, 0.8, 0.2) + 0.1 * rng.normal(size=rows)).astype(np.float32),
        "terminated": np.ones(rows, bool),
    }
    return read(columns, schema_of(columns, num_actions=2))


def random_mdp(states: int = 4, actions: int = 2, *, seed: int = 0) -> FiniteMDP:
    """Random transitions that reach the one terminal state, the last, from everywhere; random rewards."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), size=(states, actions))
    terminal = np.arange(states) == states - 1
    initial = np.append(rng.dirichlet(np.ones(states - 1)), 0.0)
    return FiniteMDP(transition, rng.normal(size=(states, actions, states)), initial, terminal)


def assert_trees_equal(a: Any, b: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Same structure and leaves; bit for bit unless a tolerance is given."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype
        if rtol or atol:
            np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(x, y)
