"""A log of one state in which two kinds of action were taken equally often, far from each other."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from worlds import schema_of

import stitchrl as st

STATE = jnp.ones((1000, 1), jnp.float32)
"""The state, many times."""
SCALED = jnp.zeros((1000, 1), jnp.float32)
"""The same as the networks inside an algorithm see it, less its mean."""


@cache
def two_modes() -> st.Dataset:
    """One state; actions within 0.15 of -0.7 or of 0.7, as often; 0.7 pays 1 and pays most, -0.7 pays 0.5."""
    rng = np.random.default_rng(0)
    action = rng.choice([-0.7, 0.7], 400) + rng.uniform(-0.15, 0.15, 400)
    reward = np.where(action > 0, 1.0 - np.abs(action - 0.7), 0.5 + 0.3 * (action + 0.7))
    columns = {
        "episode": np.arange(400),
        "observation": np.ones((400, 1), np.float32),
        "action": action[:, None].astype(np.float32),
        "reward": reward.astype(np.float32),
        "terminated": np.ones(400, bool),
    }
    schema = dataclasses.replace(schema_of(columns, num_actions=None), action_low=(-1.0,), action_high=(1.0,))
    return st.read(columns, schema)


def near(action: Any, mode: float) -> float:
    """The share of actions within 0.25 of a mode."""
    return float(np.mean(np.abs(np.asarray(action) - mode) < 0.25))
