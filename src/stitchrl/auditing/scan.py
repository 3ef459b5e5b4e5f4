"""The one pass over the rows of a log, in blocks, so that a log may be larger than memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from stitchrl.auditing.moments import PARTS, Accumulator, Moments, NotFinite, blocks
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.row_hashes import hash_moments, hash_places, hash_rows, hash_words, mix, words
from stitchrl.progress import with_progress
from stitchrl.types import NumpyArray

__all__ = ["Scan", "not_finite_after_rows", "scan_rows", "time_as_float"]

KEPT_HASHES = 2**21
"""Number of row hashes kept to look for copies. Of a larger log one row in so many is kept, chosen by its content, so that
copies of a row are kept or dropped together."""


@dataclasses.dataclass
class Scan:
    """What one pass over the rows gives.

    Attributes:
        observation, action, reward: moments of the columns; `observation` is None for images, `action` for discrete
            actions.
        returns: (E,) undiscounted return of each episode, summed over its finite rewards.
        action_counts: (PARTS, A) how often each discrete action was taken in each part of the log; (PARTS, 0) for
            continuous actions.
        actions_outside: number of discrete actions that are not among 0 to A - 1.
        gaps: number of rows inside episodes whose next observation is not the observation of the next row.
        first_gap: the first of these rows, -1 where there is none.
        cut: number of rows that have no TD target.
        episode_hash: (E,) uint64 hash of the observations, actions and rewards of each episode, in their order.
        row_hash, row_number: hash and number of each kept row; the hash covers the whole row, with its time where the log
            has times.
        moment_hash: hash of the observation, and of the time where there is one, of each kept moment.
        every: one row in so many is kept.
        part_rows: (PARTS,) number of rows in each part of the log.
    """

    observation: Moments | None
    action: Moments | None
    reward: Moments
    returns: NumpyArray
    action_counts: NumpyArray
    actions_outside: int
    gaps: int
    first_gap: int
    cut: int
    episode_hash: NumpyArray
    row_hash: NumpyArray
    row_number: NumpyArray
    moment_hash: NumpyArray
    every: int
    part_rows: NumpyArray


def scan_rows(log: Dataset, part_of: Callable[[slice], NumpyArray], *, by_time: bool) -> Scan:
    """Read every row of a log once.

    Args:
        log: the log.
        part_of: gives the part of the log, 0 to PARTS - 1, of each row of a block.
        by_time: whether the log has usable times, which then belong to the content of a row.
    """
    observation = Accumulator(log.observation_table.shape[1]) if log.observation_table.ndim == 2 else None
    action = None if log.num_actions is not None else Accumulator(log.action.shape[1])
    reward = Accumulator(1)
    counts, links, hashes = _ActionCounts(log.num_actions or 0), _Links(log), _Hashes(log, by_time=by_time)
    returns, part_rows = np.zeros(log.num_episodes), np.zeros(PARTS, np.int64)
    for block in with_progress(blocks(log.num_transitions), log.num_transitions, "auditing"):
        part = part_of(block)
        part_rows += np.bincount(part, minlength=PARTS)
        seen, taken, rewards = log.observation_table[log.observation_index[block]], log.action[block], log.reward[block]
        if observation is not None:
            observation.add(seen, part, block.start)
        if action is not None:
            action.add(taken, part, block.start)
        else:
            counts.add(taken, part)
        reward.add(rewards[:, None], part, block.start)
        first, local, position = _episodes_of(log, block)
        finite = np.where(np.isfinite(rewards), rewards, 0).astype(np.float64)
        returns[first : first + len(local)] += np.add.reduceat(finite, local)
        links.add(block, first, len(local))
        hashes.add(block, seen, taken, rewards, first, local, position)
    return Scan(
        observation=None if observation is None else observation.moments(),
        action=None if action is None else action.moments(),
        reward=reward.moments(),
        returns=returns,
        action_counts=counts.counts,
        actions_outside=counts.outside,
        gaps=links.gaps,
        first_gap=links.first_gap,
        cut=links.cut,
        episode_hash=hashes.of_episode,
        row_hash=_joined(hashes.rows),
        row_number=_joined(hashes.row_numbers),
        moment_hash=_joined(hashes.moments),
        every=int(hashes.every),
        part_rows=part_rows,
    )


class _ActionCounts:
    """Counts discrete actions by part of the log."""

    def __init__(self, actions: int) -> None:
        self.counts = np.zeros((PARTS, actions), np.int64)
        self.outside = 0

    def add(self, taken: NumpyArray, part: NumpyArray) -> None:
        actions = self.counts.shape[1]
        inside = (taken >= 0) & (taken < actions)
        self.outside += int((~inside).sum())
        flat = part[inside] * actions + taken[inside]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)


class _Links:
    """Follows each row to the observation after it: counts gaps inside episodes, and rows without a TD target."""

    def __init__(self, log: Dataset) -> None:
        self.log = log
        self.gaps, self.first_gap, self.cut = 0, -1, 0

    def add(self, block: slice, first: int, episodes: int) -> None:
        log = self.log
        following = log.next_observation_index[block]
        ahead = log.observation_index[block.start + 1 : block.stop + 1]
        last = log.episode_start[first + 1 : first + 1 + episodes] - 1 - block.start
        last = last[last < len(following)]
        differs = np.zeros(len(following), bool)
        differs[: len(ahead)] = following[: len(ahead)] != ahead
        differs[last] = False
        self.gaps += int(differs.sum())
        if self.first_gap < 0 and differs.any():
            self.first_gap = block.start + int(differs.argmax())
        self.cut += int((~self._has_target(block, following, ahead, last)).sum())

    def _has_target(self, block: slice, following: NumpyArray, ahead: NumpyArray, last: NumpyArray) -> NumpyArray:
        """`Dataset.can_bootstrap` of a block."""
        known = following != NO_OBSERVATION
        if self.log.action_mask is not None:
            continues = np.zeros(len(following), bool)
            continues[: len(ahead)] = following[: len(ahead)] == ahead
            continues[last] = False
            known = known & continues
        return self.log.terminated[block] | known


class _Hashes:
    """Hashes rows, moments and episodes by their content."""

    def __init__(self, log: Dataset, *, by_time: bool) -> None:
        self.time = log.time if by_time else None
        self.every = np.uint64(-(-log.num_transitions // KEPT_HASHES))
        self.of_episode = np.zeros(log.num_episodes, np.uint64)
        self.rows: list[NumpyArray] = []
        self.row_numbers: list[NumpyArray] = []
        self.moments: list[NumpyArray] = []

    def add(
        self,
        block: slice,
        seen: NumpyArray,
        taken: NumpyArray,
        rewards: NumpyArray,
        first: int,
        local: NumpyArray,
        position: NumpyArray,
    ) -> None:
        moment = hash_moments(seen)
        row = hash_rows(moment, taken, rewards)
        self.of_episode[first : first + len(local)] += np.add.reduceat(hash_places(row, position), local)
        if self.time is not None:
            time = hash_words(words(time_as_float(self.time[block])))
            row, moment = mix(row ^ time), mix(moment ^ time)
        keep = row % self.every == 0
        self.rows.append(row[keep])
        self.row_numbers.append(np.flatnonzero(keep) + block.start)
        self.moments.append(moment[moment % self.every == 0])


def _joined(pieces: list[NumpyArray]) -> NumpyArray:
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)


def _episodes_of(log: Dataset, block: slice) -> tuple[int, NumpyArray, NumpyArray]:
    """The first episode of a block, where in the block each of its episodes begins, and the position of each row in its
    episode."""
    starts = log.episode_start
    first = int(np.searchsorted(starts, block.start, "right")) - 1
    end = int(np.searchsorted(starts, block.stop, "left"))
    begins = starts[first:end]
    local = np.maximum(begins - block.start, 0)
    counts = np.diff(np.append(local, block.stop - block.start))
    return first, local, np.arange(block.start, block.stop) - np.repeat(begins, counts)


def not_finite_after_rows(log: Dataset) -> NotFinite | None:
    """Count values that are not finite in the observations that no row starts from, each counted once: only a next
    observation reaches them, so the scan of the rows does not see them. None for images."""
    table = log.observation_table
    if table.ndim != 2:
        return None
    found = NotFinite(np.zeros(table.shape[1], np.int64), np.zeros(table.shape[1], np.int64), -1, -1)
    index, row = _suspects(log)
    for block in blocks(log.num_transitions if len(index) else 0):
        unseen = ~np.isin(index, log.observation_index[block])
        index, row = index[unseen], row[unseen]
    for block in blocks(len(index), table.shape[1]):
        seen = table[index[block]]
        missing, infinite = np.isnan(seen), np.isinf(seen)
        found.missing += missing.sum(0)
        found.infinite += infinite.sum(0)
        found.first_missing = _first(found.first_missing, row[block][missing.any(1)])
        found.first_infinite = _first(found.first_infinite, row[block][infinite.any(1)])
    return found


def _suspects(log: Dataset) -> tuple[NumpyArray, NumpyArray]:
    """Observations with a value that is not finite, reached from a row that the next row does not continue, each once; and
    the first such row."""
    table = log.observation_table
    kept: list[NumpyArray] = [np.zeros((2, 0), np.int64)]
    for block in blocks(log.num_transitions if table.dtype.kind == "f" else 0, table.shape[1]):
        following = log.next_observation_index[block]
        ahead = log.observation_index[block.start + 1 : block.stop + 1]
        apart = following != NO_OBSERVATION
        apart[: len(ahead)] &= following[: len(ahead)] != ahead
        rows = np.flatnonzero(apart)
        rows = rows[~np.isfinite(table[following[rows]]).all(1)]
        kept.append(np.stack([following[rows].astype(np.int64), rows + block.start]))
    index, row = np.concatenate(kept, 1)
    index, first = np.unique(index, return_index=True)
    return index, row[first]


def _first(before: int, rows: NumpyArray) -> int:
    """The smaller of a row (-1 for none) and the first of some rows."""
    if not len(rows):
        return before
    return int(rows.min()) if before < 0 else min(before, int(rows.min()))


def time_as_float(time: NumpyArray) -> NumpyArray:
    """Times as float64; dates and clock times as their integer count of units since 1970."""
    return (time.view(np.int64) if time.dtype.kind == "M" else time).astype(np.float64)
