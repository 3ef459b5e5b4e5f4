"""Which episodes go into which part: at random, by group, by time, alike in return. Plain arrays in, positions out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from stitchrl.errors import ConfigurationError, DataError
from stitchrl.types import NumpyArray

__all__ = ["by_group", "by_time", "by_value", "shares_of"]

Parts = tuple[Int[NumpyArray, " _"], ...]


def shares_of(fractions: Sequence[float]) -> Float[NumpyArray, " parts"]:
    """The fractions as an array. Raises ConfigurationError where they are not positive or do not sum to 1."""
    shares = np.asarray(fractions, float)
    if shares.ndim != 1 or not len(shares) or not (shares > 0).all() or not np.isclose(shares.sum(), 1.0):
        raise ConfigurationError(f"Split fractions must be positive and sum to 1; got {list(fractions)}.")
    return shares


def by_group(group: Int[NumpyArray, " E"], fractions: Sequence[float], rng: np.random.Generator) -> Parts:
    """Whole groups (numbered from 0) drawn at random, cut where the episodes reach the fractions.

    With one episode a group this is a random split by episode.
    """
    sizes = np.bincount(group)
    order = rng.permutation(len(sizes))
    # A group goes where its middle lies: with large groups the shares are met as nearly as they can be.
    middle = np.cumsum(sizes[order]) - sizes[order] / 2
    limits = np.round(np.cumsum(shares_of(fractions))[:-1] * len(group))
    part = np.empty(len(sizes), np.int64)
    part[order] = np.searchsorted(limits, middle, side="right")
    return _checked([np.flatnonzero(part[group] == k) for k in range(len(fractions))], fractions, len(group))


def by_time(
    start: Shaped[NumpyArray, " E"],
    group: Int[NumpyArray, " E"],
    fractions: Sequence[float],
) -> Parts:
    """The earliest episodes first. Later episodes of a group that an earlier part holds are left out of all parts."""
    order = np.argsort(start, kind="stable")
    cuts = np.round(np.cumsum(shares_of(fractions))[:-1] * len(start)).astype(int)
    part = np.empty(len(start), np.int64)
    for k, episodes in enumerate(np.split(order, cuts)):
        part[episodes] = k
    first = np.full(int(group.max(initial=-1)) + 1, len(fractions))
    np.minimum.at(first, group, part)
    kept = part == first[group]
    return _checked([np.flatnonzero(kept & (part == k)) for k in range(len(fractions))], fractions, len(start))


def by_value(
    value: Float[NumpyArray, " E"], fractions: Sequence[float], rng: np.random.Generator, *, buckets: int = 10
) -> Parts:
    """Random within buckets of like value, so that every part has low and high ones in the same shares."""
    shares = shares_of(fractions)
    # Sorted, ties in random order, and dealt out: the first of every bucket's permutation to the first part, ...
    order = np.lexsort((rng.random(len(value)), value))
    parts: list[list[NumpyArray]] = [[] for _ in shares]
    owed = np.zeros(len(shares))
    for bucket in np.array_split(order, min(buckets, len(order))):
        exact = owed + shares * len(bucket)
        cuts = np.round(np.cumsum(exact)).astype(int)
        cuts[-1] = len(bucket)
        for k, episodes in enumerate(np.split(rng.permutation(bucket), np.clip(cuts[:-1], 0, len(bucket)))):
            parts[k].append(episodes)
            owed[k] = exact[k] - len(episodes)
    return _checked([np.sort(np.concatenate(part)) for part in parts], fractions, len(value))


def _checked(parts: list[NumpyArray], fractions: Sequence[float], count: int) -> Parts:
    if any(len(part) == 0 for part in parts):
        raise DataError(
            f"A log of {count} episodes cannot be split as {list(fractions)}: a part would be empty. Bring more "
            "episodes or ask for fewer parts."
        )
    return tuple(parts)
