"""Hashes of rows by content: equal rows have equal hashes, and different rows hardly ever do (64 bits)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitchrl.types import NumpyArray

__all__ = [
    "contents_without_copies",
    "hash_contents",
    "hash_episodes",
    "hash_moments",
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


def hash_contents(columns: Mapping[str, Any]) -> NumpyArray:
    """(E,) hashes of episodes by their rows in any order: observations before each action, actions and rewards.

    Unlike `hash_episodes` neither the order of the rows counts nor how the episode ends, so that an episode is recognised in a
    log whose rows were reversed or shuffled, or whose ends were marked anew.

    Args:
        columns: field of a Dataset -> its value.
    """
    return _contents(_all_rows(columns), columns["episode_start"])


def contents_without_copies(columns: Mapping[str, Any]) -> NumpyArray:
    """The hashes of `hash_contents`, of which those of copies stand once.

    Equal episodes are copies, as of a log that was exported twice, unless each of their observations stands in another episode as
    well that is not equal to them: where observations are few, whole episodes are equal by coincidence.

    Args:
        columns: field of a Dataset -> its value.
    """
    rows, start = _all_rows(columns), columns["episode_start"]
    contents = _contents(rows, start)
    if not len(contents):
        return contents
    of_row, moments = np.repeat(contents, np.diff(start)), _all_moments(columns)
    order = np.lexsort((of_row, moments))
    moment, content = moments[order], of_row[order]
    first = np.append(True, moment[1:] != moment[:-1])
    other = ~first & np.append(
        False, content[1:] != content[:-1]
    )  # the same observation in an episode that is not equal
    group = np.cumsum(first) - 1
    common = np.zeros(len(moments), bool)
    common[order] = np.bincount(group, other, group[-1] + 1)[group] > 0
    coincident = np.logical_and.reduceat(common, start[:-1])
    return np.concatenate([contents[coincident], np.unique(contents[~coincident])])


def _all_rows(columns: Mapping[str, Any]) -> NumpyArray:
    """(N,) the hashes of all rows."""
    rows = np.zeros(len(columns["reward"]), np.uint64)
    for start in range(0, len(rows), HASHED_ROWS):
        block = slice(start, start + HASHED_ROWS)
        rows[block] = mix(_hash_of_rows(columns, block) + np.uint64(3))
    return rows


def _all_moments(columns: Mapping[str, Any]) -> NumpyArray:
    """(N,) the hashes of the observations of all rows."""
    index, found = columns["observation_index"], np.zeros(len(columns["reward"]), np.uint64)
    for start in range(0, len(found), HASHED_ROWS):
        block = slice(start, start + HASHED_ROWS)
        seen = columns["observation_table"][index[block]]
        found[block] = hash_moments(seen + seen.dtype.type(0))
    return found


def _contents(rows: NumpyArray, episode_start: NumpyArray) -> NumpyArray:
    starts = episode_start[:-1]
    return mix(np.add.reduceat(rows, starts)) if len(starts) else rows


def _hash_of_rows(columns: Mapping[str, Any], block: slice) -> NumpyArray:
    """The hashes of some rows of a Dataset by observation, action and reward."""
    seen = columns["observation_table"][columns["observation_index"][block]]
    # Adding 0 makes -0.0, which some formats write as 0, the same as 0.
    seen, action, reward = (x + x.dtype.type(0) for x in (seen, columns["action"][block], columns["reward"][block]))
    return hash_rows(hash_moments(seen), action, reward)


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
        placed[block] = hash_places(_hash_of_rows(columns, block), position[block])
    starts, last = columns["episode_start"][:-1], columns["episode_start"][1:] - 1
    end = columns["terminated"][last] + np.uint64(2) * columns["truncated"][last]
    return mix(np.add.reduceat(placed, starts) ^ mix(end + np.uint64(1))) if len(starts) else placed
