"""Dataset: a log in columns, immutable, observations stored once, `terminated` apart from `truncated`."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.data import splits as parts
from stitchrl.data.content_hash import digest_rows
from stitchrl.data.joining import check_meanings, fresh_name, unique_ids
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, DataError, StitchRLWarning
from stitchrl.types import NumpyArray

if TYPE_CHECKING:
    from gymnasium import spaces

__all__ = ["Dataset", "Episode"]

NO_OBSERVATION = -1
MOST_ROWS = 2**31 - 1
"""Rows of a log that 32 bits can number."""
PER_TRANSITION = (
    "observation_index",
    "next_observation_index",
    "action",
    "reward",
    "terminated",
    "truncated",
    "step",
    "behavior_log_prob",
    "behavior_probs",
    "action_mask",
    "source",
    "weight",
    "time",
    "observation_id",
)


SPLITS = ("episode", "group", "time", "return")


class Episode(NamedTuple):
    """One episode of T transitions.

    Attributes:
        id: the log's own identifier.
        observation: (T + 1, D); (T, D) where the log does not have the last one.
        action: (T,) or (T, action size).
        reward: (T,).
        terminated, truncated: how it ended.
    """

    id: Any
    observation: Shaped[NumpyArray, "T_or_more ..."]
    action: Shaped[NumpyArray, "T ..."]
    reward: Float[NumpyArray, " T"]
    terminated: bool
    truncated: bool


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A log of episodes, in columns. Build one with `st.read` or `Dataset.from_columns`; never edit its arrays.

    N transitions, E episodes, M >= N stored observations of D numbers, A discrete actions. Rows are ordered by
    episode, then step. The last observation of an episode is stored where the log has it.

    Attributes:
        observation_table: (M, D) float32, each observation once; (M, height, width, channels) uint8 for images.
        observation_index: (N,) row of the table seen before the action.
        next_observation_index: (N,) row seen after it; -1 where the log does not have it.
        action: (N,) int32 when discrete, (N, action size) float32 otherwise.
        reward: (N,) float32, received after the action, in the log's own units.
        terminated: (N,) the episode truly ended here: do not bootstrap.
        truncated: (N,) the log was cut here: bootstrap, if the next observation is known.
        step: (N,) int64, position in the episode, as logged.
        episode_start: (E + 1,) first row of each episode, then N.
        episode_id: (E,) the log's own identifiers.
        schema: what the columns meant.
        behavior_log_prob, behavior_probs, action_mask, source, weight, time, observation_id: optional, (N,) or
            (N, A); None where the log has none.
        group: (E,) what each episode belongs to (a patient, a machine); None where the log does not say.
        observation_names: what each number of an observation is called; empty where nothing says so.
        notes: what was assumed or changed when the log was read.
    """

    observation_table: Shaped[NumpyArray, "M ..."]
    observation_index: Int[NumpyArray, " N"]
    next_observation_index: Int[NumpyArray, " N"]
    action: Shaped[NumpyArray, "N ..."]
    reward: Float[NumpyArray, " N"]
    terminated: Bool[NumpyArray, " N"]
    truncated: Bool[NumpyArray, " N"]
    step: Int[NumpyArray, " N"]
    episode_start: Int[NumpyArray, " E_plus_1"]
    episode_id: Shaped[NumpyArray, " E"]
    schema: Schema
    behavior_log_prob: Float[NumpyArray, " N"] | None = None
    behavior_probs: Float[NumpyArray, "N A"] | None = None
    action_mask: Bool[NumpyArray, "N A"] | None = None
    source: Shaped[NumpyArray, " N"] | None = None
    weight: Float[NumpyArray, " N"] | None = None
    time: Shaped[NumpyArray, " N"] | None = None
    observation_id: Shaped[NumpyArray, " N"] | None = None
    group: Shaped[NumpyArray, " E"] | None = None
    observation_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    # --- sizes -------------------------------------------------------------------------------------------------

    @property
    def num_transitions(self) -> int:
        """Rows of the log."""
        return len(self.reward)

    @property
    def num_episodes(self) -> int:
        """Episodes of the log."""
        return len(self.episode_id)

    @property
    def num_actions(self) -> int | None:
        """Number of discrete actions; None when the action is continuous."""
        return self.schema.num_actions

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation: (D,) for vectors, (height, width, channels) for images."""
        return self.observation_table.shape[1:]

    @property
    def observation_dtype(self) -> np.dtype[Any]:
        """Type of the numbers of an observation: float32 for vectors, uint8 for images."""
        return self.observation_table.dtype

    @property
    def observation_size(self) -> int:
        """How many numbers one observation holds: the product of `observation_shape`."""
        return math.prod(self.observation_shape)

    # --- derived columns ---------------------------------------------------------------------------------------

    @property
    def observation(self) -> Shaped[NumpyArray, "N ..."]:
        """Observation before each action. A copy: N x D numbers, or N images."""
        return self.observation_table[self.observation_index]

    @property
    def next_observation(self) -> Shaped[NumpyArray, "N ..."]:
        """Observation after each action; zeros where the log does not have it (see `can_bootstrap`)."""
        return self._seen_at(self.next_observation_index)

    def _seen_at(self, index: Int[NumpyArray, " R"]) -> Shaped[NumpyArray, "R ..."]:
        """These rows of the table, zeros for `NO_OBSERVATION`."""
        seen = self.observation_table[index]
        seen[index == NO_OBSERVATION] = 0
        return seen

    @cached_property
    def can_bootstrap(self) -> Bool[NumpyArray, " N"]:
        """(N,) False where the episode was cut and its next observation (or next mask) is unknown.

        Such a row has no TD target; it has weight 0 in every TD loss and stays for imitation and statistics.
        """
        known = self.next_observation_index != NO_OBSERVATION
        if self.action_mask is not None:
            known = known & self.continues
        return self.terminated | known

    @cached_property
    def continues(self) -> Bool[NumpyArray, " N"]:
        """(N,) True where the next row is the next moment of the same episode: not at its end, not before a gap."""
        continues = np.zeros(self.num_transitions, bool)
        continues[:-1] = self.next_observation_index[:-1] == self.observation_index[1:]
        continues[self.episode_start[1:] - 1] = False
        return continues

    @cached_property
    def run_end(self) -> Int[NumpyArray, " N"]:
        """(N,) the last row that each row leads to without a break: the end of its episode, or a gap's edge.

        int32, and int64 where 32 bits cannot number the rows.
        """
        ends = np.flatnonzero(~self.continues)
        kind = np.int32 if self.num_transitions <= MOST_ROWS else np.int64
        return np.repeat(ends.astype(kind), np.diff(ends, prepend=-1))

    @cached_property
    def next_action_mask(self) -> Bool[NumpyArray, "N A"] | None:
        """(N, A) actions allowed after each action; all True where the next row is not the next moment."""
        if self.action_mask is None:
            return None
        mask = np.ones_like(self.action_mask)
        mask[:-1] = np.where(self.continues[:-1, None], self.action_mask[1:], True)
        return mask

    @cached_property
    def episode_lengths(self) -> Int[NumpyArray, " E"]:
        """(E,) transitions in each episode."""
        return np.diff(self.episode_start)

    @cached_property
    def episode_of_transition(self) -> Int[NumpyArray, " N"]:
        """(N,) which episode each row belongs to, 0 to E - 1."""
        return np.repeat(np.arange(self.num_episodes), self.episode_lengths)

    @cached_property
    def position(self) -> Int[NumpyArray, " N"]:
        """(N,) 0-based position of each row in its episode, counted here and not read from `step`."""
        return np.arange(self.num_transitions) - np.repeat(self.episode_start[:-1], self.episode_lengths)

    def episode_returns(self, gamma: float = 1.0) -> Float[NumpyArray, " E"]:
        """(E,) float64 sum of gamma**t * reward over each episode; gamma in [0, 1]."""
        discounted = self.reward.astype(np.float64) * np.power(float(gamma), self.position)
        return np.add.reduceat(discounted, self.episode_start[:-1])

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the content of every column: equal logs have equal hashes on every machine."""
        digest = hashlib.sha256()
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.name.startswith("next_obs")}
        # By content and not by place in the table: a part hashes like the same rows read afresh.
        last = self.next_observation_index[self.episode_start[1:] - 1]
        known = last != NO_OBSERVATION
        arrays["observation_table"] = arrays["observation_index"]  # hashed through the table, in its place
        arrays["observation_index"] = self._seen_at(last)
        arrays["next_observation_index"] = known
        for name, value in arrays.items():
            if isinstance(value, np.ndarray):
                through = self.observation_table if name == "observation_table" else None
                digest_rows(digest, name, value, through)
        digest.update(repr(self.num_actions).encode())
        gaps = np.flatnonzero(~self.continues & (self.next_observation_index != NO_OBSERVATION))
        gaps = np.setdiff1d(gaps, self.episode_start[1:] - 1)  # what came last in an episode is in already
        if len(gaps):
            digest_rows(digest, "gaps", gaps, None)
            digest_rows(digest, "after_gaps", self.next_observation_index[gaps], self.observation_table)
        return digest.hexdigest()

    # --- parts -------------------------------------------------------------------------------------------------

    def select_episodes(self, episodes: Sequence[int] | NumpyArray) -> Dataset:
        """The log of the given episodes, in the given order. The observation table is shared.

        Args:
            episodes: positions, 0 to E - 1, or E bools.

        Raises:
            ConfigurationError: a position that is none.
        """
        episodes = np.asarray(episodes)
        if episodes.dtype == bool and len(episodes) == self.num_episodes:
            episodes = np.flatnonzero(episodes)
        if len(episodes) and (
            episodes.dtype.kind not in "iu" or episodes.min() < 0 or episodes.max() >= self.num_episodes
        ):
            raise ConfigurationError(
                f"Episodes are positions from 0 to {self.num_episodes - 1}, or one bool an episode; "
                f"got {episodes.dtype} from {episodes.min()} to {episodes.max()}."
            )
        episodes = episodes.astype(np.int64)
        lengths = self.episode_lengths[episodes]
        start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        offset = np.repeat(self.episode_start[episodes] - start[:-1], lengths)
        rows = np.arange(start[-1]) + offset
        columns = {name: getattr(self, name) for name in PER_TRANSITION}
        taken: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        group = None if self.group is None else self.group[episodes]
        return dataclasses.replace(
            self, **taken, episode_start=start, episode_id=self.episode_id[episodes], group=group
        )

    def compact(self) -> Dataset:
        """The same log with a table of only the observations it uses; itself where it uses all."""
        used = np.zeros(len(self.observation_table), bool)
        used[self.observation_index] = True
        known = self.next_observation_index != NO_OBSERVATION
        used[self.next_observation_index[known]] = True
        if used.all():
            return self
        place = np.cumsum(used, dtype=self.observation_index.dtype) - 1
        return dataclasses.replace(
            self,
            observation_table=self.observation_table[used],
            observation_index=place[self.observation_index],
            next_observation_index=np.where(known, place[self.next_observation_index], NO_OBSERVATION).astype(
                place.dtype
            ),
        )

    def split(
        self, fractions: Sequence[float] = (0.5, 0.1, 0.4), *, seed: int = 0, by: str | None = None
    ) -> tuple[Dataset, ...]:
        """Parts by whole episodes; no episode is in two parts, and no group where `by` keeps groups.

        Args:
            fractions: of the episodes, positive, summing to 1; one part each. Whole groups meet them as nearly as
                they can.
            seed: the draw; without effect on "time".
            by: "episode": at random, with a StitchRLWarning where that puts a group into several parts; "group": whole
                groups (patients) at random; "time": the past first, the future last, left out the episodes that still
                run when the next part's first one starts, and later episodes of a group that an earlier part holds;
                "return": at random among episodes of like return, or whole groups of like mean return where the log
                has groups. None is "group" where the log has groups, else "episode".

        Raises:
            ConfigurationError: fractions not positive or not summing to 1, an unknown `by`, a negative seed.
            DataError: a part would be empty, or the log lacks what `by` needs.
        """
        return tuple(self.select_episodes(part) for part in self.split_episodes(fractions, seed=seed, by=by))

    def split_episodes(
        self, fractions: Sequence[float], *, seed: int = 0, by: str | None = None
    ) -> tuple[Int[NumpyArray, " _"], ...]:
        """The episode positions of each part of `split`, ascending."""
        if seed < 0:
            raise ConfigurationError(f"`seed` must be at least 0; got {seed}.")
        rng, each = np.random.default_rng(seed), np.arange(self.num_episodes)
        by = by or ("episode" if self.group is None else "group")
        if by == "group" and self.group is None:
            raise DataError("A split by group needs a column with the role `group`; this log has none.")
        group = each if self.group is None else np.unique(self.group, return_inverse=True)[1].reshape(-1)
        groups = int(group.max(initial=-1)) + 1
        if by == "episode":
            if groups < self.num_episodes:
                warnings.warn(
                    f"A split by episode puts episodes of one group into several parts; this log has {groups:,} groups "
                    f'of {self.num_episodes:,} episodes. Use by="group" unless that is wanted.',
                    StitchRLWarning,
                    stacklevel=2,
                )
            return parts.by_group(each, fractions, rng)
        if by == "group":
            return parts.by_group(group, fractions, rng)
        if by == "return":
            alone = groups == self.num_episodes
            return parts.by_value(self.episode_returns(), each if alone else group, fractions, rng)
        if by == "time":
            if self.time is None:
                raise DataError("A split by time needs a column with the role `time`; this log has none.")
            start = self.episode_start[:-1]
            return parts.by_time(self.time[start], np.maximum.reduceat(self.time, start), group, fractions)
        raise ConfigurationError(f"`by` of a split must be one of {', '.join(SPLITS)}; got {by!r}.")

    def head(self, episodes: int) -> Dataset:
        """The first episodes, at most as many as there are."""
        return self.select_episodes(np.arange(min(max(episodes, 0), self.num_episodes)))

    def filter(self, keep: Callable[[Episode], bool] | Sequence[bool] | Bool[NumpyArray, " E"]) -> Dataset:
        """The episodes that are wanted.

        Args:
            keep: one bool an episode, or a function of an `Episode`.

        Raises:
            ConfigurationError: not one bool an episode.
        """
        wanted = np.asarray([bool(keep(e)) for e in self.episodes()] if callable(keep) else keep)
        if wanted.dtype != bool or wanted.shape != (self.num_episodes,):
            raise ConfigurationError(
                f"`filter` takes one bool for each of the {self.num_episodes} episodes; got {wanted.dtype} of shape "
                f"{wanted.shape}."
            )
        return self.select_episodes(wanted)

    def episode(self, position: int) -> Episode:
        """One episode, 0 to E - 1. Raises ConfigurationError where there is none."""
        if not 0 <= position < self.num_episodes:
            raise ConfigurationError(f"Episodes are numbered 0 to {self.num_episodes - 1}; got {position}.")
        rows = slice(int(self.episode_start[position]), int(self.episode_start[position + 1]))
        seen = self.observation_index[rows]
        last = self.next_observation_index[rows.stop - 1]
        seen = seen if last == NO_OBSERVATION else np.append(seen, last)
        return Episode(
            self.episode_id[position],
            self.observation_table[seen],
            self.action[rows],
            self.reward[rows],
            bool(self.terminated[rows.stop - 1]),
            bool(self.truncated[rows.stop - 1]),
        )

    def episodes(self) -> Iterator[Episode]:
        """Every episode in turn."""
        return (self.episode(i) for i in range(self.num_episodes))

    def concat(self, *others: Dataset) -> Dataset:
        """This log followed by others. Optional columns that one of them lacks are left out.

        Groups stay: where a log has none, each of its episodes is a group of its own. An episode id that an earlier
        episode has gets a suffix. A note says so.

        Raises:
            DataError: the logs differ in observations or actions, or in what they mean.
        """
        logs = (self, *others)
        for other in others:
            for what in ("num_actions", "observation_names"):
                if getattr(other, what) != getattr(self, what):
                    raise DataError(
                        f"Logs must have one {what} to be joined; got {getattr(self, what)} and {getattr(other, what)}."
                    )
            for what in ("observation_table", "action"):
                if getattr(other, what).shape[1:] != getattr(self, what).shape[1:]:
                    raise DataError(
                        f"Logs must have one shape of {what} to be joined; got {getattr(self, what).shape[1:]} and "
                        f"{getattr(other, what).shape[1:]}."
                    )
            check_meanings(self.schema, other.schema)
        joined: dict[str, Any] = {}
        joined["episode_id"], renamed = unique_ids([log.episode_id for log in logs])
        joined["group"], grouped = _joined_groups(logs, joined["episode_id"])
        for name in (*PER_TRANSITION, "observation_table"):
            columns = [getattr(log, name) for log in logs]
            joined[name] = None if any(column is None for column in columns) else np.concatenate(columns)
        tables = np.cumsum([0] + [len(log.observation_table) for log in logs])
        rows = np.cumsum([0] + [log.num_transitions for log in logs])
        for name in ("observation_index", "next_observation_index"):
            shifted = [
                np.where(getattr(log, name) == NO_OBSERVATION, NO_OBSERVATION, getattr(log, name) + first)
                for log, first in zip(logs, tables[:-1], strict=True)
            ]
            joined[name] = np.concatenate(shifted).astype(np.int32 if tables[-1] < 2**31 else np.int64)
        start = [log.episode_start[:-1] + first for log, first in zip(logs, rows[:-1], strict=True)]
        notes = tuple(dict.fromkeys([*(note for log in logs for note in log.notes), *renamed, *grouped]))
        return dataclasses.replace(
            self, **joined, episode_start=np.append(np.concatenate(start), rows[-1]), notes=notes
        )

    # --- spaces ------------------------------------------------------------------------------------------------

    @property
    def action_space(self) -> spaces.Space[Any]:
        """As Gymnasium has it: Discrete, MultiDiscrete (the parts of a logged action), or Box with the schema's bounds."""
        from gymnasium import spaces

        if self.schema.action_counts is not None and self.schema.action_bins is None:
            return spaces.MultiDiscrete(list(self.schema.action_counts))
        if self.num_actions is not None:
            return spaces.Discrete(self.num_actions)
        low, high = (
            np.full(self.action.shape[1], bound, np.float32) if given is None else np.asarray(given, np.float32)
            for given, bound in ((self.schema.action_low, -np.inf), (self.schema.action_high, np.inf))
        )
        return spaces.Box(low, high, dtype=np.float32)

    @property
    def observation_space(self) -> spaces.Box:
        """A Gymnasium Box: of bytes for images, else without bounds."""
        from gymnasium import spaces

        shape = self.observation_table.shape[1:]
        if self.observation_table.dtype == np.uint8:
            return spaces.Box(0, 255, shape, np.uint8)
        return spaces.Box(-np.inf, np.inf, shape, np.float32)

    def __repr__(self) -> str:
        optional = [n for n in (*PER_TRANSITION[7:], "group") if getattr(self, n) is not None]
        action = f"discrete, {self.num_actions}" if self.num_actions else f"continuous, {self.action.shape[1]}"
        parts = self.schema.action_counts
        action += "" if parts is None else f" = {' x '.join(map(str, parts))}"
        shape = " x ".join(map(str, self.observation_table.shape[1:]))
        return (
            f"Dataset({self.schema.name!r}: {self.num_episodes:,} episodes, {self.num_transitions:,} transitions, "
            f"observation {shape}, action {action}; optional: {', '.join(optional) or 'none'})"
        )


def _joined_groups(logs: Sequence[Dataset], ids: NumpyArray) -> tuple[NumpyArray | None, list[str]]:
    """The groups of logs one after the other; the (unique) episode ids of those without, which is noted."""
    held = [log.group for log in logs]
    if all(group is None for group in held):
        return None, []
    if all(group is not None for group in held):
        if len({group.dtype.kind for group in held if group is not None}) > 1:
            held = [np.asarray([str(name) for name in group.tolist()]) for group in held if group is not None]
        return np.concatenate([group for group in held if group is not None]), []
    used = {str(name) for group in held if group is not None for name in group.tolist()}
    edges = np.cumsum([0] + [log.num_episodes for log in logs])
    names: list[str] = []
    for group, own in zip(held, np.split(ids, edges[1:-1]), strict=True):
        if group is not None:
            names += [str(name) for name in group.tolist()]
        else:
            names += [fresh_name(name, used) if name in used else name for name in map(str, own.tolist())]
    alone = sum(log.num_episodes for log in logs if log.group is None)
    note = f"joined logs: {alone:,} episodes of logs without groups are groups of their own, named by episode id"
    return np.asarray(names), [note]
