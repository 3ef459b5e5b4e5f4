"""Hashes of rows by content: equal rows have equal hashes, and different rows hardly ever do (64 bits)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitchrl.types import NumpyArray

__all__ = [
    "hash_choices",
    "hash_episodes",
    "hash_moments",
    "hash_nested",
    "hash_places",
    "hash_rows",
    "hash_words",
    "mix",
    "words",
]

HASHED_PIXELS = 64
"""The hash of an image covers about this many of its numbers, evenly spaced."""
HASHED_ROWS = 2**16
"""Rows hashed at a time, so that a log larger than memory can be hashed."""


def words(values: NumpyArray) -> NumpyArray:
    """The content of each row as unsigned integers, (rows, words)."""
    values = np.ascontiguousarray(values)
    values = values.astype(np.float32) if values.dtype.kind == "b" else values
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize]
    return values.view(word).reshape(len(values), math.prod(values.shape[1:]))  # of no rows too


def hash_words(content: NumpyArray) -> NumpyArray:
    """(rows,) uint64 hashes: a random linear function of the words, mixed."""
    odd = np.random.default_rng(3).integers(0, 2**63, content.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    total = np.zeros(len(content), np.uint64)
    for j in range(content.shape[1]):
        total += (content[:, j].astype(np.uint64) + np.uint64(1)) * odd[j]
    return mix(total)


def mix(value: NumpyArray) -> NumpyArray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit changes about half of the output bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash_moments(observation: NumpyArray) -> NumpyArray:
    """(rows,) hashes of observations: of all numbers of a vector, and of some pixels of an image."""
    bits = words(observation)
    return hash_words(bits if observation.ndim == 2 else bits[:, :: max(1, bits.shape[1] // HASHED_PIXELS)])


def hash_rows(moment: NumpyArray, action: NumpyArray, reward: NumpyArray) -> NumpyArray:
    """(rows,) hashes of rows, from the hash of each one's observation, its action and its reward."""
    return mix(moment ^ mix(hash_words(words(action)) + np.uint64(7)) ^ mix(hash_words(words(reward))))


def hash_places(row: NumpyArray, position: NumpyArray) -> NumpyArray:
    """(rows,) hashes of rows at their positions in their episodes. Their sum over an episode is a hash of it."""
    return mix(row ^ mix(position.astype(np.uint64) + np.uint64(1)))


def hash_nested(columns: Mapping[str, Any]) -> NumpyArray:
    """(E, 3) hashes of episodes by their rows in any order: by observations; by these and actions; by these and rewards.

    Unlike in `hash_episodes` neither the order of the rows counts nor how the episode ends, so that an episode is recognised in a
    log whose rows were reversed or shuffled, or whose ends were marked differently. The hashes without rewards recognise it also
    where rewards were changed.

    Args:
        columns: field of a Dataset -> its value.
    """
    starts, salts = columns["episode_start"][:-1], np.array([11, 5, 3], np.uint64)
    total = np.zeros((len(starts), 3), np.uint64)
    for start in range(0, len(columns["reward"]), HASHED_ROWS):
        rows = mix(np.stack(_hashes_of_rows(columns, slice(start, start + HASHED_ROWS)), 1) + salts)
        first, last = np.searchsorted(starts, start, "right") - 1, np.searchsorted(starts, start + len(rows))
        total[first:last] += np.add.reduceat(rows, np.maximum(starts[first:last] - start, 0))
    return mix(total)


def hash_choices(columns: Mapping[str, Any]) -> tuple[NumpyArray, NumpyArray]:
    """Two times (N,) hashes of rows: by observation, and by observation and action.

    Args:
        columns: field of a Dataset -> its value.
    """
    found = np.zeros((2, len(columns["reward"])), np.uint64)
    for start in range(0, found.shape[1], HASHED_ROWS):
        block = slice(start, start + HASHED_ROWS)
        found[:, block] = _hashes_of_rows(columns, block)[:2]
    return found[0], found[1]


def _hashes_of_rows(columns: Mapping[str, Any], block: slice) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """The hashes of some rows of a Dataset: by observation; by observation and action; by observation, action and reward."""
    seen = columns["observation_table"][columns["observation_index"][block]]
    # Adding 0 makes -0.0, which some formats write as 0, the same as 0.
    seen, action, reward = (x + x.dtype.type(0) for x in (seen, columns["action"][block], columns["reward"][block]))
    observation = hash_moments(seen)
    chosen = mix(observation ^ mix(hash_words(words(action)) + np.uint64(7)))
    return observation, chosen, hash_rows(observation, action, reward)


def hash_episodes(columns: Mapping[str, Any], position: NumpyArray) -> NumpyArray:
    """(E,) hashes of episodes by their observations before each action, actions, rewards, and how they end.

    Neither identifiers nor optional columns count, nor what other episodes there are and in which order, nor where in
    the table an observation stands: an episode read from another file, or selected from a log, has the same hash. The
    observation after the last action does not count either, since some formats do not keep it.

    Args:
        columns: field of a Dataset -> its value.
        position: (N,) position of each row in its episode, from 0.
    """
    placed = np.zeros(len(position), np.uint64)
    for start in range(0, len(position), HASHED_ROWS):
        block = slice(start, start + HASHED_ROWS)
        placed[block] = hash_places(_hashes_of_rows(columns, block)[2], position[block])
    starts, last = columns["episode_start"][:-1], columns["episode_start"][1:] - 1
    end = columns["terminated"][last] + np.uint64(2) * columns["truncated"][last]
    return mix(np.add.reduceat(placed, starts) ^ mix(end + np.uint64(1))) if len(starts) else placed
