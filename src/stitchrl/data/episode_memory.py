"""What is remembered of the episodes that a policy learned from: hashes of episodes and of rows; no data of the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.row_hashes import mix
from stitchrl.types import Bool, NumpyArray, UInt64

__all__ = ["CHOSEN", "CONTENT", "EVERY", "FEW_ALIKE", "OBSERVED", "EpisodeMemory"]

OBSERVED, CHOSEN, CONTENT = 0, 1, 2
"""The columns of `EpisodeMemory.episodes`."""
MOST_EPISODES = 2**17
MOST_ROWS = 2**17
"""Where there are more episodes or rows, those with the smallest hashes are kept: which they are does not depend on others."""
EVERY = np.uint64(2**64 - 1)
"""The limit where all are kept."""
RUNS = (1, 2, 4, 8)
"""Rows are compared alone, or joined to the rows that follow, as far as it takes until few are alike by coincidence."""
FEW_ALIKE = 0.01
"""Up to this share of episodes that are alike by coincidence, leaving out those that are alike hardly selects."""
COPIES = 0.1
"""Where no more than this share of the repeated observations occurs in unequal episodes, equal episodes are copies."""


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeMemory:
    """Hashes by which the episodes of one log are recognised in another.

    Attributes:
        episodes: (n, 3) sorted hashes of episodes as `Dataset.nested_hashes` gives them, of those whose hash by observations is
            at most `limit`: what is kept depends neither on actions nor on rewards.
        limit: see `episodes`.
        chosen: sorted hashes by observations and actions of all episodes, each once.
        runs: sorted hashes by observation and action of `run` rows in a row, each once, up to `run_limit`. A run whose
            observations come again in its episode is left out, as where an observation never changes.
        run_limit: see `runs`.
        run: how many rows make a run.
        runs_alike: the share of the episodes of which more than half of the runs stand in other episodes of the same log.
        copies: whether equal episodes are copies, as of a log that was exported twice, and not alike by coincidence.
        recurring: the share of the rows whose observation stands in an episode with other content as well.
        whole: False for bundles of older versions, which remember contents alone: `episodes` then has them in each column.
    """

    episodes: UInt64[NumpyArray, "n 3"]
    limit: np.uint64
    chosen: UInt64[NumpyArray, " c"]
    runs: UInt64[NumpyArray, " r"]
    run_limit: np.uint64
    run: int
    runs_alike: float
    copies: bool
    recurring: float
    whole: bool = True

    @classmethod
    def of(cls, log: Dataset, *, run: int | None = None) -> EpisodeMemory:
        """What is remembered of a log.

        Args:
            log: what a policy learns from.
            run: how many rows make a run; None chooses, so that few episodes are alike by coincidence.
        """
        nested, (observation, chosen) = log.nested_hashes, log.choice_hashes()
        copies, recurring = _recurrence(observation, nested[:, CONTENT], log)
        once = np.ones(log.num_episodes, bool)
        if copies:
            once[:] = False
            once[np.unique(nested[:, CONTENT], return_index=True)[1]] = True
        runs, alike, length = np.zeros(0, np.uint64), 0.0, 1
        if log.num_episodes and log.episode_lengths.max() > 1:
            for length in RUNS if run is None else (run,):
                of_row, valid = _runs(observation, chosen, log, length)
                runs, times = np.unique(of_row[valid & np.repeat(once, log.episode_lengths)], return_counts=True)
                half = _more_than_half(of_row, valid, log, runs[times > 1])
                counted = half >= 0
                alike = float((half[once & counted] > 0).mean()) if (once & counted).any() else 0.0
                if alike <= FEW_ALIKE:
                    break
        limit, run_limit = _limit(nested[:, OBSERVED], MOST_EPISODES), _limit(runs, MOST_ROWS)
        kept = nested[nested[:, OBSERVED] <= limit]
        return cls(
            kept[np.lexsort(kept.T[::-1])],
            limit,
            np.unique(nested[:, CHOSEN]),
            runs[runs <= run_limit],
            run_limit,
            length,
            alike,
            copies,
            recurring,
        )

    def recognised(self, log: Dataset) -> Bool[NumpyArray, " E"]:
        """(E,) which episodes of a log have all rows, or more than half of the runs of rows, of episodes that are remembered.

        Rewards do not count, for what is left out must not depend on the outcome.
        """
        if not self.whole:
            return np.isin(log.episode_contents, self.episodes[:, CONTENT])
        equal: NumpyArray = np.isin(log.nested_hashes[:, CHOSEN], self.chosen)
        return equal | (self.known_runs(log) > 0) if self.runs_alike <= FEW_ALIKE else equal

    def known_runs(self, log: Dataset) -> NumpyArray:
        """(E,) how many runs of each episode are remembered; 0 where at most half of them are, -1 where none can be compared."""
        if not len(self.runs):
            return np.full(log.num_episodes, -1)
        of_row, valid = _runs(*log.choice_hashes(), log, self.run)
        return _more_than_half(of_row, valid & (of_row <= self.run_limit), log, self.runs)

    def arrays(self) -> dict[str, NumpyArray]:
        """Everything as arrays; `from_arrays` takes them."""
        found = {"contents": self.episodes, "chosen": self.chosen, "runs": self.runs}
        limits = np.array([self.limit, self.run_limit, np.uint64(self.run), np.uint64(self.copies)], np.uint64)
        return found | {"limits": limits, "shares": np.array([self.runs_alike, self.recurring])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> EpisodeMemory:
        """What `arrays` gave, or an older version, which kept `contents` alone."""
        contents = arrays["contents"]
        if "limits" not in arrays:
            nothing = np.zeros(0, np.uint64)
            return cls(
                np.stack([np.sort(contents)] * 3, 1), EVERY, nothing, nothing, EVERY, 1, 0.0, False, 0.0, whole=False
            )
        limit, run_limit, run, copies = arrays["limits"]
        alike, recurring = map(float, arrays["shares"])
        return cls(
            contents, limit, arrays["chosen"], arrays["runs"], run_limit, int(run), alike, bool(copies), recurring
        )


def _limit(hashes: NumpyArray, most: int) -> np.uint64:
    """The largest value such that no more than so many hashes are up to it, but for equal ones."""
    return EVERY if len(hashes) <= most else np.uint64(np.partition(hashes, most - 1)[most - 1])


def _recurrence(observation: NumpyArray, content: NumpyArray, log: Dataset) -> tuple[bool, float]:
    """Whether equal episodes are copies, and the share of rows whose observation stands in an unequal episode."""
    if not len(observation):
        return False, 0.0
    order = np.argsort(observation, kind="stable")  # so that equal ones stay in the order of episodes
    episode = np.repeat(np.arange(log.num_episodes), log.episode_lengths)[order]
    seen, of_row = observation[order], content[episode]
    starts = np.flatnonzero(np.append(True, seen[1:] != seen[:-1]))
    size = np.diff(np.append(starts, len(seen)))
    repeated = episode[starts] != episode[starts + size - 1]
    unequal = np.minimum.reduceat(of_row, starts) != np.maximum.reduceat(of_row, starts)
    copies = bool(repeated.any() and unequal.sum() < COPIES * repeated.sum())
    return copies, float(size[unequal].sum() / len(seen))


def _runs(observation: NumpyArray, chosen: NumpyArray, log: Dataset, length: int) -> tuple[NumpyArray, NumpyArray]:
    """(N,) the hash of the run that starts at each row, and whether there is one whose observations its episode has once."""
    rows, of_row, seen = len(chosen), np.zeros_like(chosen), np.zeros_like(observation)
    for k in range(length):
        shift = np.uint64(2 * k + 1)
        of_row[: rows - k] = mix(of_row[: rows - k] ^ mix(chosen[k:] + shift))
        seen[: rows - k] = mix(seen[: rows - k] ^ mix(observation[k:] + shift))
    valid = np.arange(rows) + length <= np.repeat(log.episode_start[1:], log.episode_lengths)
    episode = np.repeat(np.arange(log.num_episodes, dtype=np.uint64), log.episode_lengths)
    place, times = np.unique(mix(seen ^ mix(episode)), return_inverse=True, return_counts=True)[1:]
    return of_row, valid & (times[place] == 1)


def _more_than_half(of_row: NumpyArray, valid: NumpyArray, log: Dataset, known: NumpyArray) -> NumpyArray:
    """(E,) by episode: -1 without a valid run, 0 where at most half of them are known, else how many are."""
    if not log.num_episodes:
        return np.zeros(0, np.int64)
    starts = log.episode_start[:-1]
    total = np.add.reduceat(valid.astype(np.int64), starts)
    found = np.add.reduceat((valid & np.isin(of_row, known)).astype(np.int64), starts)
    return np.where(total == 0, -1, np.where(2 * found > total, found, 0))
