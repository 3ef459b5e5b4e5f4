"""The feed of preferences: batches of pairs of segments, the preferred ones on one side and the rejected ones on the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from stitchrl.data.preferences import Preferences
from stitchrl.data.sampling import alias_table
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.batches import Sequences
from stitchrl.feeds.feed import Source, StreamSource, sequence_source, shuffled_rows
from stitchrl.feeds.shuffling import ShuffledRows
from stitchrl.jax_types import Array, Batch
from stitchrl.types import NumpyArray, PyTree

__all__ = ["REFERENCE", "Pairs", "pair_source", "shuffled_pairs"]

SIDES = ("preferred", "rejected")
REFERENCE = "reference_log_prob"
"""Field of a batch: what the logged log-probability of each action is in the units of the batch."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Batches of B pairs. Every field of `Sequences` has the two sides before its axes: obs (2, B, K, D), valid (2, B, K).

    Side 0 is the preferred segment, side 1 the rejected one; K is the length of the longest segment, and `valid` is 0 beyond the
    end of a shorter one. Where the segments have `behavior_log_prob`, `reference_log_prob` (2, B, K) is the same in the units of
    the batch.
    """

    length: int

    def __call__(self, arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
        first = jnp.concatenate([arrays["preferred"][index], arrays["rejected"][index]])
        both = Sequences(self.length)(arrays, first, member)
        return {name: field.reshape(2, len(index), *field.shape[1:]) for name, field in both.items()}


def pair_source(preferences: Preferences, scaling: Scaling, columns: Mapping[str, NumpyArray] | None = None) -> Source:
    """Pairs in device memory, drawn with replacement: by their weights where they have any.

    Args:
        preferences: the training part.
        scaling: applied to observations and actions.
        columns: further columns, one entry a decision, that become fields of the batch.

    Raises:
        DataError: more rows than device memory can number.
    """
    log, length = preferences.segments, preferences.longest
    said = {} if log.behavior_log_prob is None else {REFERENCE: _in_units_of(scaling, log.behavior_log_prob)}
    held = sequence_source(log, scaling, length, columns={**said, **(columns or {})})
    first = {name: jnp.asarray(log.episode_start[getattr(preferences, name)], jnp.int32) for name in SIDES}
    alias = None if preferences.weight is None else alias_table(preferences.weight)
    return Source(
        held.arrays | first,
        preferences.num_pairs,
        Pairs(length),
        None if alias is None else (jnp.asarray(alias[0]), jnp.asarray(alias[1])),
    )


def shuffled_pairs(
    preferences: Preferences, scaling: Scaling, columns: Mapping[str, NumpyArray] | None = None
) -> StreamSource:
    """The same pairs, each visited once a pass, or in proportion to its weight, in an order that all seeds share."""
    order = ShuffledRows(preferences.num_pairs, weights=preferences.weight)
    return shuffled_rows(pair_source(preferences, scaling, columns), order)


def _in_units_of(scaling: Scaling, log_prob: NumpyArray) -> NumpyArray:
    """Log-densities of actions in logged units as those of scaled actions; log-probabilities of discrete ones as they are."""
    if scaling.action_half_width is None:
        return log_prob.astype(np.float32)
    return (log_prob + np.log(scaling.action_half_width).sum()).astype(np.float32)
