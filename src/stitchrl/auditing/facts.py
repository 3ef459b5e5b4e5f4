"""What several checks need to know of a log, computed once: one pass in blocks, one fixed random sample.

Whatever grows with the rows is read in blocks of `BLOCK_ROWS`; what is kept grows with the episodes at most.
Regressions, correlations and regions look at `Sample`, at most `SAMPLE_ROWS` rows drawn without replacement.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from stitchrl.auditing.moments import PARTS, Accumulator, NotFinite, blocks
from stitchrl.auditing.regions import Regions
from stitchrl.auditing.regression import features, residuals
from stitchrl.auditing.row_hashes import hash_words, mix, watched, words
from stitchrl.auditing.sample import SAMPLE_ROWS, Sample
from stitchrl.auditing.scan import Scan
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.progress import with_progress
from stitchrl.types import NumpyArray

__all__ = ["Facts"]

KEPT_HASHES = 2**21
"""Row hashes kept to look for copies; of larger logs, one row in so many, chosen by content so copies stay together."""
MOST_EPISODES_OF_SAMPLE, MOST_ROWS_OF_EPISODE = 512, 24
SHOWN_ACTIONS = 100
"""Of more actions, pictures show the commonest."""
TOLD_APART = 50
"""Of more actions, regressions tell the commonest apart."""


class Facts:
    """Everything the checks share about a log, computed when first asked for.

    Args:
        log: the log.
        against: another log it must not overlap, such as the test part.
    """

    def __init__(self, log: Dataset, against: Dataset | None = None) -> None:
        self.log = log
        self.other = None if against is None else Facts(against)
        self.randomness: dict[str, Any] | None = None
        """Filled by `mixture.randomness`, which several checks ask."""
        self.modes: tuple[Any] | None = None
        """Filled by `mixture.return_modes`: its answer, which may be None, in a tuple."""

    # --- names ---------------------------------------------------------------------------------------------------

    @cached_property
    def has_columns(self) -> bool:
        """Whether an observation is a row of numbers (an image is not)."""
        return self.log.observation_table.ndim == 2

    @cached_property
    def observation_names(self) -> tuple[str, ...]:
        """A name for each observation column."""
        size = self.log.observation_table.shape[1] if self.has_columns else 0
        names = tuple(getattr(self.log, "observation_names", ()) or ())
        return names if len(names) == size else tuple(f"observation[{i}]" for i in range(size))

    def label(self, column: int) -> str:
        """How a finding calls an observation column: its own name, or its number."""
        name = self.observation_names[column]
        return str(column) if name == f"observation[{column}]" else name

    def labels(self, columns: NumpyArray, most: int = 10) -> str:
        """Several columns, the first `most` of them."""
        text = ", ".join(self.label(int(c)) for c in columns[:most])
        return f"{text} ..." if len(columns) > most else text

    # --- the pass ------------------------------------------------------------------------------------------------

    @cached_property
    def time_edges(self) -> NumpyArray | None:
        """Times that cut the log into `PARTS` equal parts; None where the log has no usable time."""
        time = self.log.time
        if time is None or time.dtype.kind not in "iufM" or len(time) == 0:
            return None
        sample = _as_float(time[self.sample_rows])
        if not np.isfinite(sample).all() or sample.min() == sample.max():
            return None
        return np.quantile(sample, np.arange(1, PARTS) / PARTS)

    def part_of(self, rows: slice | NumpyArray) -> NumpyArray:
        """Which part of the log, 0 (early) to PARTS - 1, rows belong to: by time where there is one, else by place."""
        if self.time_edges is None:
            numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            return numbers * PARTS // max(self.log.num_transitions, 1)
        assert self.log.time is not None
        return np.searchsorted(self.time_edges, _as_float(self.log.time[rows]), side="left")

    @cached_property
    def scan(self) -> Scan:
        """The one pass."""
        log, count = self.log, self.log.num_transitions
        observation = Accumulator(log.observation_table.shape[1]) if self.has_columns else None
        discrete = log.num_actions is not None
        action = None if discrete else Accumulator(log.action.shape[1])
        reward = Accumulator(1)
        returns = np.zeros(log.num_episodes)
        episode_hash = np.zeros(log.num_episodes, np.uint64)
        action_counts = np.zeros((PARTS, log.num_actions or 0), np.int64)
        part_rows = np.zeros(PARTS, np.int64)
        outside = gaps = cut = 0
        first_gap = -1
        every = np.uint64(-(-count // KEPT_HASHES))
        kept: list[list[NumpyArray]] = [[], [], []]
        for block in with_progress(blocks(count), count, "auditing"):
            part = self.part_of(block)
            part_rows += np.bincount(part, minlength=PARTS)
            index = log.observation_index[block]
            seen = log.observation_table[index]
            acts, rewards = log.action[block], log.reward[block]
            if observation is not None:
                observation.add(seen, part, block.start)
            if action is not None:
                action.add(acts, part, block.start)
            else:
                inside = (acts >= 0) & (acts < action_counts.shape[1])
                outside += int((~inside).sum())
                flat = part[inside] * action_counts.shape[1] + acts[inside]
                action_counts += np.bincount(flat, minlength=action_counts.size).reshape(action_counts.shape)
            reward.add(rewards[:, None], part, block.start)

            first, local, position = self._episodes_of(block)
            plain = np.where(np.isfinite(rewards), rewards, 0).astype(np.float64)
            returns[first : first + len(local)] += np.add.reduceat(plain, local)
            following = log.next_observation_index[block]
            inner = np.zeros(len(acts), bool)
            ahead = log.observation_index[block.start + 1 : block.stop + 1]
            last = log.episode_start[first + 1 : first + 1 + len(local)] - 1 - block.start
            inner[: len(ahead)] = following[: len(ahead)] != ahead
            inner[last[last < len(acts)]] = False
            gaps += int(inner.sum())
            if first_gap < 0 and inner.any():
                first_gap = block.start + int(inner.argmax())
            cut += int((~self._has_target(block, following, ahead, last)).sum())

            observation_hash = hash_words(watched(seen))
            row_hash = mix(
                observation_hash ^ mix(hash_words(words(acts)) + np.uint64(7)) ^ mix(hash_words(words(rewards)))
            )
            placed = mix(row_hash ^ mix(position.astype(np.uint64) + np.uint64(1)))
            episode_hash[first : first + len(local)] += np.add.reduceat(placed, local)
            if log.time is not None and self.time_edges is not None:
                moment = hash_words(words(_as_float(log.time[block])))
                row_hash, observation_hash = mix(row_hash ^ moment), mix(observation_hash ^ moment)
            keep = row_hash % every == 0
            kept[0].append(row_hash[keep])
            kept[1].append(np.flatnonzero(keep) + block.start)
            kept[2].append(observation_hash[observation_hash % every == 0])
        together = [np.concatenate(column) if column else np.zeros(0, np.uint64) for column in kept]
        return Scan(
            None if observation is None else observation.moments(),
            None if action is None else action.moments(),
            reward.moments(),
            returns,
            action_counts,
            outside,
            gaps,
            first_gap,
            cut,
            episode_hash,
            together[0],
            together[1],
            together[2],
            int(every),
            part_rows,
        )

    def _episodes_of(self, block: slice) -> tuple[int, NumpyArray, NumpyArray]:
        """Of a block: its first episode, where in it each of its episodes begins, each row's position in its episode."""
        starts = self.log.episode_start
        first = int(np.searchsorted(starts, block.start, "right")) - 1
        end = int(np.searchsorted(starts, block.stop, "left"))
        begins = starts[first:end]
        local = np.maximum(begins - block.start, 0)
        counts = np.diff(np.append(local, block.stop - block.start))
        return first, local, np.arange(block.start, block.stop) - np.repeat(begins, counts)

    def _has_target(self, block: slice, following: NumpyArray, ahead: NumpyArray, last: NumpyArray) -> NumpyArray:
        """`Dataset.can_bootstrap` of a block."""
        known = following != NO_OBSERVATION
        if self.log.action_mask is not None:
            continues = np.zeros(len(following), bool)
            continues[: len(ahead)] = following[: len(ahead)] == ahead
            continues[last[last < len(following)]] = False
            known = known & continues
        return self.log.terminated[block] | known

    @cached_property
    def last_observations(self) -> NotFinite | None:
        """What is not finite in observations that only a next_observation reaches, each counted once: the scan sees those
        of rows. None for images."""
        log, table = self.log, self.log.observation_table
        if not self.has_columns:
            return None
        found = NotFinite(np.zeros(table.shape[1], np.int64), np.zeros(table.shape[1], np.int64), -1, -1)
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
        row = row[first]
        for block in blocks(log.num_transitions if len(index) else 0):
            unseen = ~np.isin(index, log.observation_index[block])
            index, row = index[unseen], row[unseen]
        for block in blocks(len(index), table.shape[1]):
            seen = table[index[block]]
            found.missing += np.isnan(seen).sum(0)
            found.infinite += np.isinf(seen).sum(0)
            for name, bad in (("first_missing", np.isnan(seen).any(1)), ("first_infinite", np.isinf(seen).any(1))):
                if bad.any():
                    first_row, before = int(row[block][bad].min()), getattr(found, name)
                    setattr(found, name, first_row if before < 0 else min(before, first_row))
        return found

    # --- the sample ----------------------------------------------------------------------------------------------

    @cached_property
    def sample_rows(self) -> NumpyArray:
        """Row numbers of the sample, ascending; all rows of a small log."""
        count = self.log.num_transitions
        if count <= SAMPLE_ROWS:
            return np.arange(count)
        return np.sort(np.random.default_rng(0).choice(count, SAMPLE_ROWS, replace=False, shuffle=False))

    @cached_property
    def sample(self) -> Sample:
        """Rows drawn at random."""
        return self.take(self.sample_rows)

    @cached_property
    def segments(self) -> Sample:
        """Rows spread evenly over episodes drawn at random: what whole episodes look like."""
        count = self.log.num_episodes
        chosen = np.arange(count)
        if count > MOST_EPISODES_OF_SAMPLE:
            rng = np.random.default_rng(1)
            chosen = np.sort(rng.choice(count, MOST_EPISODES_OF_SAMPLE, replace=False, shuffle=False))
        start = self.log.episode_start[chosen]
        lengths = self.log.episode_start[chosen + 1] - start
        taken = np.minimum(lengths, MOST_ROWS_OF_EPISODE)
        ends = np.cumsum(taken)
        place = np.arange(ends[-1]) - np.repeat(ends - taken, taken)
        return self.take(np.repeat(start, taken) + place * np.repeat(lengths, taken) // np.repeat(taken, taken))

    @cached_property
    def first_rows(self) -> Sample:
        """The first row of at most `SAMPLE_ROWS` episodes."""
        count = self.log.num_episodes
        if count > SAMPLE_ROWS:
            chosen = np.sort(np.random.default_rng(2).choice(count, SAMPLE_ROWS, replace=False, shuffle=False))
            return self.take(self.log.episode_start[chosen])
        return self.take(self.log.episode_start[:-1])

    def take(self, rows: NumpyArray) -> Sample:
        """These rows."""
        log = self.log
        episode = np.searchsorted(log.episode_start, rows, "right") - 1
        start = log.episode_start[episode]
        return Sample(
            rows,
            episode,
            rows - start,
            log.episode_start[episode + 1] - start,
            self.observation_at(log.observation_index[rows]),
            _plain(log.action[rows]).astype(np.int64 if log.num_actions is not None else np.float64),
            _plain(log.reward[rows]).astype(np.float64),
        )

    def observation_at(self, index: NumpyArray) -> NumpyArray:
        """(n, D) float64 rows of the observation table, 0 where not finite; (n, 0) for images."""
        if not self.has_columns:
            return np.zeros((len(index), 0))
        return _plain(self.log.observation_table[index]).astype(np.float64)

    @cached_property
    def standard(self) -> tuple[NumpyArray, NumpyArray]:
        """Mean and spread (1 where it is 0) of the sample's observation columns."""
        spread = self.sample.observation.std(0)
        return self.sample.observation.mean(0), np.where(spread > 0, spread, 1.0)

    def standardised(self, observation: NumpyArray) -> NumpyArray:
        """Observations in units of the sample's spread."""
        mean, spread = self.standard
        return (observation - mean) / spread

    @cached_property
    def regions(self) -> Regions:
        """The state space cut into regions of about equally many rows."""
        return Regions.fit(self.standardised(self.sample.observation))

    @cached_property
    def sample_region(self) -> NumpyArray:
        """(n,) region of each row of the sample."""
        return self.regions.of(self.standardised(self.sample.observation))

    @cached_property
    def fold(self) -> NumpyArray:
        """(n,) group of each row of the sample; a model is fitted on the odd groups and tried on the even ones, and the
        reverse. Groups are episodes; where there are under four, stretches of 50 rows."""
        sample = self.sample
        return sample.episode if len(np.unique(sample.episode)) >= 4 else sample.rows // 50

    @cached_property
    def action_residuals(self) -> NumpyArray:
        """(n, k) what a regression of the continuous action on the observation leaves, held out by fold."""
        return residuals(features(self.sample.observation), self.sample.action, self.fold)

    # --- discrete actions, of which there may be very many: nothing here is rows times all actions -----------------------

    def commonest(self, most: int) -> NumpyArray:
        """The `most` commonest actions, ascending."""
        return np.sort(np.argsort(-self.scan.action_counts.sum(0), kind="stable")[:most])

    def told_apart(self, action: NumpyArray) -> NumpyArray:
        """(n, `TOLD_APART` at most) 1.0 where it is that action; actions beyond the commonest have no column."""
        taken = action.clip(0, (self.log.num_actions or 1) - 1)
        found: NumpyArray = (taken[:, None] == self.commonest(TOLD_APART)).astype(np.float64)
        return found

    def allowed(self, rows: NumpyArray, actions: NumpyArray) -> NumpyArray:
        """(n, k) whether these actions may be taken at these rows."""
        found = np.ones((len(rows), len(actions)), bool)
        if self.log.action_mask is not None:
            for block in blocks(len(rows), self.log.action_mask.shape[1]):
                found[block] = self.log.action_mask[rows[block]][:, actions]
        return found

    def allowed_count(self, rows: NumpyArray) -> NumpyArray:
        """(n,) how many actions may be taken at these rows."""
        found = np.full(len(rows), self.log.num_actions or 0, np.int64)
        if self.log.action_mask is not None:
            for block in blocks(len(rows), self.log.action_mask.shape[1]):
                found[block] = self.log.action_mask[rows[block]].sum(1)
        return found


def _plain(values: NumpyArray) -> NumpyArray:
    return np.where(np.isfinite(values), values, 0) if values.dtype.kind == "f" else values


def _as_float(time: NumpyArray) -> NumpyArray:
    return (time.view(np.int64) if time.dtype.kind == "M" else time).astype(np.float64)
