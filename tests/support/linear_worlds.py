"""A linear system whose values are known exactly, with features in which Q is linear."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.policy_actions import drawn_actions, following_actions
from stitchrl.mdp.linear_gaussian import LinearGaussian
from stitchrl.nn.linear_policy import LinearPolicy

GAMMA = 0.95
WORLD = LinearGaussian(
    np.array([[0.95, 0.1], [-0.1, 0.9]]),
    np.array([[0.1, 0.0], [0.05, 0.1]]),
    np.eye(2),
    0.1 * np.eye(2),
)
BEHAVIOR = np.array([[-0.5, 0.0], [0.0, -0.5]])
STD = np.array([0.5, 0.5])
BETTER = np.array([[-1.0, -0.2], [-0.1, -0.8]])


def value(gain: np.ndarray, std: np.ndarray) -> float:
    """Exact, at the discount of these worlds."""
    return WORLD.value(gain, std, gamma=GAMMA)


def policy(gain: np.ndarray, std: np.ndarray) -> LinearPolicy:
    """As the product takes it."""
    return LinearPolicy(jnp.asarray(gain, jnp.float32), jnp.asarray(std, jnp.float32))


def log(episodes: int, steps: int, seed: int) -> Dataset:
    """Episodes of the behaviour, all cut."""
    return st.read(WORLD.log(BEHAVIOR, STD, episodes=episodes, steps=steps, seed=seed))


def quadratic(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """All products of two of (1, s, a), along the last axis: Q is linear in them."""
    joined = np.concatenate([np.ones((*obs.shape[:-1], 1)), obs, action], axis=-1).astype(np.float64)
    row, column = np.triu_indices(joined.shape[-1])
    return joined[..., row] * joined[..., column]


def fitted(log: Dataset, acting: LinearPolicy) -> dict[str, np.ndarray]:
    """What `FittedQ.on` gives, of a network that claims 0 everywhere and whose features are the quadratic ones."""
    draws = drawn_actions(acting, log.observation, 2, seed=0)
    following = following_actions(acting, log, draws, seed=0)

    def averaged(obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return quadratic(np.broadcast_to(obs[:, None, :], (*actions.shape[:2], obs.shape[1])), actions).mean(1)

    half = (draws.shape[1] + 1) // 2
    other = half if half < draws.shape[1] else 0
    zero = np.zeros(log.num_transitions)
    return {
        "q": zero,
        "v": zero,
        "next_v": zero,
        "phi": quadratic(log.observation, log.action),
        "instrument": averaged(log.observation, draws[:, :half]),
        "psi": averaged(log.observation, draws[:, other:]),
        "next_psi": averaged(log.next_observation, following[:, other:]),
    }
