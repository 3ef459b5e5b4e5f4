"""What the text of a column means where numbers are needed: words such as yes and no, and lists such as [1.0, 2.0]."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stitchrl.data.file_rules import FileRules
from stitchrl.encoding.columns import Column, is_text

__all__ = ["FALSE_WORDS", "TRUE_WORDS", "as_flags", "as_lists", "text_of"]

TRUE_WORDS = ("true", "t", "yes", "y", "ja", "j", "oui", "o", "1")
FALSE_WORDS = ("false", "f", "no", "n", "nein", "non", "0")
"""Words for true and false, in lower case."""
LETTERS = (frozenset("tf"), frozenset("yn"), frozenset("jn"), frozenset("on"))
"""Letters that mean true and false together, each pair in a language."""
LIST = r"^\s*\[[^\[\]\"']*\]\s*$"
"""Matches a list as JSON and NumPy write it, without others inside."""


def text_of(column: Column) -> pa.Array | None:
    """A column of text as Arrow's; None for a column of anything else."""
    if isinstance(column, np.ndarray):
        return pa.array(column.tolist(), pa.large_string()) if column.ndim == 1 and column.dtype.kind == "U" else None
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not is_text(kind):
        return None
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:  # bytes that are no UTF-8: whoever reads the values says so
        return None


def as_flags(text: pa.Array, rules: FileRules, letters: set[str]) -> pa.Array | None:
    """The values as true and false, missing ones as null; None if any of them is no such word.

    Single letters of different pairs, such as N and F for north and far, are no such words.

    Args:
        text: the values.
        rules: with further words for true and false.
        letters: those that earlier blocks of the column have held; those of this one are added if they are such words.
    """
    true = [*TRUE_WORDS, *(word.strip().lower() for word in rules.true_values)]
    false = [*FALSE_WORDS, *(word.strip().lower() for word in rules.false_values)]
    words = pa.array([*true, *false], pa.large_string())
    for values in (text.drop_null()[:1], text):  # the first value decides for most columns
        codes = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), words)
        if codes.null_count > values.null_count:
            return None
    own = {word.strip().lower() for word in (*rules.true_values, *rules.false_values)}
    found = {true[i] if i < len(true) else false[i - len(true)] for i in pc.unique(codes.drop_null()).to_pylist()}
    together = letters | {word for word in found - own if len(word) == 1 and word.isalpha()}
    if together and not any(together <= pair for pair in LETTERS):
        return None
    letters |= together
    return None if text.null_count == len(text) else pc.less(codes, len(true))


def as_lists(text: pa.Array) -> pa.Array | None:
    """The values as lists of numbers, missing ones as null; None if any of them is no such list."""
    values = text.drop_null()
    for some in (values[:1], values):
        if not len(some) or not pc.all(pc.match_substring_regex(some, LIST)).as_py():
            return None
    parts = pc.split_pattern_regex(pc.utf8_trim(text, " \t\r\n[]"), r"\s*,\s*|\s+")
    numbers = pc.utf8_lower(parts.values)
    for word, number in (("true", "1"), ("false", "0"), ("null", None), ("none", None)):
        numbers = pc.if_else(pc.equal(numbers, word), pa.scalar(number, numbers.type), numbers)
    try:
        numbers = numbers.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    kind = pa.large_list if pa.types.is_large_list(parts.type) else pa.list_
    return pa.Array.from_buffers(
        kind(pa.float64()), len(parts), parts.buffers()[:2], parts.null_count, parts.offset, children=[numbers]
    )
