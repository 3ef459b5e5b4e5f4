"""The encoder of a policy's input rows: as for a log that is read, but a bad value makes only its own row unusable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from stitchrl.data.schema import Schema
from stitchrl.encoding.columns import Block, Column, Where, is_list, plain
from stitchrl.encoding.observations import ObservationEncoder
from stitchrl.encoding.vocabularies import Vocabularies
from stitchrl.encoding.words import FALSE_WORDS, TRUE_WORDS
from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = ["AskedEncoder"]

ORIGIN = "the input of the policy"
WORDS = {word: 1.0 for word in TRUE_WORDS if len(word) > 1} | {word: 0.0 for word in FALSE_WORDS if len(word) > 1}
"""Words that mean true or false in any column; what a single letter means depends on the other values of its column."""


class AskedEncoder(ObservationEncoder):
    """Turns named columns into the numbers that a policy learned from.

    Args:
        schema: of the policy.
        decimal: the sign before the decimals of numbers that are still text.
        width: how many numbers the observation has, where lists that are still text are to be read.

    Attributes:
        unusable: for each column with values that the policy cannot use, what is wrong in each of the (n,) rows; "" where the
            value is right.
    """

    def __init__(self, schema: Schema, *, decimal: str = ".", width: int | None = None) -> None:
        super().__init__(schema, ORIGIN)
        self.unusable: dict[str, NumpyArray] = {}
        self.decimal, self.width = decimal, width
        self._vocabularies = _Learned(self.unusable)

    def masks(self, block: Block) -> Float[NumpyArray, "n A"]:
        """(n, A) the columns of the action mask: 1 and 0, and NaN where a value is missing or is neither true nor false."""
        made = []
        for where in self._each("action_mask", 0):
            values = plain(self._settled(block[where.name], where), where, gaps=True)
            if values.ndim == 1:
                values = _lists(values, self._size(where))
            values = values.reshape(len(values), -1)
            made.append(self._read(values) if values.dtype.kind == "U" else values.astype(np.float64))
        found = np.concatenate(made, axis=1)
        return np.where((found == 0) | (found == 1), found, np.nan)

    def _numbers(self, values: NumpyArray, where: Where, *, gaps: bool = False) -> Float[NumpyArray, "n ..."]:
        """The values as float32, NaN where a text is no number; infinite values and NaN stay, so that the guard sees them."""
        if values.dtype.kind == "U":
            read = self._read(_lists(values, self._size(where)))
            wrong = np.isnan(read) & (np.char.strip(values) != "").reshape(-1, *[1] * (read.ndim - 1))
            for row in np.flatnonzero(wrong.reshape(len(values), -1).any(1)):
                self._note(where, row, len(values), f"{shown(values[row].tolist())} is no number")
            values = read
        elif values.dtype.kind not in "biuf":
            raise DataError(f"{where.name} must hold numbers; it holds {values.dtype}. Give its numbers.")
        with np.errstate(over="ignore"):
            return values.astype(np.float32)

    def _size(self, where: Where) -> int:
        """How many numbers a row of a column holds; 1 where that is not known."""
        if len(self._each(where.role, 0)) > 1:
            return 1
        if where.role == "action_mask":
            return self.schema.num_actions or 1
        rule = self.schema.observations.get(where.name)
        return (self.width or 1) - bool(rule and rule.indicator)

    def _settled(self, column: Column, where: Where) -> Column:
        """As in the encoder of logs, but a list of wrong length makes only its own row unusable where others are right."""
        made = super()._settled(column, where)
        if isinstance(made, np.ndarray) or not is_list(made.type) or pa.types.is_fixed_size_list(made.type):
            return made
        size = self._size(where)
        lengths = made.value_lengths().fill_null(size).to_numpy(zero_copy_only=False)
        wrong = lengths != size
        if not wrong.any() or wrong.all():
            return made
        if where.role == "observation":
            for row in np.flatnonzero(wrong):
                self._note(where, row, len(made), f"a list of {lengths[row]} where {size} numbers belong")
        return made.take(pa.array(np.arange(len(made)), mask=wrong))

    def _read(self, text: NumpyArray) -> NumpyArray:
        """The numbers that text means, or the words for true and false; NaN for all other text."""
        words = WORDS | {word.strip().lower(): 1.0 for word in self.schema.file.true_values}
        words |= {word.strip().lower(): 0.0 for word in self.schema.file.false_values}

        def number(value: str) -> float:
            value = value.strip().lower()
            if value in words:
                return words[value]
            try:
                return float(value.replace(self.decimal, ".").replace("_", "no number"))
            except ValueError:
                return np.nan

        found = np.array([number(value) for value in text.reshape(-1).tolist()], np.float64)
        return found.reshape(text.shape)

    def _note(self, where: Where, row: Any, count: int, reason: str) -> None:
        self.unusable.setdefault(where.name, np.full(count, "", object))[row] = reason


def _lists(values: NumpyArray, size: int) -> NumpyArray:
    """(n, size) the entries of lists that are still text, "" for lists of another length; other values as given."""
    if values.dtype.kind != "U" or values.ndim != 1 or size < 2:
        return values
    rows = [re.split(r"[\s,]+", text.strip(" []")) for text in values.tolist()]
    return np.array([row if len(row) == size else [""] * size for row in rows], str).reshape(len(rows), size)


class _Learned(Vocabularies):
    """The categories that a policy learned; the rows of unseen ones are noted, and their values count as missing."""

    def __init__(self, noted: dict[str, NumpyArray]) -> None:
        super().__init__()
        self._noted = noted

    def refuse(self, text: pa.Array, unseen: Bool[NumpyArray, " n"], categories: Sequence[str], where: Where) -> None:
        noted = self._noted.setdefault(where.name, np.full(len(text), "", object))
        for row in np.flatnonzero(unseen):
            noted[row] = f"{shown(text[int(row)].as_py())} is an unseen category"
