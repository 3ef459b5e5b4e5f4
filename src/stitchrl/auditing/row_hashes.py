"""Hashes of rows, by content: equal rows have equal hashes, others hardly ever (64 bits)."""

from __future__ import annotations

import numpy as np

from stitchrl.types import NumpyArray

__all__ = ["hash_words", "mix", "watched", "words"]

WATCHED_PIXELS = 64
"""Of an image, so many of its numbers go into its hash."""


def words(values: NumpyArray) -> NumpyArray:
    """(rows, words) unsigned words with the content of the rows."""
    values = np.ascontiguousarray(values)
    values = values.astype(np.float32) if values.dtype.kind == "b" else values
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize]
    return values.view(word).reshape(len(values), -1)


def watched(seen: NumpyArray) -> NumpyArray:
    bits = words(seen)
    return bits if seen.ndim == 2 else bits[:, :: max(1, bits.shape[1] // WATCHED_PIXELS)]


def hash_words(content: NumpyArray) -> NumpyArray:
    """(rows,) uint64: a random linear function of the words, stirred."""
    odd = np.random.default_rng(3).integers(0, 2**63, content.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    total = np.zeros(len(content), np.uint64)
    for j in range(content.shape[1]):
        total += (content[:, j].astype(np.uint64) + np.uint64(1)) * odd[j]
    return mix(total)


def mix(value: NumpyArray) -> NumpyArray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
