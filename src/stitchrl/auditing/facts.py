"""The facts about a log that several checks share, each computed once: one pass in blocks, one fixed random sample.

Arrays with a row for each transition are read in blocks of `BLOCK_ROWS`, and memory grows at most with the number of
episodes. Regressions, correlations and regions use `Sample`, at most `SAMPLE_ROWS` rows drawn without replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from stitchrl.auditing.draws import audit_seed, draws
from stitchrl.auditing.moments import PARTS, NotFinite, blocks
from stitchrl.auditing.regions import Regions
from stitchrl.auditing.regression import features, residuals
from stitchrl.auditing.sample import SAMPLE_ROWS, Sample
from stitchrl.auditing.scan import Scan, not_finite_after_rows, scan_rows, time_as_float
from stitchrl.auditing.wording import listed
from stitchrl.data.atoms import Atoms, atoms_and_shares
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["Facts"]

SEGMENT_EPISODES, SEGMENT_ROWS = 512, 24
"""`segments` holds at most this many episodes, and at most this many rows of each."""
SHOWN_ACTIONS = 100
"""Pictures show at most this many actions, the commonest."""
ONE_HOT_ACTIONS = 50
"""Regressions have a column for at most this many actions, the commonest."""

T = TypeVar("T")


class Facts:
    """The facts that the checks share about a log, each computed when it is first asked for.

    Args:
        log: the log.
        against: another log that it must not overlap, such as the test part.
        removed: name -> (N,) values of columns that were left out of the observation on purpose.
    """

    def __init__(
        self, log: Dataset, against: Dataset | None = None, removed: Mapping[str, NumpyArray] | None = None
    ) -> None:
        self.log = log
        self.removed = dict(removed or {})
        self.other = None if against is None else Facts(against)
        self._computed: dict[Callable[[Facts], Any], Any] = {}

    def once(self, compute: Callable[[Facts], T]) -> T:
        """What `compute` gives for these facts, computed at the first call only; for estimates that several checks use."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        result: T = self._computed[compute]
        return result

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

    def columns(self, columns: NumpyArray) -> str:
        """How a finding calls some observation columns, such as "columns 2, 5"."""
        return listed("column", [self.label(int(column)) for column in columns])

    # --- the pass ------------------------------------------------------------------------------------------------

    @cached_property
    def time_edges(self) -> NumpyArray | None:
        """The times that cut the log into `PARTS` equal parts; None where the log has no usable time."""
        time = self.log.time
        if time is None or time.dtype.kind not in "iufM" or len(time) == 0:
            return None
        sample = time_as_float(time[self.sample_rows])
        if not np.isfinite(sample).all() or sample.min() == sample.max():
            return None
        return np.quantile(sample, np.arange(1, PARTS) / PARTS)

    def part_of(self, rows: slice | NumpyArray) -> NumpyArray:
        """The part of the log, 0 (early) to PARTS - 1, of each row: by time where there is one, otherwise by row number."""
        if self.time_edges is None:
            numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            return numbers * PARTS // max(self.log.num_transitions, 1)
        assert self.log.time is not None
        return np.searchsorted(self.time_edges, time_as_float(self.log.time[rows]), side="left")

    @cached_property
    def scan(self) -> Scan:
        """What the one pass over the rows gives."""
        return scan_rows(self.log, self.part_of, by_time=self.time_edges is not None)

    @cached_property
    def last_observations(self) -> NotFinite | None:
        """Values that are not finite in observations that only a `next_observation` reaches; None for images."""
        return not_finite_after_rows(self.log)

    # --- the sample ----------------------------------------------------------------------------------------------

    @cached_property
    def sample_rows(self) -> NumpyArray:
        """The numbers of the sampled rows, ascending; all rows of a small log."""
        count = self.log.num_transitions
        if count <= SAMPLE_ROWS:
            return np.arange(count)
        return np.sort(draws(0).choice(count, SAMPLE_ROWS, replace=False, shuffle=False))

    @cached_property
    def sample(self) -> Sample:
        """The sample: rows drawn at random."""
        return self.take(self.sample_rows)

    @cached_property
    def segments(self) -> Sample:
        """Rows spread evenly over episodes drawn at random, for statistics of whole episodes."""
        count = self.log.num_episodes
        chosen = np.arange(count)
        if count > SEGMENT_EPISODES:
            rng = draws(1)
            chosen = np.sort(rng.choice(count, SEGMENT_EPISODES, replace=False, shuffle=False))
        start = self.log.episode_start[chosen]
        lengths = self.log.episode_start[chosen + 1] - start
        taken = np.minimum(lengths, SEGMENT_ROWS)
        ends = np.cumsum(taken)
        place = np.arange(ends[-1]) - np.repeat(ends - taken, taken)
        return self.take(np.repeat(start, taken) + place * np.repeat(lengths, taken) // np.repeat(taken, taken))

    @cached_property
    def first_rows(self) -> Sample:
        """The first rows of at most `SAMPLE_ROWS` episodes."""
        count = self.log.num_episodes
        if count > SAMPLE_ROWS:
            chosen = np.sort(draws(2).choice(count, SAMPLE_ROWS, replace=False, shuffle=False))
            return self.take(self.log.episode_start[chosen])
        return self.take(self.log.episode_start[:-1])

    def take(self, rows: NumpyArray) -> Sample:
        """The rows with these numbers."""
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
        """(n, D) rows of the observation table as float64, 0 where they are not finite; (n, 0) for images."""
        if not self.has_columns:
            return np.zeros((len(index), 0))
        return _plain(self.log.observation_table[index]).astype(np.float64)

    @cached_property
    def standard(self) -> tuple[NumpyArray, NumpyArray]:
        """Mean and standard deviation (1 where it is 0) of the observation columns in the sample."""
        spread = self.sample.observation.std(0)
        return self.sample.observation.mean(0), np.where(spread > 0, spread, 1.0)

    def standardised(self, observation: NumpyArray) -> NumpyArray:
        """Observations, standardised by the sample."""
        mean, spread = self.standard
        return (observation - mean) / spread

    @cached_property
    def regions(self) -> Regions:
        """The state space, cut into regions with about equally many rows."""
        return Regions.fit(self.standardised(self.sample.observation))

    @cached_property
    def sample_region(self) -> NumpyArray:
        """(n,) the region of each row of the sample."""
        return self.regions.of(self.standardised(self.sample.observation))

    @cached_property
    def fold(self) -> NumpyArray:
        """(n,) the group of each row of the sample: a model fitted to the odd groups is tested on the even ones, and the
        reverse. Groups are episodes, or stretches of 50 rows where there are fewer than four episodes."""
        sample = self.sample
        return sample.episode if len(np.unique(sample.episode)) >= 4 else sample.rows // 50

    @cached_property
    def action_residuals(self) -> NumpyArray:
        """(n, k) held-out residuals of a regression of the continuous action on the observation."""
        return residuals(features(self.sample.observation), self.sample.action, self.fold)

    @cached_property
    def action_atoms(self) -> tuple[Atoms | None, Atoms | None]:
        """The atoms of continuous actions, and the shares on the ends whether or not they stand out; None for discrete ones."""
        return atoms_and_shares(self.log, seed=audit_seed())

    # --- discrete actions: there may be very many, so no array here has a row for each row and a column for each action ---

    def commonest(self, most: int) -> NumpyArray:
        """The `most` commonest actions, ascending."""
        return np.sort(np.argsort(-self.scan.action_counts.sum(0), kind="stable")[:most])

    def one_hot(self, action: NumpyArray) -> NumpyArray:
        """(n, k) indicator columns of the k commonest actions, `ONE_HOT_ACTIONS` at most; other actions have no column."""
        taken = action.clip(0, (self.log.num_actions or 1) - 1)
        found: NumpyArray = (taken[:, None] == self.commonest(ONE_HOT_ACTIONS)).astype(np.float64)
        return found

    def allowed(self, rows: NumpyArray, actions: NumpyArray) -> NumpyArray:
        """(n, k) whether each of these actions is allowed in each of these rows."""
        found = np.ones((len(rows), len(actions)), bool)
        if self.log.action_mask is not None:
            for block in blocks(len(rows), self.log.action_mask.shape[1]):
                found[block] = self.log.action_mask[rows[block]][:, actions]
        return found

    def allowed_count(self, rows: NumpyArray) -> NumpyArray:
        """(n,) how many actions are allowed in each of these rows."""
        found = np.full(len(rows), self.log.num_actions or 0, np.int64)
        if self.log.action_mask is not None:
            for block in blocks(len(rows), self.log.action_mask.shape[1]):
                found[block] = self.log.action_mask[rows[block]].sum(1)
        return found


def _plain(values: NumpyArray) -> NumpyArray:
    return np.where(np.isfinite(values), values, 0) if values.dtype.kind == "f" else values
