"""The overestimation world over continuous actions: one state without end, and what algorithms with critics learn in it.

Every action pays 0 and stays, and the log holds the action (0, 0) alone. A critic without hidden layers is
Q(a) = bias + weight . a, and no row of the log ever moves the weight: eps = |weight_1| + |weight_2| is the most by which it
extrapolates above the logged action, at a corner of the box. A target that asks for that corner makes the bias
gamma (bias + eps), and the corner's Q eps / (1 - gamma).
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
from algorithm_cases import ALL, fitted

import stitchrl as st

__all__ = ["share_of_growth"]

UPDATES, ROWS = 1000, 1536


@cache
def _log() -> st.Dataset:
    columns = {
        "episode": np.zeros(ROWS, np.int64),
        "observation": np.ones((ROWS, 1), np.float32),
        "action": np.zeros((ROWS, 2), np.float32),
        "reward": np.zeros(ROWS, np.float32),
        "terminated": np.zeros(ROWS, bool),
        "truncated": np.arange(ROWS) == ROWS - 1,
    }
    return st.read(
        columns, st.Schema({name: name for name in columns}, action_low=(-1.0, -1.0), action_high=(1.0, 1.0))
    )


@cache
def share_of_growth(name: str, gamma: float, seed: int) -> float:
    """The claimed value of what the policy does, which is worth 0, in units of eps / (1 - gamma)."""
    algorithm = ALL[name]
    wanted = {
        "learning_rate": 0.1,
        "actor_learning_rate": 0.1,
        "target_rate": 1.0,
        "decay_updates": UPDATES,
        "gamma": gamma,
    }
    settings = {key: value for key, value in wanted.items() if hasattr(algorithm, key)}
    run = fitted(
        dataclasses.replace(algorithm, hidden_sizes=(), **settings),
        _log(),
        seeds=[seed],
        updates=UPDATES,
        log_every_updates=UPDATES,
        standardize=False,
    )
    value, obs = run.values[0], np.ones((3, 1), np.float32)
    q = np.asarray(value.q(obs, np.array([[0, 0], [1, 0], [0, 1]], np.float32)), float)
    return float(np.asarray(value.v(obs))[0]) * (1 - gamma) / np.abs(q[1:] - q[0]).sum()
