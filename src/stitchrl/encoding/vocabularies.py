"""Categories as numbers: the positions of a column's values in its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from stitchrl.encoding.columns import Column, MissingError, Where, as_text, refuse_missing
from stitchrl.errors import DataError
from stitchrl.messages import printable, shown
from stitchrl.types import NumpyArray

__all__ = ["WORDS_FOR_MISSING", "Vocabularies"]

WORDS_FOR_MISSING = (
    "In text files and spreadsheets, empty cells and the words NA, N/A, NaN, null and None are missing values, unless "
    "`categories` of the schema lists the word."
)


class Vocabularies:
    """The vocabularies of the columns of one log, and how many values were in none of them."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], pa.Array] = {}
        self._unseen: dict[str, int] = {}

    def codes(
        self,
        where: Where,
        categories: tuple[str, ...],
        column: Column,
        *,
        gaps: bool = False,
        unknown: str | None = None,
    ) -> Float[NumpyArray, " n"]:
        """Positions of a column's values in a vocabulary; NaN where a value is missing.

        Args:
            where: the block stands.
            categories: the vocabulary.
            column: the values.
            gaps: whether values may be missing.
            unknown: the category of values that are not in the vocabulary; None refuses them.

        Raises:
            DataError: a value is missing or unseen where it must not be.
        """
        key = (where.role, where.name)
        if key not in self._held:
            self._held[key] = pa.array(categories, pa.large_string())
        text = as_text(column, where)
        codes = pc.index_in(text, self._held[key])
        if codes.null_count > text.null_count:
            unseen = pc.and_(codes.is_null(), text.is_valid())
            if unknown is None:
                self.refuse(text, unseen.to_numpy(zero_copy_only=False), categories, where)
            else:
                codes = pc.if_else(unseen, pa.scalar(categories.index(unknown), codes.type), codes)
                self._unseen[where.name] = self._unseen.get(where.name, 0) + pc.sum(unseen).as_py()
        if not gaps:
            try:
                refuse_missing(text, where)
            except MissingError as error:
                raise MissingError(f"{error} {WORDS_FOR_MISSING}") from None
        return codes.cast(pa.float32()).to_numpy(zero_copy_only=False)

    def refuse(self, text: pa.Array, unseen: Bool[NumpyArray, " n"], categories: Sequence[str], where: Where) -> None:
        """Raise DataError for values that are none of the categories, with the ways out. Where it does not, they are missing."""
        at = int(np.argmax(unseen))
        also = f", or count all such values as one more category: `unknown = true` under [observation.{printable(where.name)}]"
        raise DataError(
            f"{where.column} must hold one of its {len(categories)} categories; got {shown(text[at].as_py())} "
            f"in row {where.row + at}. Add it to `categories` of the schema{also if where.role != 'action' else ''}."
        )

    def notes(self) -> list[str]:
        """How many values were none of the categories, a sentence a column."""
        return [
            f"{count:,} values of {printable(name)!r} are none of its categories."
            for name, count in self._unseen.items()
        ]
