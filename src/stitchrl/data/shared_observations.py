"""Logs whose observations come again and again, such as numbered states, with each different observation stored once."""

from __future__ import annotations

import dataclasses

import numpy as np

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.row_hashes import HASHED_ROWS, hash_words, words

__all__ = ["SHARED", "with_shared_observations"]

SHARED = 4
"""How many rows an observation must serve on average to be worth looking up."""
SAMPLE = 4096
"""Observations that are looked at first: where most of these differ, so do those of the log. Shorter logs are left alone."""


def with_shared_observations(log: Dataset) -> Dataset:
    """The same log with a table of different observations, bit by bit; the log itself where few observations are equal.

    What follows then takes less memory, and asks networks about an observation once.
    """
    table = log.observation_table
    if table.ndim != 2 or len(table) < SAMPLE or not table.shape[1]:
        return log
    content = words(table)
    some = hash_words(content[:: len(table) // SAMPLE])
    if 2 * len(np.unique(some)) > len(some):
        return log
    _, first, place = np.unique(hash_words(content), return_index=True, return_inverse=True)
    if SHARED * len(first) > len(table):
        return log
    for start in range(0, len(table), HASHED_ROWS):  # that equal hashes are of equal rows
        block = slice(start, start + HASHED_ROWS)
        if not np.array_equal(content[first[place[block]]], content[block]):
            return log
    order = np.argsort(first)  # as they come in the log
    place = np.argsort(order)[place].astype(log.observation_index.dtype)
    following = log.next_observation_index
    return dataclasses.replace(
        log,
        observation_table=table[first[order]],
        observation_index=place[log.observation_index],
        next_observation_index=np.where(following == NO_OBSERVATION, following, place[following]).astype(
            following.dtype
        ),
    )
