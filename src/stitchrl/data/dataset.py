"""The Dataset: an immutable log in columns that stores each observation once and keeps `terminated`
apart from `truncated`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stitchrl.data.columns import MOST_ROWS, NO_OBSERVATION, PER_TRANSITION
from stitchrl.data.content_hash import hash_columns
from stitchrl.data.dropping import kept_episodes
from stitchrl.data.elapsed import elapsed_between, elapsed_since_start
from stitchrl.data.joining import joined_columns
from stitchrl.data.row_hashes import hash_choices, hash_episodes, hash_nested
from stitchrl.data.schema import Schema
from stitchrl.data.spaces import action_space, observation_space
from stitchrl.data.splits import split_episodes
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.types import Bool, Float, Int, NumpyArray, Shaped, UInt64

if TYPE_CHECKING:
    from gymnasium import spaces

__all__ = ["Dataset", "Episode"]


class Episode(NamedTuple):
    """One episode of T transitions.

    Attributes:
        id: the identifier that the log gives the episode.
        observation: (T + 1, D); (T, D) where the log does not have the observation after the last action.
        action: (T,) if discrete, (T, action size) if continuous.
        reward: (T,) received after each action.
        terminated, truncated: whether it truly ended, or the log was cut.
    """

    id: Any
    observation: Shaped[NumpyArray, "T_or_more ..."]
    action: Shaped[NumpyArray, "T ..."]
    reward: Float[NumpyArray, " T"]
    terminated: bool
    truncated: bool


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A log of episodes, in columns. `st.read` makes one. Its arrays are read-only.

    It has N transitions, E episodes, A discrete actions, and M >= N stored observations of D numbers each. Rows are
    ordered by episode, then step. The observation after the last action of an episode is stored if the log has it.

    Attributes:
        observation_table: (M, D) float32, each observation once; (M, height, width, channels) uint8 for images.
        observation_index: (N,) row of the table that holds the observation before the action.
        next_observation_index: (N,) row that holds the observation after it; -1 where the log does not have it.
        action: (N,) int32 when discrete, (N, action size) float32 otherwise.
        reward: (N,) float32, received after the action, in the log's own units.
        terminated: (N,) whether the episode truly ended here, so that no value follows (do not bootstrap).
        truncated: (N,) whether the log was cut here (bootstrap, if the next observation is known).
        step: (N,) int64, position in the episode, as logged.
        episode_start: (E + 1,) first row of each episode, then N.
        episode_id: (E,) the identifiers that the log gives its episodes.
        schema: what the columns of the log meant.
        behavior_log_prob, behavior_probs, action_mask, source, weight, time, observation_id: optional columns, (N,) or
            (N, A); None where the log does not have them.
        cost: (N, costs) float32, what each row costs, one column for each that the schema names; None where it names none.
        subgroup: (N, subgroups) text, columns whose first value in an episode tells which group of cases it is of; None likewise.
        policy_probs, policy_log_prob: (N, A) probability that the policy to be judged gives every action, and (N,) the
            logarithm of its probability, or density, of the logged one (`st.LoggedPolicy`); None where the log has none.
        group: (E,) what each episode belongs to (a patient, a machine); None where the log does not say.
        observation_names: the name of each number of an observation; empty where the log does not name them.
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
    cost: Float[NumpyArray, "N costs"] | None = None
    subgroup: Shaped[NumpyArray, "N subgroups"] | None = None
    policy_probs: Float[NumpyArray, "N A"] | None = None
    policy_log_prob: Float[NumpyArray, " N"] | None = None
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
        """How many transitions (rows) the log has."""
        return len(self.reward)

    @property
    def num_episodes(self) -> int:
        """How many episodes the log has."""
        return len(self.episode_id)

    @property
    def num_actions(self) -> int | None:
        """How many discrete actions there are; None if the action is continuous."""
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
        """Observation before each action: a copy of N x D numbers, or of N images."""
        return self.observation_table[self.observation_index]

    @property
    def next_observation(self) -> Shaped[NumpyArray, "N ..."]:
        """Observation after each action; zeros where the log does not have it (see `can_bootstrap`)."""
        observation = self.observation_table[self.next_observation_index]
        observation[self.next_observation_index == NO_OBSERVATION] = 0
        return observation

    @cached_property
    def can_bootstrap(self) -> Bool[NumpyArray, " N"]:
        """(N,) False where the episode was cut and the next observation (or the next action mask, or with a `time_unit`
        the time of the next decision) is unknown.

        Such a row has no TD target: it has weight 0 in every TD loss, and still counts for imitation and statistics.
        """
        known = self.next_observation_index != NO_OBSERVATION
        if self.action_mask is not None or self.elapsed is not None:
            known = known & self.continues
        return self.terminated | known

    @cached_property
    def continues(self) -> Bool[NumpyArray, " N"]:
        """(N,) True where the next row is the next step of the same episode.

        False at its end and before missing rows.
        """
        continues = np.zeros(self.num_transitions, bool)
        continues[:-1] = self.next_observation_index[:-1] == self.observation_index[1:]
        continues[self.episode_start[1:] - 1] = False
        return continues

    @cached_property
    def num_gaps(self) -> int:
        """In how many places rows are missing inside an episode."""
        return int((~self.continues).sum()) - self.num_episodes

    @cached_property
    def run_end(self) -> Int[NumpyArray, " N"]:
        """(N,) the last row that follows each row without a break: the end of its episode, or the row before a gap.

        The numbers are int32, or int64 where 32 bits cannot number the rows.
        """
        ends = np.flatnonzero(~self.continues)
        kind = np.int32 if self.num_transitions <= MOST_ROWS else np.int64
        return np.repeat(ends.astype(kind), np.diff(ends, prepend=-1))

    @cached_property
    def next_action_mask(self) -> Bool[NumpyArray, "N A"] | None:
        """(N, A) which actions the next step allows; all True where the next row is not the next step."""
        if self.action_mask is None:
            return None
        mask = np.ones_like(self.action_mask)
        mask[:-1] = np.where(self.continues[:-1, None], self.action_mask[1:], True)
        return mask

    @cached_property
    def episode_lengths(self) -> Int[NumpyArray, " E"]:
        """(E,) number of transitions of each episode."""
        return np.diff(self.episode_start)

    @cached_property
    def episode_of_transition(self) -> Int[NumpyArray, " N"]:
        """(N,) the episode that each row belongs to, 0 to E - 1."""
        return np.repeat(np.arange(self.num_episodes), self.episode_lengths)

    @cached_property
    def position(self) -> Int[NumpyArray, " N"]:
        """(N,) position of each row in its episode from 0, counted here rather than read from `step`."""
        return np.arange(self.num_transitions) - np.repeat(self.episode_start[:-1], self.episode_lengths)

    @cached_property
    def elapsed(self) -> Float[NumpyArray, " N"] | None:
        """(N,) time units from each decision to the next; NaN where the log does not have the next decision.

        None where the schema has no `time_unit`: every step then counts as one.

        Raises:
            DataError: the log has no times, or they fall within an episode.
        """
        if self.schema.time_unit is None:
            return None
        return elapsed_between(self._times, self.continues, self.schema.time_unit)

    @property
    def _times(self) -> Shaped[NumpyArray, " N"]:
        if self.time is None:
            raise DataError(
                "The schema of this log has a `time_unit`, and the log has no column `time`. Name one in the schema, or leave "
                "`time_unit` out."
            )
        return self.time

    def discount(self, gamma: float) -> Float[NumpyArray, " N"]:
        """(N,) what the value after each row counts for before it: gamma**n * (1 - terminated), n = 1 or the time that
        elapses. 0 where that time is unknown."""
        if self.elapsed is None:
            return gamma * (1.0 - self.terminated)
        known = np.isfinite(self.elapsed)
        return np.where(known & ~self.terminated, np.power(float(gamma), np.where(known, self.elapsed, 0.0)), 0.0)

    def reward_discount(self, gamma: float) -> Float[NumpyArray, " N"]:
        """(N,) what each reward counts for at the start of its episode: gamma**n, n the steps, or the time, until then."""
        unit = self.schema.time_unit
        if unit is None:
            return np.power(float(gamma), self.position)
        return np.power(float(gamma), elapsed_since_start(self._times, self.episode_start, unit))

    def largest_discount(self, gamma: float) -> float:
        """gamma, or with a `time_unit` the largest that it becomes for any logged step."""
        if self.elapsed is None:
            return float(gamma)
        known = self.elapsed[np.isfinite(self.elapsed)]
        return float(gamma) ** float(known.min()) if len(known) else float(gamma)

    def episode_returns(self, gamma: float = 1.0) -> Float[NumpyArray, " E"]:
        """(E,) the sum of the discounted rewards of each episode, float64, by `reward_discount`; gamma is in [0, 1]."""
        discounted = self.reward.astype(np.float64) * self.reward_discount(gamma)
        return np.add.reduceat(discounted, self.episode_start[:-1])

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the content of every column: equal logs have equal hashes on every machine."""
        return hash_columns(self._columns(), self.continues)

    def bare(self) -> Dataset:
        """The same log without what says nothing to a learner: costs, subgroups, and what another policy would have done.

        It is the log itself where there is none of these.
        """
        if all(one is None for one in (self.cost, self.subgroup, self.policy_probs, self.policy_log_prob)):
            return self
        return dataclasses.replace(self, cost=None, subgroup=None, policy_probs=None, policy_log_prob=None)

    @cached_property
    def episode_hashes(self) -> UInt64[NumpyArray, " E"]:
        """(E,) a hash of the content of each episode: its observations, actions, rewards and end.

        Identifiers, optional columns, the format of the file and the other episodes do not count, so that an episode is
        recognised in another split, order or file. Episodes that are alike in every number have one hash.
        """
        return hash_episodes(self._columns(), self.position)

    @cached_property
    def nested_hashes(self) -> UInt64[NumpyArray, "E 3"]:
        """(E, 3) hashes of the rows of each episode in any order, whatever its end: by its observations; by these and its
        actions; by these and its rewards."""
        return hash_nested(self._columns())

    @property
    def episode_contents(self) -> UInt64[NumpyArray, " E"]:
        """(E,) a hash of the rows of each episode in any order: like `episode_hashes`, but blind to order and end."""
        return self.nested_hashes[:, 2]

    def choice_hashes(self) -> tuple[UInt64[NumpyArray, " N"], UInt64[NumpyArray, " N"]]:
        """Two times (N,) a hash of each row: by its observation, and by its observation and action."""
        return hash_choices(self._columns())

    def _columns(self) -> dict[str, Any]:
        """Field -> its value; the arrays are not copied."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    # --- episodes and splits -----------------------------------------------------------------------------------

    def select_episodes(self, episodes: Sequence[int] | NumpyArray) -> Dataset:
        """A log of the given episodes, in the given order. It shares the observation table with this one.

        Args:
            episodes: positions from 0 to E - 1, or one bool for each episode.

        Raises:
            ConfigurationError: there is no episode at a given position.
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
        """The same log with a table of only the observations that it uses; the log itself if it uses them all."""
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
        """Split the log into parts of whole episodes. No episode is in two parts.

        Args:
            fractions: the share of the episodes that each part gets; positive, summing to 1. Where groups are kept
                whole, the shares are met as nearly as the groups allow.
            seed: of the random draw; it has no effect on a split by time.
            by: how episodes are assigned to parts.
                "episode": at random, with a StitchRLWarning if that puts one group into several parts.
                "group": whole groups (such as patients) at random.
                "time": the earliest episodes into the first part, the latest into the last. Episodes that still run
                when the next part begins are left out, and so are later episodes of a group that an earlier part holds.
                "return": at random among episodes of similar return, so that every part has good and bad ones; whole
                groups by their mean return where the log has groups.
                None means "group" where the log has groups, else "episode".

        Raises:
            ConfigurationError: fractions not positive or not summing to 1, an unknown `by`, a negative seed.
            DataError: a part would be empty, or the log lacks what `by` needs.
        """
        return tuple(self.select_episodes(part) for part in self.split_episodes(fractions, seed=seed, by=by))

    def split_episodes(
        self, fractions: Sequence[float], *, seed: int = 0, by: str | None = None
    ) -> tuple[Int[NumpyArray, " _"], ...]:
        """The episode positions of each part of `split`, ascending; arguments and errors as there."""
        return split_episodes(
            fractions,
            seed=seed,
            by=by,
            episode_start=self.episode_start,
            group=self.group,
            time=self.time,
            episode_returns=self.episode_returns,
        )

    def head(self, episodes: int) -> Dataset:
        """A log of the first `episodes` episodes, or of all if there are fewer."""
        return self.select_episodes(np.arange(min(max(episodes, 0), self.num_episodes)))

    def filter(self, keep: Callable[[Episode], bool] | Sequence[bool] | Bool[NumpyArray, " E"]) -> Dataset:
        """A log of the episodes for which `keep` is true.

        Args:
            keep: one bool for each episode, or a function from an `Episode` to a bool.

        Raises:
            ConfigurationError: `keep` is not one bool for each episode.
        """
        wanted = np.asarray([bool(keep(e)) for e in self.episodes()] if callable(keep) else keep)
        if wanted.dtype != bool or wanted.shape != (self.num_episodes,):
            raise ConfigurationError(
                f"`filter` takes one bool for each of the {self.num_episodes} episodes; got {wanted.dtype} of shape "
                f"{wanted.shape}."
            )
        return self.select_episodes(wanted)

    def without_episodes(self, episodes: Iterable[Any]) -> Dataset:
        """A log without the episodes of these identifiers, such as a drop list of `st.rank_episodes`; `notes` says so.

        Raises:
            ConfigurationError: the log has no such episode, or no episode would be left.
        """
        keep, notes = kept_episodes(self.episode_id, episodes)
        return dataclasses.replace(self.select_episodes(keep), notes=(*self.notes, *notes))

    def episode(self, position: int) -> Episode:
        """The episode at a position from 0 to E - 1.

        Raises:
            ConfigurationError: there is no episode at this position.
        """
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
        """A log of the episodes of this one, followed by those of the others.

        Optional columns that one of the logs lacks are left out. If only some logs have groups, each episode of the
        others becomes a group of its own. An episode identifier that occurs again gets a suffix. `notes` says so.

        Raises:
            DataError: the logs differ in observations or actions, or in what they mean.
        """
        return dataclasses.replace(self, **joined_columns([log._columns() for log in (self, *others)]))

    # --- spaces ------------------------------------------------------------------------------------------------

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The Gymnasium space of actions: Discrete, MultiDiscrete, or a Box with the bounds that the
        schema declares."""
        return action_space(self.schema, 1 if self.action.ndim == 1 else self.action.shape[1])

    @property
    def observation_space(self) -> spaces.Box:
        """The Gymnasium space of observations: a Box, of bytes for images and else without bounds."""
        return observation_space(self.observation_shape, self.observation_dtype)

    def __repr__(self) -> str:
        optional = [name for name in (*PER_TRANSITION[7:], "group") if getattr(self, name) is not None]
        action = f"discrete, {self.num_actions}" if self.num_actions else f"continuous, {self.action.shape[1]}"
        counts = self.schema.action_counts
        action += "" if counts is None else f" = {' x '.join(map(str, counts))}"
        shape = " x ".join(map(str, self.observation_shape))
        return (
            f"Dataset({self.schema.name!r}: {self.num_episodes:,} episodes, {self.num_transitions:,} transitions, "
            f"observation {shape}, action {action}; optional: {', '.join(optional) or 'none'})"
        )
