"""Ends that a log marks by words, such as "died" in a column of states."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from stitchrl.types import NumpyArray

__all__ = ["MarkedEnds"]

MOST_OTHERS = 8
ALIKE = 0.75
"""Two words whose likeness, from 0 to 1, is at least this are taken for two spellings of one word."""


class MarkedEnds:
    """Finds ends by the words that mark them.

    Args:
        values: the words; every other value, and a missing one, marks no end.

    Attributes:
        words: as given.
        unseen: those of the words that no block has held so far.
        others: some of the other words that the blocks have held.
    """

    def __init__(self, values: Sequence[str]) -> None:
        self.words = tuple(values)
        self._spellings = {word: _spellings(word) for word in values}
        self._values = pa.array(sorted(set().union(*self._spellings.values())), pa.large_string())
        self.unseen = list(values)
        self.others: list[str] = []

    def ends(self, text: pa.Array) -> Bool[NumpyArray, " n"]:
        """Which rows of a block are ends."""
        text = pc.utf8_lower(pc.utf8_trim_whitespace(text))
        marked = pc.is_in(text, self._values)
        if self.unseen:
            found = pc.unique(text).to_pylist()
            self.unseen = [word for word in self.unseen if not self._spellings[word] & set(found)]
            self.others = list(dict.fromkeys([*self.others, *(w for w in found if w is not None)]))[:MOST_OTHERS]
        return np.asarray(marked.to_numpy(zero_copy_only=False), bool)

    def misspelled(self) -> str | None:
        """A word of the blocks that is spelled almost as a word which none of them holds; None where there is none."""
        near = (get_close_matches(word.strip().lower(), self.others, 1, ALIKE) for word in self.unseen)
        return next((found[0] for found in near if found), None)


def _spellings(word: str) -> set[str]:
    """How a column may say a word, in lower case: as it stands, or as the number that it is."""
    plain = word.strip().lower()
    try:
        number = float(plain)
    except ValueError:
        return {plain}
    return {plain, format(number, "g"), repr(number)}
