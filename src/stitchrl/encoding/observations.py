"""The ObservationEncoder turns the columns of an observation into the numbers that the schema's rules make of them.

Reading a log uses it for all rows, and a policy in use for the rows that it is asked about: both see the same numbers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import VECTOR_ROLES, Schema
from stitchrl.encoding.columns import Block, Column, Where, is_image, is_list, plain
from stitchrl.encoding.values import LARGEST_WHOLE, check_within, finite_numbers, float32, is_rounded
from stitchrl.encoding.vocabularies import Vocabularies
from stitchrl.encoding.words import as_flags, as_lists, text_of
from stitchrl.messages import printable
from stitchrl.types import NumpyArray

__all__ = ["ObservationEncoder"]

PLAIN = ColumnRule()
OF_WORDS = ("terminated", "truncated", "action_mask", "observation", "next_observation", "reward", "cost")
"""Roles in which words such as yes and no count as numbers. Actions are none of them: they have names instead."""


class ObservationEncoder:
    """Turns blocks of columns into observations. Error messages name the column and the row.

    Args:
        schema: what the columns mean.
        origin: what messages call their source.

    Attributes:
        schema: as given.
        notes: what was lost on the way, each sentence once.
    """

    def __init__(self, schema: Schema, origin: str) -> None:
        self.schema, self.origin = schema, origin
        self._vocabularies = Vocabularies()
        self._letters: dict[tuple[str, str], set[str]] = {}
        self.notes: dict[str, None] = {}

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
        letters = self._letters.setdefault((where.role, where.name), set())
        flags = as_flags(text, self.schema.file, letters) if where.role in OF_WORDS else None
        if flags is not None:
            self.notes[f"Words of column {printable(where.name)!r} were read as true and false."] = None
            return flags
        lists = as_lists(text) if where.role in VECTOR_ROLES else None
        return column if lists is None else lists

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
