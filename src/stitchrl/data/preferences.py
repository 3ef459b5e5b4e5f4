"""Preferences: pairs of segments, or of single actions, of which a judge preferred one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stitchrl.data.dataset import Dataset
from stitchrl.data.splits import by_group
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.types import Float, Int, NumpyArray, Shaped

__all__ = ["Preferences"]

WAYS = ("pair", "segment", "group")
"""What `by` of a split may be."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Preferences:
    """P pairs of segments, of which the preferred one comes first. `st.read_preferences` makes them of a table.

    A segment is one or more decisions that follow one another: their observations, their actions and, where actions are
    discrete, their masks. Segments are kept as the episodes of a log, each once, however many pairs it is in. A pair of single
    actions is a pair of segments of length 1. The two segments of a pair may begin with the same observation or with different
    ones, and may have different lengths. Rewards in that log are not read by algorithms that learn from preferences.

    Attributes:
        segments: the log whose episodes are the segments.
        preferred, rejected: (P,) positions of episodes of `segments`, from 0: the preferred one of each pair, and the other.
        weight: (P,) how often each pair is drawn, relative to the others, at least 0; None draws all alike.
        group: (P,) what each pair belongs to, such as the person who judged it; None where that is not known.

    Raises:
        ConfigurationError: `segments` is no log, or the positions, weights or groups have another type, shape or range.
        DataError: rows are missing inside a segment, or its mask forbids an action that it holds.
    """

    segments: Dataset
    preferred: Int[NumpyArray, " P"]
    rejected: Int[NumpyArray, " P"]
    weight: Float[NumpyArray, " P"] | None = None
    group: Shaped[NumpyArray, " P"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.segments, Dataset):
            raise ConfigurationError(
                "`segments` of Preferences must be a log whose episodes are the segments, as `st.read` gives it; got an "
                f"object of the class {type(self.segments).__name__}."
            )
        if self.segments.num_gaps:
            raise DataError(
                f"The decisions of a segment must follow one another; in {self.segments.num_gaps:,} places of these segments "
                "rows are missing. Give each unbroken stretch as a segment of its own."
            )
        self._check_masks()
        for name in ("preferred", "rejected"):
            object.__setattr__(self, name, self._positions(name))
        if len(self.preferred) != len(self.rejected) or not len(self.preferred):
            raise ConfigurationError(
                "Preferences need at least one pair, and as many preferred segments as rejected ones; got "
                f"{len(self.preferred)} and {len(self.rejected)}."
            )
        same = np.flatnonzero(self.preferred == self.rejected)
        if len(same):
            raise ConfigurationError(
                f"A pair must be of two different segments; pair {same[0]} has segment {self.preferred[same[0]]} on both sides."
            )
        self._check_weight()
        if self.group is not None:
            group = np.array(self.group)
            # Objects of several kinds, such as texts and None, have no order: by their texts they have.
            object.__setattr__(self, "group", group.astype(str) if group.dtype.kind == "O" else group)
            if self.group.shape != self.preferred.shape:
                raise ConfigurationError(
                    f"`group` of Preferences must have one entry for each of the {self.num_pairs} pairs; got shape "
                    f"{self.group.shape}."
                )
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), np.ndarray):
                value.flags.writeable = False

    def _positions(self, name: str) -> Int[NumpyArray, " P"]:
        found = np.asarray(getattr(self, name))
        last = self.segments.num_episodes - 1
        if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
            raise ConfigurationError(
                f"`{name}` of Preferences must be one whole number a pair, the position of a segment; got {found.dtype} of "
                f"shape {found.shape}."
            )
        if len(found) and (found.min() < 0 or found.max() > last):
            raise ConfigurationError(
                f"`{name}` of Preferences must be positions of segments, from 0 to {last}; got {found.min()} to {found.max()}."
            )
        return found.astype(np.int32)  # a copy, which nobody else can write to

    def _check_masks(self) -> None:
        """A policy gives an action outside its mask no probability, so that nothing could be learned of it."""
        log = self.segments
        if log.action_mask is None or log.action.ndim > 1:
            return
        forbidden = np.flatnonzero(~log.action_mask[np.arange(log.num_transitions), log.action])
        if len(forbidden):
            raise DataError(
                f"A segment may hold only actions that its `action_mask` allows; row {forbidden[0]} has action "
                f"{log.action[forbidden[0]]}, which its mask forbids ({len(forbidden):,} such rows). Correct the masks, or leave "
                "these pairs out."
            )

    def _check_weight(self) -> None:
        if self.weight is None:
            return
        try:
            weight = np.array(self.weight, np.float64)
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"`weight` of Preferences must be numbers; got {np.asarray(self.weight).dtype}."
            ) from None
        if (
            weight.shape != self.preferred.shape
            or not np.isfinite(weight).all()
            or weight.min() < 0
            or weight.sum() <= 0
        ):
            raise ConfigurationError(
                f"`weight` of Preferences must be one finite number of at least 0 for each of the {self.num_pairs} pairs, "
                f"not all of them 0; got shape {weight.shape}"
                + (f", from {weight.min()} to {weight.max()}." if weight.size else ".")
            )
        object.__setattr__(self, "weight", weight)

    # --- sizes -------------------------------------------------------------------------------------------------

    @property
    def num_pairs(self) -> int:
        """How many pairs there are."""
        return len(self.preferred)

    @property
    def num_actions(self) -> int | None:
        """How many discrete actions there are; None if the action is continuous."""
        return self.segments.num_actions

    @property
    def longest(self) -> int:
        """Decisions in the longest segment that is in a pair."""
        used = np.concatenate([self.preferred, self.rejected])
        return int(self.segments.episode_lengths[used].max())

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the segments and the pairs: equal preferences have equal hashes on every machine."""
        digest = hashlib.sha256(self.segments.bare().content_hash.encode())
        for name in ("preferred", "rejected", "weight", "group"):
            value = getattr(self, name)
            if value is None:
                continue
            if value.dtype.kind in "iu":
                value = value.astype(np.int64)
            elif value.dtype.kind not in "bf":
                value = value.astype(str)
            digest.update(f"{name}:{value.dtype.str}:{value.shape};".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    # --- parts -------------------------------------------------------------------------------------------------

    def select(self, pairs: Sequence[int] | NumpyArray) -> Preferences:
        """The given pairs alone, in the given order, with the segments that they use.

        Args:
            pairs: positions from 0 to P - 1, or one bool for each pair.

        Raises:
            ConfigurationError: there is no pair at a position, or no pair is left.
        """
        chosen = np.asarray(pairs)
        if chosen.dtype == bool and chosen.shape == (self.num_pairs,):
            chosen = np.flatnonzero(chosen)
        if (
            chosen.ndim != 1
            or not len(chosen)
            or chosen.dtype.kind not in "iu"
            or chosen.min() < 0
            or chosen.max() >= self.num_pairs
        ):
            raise ConfigurationError(
                f"Pairs are chosen by at least one position from 0 to {self.num_pairs - 1}, or by one bool a pair; got "
                f"{chosen.dtype} of shape {chosen.shape}."
            )
        sides = self.preferred[chosen], self.rejected[chosen]
        used, place = np.unique(np.concatenate(sides), return_inverse=True)
        preferred, rejected = np.split(place.reshape(-1), 2)
        return Preferences(
            self.segments.select_episodes(used),
            preferred,
            rejected,
            None if self.weight is None else self.weight[chosen],
            None if self.group is None else self.group[chosen],
        )

    def split(
        self, fractions: Sequence[float] = (0.8, 0.2), *, seed: int = 0, by: str | None = None
    ) -> tuple[Preferences, ...]:
        """Split the pairs at random into parts. No pair is in two parts.

        Args:
            fractions: the share of the pairs that each part gets; positive, summing to 1. Where pairs are kept together, the
                shares are met as nearly as that allows.
            seed: of the random draw, at least 0.
            by: what is kept together. "group": the pairs of one group. "segment": pairs that share a segment, directly or by
                other pairs, so that no segment is in two parts. "pair": nothing. None means "group" where there are groups, else
                "segment".

        Raises:
            ConfigurationError: fractions not positive or not summing to 1, an unknown `by`, a negative seed.
            DataError: a part would be empty or have only pairs of weight 0, or there are no groups to keep together.
        """
        by = by or ("segment" if self.group is None else "group")
        if by not in WAYS or seed < 0:
            raise ConfigurationError(
                f"`by` of a split of preferences must be one of {', '.join(WAYS)}, and `seed` at least 0; got {by!r} and {seed}."
            )
        together: NumpyArray = np.arange(self.num_pairs)
        if by == "group":
            if self.group is None:
                raise DataError('A split by group needs `group`, which these preferences lack. Use by="segment".')
            together = np.unique(self.group, return_inverse=True)[1].reshape(-1)
        elif by == "segment":
            size, one = self.segments.num_episodes, np.ones(self.num_pairs)
            graph = coo_array((one, (self.preferred, self.rejected)), shape=(size, size))
            part_of_segment = connected_components(graph, directed=False)[1]
            together = np.unique(part_of_segment[self.preferred], return_inverse=True)[1].reshape(-1)
        if len(fractions) > int(together.max()) + 1:
            raise DataError(
                f"Preferences of {self.num_pairs} pairs, of which those of one {by} stay together, fall into "
                f'{int(together.max()) + 1} that can be split; {len(fractions)} parts were asked for. Use by="pair".'
            )
        parts = by_group(together, fractions, np.random.default_rng(seed))
        if self.weight is not None and not all(self.weight[part].any() for part in parts):
            raise DataError(
                f"A part of these {self.num_pairs} pairs would have only pairs of weight 0, which are never drawn. Leave such "
                "pairs out by `select`, or take another `seed`."
            )
        return tuple(self.select(part) for part in parts)

    def with_reference(self, policy: Any) -> Preferences:
        """The same preferences with `behavior_log_prob` of every decision as a policy says, for `st.DPO(reference="logged")`.

        Args:
            policy: what preferences are to be measured from, such as the policy that acts today: any object with
                `log_prob(obs, action, action_mask=...)`, in the units of these observations and actions.

        Raises:
            ConfigurationError: it has no density, or says that a decision of a segment cannot happen.
        """
        log = self.segments
        if not getattr(policy, "has_density", True) or not hasattr(policy, "log_prob"):
            raise ConfigurationError(
                f"A reference must have a probability, or a density, for every action; a {type(policy).__name__} has none. "
                "Take a policy that draws its actions, such as that of st.BC()."
            )
        found = np.asarray(policy.log_prob(log.observation, log.action, action_mask=log.action_mask), np.float32)
        if found.shape != log.reward.shape or not np.isfinite(found).all():
            raise ConfigurationError(
                f"A reference must give each of the {log.num_transitions} decisions one finite log-probability; got shape "
                f"{found.shape}, of which {int((~np.isfinite(found)).sum())} are not finite."
            )
        return dataclasses.replace(
            self, segments=dataclasses.replace(log, behavior_log_prob=found, behavior_probs=None)
        )

    def __repr__(self) -> str:
        return f"Preferences({self.num_pairs:,} pairs of segments of at most {self.longest}; {self.segments!r})"
