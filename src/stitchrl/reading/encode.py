"""The Encoder turns blocks of a log's own columns into arrays with the meaning that the schema gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Shaped

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.expression import Expression
from stitchrl.data.schema import LARGEST_ACTION_COUNT, VECTOR_ROLES, Schema
from stitchrl.errors import DataError
from stitchrl.messages import listed, printable
from stitchrl.reading.sources.actions import actions_of_components
from stitchrl.reading.sources.columns import (
    MissingError,
    Where,
    as_text,
    identifiers,
    is_image,
    is_list,
    joined_identifiers,
    plain,
    refuse_missing,
)
from stitchrl.reading.sources.dates import in_utc
from stitchrl.reading.sources.ends import MarkedEnds
from stitchrl.reading.sources.source import Block, Column
from stitchrl.reading.sources.values import (
    LARGEST_WHOLE,
    as_bools,
    check_within,
    finite_numbers,
    float32,
    is_rounded,
    whole_numbers,
)
from stitchrl.reading.sources.vocabularies import Vocabularies
from stitchrl.reading.sources.words import as_flags, as_lists, text_of
from stitchrl.types import NumpyArray

__all__ = ["Encoder"]

PLAIN = ColumnRule()
ROUNDING = 1e-3
"""How far the probabilities of a row may sum from 1."""
PER_ACTION = ("behavior_probs", "action_mask", "policy_probs")
"""Roles with one number for each discrete action."""
OF_WORDS = ("terminated", "truncated", "action_mask", "observation", "next_observation", "reward", "cost")
"""Roles in which words such as yes and no count as numbers. Actions are none of them: they have names instead."""


class Encoder:
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
    """

    def __init__(self, schema: Schema, origin: str, *, guessed: bool = False) -> None:
        self.schema, self.origin, self._guessed = schema, origin, guessed
        self._reward = None if schema.reward_expression is None else Expression(schema.reward_expression)
        self._vocabularies = Vocabularies()
        self.notes: dict[str, None] = {}
        self._marked = {
            role: MarkedEnds(values)
            for role, values in (("terminated", schema.terminated_values), ("truncated", schema.truncated_values))
            if values is not None
        }
        self._filled_rewards = 0

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
        count = max((values.shape[-1] for values in per_action), default=LARGEST_ACTION_COUNT)
        self.schema = dataclasses.replace(self.schema, num_actions=count)

    def needed(self, roles: tuple[str, ...]) -> list[str]:
        """The columns of the log that these roles are made of."""
        names: dict[str, None] = {}
        for column in self.schema.of_roles(roles).values():
            names |= dict.fromkeys((column,) if isinstance(column, str) else column)
        if "reward" in roles and self._reward is not None:
            names |= dict.fromkeys(self._reward.columns)
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
            "policy_probs": lambda block, row: self._probabilities("policy_probs", block, row),
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
            raise DataError(f"{where.called} must have at most 1 axes; got shape {values.shape}.")
        return values

    def times(self, block: Block, row: int) -> NumpyArray | pa.Array:
        """The values of the role `time`: numbers, dates in UTC, or text whose meaning the whole column tells."""
        where = self.where("time", row)
        column = block[where.name]
        text = text_of(column)
        if text is not None:
            refuse_missing(text, where)
            return text
        values, timezone = self.column("time", block, row), self.schema.file.timezone
        zoned = isinstance(column, pa.Array) and pa.types.is_timestamp(column.type) and column.type.tz is not None
        if timezone is None or values.dtype.kind != "M" or zoned:
            return values
        values, said = in_utc(values, timezone)
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
            raise DataError(f"{role} of {self.origin} must have at most {most} axes; got shape {values.shape}.")
        return values

    def observations(self, role: str, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        """The values of `observation` or `next_observation`: (n, D) float32, or uint8 images of any shape.

        They are NaN where a rule fills missing values later, and where a next observation is not known.

        Raises:
            DataError: missing or non-finite values without a rule, values outside their bounds or vocabulary.
        """
        each = self._each(role, row)
        rules = self._rules_of(each)
        if len(each) == 1 and rules[0] is PLAIN and is_image(block[each[0].name]):
            return plain(block[each[0].name], each[0])
        made = [self._observation(where, rule, block[where.name]) for where, rule in zip(each, rules, strict=True)]
        values = made[0][0] if len(made) == 1 else np.concatenate([numbers for numbers, _ in made], axis=1)
        if role == "next_observation":  # it counts as not known where the log, before any rule, has none of its columns
            unknown = np.logical_and.reduce([missing for _, missing in made])
            values = np.where(unknown[:, None], np.float32(np.nan), values) if unknown.any() else values
        return values

    def observation_column(self, role: str, number: int, block: Block, row: int) -> None:
        """Read one column of `observation` or `next_observation` for its errors alone, which are those of `observations`."""
        each = self._each(role, row)
        where, rule = each[number], self._rules_of(each)[number]
        column = block[where.name]
        if not (rule is PLAIN and is_image(column)):
            self._observation(where, rule, column)

    def _rules_of(self, each: list[Where]) -> list[ColumnRule]:
        """The rules of the columns of `observation` or `next_observation`."""
        rules = [self.schema.observations.get(name, PLAIN) for name in self.schema.observation_columns]
        return rules if len(rules) == len(each) else [PLAIN] * len(each)

    def observation_names(self, block: Block) -> list[tuple[str, ...]]:
        """For each observation column, the names of the numbers that it becomes."""
        named = []
        for where in self._each("observation", 0):
            rule = self.schema.observations.get(where.name, PLAIN)
            width = self._observation(where, rule, block[where.name][:1])[0].shape[1] - rule.indicator
            if rule.categories is not None and rule.encoding == "one-hot":
                names = [f"{where.name}={category}" for category in rule.vocabulary]
            elif width == 1 and not _holds_lists(self._settled(block[where.name], where)):
                names = [where.name]
            else:
                names = [f"{where.name}[{i}]" for i in range(width)]
            named.append((*names, *([f"{where.name} missing"] if rule.indicator else [])))
        return named

    def where(self, role: str, row: int) -> Where:
        """Where messages say a value of this role stands; for a role of several columns, or of none,
        the role itself."""
        named = self.schema.columns.get(role, role)
        return Where(self.origin, role, named if isinstance(named, str) else role, row)

    def _each(self, role: str, row: int) -> list[Where]:
        """Every column of a role."""
        named = self.schema.columns[role]
        return [Where(self.origin, role, name, row) for name in ((named,) if isinstance(named, str) else named)]

    # --- how each role is read ------------------------------------------------------------------------------------

    def _observation(
        self, where: Where, rule: ColumnRule, column: Column
    ) -> tuple[Float[NumpyArray, "n width"], Bool[NumpyArray, " n"]]:
        """The numbers of one column, and the rows in which its value is missing altogether."""
        gaps = rule.missing != "error" or where.role == "next_observation"
        if rule.categories is not None:
            values = self._vocabularies.codes(where, rule.vocabulary, column, gaps=gaps, unknown=rule.unknown_category)
        else:
            values = self._numbers(plain(self._settled(column, where), where, gaps=gaps), where, gaps=gaps)
            check_within(values, rule.low, rule.high, where)
        values = values.reshape(len(values), -1)
        # Without gaps nothing can be missing, so the common case is spared a pass over the values.
        unknown: NumpyArray = np.isnan(values) if gaps else np.zeros((len(values), 1), bool)
        if rule.categories is not None and rule.encoding == "one-hot":
            known = ~np.isnan(values[:, 0])
            hot = np.zeros((len(values), len(rule.vocabulary)), np.float32)
            hot[np.flatnonzero(known), values[known, 0].astype(np.int64)] = 1
            hot[~known] = 0 if rule.missing == "value" else np.nan  # NaN is replaced by the previous category later
            values = hot
        elif rule.missing == "value":
            values = np.where(np.isnan(values), float32(rule.fill), values)
        if rule.indicator:
            values = np.concatenate([values, unknown.any(axis=1, keepdims=True).astype(np.float32)], axis=1)
        return values, np.asarray(unknown.all(axis=1))

    def _settled(self, column: Column, where: Where) -> Column:
        """A column, whose text of lists such as [1.0, 2.0] becomes lists, and of words such as yes and no true and false."""
        needed = where.role != "subgroup" and (where.role in VECTOR_ROLES or where.role in OF_WORDS)
        text = text_of(column) if needed else None
        if text is None:
            return column
        flags = as_flags(text, self.schema.file) if where.role in OF_WORDS else None
        if flags is not None:
            self.notes[f"Words of column {printable(where.name)!r} were read as true and false."] = None
            return flags
        lists = as_lists(text) if where.role in VECTOR_ROLES else None
        return column if lists is None else lists

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
            raise DataError(f"{role} of {self.origin} must have at most 1 axes; got shape {values.shape}.")
        return as_bools(values, where)

    def last_notes(self) -> tuple[str, ...]:
        """What the whole log has shown: words for ends that do not occur, and missing rewards."""
        notes = [
            f"{listed(map(repr, marked.unseen))} of `{role}_values` is nowhere in {self.where(role, 0).called}, which holds "
            f"{listed(map(repr, marked.others))}."
            for role, marked in self._marked.items()
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
        values = expression(columns, _rows(block))
        if not gaps:
            return values, None
        return np.where(missing, 0.0, values), missing

    def _actions(self, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        """Actions as (n,) numbers of discrete actions, or (n, components) continuous ones."""
        schema, where = self.schema, self.where("action", row)
        if schema.action_categories is not None:
            return self._vocabularies.codes(where, schema.action_categories, block[where.name]).astype(np.int32)
        raw = self.column("action", block, row)
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
        check_within(values, 0.0, 1.0, where)
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
        check_within(values, 0.0, None, where)
        return values

    def _costs(self, block: Block, row: int) -> Float[NumpyArray, "n K"]:
        """What each row costs, one column for each that the schema names."""
        values = self._numbers(self.column("cost", block, row), self.where("cost", row))
        return values.reshape(len(values), -1)

    def _subgroups(self, block: Block, row: int) -> Shaped[NumpyArray, "n K"]:
        """Names of groups as text, whatever their type, one column for each that the schema names."""
        columns = [plain(block[where.name], where) for where in self._each("subgroup", row)]
        return np.concatenate([column.reshape(len(column), -1).astype(str) for column in columns], axis=1)

    def _numbers(self, values: NumpyArray, where: Where, *, gaps: bool = False) -> Float[NumpyArray, "n ..."]:
        """The values as `finite_numbers`, with a note if whole numbers are rounded."""
        if is_rounded(values):
            self.notes[
                f"{where.called} holds whole numbers above {LARGEST_WHOLE:,}, which were rounded: as 32-bit floats they "
                "do not tell neighbours apart. Identifiers belong under `categories` or `observation_id`."
            ] = None
        return finite_numbers(values, where, gaps=gaps)


def _holds_lists(column: Column) -> bool:
    """Whether the values of a column are lists."""
    return column.ndim > 1 if isinstance(column, np.ndarray) else is_list(column.type)


def _rows(block: Block) -> int:
    """How many rows a block has."""
    return len(next(iter(block.values())))
