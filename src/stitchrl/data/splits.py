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

    Groups larger than the smallest part come first, from large to small (at random within a factor of two), each to
    the part that lacks most. With one episode a group this is a random split by episode.
    """
    shares, sizes = shares_of(fractions), np.bincount(group)
    order = rng.permutation(len(sizes))
    part = np.empty(len(sizes), np.int64)
    alone = len(sizes) == len(group)
    is_large = np.zeros(len(order), bool) if alone else sizes[order] > shares.min() * len(group) * (1 + 1e-9)
    if is_large.any():
        lacking, turn = shares * len(group), rng.permutation(len(shares))
        large = order[is_large]
        for one in large[np.argsort(-np.floor(np.log2(sizes[large])), kind="stable")]:
            part[one] = turn[np.argmax(lacking[turn])]
            lacking[part[one]] -= sizes[one]
        lacking = np.maximum(lacking, 0)
        shares = lacking / max(lacking.sum(), 1e-300)
    small = order[~is_large]
    # A group goes where its middle lies.
    middle = np.cumsum(sizes[small]) - sizes[small] / 2
    limits = np.round(np.cumsum(shares)[:-1] * sizes[small].sum())
    part[small] = np.searchsorted(limits, middle, side="right")
    if not alone:
        _fill(part, sizes, shares_of(fractions) * len(group))
    return _checked([np.flatnonzero(part[group] == k) for k in range(len(fractions))], fractions, len(group))


def by_time(
    start: Shaped[NumpyArray, " E"],
    end: Shaped[NumpyArray, " E"],
    group: Int[NumpyArray, " E"],
    fractions: Sequence[float],
) -> Parts:
    """The earliest episodes first, by their start.

    Left out of all parts are episodes that have not ended before the first one of the next part starts, and later
    episodes of a group that an earlier part holds.
    """
    order = np.argsort(start, kind="stable")
    cuts = np.round(np.cumsum(shares_of(fractions))[:-1] * len(start)).astype(int)
    part = np.empty(len(start), np.int64)
    kept = np.ones(len(start), bool)
    for k, episodes in enumerate(np.split(order, cuts)):
        part[episodes] = k
        if k < len(cuts) and cuts[k] < len(order):
            kept[episodes] = end[episodes] < start[order[cuts[k]]]
    first = np.full(int(group.max(initial=-1)) + 1, len(fractions))
    np.minimum.at(first, group[kept], part[kept])
    kept &= part == first[group]
    return _checked([np.flatnonzero(kept & (part == k)) for k in range(len(fractions))], fractions, len(start))


def by_value(
    value: Float[NumpyArray, " E"],
    group: Int[NumpyArray, " E"],
    fractions: Sequence[float],
    rng: np.random.Generator,
    *,
    buckets: int = 10,
) -> Parts:
    """Random within buckets of like value, so that every part has low and high ones in the same shares.

    Whole groups (numbered from 0) are dealt out, by the mean of their values.
    """
    shares, sizes = shares_of(fractions), np.bincount(group)
    alone = len(sizes) == len(group)
    value = np.bincount(group, weights=value) / sizes
    if not alone:
        buckets = min(buckets, max(1, len(sizes) // len(shares)))
    # Sorted, ties in random order, and dealt out: the first of every bucket's permutation to the first part, ...
    order = np.lexsort((rng.random(len(value)), value))
    part = np.empty(len(sizes), np.int64)
    owed = np.zeros(len(shares))
    for bucket in np.array_split(order, min(buckets, len(order))):
        exact = owed + shares * sizes[bucket].sum()
        cuts = np.maximum.accumulate(np.round(np.cumsum(exact)))
        bucket = rng.permutation(bucket)
        # A group goes where its middle lies.
        middle = np.cumsum(sizes[bucket]) - sizes[bucket] / 2
        part[bucket] = np.searchsorted(cuts[:-1], middle, side="right")
        owed = exact - np.bincount(part[bucket], weights=sizes[bucket], minlength=len(shares))
    if not alone:
        _fill(part, sizes, shares * len(group))
    return _checked([np.flatnonzero(part[group] == k) for k in range(len(shares))], fractions, len(group))


def _fill(part: Int[NumpyArray, " G"], sizes: Int[NumpyArray, " G"], targets: Float[NumpyArray, " parts"]) -> None:
    """Give each part without a group the smallest one of the part that has most above its target, while others last."""
    for k in range(len(targets)):
        counts = np.bincount(part, minlength=len(targets))
        if counts[k] or counts.max(initial=0) < 2:
            continue
        over = np.bincount(part, weights=sizes, minlength=len(targets)) - targets
        donors = np.flatnonzero(part == np.argmax(np.where(counts > 1, over, -np.inf)))
        part[donors[np.argmin(sizes[donors])]] = k


def _checked(parts: list[NumpyArray], fractions: Sequence[float], count: int) -> Parts:
    if any(len(part) == 0 for part in parts):
        raise DataError(
            f"A log of {count} episodes cannot be split as {list(fractions)}: a part would be empty. Bring more "
            "episodes or ask for fewer parts."
        )
    return tuple(parts)
