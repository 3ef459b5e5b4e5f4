"""The Encoder turns blocks of a log's own columns into arrays with the meaning that the schema gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Shaped

from stitchrl.data.expression import Expression
from stitchrl.data.schema import LARGEST_ACTION_COUNT, VECTOR_ROLES, Schema
from stitchrl.encoding.columns import (
    MissingError,
    Where,
    as_text,
    identifiers,
    joined_identifiers,
    plain,
    refuse_missing,
)
from stitchrl.encoding.observations import ObservationEncoder
from stitchrl.encoding.values import (
    as_bools,
    check_within,
    float32,
    whole_numbers,
)
from stitchrl.encoding.vocabularies import WORDS_FOR_MISSING
from stitchrl.encoding.words import text_of
from stitchrl.errors import DataError
from stitchrl.messages import listed
from stitchrl.reading.sources.actions import actions_of_components
from stitchrl.reading.sources.dates import in_utc
from stitchrl.reading.sources.ends import MarkedEnds
from stitchrl.reading.sources.source import Block
from stitchrl.types import NumpyArray

__all__ = ["Encoder"]

ROUNDING = 1e-3
"""How far the probabilities of a row may sum from 1."""
PER_ACTION = ("behavior_probs", "action_mask", "policy_probs")
"""Roles with one number for each discrete action."""


class Encoder(ObservationEncoder):
    """Turns blocks of one log into arrays of its roles. Error messages name the column and the row of the log.

    One Encoder serves a whole read: it holds the vocabularies, and gathers in `notes` what was lost on the way.

    Args:
        schema: of the log.
        origin: what messages call the log.
        guessed: whether the schema was guessed from names, so that `settle_action` decides from the first rows
            whether the action is discrete.

    Attributes:
        schema: of the log; `settle_action` may complete it.
        notes: what was lost on the way, each sentence once.
        local_times: whether the times are those of clocks, which show an hour twice when summer time ends.
    """

    def __init__(self, schema: Schema, origin: str, *, guessed: bool = False) -> None:
        super().__init__(schema, origin)
        self._guessed = guessed
        self._reward = None if schema.reward_expression is None else Expression(schema.reward_expression)
        self._marked = {
            role: MarkedEnds(values)
            for role, values in (("terminated", schema.terminated_values), ("truncated", schema.truncated_values))
            if values is not None
        }
        self._rewarded = {} if self._reward is None else {pair: MarkedEnds([pair[1]]) for pair in self._reward.words}
        self._filled_rewards = 0
        self.local_times = False

    def settle_action(self, block: Block) -> None:
        """Decide from a log's first block whether the action of a guessed schema is discrete.

        It is if it is one integer a row, none of them negative. There are as many actions as masks or probabilities
        have columns, or else at most `LARGEST_ACTION_COUNT`. A schema that was not guessed stays as it is.

        Raises:
            DataError: as `role`.
        """
        if not self._guessed:
            return
        action = self.column("action", block, 0)
        if action.ndim != 1 or action.dtype.kind not in "iub" or action.min() < 0:
            return
        per_action = [self.column(r, block, 0) for r in PER_ACTION if r in self.schema.columns]
        count = max((values.shape[1] for values in per_action if values.ndim > 1), default=LARGEST_ACTION_COUNT)
        self.schema = dataclasses.replace(self.schema, num_actions=count)

    def needed(self, roles: tuple[str, ...]) -> list[str]:
        """The columns of the log that these roles are made of."""
        names: dict[str, None] = {}
        for column in self.schema.of_roles(roles).values():
            names |= dict.fromkeys((column,) if isinstance(column, str) else column)
        if "reward" in roles and self._reward is not None:
            names |= dict.fromkeys([*self._reward.columns, *(name for name, _ in self._reward.words)])
        return list(names)

    # --- roles --------------------------------------------------------------------------------------------------

    def role(self, role: str, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        """The values of one role in a block, as the Dataset will hold them.

        Args:
            role: any role but `observation` and `next_observation`.
            block: rows of the log.
            row: number of the block's first row in the log, for messages.

        Raises:
            DataError: missing, non-finite or impossible values.
        """
        special: dict[str, Callable[[Block, int], NumpyArray]] = {
            "reward": self._rewards,
            "action": self._actions,
            "propensity": self._propensities,
            "behavior_probs": lambda block, row: self._probabilities("behavior_probs", block, row),
            "policy_probs": self._policy_probabilities,
            "policy_log_prob": self._policy_log_probs,
            "action_mask": self._masks,
            "weight": self._weights,
            "cost": self._costs,
            "subgroup": self._subgroups,
        }
        if role in special:
            return special[role](block, row)
        if role in ("terminated", "truncated"):
            return self._ends(role, block, row)
        values = self.column(role, block, row)
        return self._numbers(values, self.where(role, row)) if role == "behavior_log_prob" else values

    def identifiers(self, role: str, block: Block, row: int) -> NumpyArray | pa.DictionaryArray:
        """The values of a role that names episodes or groups; text is dictionary-encoded. Several columns become one
        text, such as "12/3"."""
        where = self.where(role, row)
        if isinstance(self.schema.columns[role], tuple):
            return joined_identifiers([(block[each.name], each) for each in self._each(role, row)])
        values = identifiers(block[where.name], where)
        if isinstance(values, np.ndarray) and values.ndim > 1:
            raise DataError(f"{where.called} must hold one value a row; got an array of shape {values.shape}.")
        return values

    def times(self, block: Block, row: int) -> NumpyArray | pa.Array:
        """The values of the role `time`: numbers, dates in UTC, or text whose meaning the whole column tells."""
        where = self.where("time", row)
        column = block[where.name]
        if "%" in (self.schema.file.dates or ""):  # 20240131 is written as the pattern says, and no number
            if isinstance(column, np.ndarray) and column.dtype.kind in "iu" and column.ndim == 1:
                column = pa.array(column)
            if isinstance(column, pa.Array) and pa.types.is_integer(column.type):
                column = column.cast(pa.string())
        text = text_of(column)
        if text is not None:
            refuse_missing(text, where)
            return text
        values, timezone = self.column("time", block, row), self.schema.file.timezone
        zoned = isinstance(column, pa.Array) and pa.types.is_timestamp(column.type) and column.type.tz is not None
        if timezone is None or values.dtype.kind != "M" or zoned:
            return values
        values, said = in_utc(values, timezone)
        self.local_times = True
        self.notes |= dict.fromkeys(said)
        return values

    def column(self, role: str, block: Block, row: int, *, gaps: bool = False) -> Shaped[NumpyArray, "n ..."]:
        """The values of a role as the log has them; several columns are put side by side, and with `gaps` missing values
        become NaN."""
        columns = [plain(self._settled(block[where.name], where), where, gaps=gaps) for where in self._each(role, row)]
        if isinstance(self.schema.columns[role], tuple):
            values = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
        else:
            values = columns[0]
        most = 2 if role in VECTOR_ROLES else 1
        if values.ndim > most:
            held = "one value" if most == 1 else "one value, or one list of values,"
            raise DataError(f"{role} of {self.origin} must hold {held} a row; got an array of shape {values.shape}.")
        return values

    # --- how each role is read ------------------------------------------------------------------------------------

    def _ends(self, role: str, block: Block, row: int) -> Bool[NumpyArray, " n"]:
        """Where an episode ends: the words that the schema lists, or true and false in any spelling."""
        where = self.where(role, row)
        if role in self._marked:
            return self._marked[role].ends(as_text(block[where.name], where))
        column = self._settled(block[where.name], where)
        if not isinstance(column, np.ndarray) and column.null_count:
            try:
                refuse_missing(column, where)
            except DataError as error:
                raise DataError(
                    f"{error} Say which values mark an end, so that an empty one marks none: `{role}_values` under [episodes]."
                ) from None
        values = plain(column, where)
        if values.ndim > 1:
            raise DataError(f"{role} of {self.origin} must hold one value a row; got an array of shape {values.shape}.")
        return as_bools(values, where)

    def check_words(self, episodes: int) -> None:
        """Check, once the whole log was read, that the words for ends are those of the log.

        Args:
            episodes: how many there are.

        Raises:
            DataError: none of the words of a role occurs, another word is spelled almost as one of them or stands in as few
                rows as ends do, and `end` of the schema would make every such end another kind.
        """
        listed_words = {word.strip().lower() for marked in self._marked.values() for word in marked.words}
        for role, marked in self._marked.items():
            if not self._other_ends(role):
                continue
            near, like = marked.misspelled(), marked.like_an_end(episodes, listed_words)
            if near is None and like is not None:
                other = "truncated" if role == "terminated" else "terminated"
                raise DataError(
                    f"None of `{role}_values` occurs in {self.where(role, 0).called}, and {like!r} stands there in as "
                    f"few rows as an end does; got {listed(map(repr, marked.words))}. List {like!r} too, under "
                    f"`{role}_values`, or, if it is no such end, under `{other}_values` with {other} = the same column."
                )
            if near is not None:
                raise DataError(
                    f"None of `{role}_values` occurs in {self.where(role, 0).called}, which holds "
                    f"{listed(map(repr, marked.others))}; got {listed(map(repr, marked.words))}. Did you mean {near!r}? "
                    f"Correct the words under [episodes]; if no episode of this log is {role}, leave out the column and words, "
                    f'so that `end = "{self.schema.end}"` says how all of them end.'
                )

    def _other_ends(self, role: str) -> bool:
        """Whether none of the words for the ends of a role occurs, and `end` of the schema makes such ends another kind."""
        marked = self._marked[role]
        return self.schema.end not in (None, role) and len(marked.unseen) == len(marked.words)

    def _unseen(self, role: str) -> str:
        """The sentence on words for ends that do not occur."""
        marked = self._marked[role]
        words = f"{listed(map(repr, marked.unseen))} of `{role}_values`"
        holds = f"{self.where(role, 0).called}, which holds {listed(map(repr, marked.others)) or 'no words at all'}"
        if not self._other_ends(role):
            return f"{words} is nowhere in {holds}."
        return (
            f"No episode ends with {words}: what has no end marked counts as {self.schema.end}. If a word of {holds}, marks an "
            f"end that is {role}, add it to `{role}_values` under [episodes]."
        )

    def last_notes(self) -> tuple[str, ...]:
        """What the whole log has shown: words for ends that do not occur, and missing rewards."""
        notes = [self._unseen(role) for role, marked in self._marked.items() if marked.unseen]
        notes += [
            f"The word {word!r} of the reward's expression is nowhere in column {name!r}, which holds "
            f"{listed(map(repr, marked.others))}."
            for (name, word), marked in self._rewarded.items()
            if marked.unseen
        ]
        if self._filled_rewards:
            notes.append(f"{self._filled_rewards:,} missing rewards count as {self.schema.reward_fill:g}.")
        return (*notes, *self._vocabularies.notes())

    def _rewards(self, block: Block, row: int) -> Float[NumpyArray, " n"]:
        """The reward column, or the value of the reward's expression; where it is missing, the `fill` of the schema."""
        where, fill = self.where("reward", row), self.schema.reward_fill
        gaps = fill is not None
        try:
            if self._reward is None:
                values = self._numbers(self.column("reward", block, row, gaps=gaps), where, gaps=gaps)
                missing = np.isnan(values) if gaps else None
            else:
                values, missing = self._expressed(self._reward, block, where, gaps=gaps)
        except MissingError as error:
            raise MissingError(
                f"{error} If they stand in some rows only, such as the last of an episode, say `fill = 0.0` under [reward]."
            ) from None
        if missing is not None and missing.any():
            self._filled_rewards += int(missing.sum())
            values = np.where(missing, float32(fill), values)
        values = self._numbers(values, where)
        check_within(values, self.schema.reward_low, self.schema.reward_high, where)
        return values

    def _expressed(
        self, expression: Expression, block: Block, where: Where, *, gaps: bool
    ) -> tuple[NumpyArray, Bool[NumpyArray, " n"] | None]:
        """The value of the reward's expression, and with `gaps` the rows that lack a column of it."""
        columns: dict[str, NumpyArray] = {}
        missing = np.zeros(_rows(block), bool)
        for name in expression.columns:
            here = where._replace(name=name)
            columns[name] = plain(self._settled(block[name], here), here, gaps=gaps)
            if columns[name].ndim > 1:
                raise DataError(f"{here.column} must hold one value a row; it holds lists.")
            numbers = self._numbers(
                columns[name], here, gaps=gaps
            )  # refuses NaN, which a comparison would make a number
            if gaps:
                missing |= np.isnan(numbers)
        words = {
            (name, word): marked.ends(as_text(block[name], where._replace(name=name)))
            for (name, word), marked in self._rewarded.items()
        }
        values = expression(columns, _rows(block), words)
        if not gaps:
            return values, None
        return np.where(missing, 0.0, values), missing

    def _actions(self, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        """Actions as (n,) numbers of discrete actions, or (n, components) continuous ones."""
        schema, where = self.schema, self.where("action", row)
        if schema.action_categories is not None:
            return self._vocabularies.codes(where, schema.action_categories, block[where.name]).astype(np.int32)
        try:
            raw = self.column("action", block, row)
        except MissingError as error:
            raise MissingError(f"{error} {WORDS_FOR_MISSING}") from None
        values = self._numbers(raw, where)
        if schema.num_actions is not None and schema.action_counts is None:
            if raw.ndim != 1:
                raise DataError(f"{where.called}, discrete, must be one integer a row; got shape {raw.shape}.")
            return whole_numbers(raw, schema.num_actions, where).astype(np.int32)
        return actions_of_components(raw.reshape(len(raw), -1), values.reshape(len(raw), -1), schema, where)

    def _propensities(self, block: Block, row: int) -> Float[NumpyArray, " n"]:
        """The logarithm of the probability of the logged action."""
        where = self.where("propensity", row)
        values = self._numbers(self.column("propensity", block, row), where)
        check_within(values, 0.0, 1.0, where, way="Correct the log; percentages must be divided by 100.")
        with np.errstate(divide="ignore"):
            return np.log(values)

    def _policy_log_probs(self, block: Block, row: int) -> Float[NumpyArray, " n"]:
        """Logarithms of probabilities or densities, which are minus infinity where the policy never takes the action."""
        where = self.where("policy_log_prob", row)
        values = self.column("policy_log_prob", block, row)
        never = np.isneginf(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        numbers = self._numbers(np.where(never, 0, values) if never.any() else values, where)
        return np.where(never, np.float32(-np.inf), numbers)

    def _probabilities(self, role: str, block: Block, row: int) -> Float[NumpyArray, "n A"]:
        """The probability of every action, checked to sum to 1 in each row."""
        probs = self._of_each_action(role, self.column(role, block, row))
        probs = self._numbers(probs, self.where(role, row))
        wrong = (probs < 0).any(1) | (np.abs(probs.sum(1) - 1) > ROUNDING)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{role} of {self.origin} must be at least 0 and sum to 1 in every row; row {row + at} sums to "
                f"{probs[at].sum():.4g} with minimum {probs[at].min():.4g}."
            )
        return probs

    def _policy_probabilities(self, block: Block, row: int) -> Float[NumpyArray, "n A"]:
        """The probability that the policy to be judged gives every action: as logged, or 1 for the one action that a single
        column names."""
        schema, where = self.schema, self.where("policy_probs", row)
        if (
            schema.num_actions is None
            or schema.action_counts is not None
            or isinstance(schema.columns["policy_probs"], tuple)
        ):
            return self._probabilities("policy_probs", block, row)
        text = text_of(block[where.name])
        named = text is not None and not str(next((v for v in text.to_pylist() if v is not None), "[")).startswith("[")
        if named and schema.action_categories is not None:
            taken = self._vocabularies.codes(where, schema.action_categories, block[where.name])
        else:
            values = self.column("policy_probs", block, row)
            if values.ndim > 1:
                return self._probabilities("policy_probs", block, row)
            if self._guessed:
                raise DataError(
                    f"{where.called} holds one value a row, the action that the policy takes, which needs the number of actions: "
                    "say `count` or `categories` under [action] of the schema."
                )
            try:
                taken = whole_numbers(values, schema.num_actions, where)
            except DataError as error:
                raise DataError(
                    f"{error} A single column of a policy holds a list with the probability of every action, or the action "
                    "that it takes."
                ) from None
        return (taken[:, None] == np.arange(schema.num_actions)).astype(np.float32)

    def _masks(self, block: Block, row: int) -> Shaped[NumpyArray, "n A"]:
        """Which actions were allowed."""
        masks = self._of_each_action("action_mask", self.column("action_mask", block, row))
        return as_bools(masks, self.where("action_mask", row))

    def _of_each_action(self, role: str, values: NumpyArray) -> NumpyArray:
        """The values, checked to hold one number for each action in every row."""
        count = self.schema.num_actions
        if values.ndim != 2 or (count is not None and values.shape[1] != count):
            raise DataError(
                f"{role} of {self.origin} must hold one number for each of the {count} actions; "
                f"got shape {values.shape}."
            )
        return values

    def _weights(self, block: Block, row: int) -> Float[NumpyArray, " n"]:
        """Weights, checked not to be negative."""
        where = self.where("weight", row)
        values = self._numbers(self.column("weight", block, row), where)
        check_within(values, 0.0, None, where, way="Correct the log.")
        return values

    def _costs(self, block: Block, row: int) -> Float[NumpyArray, "n K"]:
        """What each row costs, one column for each that the schema names."""
        values = self._numbers(self.column("cost", block, row), self.where("cost", row))
        return values.reshape(len(values), -1)

    def _subgroups(self, block: Block, row: int) -> Shaped[NumpyArray, "n K"]:
        """Names of groups as text, whatever their type, one column for each that the schema names."""
        columns = [plain(block[where.name], where) for where in self._each("subgroup", row)]
        return np.concatenate([column.reshape(len(column), -1).astype(str) for column in columns], axis=1)


def _rows(block: Block) -> int:
    """How many rows a block has."""
    return len(next(iter(block.values())))
