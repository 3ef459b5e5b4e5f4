"""Which episodes go into which part of a split. Takes plain arrays and gives positions of episodes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from stitchrl.errors import ConfigurationError, DataError, StitchRLWarning
from stitchrl.types import Float, Int, NumpyArray, Shaped

__all__ = ["by_group", "by_time", "by_value", "shares_of", "split_episodes"]

Parts = tuple[Int[NumpyArray, " _"], ...]
WAYS = ("episode", "group", "time", "return")
"""What `by` of a split may be."""


def split_episodes(
    fractions: Sequence[float],
    *,
    seed: int,
    by: str | None,
    episode_start: Int[NumpyArray, " E_plus_1"],
    group: Shaped[NumpyArray, " E"] | None,
    time: Shaped[NumpyArray, " N"] | None,
    episode_returns: Callable[[], Float[NumpyArray, " E"]],
) -> Parts:
    """The ascending episode positions of each part, as `Dataset.split` describes.

    Args:
        fractions: share of the episodes that each part should get.
        seed: of the random draw.
        by: one of `WAYS`; None is "group" where there are groups, else "episode".
        episode_start: first row of each episode, then the number of rows.
        group: what each episode belongs to, where the log says so.
        time: of each row, where the log says so.
        episode_returns: gives the sum of rewards of each episode; called for "return" only.

    Raises:
        ConfigurationError: fractions not positive or not summing to 1, an unknown `by`, a negative seed.
        DataError: a part would be empty, or the log lacks what `by` needs.
    """
    if seed < 0:
        raise ConfigurationError(f"`seed` must be at least 0; got {seed}.")
    rng, each = np.random.default_rng(seed), np.arange(len(episode_start) - 1)
    by = by or ("episode" if group is None else "group")
    if by == "group" and group is None:
        raise DataError("A split by group needs a column with the role `group`; this log has none.")
    number = each if group is None else np.unique(group, return_inverse=True)[1].reshape(-1)
    groups = int(number.max(initial=-1)) + 1
    if by == "episode":
        if groups < len(each):
            warnings.warn(
                f"A split by episode puts episodes of one group into several parts; this log has {groups:,} groups "
                f'of {len(each):,} episodes. Use by="group" unless that is wanted.',
                StitchRLWarning,
                stacklevel=3,
            )
        return by_group(each, fractions, rng)
    if by == "group":
        return by_group(number, fractions, rng)
    if by == "return":
        return by_value(episode_returns(), each if groups == len(each) else number, fractions, rng)
    if by == "time":
        if time is None:
            raise DataError("A split by time needs a column with the role `time`; this log has none.")
        start = episode_start[:-1]
        return by_time(time[start], np.maximum.reduceat(time, start), number, fractions)
    raise ConfigurationError(f"`by` of a split must be one of {', '.join(WAYS)}; got {by!r}.")


def shares_of(fractions: Sequence[float]) -> Float[NumpyArray, " parts"]:
    """The fractions as an array.

    Raises:
        ConfigurationError: they are not positive or do not sum to 1.
    """
    shares = np.asarray(fractions, float)
    if shares.ndim != 1 or not len(shares) or not (shares > 0).all() or not np.isclose(shares.sum(), 1.0):
        raise ConfigurationError(f"Split fractions must be positive and sum to 1; got {list(fractions)}.")
    return shares


def by_group(group: Int[NumpyArray, " E"], fractions: Sequence[float], rng: np.random.Generator) -> Parts:
    """Split at random, keeping every group whole. With one episode in each group it is a random split by episode.

    Groups larger than the smallest part are placed first, from large to small (in random order where sizes are within a
    factor of two), each into the part that lacks most episodes. The rest are shuffled and cut into consecutive runs
    where the count of episodes reaches the fractions.

    Args:
        group: the group of each episode, numbered from 0.
        fractions: share of the episodes that each part should get.
        rng: source of randomness.
    """
    shares, sizes = shares_of(fractions), np.bincount(group)
    order = rng.permutation(len(sizes))
    part = np.empty(len(sizes), np.int64)
    alone = len(sizes) == len(group)
    is_large = np.zeros(len(order), bool) if alone else sizes[order] > shares.min() * len(group) * (1 + 1e-9)
    if is_large.any():
        lacking, turn = shares * len(group), rng.permutation(len(shares))
        large = order[is_large]
        for number in large[np.argsort(-np.floor(np.log2(sizes[large])), kind="stable")]:
            part[number] = turn[np.argmax(lacking[turn])]
            lacking[part[number]] -= sizes[number]
        lacking = np.maximum(lacking, 0)
        shares = lacking / max(lacking.sum(), 1e-300)
    small = order[~is_large]
    # A group belongs to the part in which its middle episode lies.
    middle = np.cumsum(sizes[small]) - sizes[small] / 2
    limits = np.round(np.cumsum(shares)[:-1] * sizes[small].sum())
    part[small] = np.searchsorted(limits, middle, side="right")
    if not alone:
        _fill_empty_parts(part, sizes, shares_of(fractions) * len(group))
    return _checked([np.flatnonzero(part[group] == k) for k in range(len(fractions))], fractions, len(group))


def by_time(
    start: Shaped[NumpyArray, " E"],
    end: Shaped[NumpyArray, " E"],
    group: Int[NumpyArray, " E"],
    fractions: Sequence[float],
) -> Parts:
    """Split by the time at which episodes start: the earliest go into the first part, the latest into the last.

    An episode is left out of every part where it still runs when the first episode of the next part starts, or where
    it belongs to a group of which an earlier part holds an episode.
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
    """Split so that every part gets low and high values in the same shares, keeping every group whole.

    Groups are sorted by the mean value of their episodes and divided into buckets of similar value; the groups of each
    bucket are then spread over the parts at random.

    Args:
        value: what the split is balanced on, such as the return of each episode.
        group: the group of each episode, numbered from 0.
        fractions: share of the episodes that each part should get.
        rng: source of randomness.
        buckets: the largest number of buckets.
    """
    shares, sizes = shares_of(fractions), np.bincount(group)
    alone = len(sizes) == len(group)
    value = np.bincount(group, weights=value) / sizes
    if not alone:
        buckets = min(buckets, max(1, len(sizes) // len(shares)))
    # Ties are put in random order. What rounding gives a part too much in one bucket, it gets less in the next.
    order = np.lexsort((rng.random(len(value)), value))
    part = np.empty(len(sizes), np.int64)
    owed = np.zeros(len(shares))
    for bucket in np.array_split(order, min(buckets, len(order))):
        exact = owed + shares * sizes[bucket].sum()
        cuts = np.maximum.accumulate(np.round(np.cumsum(exact)))
        bucket = rng.permutation(bucket)
        # A group belongs to the part in which its middle episode lies.
        middle = np.cumsum(sizes[bucket]) - sizes[bucket] / 2
        part[bucket] = np.searchsorted(cuts[:-1], middle, side="right")
        owed = exact - np.bincount(part[bucket], weights=sizes[bucket], minlength=len(shares))
    if not alone:
        _fill_empty_parts(part, sizes, shares * len(group))
    return _checked([np.flatnonzero(part[group] == k) for k in range(len(shares))], fractions, len(group))


def _fill_empty_parts(
    part: Int[NumpyArray, " G"], sizes: Int[NumpyArray, " G"], targets: Float[NumpyArray, " parts"]
) -> None:
    """Give each empty part a group: the smallest one of the part that exceeds its target most and has two or more.

    Args:
        part: the part of each group; changed in place.
        sizes: episodes in each group.
        targets: episodes that each part should have.
    """
    for k in range(len(targets)):
        counts = np.bincount(part, minlength=len(targets))
        if counts[k] or counts.max(initial=0) < 2:
            continue
        over = np.bincount(part, weights=sizes, minlength=len(targets)) - targets
        donors = np.flatnonzero(part == np.argmax(np.where(counts > 1, over, -np.inf)))
        part[donors[np.argmin(sizes[donors])]] = k


def _checked(parts: list[NumpyArray], fractions: Sequence[float], count: int) -> Parts:
    """The parts, if none is empty."""
    if any(len(part) == 0 for part in parts):
        raise DataError(
            f"A log of {count} episodes cannot be split as {list(fractions)}: a part would be empty. Bring more "
            "episodes or ask for fewer parts."
        )
    return tuple(parts)
