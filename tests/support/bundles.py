"""Bundles over discrete and over continuous actions, and a log with categories and gaps, for tests of policies in use."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

import stitchrl as st
from stitchrl.deployment.bundle import Bundle
from stitchrl.deployment.guard import Guard
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.units import RescaledPolicy, StandardizedPolicy

COLUMNS: dict[str, Any] = {
    "stay": np.repeat(np.arange(6), 2),
    "pulse": np.linspace(60, 82, 12),
    "ward": np.tile(["a", "b", "c"], 4),
    "lactate": pa.array([1.0, None, 2.0, 3.0, None, 1.5, 2.5, 2.0, None, 1.0, 3.0, 2.0]),
    "given": np.tile(["wait", "pills", "drip"], 4),
    "reward": np.ones(12),
    "end": np.tile([False, True], 6),
}
SCHEMA = st.Schema.from_dict(
    {
        "columns": {
            "episode": "stay",
            "observation": ["pulse", "ward", "lactate"],
            "action": "given",
            "reward": "reward",
            "terminated": "end",
        },
        "observation": {
            "ward": {"categories": ["a", "b", "c"]},
            "lactate": {"missing": "value", "fill": 1.25, "indicator": True},
        },
        "action": {"categories": ["wait", "pills", "drip"]},
        "task": {"gamma": 1.0},
    }
)
LOG = st.read(pa.table(COLUMNS), SCHEMA)
ROW: dict[str, Any] = {"pulse": 70.0, "ward": "b", "lactate": None, "name": "nobody"}
NUMBERS = np.array([70, 0, 1, 0, 1.25, 1], np.float32)


def network(outputs: int, seed: int = 0) -> MLP:
    return MLP.create(6, Network((8,)), outputs, key=jax.random.key(seed))


def discrete() -> Bundle:
    policy = StandardizedPolicy(jnp.full(6, 30.0), jnp.full(6, 20.0), CategoricalPolicy(network(3)))
    behavior = StandardizedPolicy(jnp.full(6, 30.0), jnp.full(6, 20.0), CategoricalPolicy(network(3, seed=1)))
    return Bundle(policy, LOG.schema, Guard.fit(LOG), {}, None, behavior)


def continuous() -> Bundle:
    columns = dict(SCHEMA.columns) | {"action": ("x", "y")}
    schema = dataclasses.replace(LOG.schema, columns=columns, action_categories=None, num_actions=None)
    inner = GaussianPolicy(network(2), jnp.zeros(2))
    policy = RescaledPolicy(jnp.full(6, 30.0), jnp.full(6, 20.0), jnp.ones(2), jnp.ones(2), inner)
    return Bundle(policy, schema, Guard.fit(LOG), {})
