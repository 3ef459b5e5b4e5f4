"""Ends that a log marks by words, such as "died" in a column of states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
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
        rows: how many rows the blocks have had.
    """

    def __init__(self, values: Sequence[str]) -> None:
        self.words = tuple(values)
        self._spellings = {word: _spellings(word) for word in values}
        self._values = pa.array(sorted(set().union(*self._spellings.values())), pa.large_string())
        self.unseen = list(values)
        self.others: list[str] = []
        self.rows = 0
        self._held: Counter[str] = Counter()

    def ends(self, text: pa.Array) -> Bool[NumpyArray, " n"]:
        """Which rows of a block are ends."""
        text = pc.utf8_lower(pc.utf8_trim_whitespace(text))
        marked = pc.is_in(text, self._values)
        if self.unseen:
            counts = pc.value_counts(text)
            found = counts.field(0).to_pylist()
            held = zip(found, counts.field(1).to_pylist(), strict=True)
            self._held.update({word: count for word, count in held if word})
            self.rows += len(text)
            self.unseen = [word for word in self.unseen if not self._spellings[word] & set(found)]
            self.others = list(dict.fromkeys([*self.others, *(w for w in found if w is not None)]))[:MOST_OTHERS]
        return np.asarray(marked.to_numpy(zero_copy_only=False), bool)

    def like_an_end(self, episodes: int, known: Collection[str]) -> str | None:
        """Another word that the column holds in no more rows than there are episodes, as a word for an end would; None where
        there is none, or where nearly all episodes have one row.

        Args:
            episodes: how many there are.
            known: words in lower case that are listed for an end of some kind.
        """
        if 2 * self.rows < 3 * episodes or len(self._held) > MOST_OTHERS:
            return None
        return next((word for word, count in self._held.items() if count <= episodes and word not in known), None)

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
