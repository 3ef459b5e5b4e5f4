"""Hashes of rows by content: equal rows have equal hashes, and different rows hardly ever do (64 bits)."""

from __future__ import annotations

import numpy as np

from stitchrl.types import NumpyArray

__all__ = ["hash_words", "hashed_words", "mix", "words"]

HASHED_PIXELS = 64
"""The hash of an image covers about this many of its numbers, evenly spaced."""


def words(values: NumpyArray) -> NumpyArray:
    """The content of each row as unsigned integers, (rows, words)."""
    values = np.ascontiguousarray(values)
    values = values.astype(np.float32) if values.dtype.kind == "b" else values
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize]
    return values.view(word).reshape(len(values), -1)


def hashed_words(observation: NumpyArray) -> NumpyArray:
    """The words of each observation that its hash covers: all of a row of numbers, some pixels of an image."""
    bits = words(observation)
    return bits if observation.ndim == 2 else bits[:, :: max(1, bits.shape[1] // HASHED_PIXELS)]


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
