"""What may stand in a text file before its table: Excel's line `sep=;`, and comments that begin with #."""

from __future__ import annotations

import re
from typing import NamedTuple

from stitchrl.reading.sources.dialect import delimiter_counts

__all__ = ["FirstLines", "first_lines"]

SEPARATOR = re.compile(rb'"?sep=([^\w\r\n"\x80-\xff])"?[,;\t ]*\r?\n', re.IGNORECASE)
"""Matches the line by which Excel is told what separates values."""
LINES_LOOKED_AT = 100


class FirstLines(NamedTuple):
    """What stands before the table.

    Attributes:
        size: of it, in bytes.
        delimiter: that it names; None if it names none.
        comments: how many of its lines are comments.
    """

    size: int
    delimiter: str | None
    comments: int


def first_lines(start: bytes, delimiter: str | None) -> FirstLines:
    """What stands before the table of a text.

    Lines that begin with # are comments if the lines after them are a table, each with as many values as the others, and they
    have another number of values themselves: otherwise # belongs to the name of the first column.

    Args:
        start: the first lines of the text, as UTF-8.
        delimiter: between its values; None if it is not known.
    """
    blank = len(start) - len(start.lstrip(b"\r\n"))
    named = SEPARATOR.match(start, blank)
    size = named.end() if named else blank
    delimiter = delimiter or (named.group(1).decode() if named else None)
    lines = start[size:].splitlines(keepends=True)[:LINES_LOOKED_AT]
    leading = next((i for i, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
    table = [line for line in lines[leading:] if line.strip()]
    if start[size:].count(b"\n") >= LINES_LOOKED_AT or not start.endswith(b"\n"):
        table = table[:-1] or table  # the last line may be cut
    counts = set(delimiter_counts(table, delimiter, table)) if table else set()
    comments = 0
    if len(counts) == 1:
        others = delimiter_counts(lines[:leading], delimiter, table)
        comments = next((i for i, count in enumerate(others) if count in counts), leading)
    return FirstLines(size + sum(map(len, lines[:comments])), named and named.group(1).decode(), comments)
