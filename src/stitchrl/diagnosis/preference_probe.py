"""What a probe measures on held-out pairs: `loss`, `accuracy` and `margin`, which DPO also measures on those it learns from."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.dpo import DPO
from stitchrl.data.preferences import Preferences
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.pairs import REFERENCE, pair_source
from stitchrl.jax_types import Batch, Metrics
from stitchrl.types import NumpyArray, PyTree

__all__ = ["HELD_OUT", "held_out_pairs", "measure_pairs"]

HELD_OUT = "held_out"
"""Prefix of metrics on rows that are not learned from."""
NAMES = {"loss": "loss/actor", "accuracy": "preference/accuracy", "margin": "preference/margin"}
"""Metric of held-out pairs -> the metric of DPO that it is."""


def held_out_pairs(pairs: Preferences, scaling: Scaling, most: int) -> dict[str, NumpyArray]:
    """Up to `most` pairs as one batch: the first ones, or, where pairs have weights, pairs drawn by their weights."""
    chosen = np.arange(min(most, pairs.num_pairs))
    if pairs.weight is not None:
        chosen = np.random.default_rng(0).choice(pairs.num_pairs, most, p=pairs.weight / pairs.weight.sum())
    source = pair_source(pairs, scaling)
    batch = source.sample(source.arrays, jnp.asarray(chosen, jnp.int32), jnp.int32(0))
    return {name: np.asarray(field) for name, field in batch.items()}


def measure_pairs(algorithm: Algorithm, state: PyTree, given: PyTree, batch: Batch) -> Metrics:
    """The metrics of `NAMES`. Raises ConfigurationError where the algorithm does not learn from preferences."""
    if not isinstance(algorithm, DPO):
        raise ConfigurationError(
            f"A probe with preferences measures runs of DPO; {algorithm.name} learns from a log. Give it a log to hold out."
        )
    if algorithm.reference == "logged" and REFERENCE not in batch:
        raise ConfigurationError(
            'Pairs held out for a probe of DPO(reference="logged") must have `behavior_log_prob`; these do not. Split them off '
            "the pairs that are learned from, or write it with `preferences.with_reference(policy)`."
        )
    _, found = algorithm.measured(algorithm.policy(state, given), batch, given)
    return {f"{HELD_OUT}/{name}": found[metric] for name, metric in NAMES.items()}
