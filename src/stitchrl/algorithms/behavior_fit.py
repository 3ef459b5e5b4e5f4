"""Fits the model of the logging policy that an algorithm needs before it learns: behaviour cloning in `Algorithm.prepare`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.behavior import BC, BCState
from stitchrl.algorithms.heads import Actor
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.batches import sample_transitions
from stitchrl.feeds.feed import transition_source
from stitchrl.jax_types import Array, Key
from stitchrl.nn.networks import Network
from stitchrl.types import PyTree

__all__ = ["fitted_behavior"]

BATCH_SIZE = 256


def fitted_behavior(log: Dataset, scaling: Scaling, network: Network, updates: int, *, key: Key) -> Actor:
    """The policy that behaviour cloning fits to a log, in scaled units, by one compiled loop over rows in memory.

    Args:
        log: the training part.
        scaling: of the batches that the algorithm itself learns from.
        network: its shape.
        updates: steps of Adam, on `BATCH_SIZE` rows each, drawn with replacement.
        key: for the first weights and for drawing rows.
    """
    cloning, source = BC(network=network), transition_source(log, scaling)
    init_key, loop_key = jax.random.split(key)
    state = cloning.init(init_key, Spec.of(log), None)
    trained = _trained(cloning, updates, state, source.arrays, jnp.int32(source.count), loop_key)
    return trained.actor.model


@partial(jax.jit, static_argnums=(0, 1))
def _trained(cloning: BC, updates: int, state: BCState, arrays: PyTree, count: Array, key: Key) -> BCState:
    def one(state: BCState, number: Array) -> tuple[BCState, None]:
        rows_key, update_key = jax.random.split(jax.random.fold_in(key, number))
        rows = jax.random.randint(rows_key, (BATCH_SIZE,), 0, count)
        batch, step = sample_transitions(arrays, rows, jnp.int32(0)), Step(number, jnp.int32(updates))
        return cloning.update(state, batch, None, update_key, step)[0], None

    return jax.lax.scan(one, state, jnp.arange(updates, dtype=jnp.int32))[0]
