"""What may stand in a file before its table: Excel's line `sep=;`, comments that begin with #, and lines of a title."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from stitchrl.reading.sources.dialect import delimiter_counts, is_value, rows_of

__all__ = ["FirstLines", "first_lines", "title_rows", "titles_note"]

SEPARATOR = re.compile(rb'"?sep=([^\w\r\n"\x80-\xff])"?[,;\t ]*\r?\n', re.IGNORECASE)
"""Matches the line by which Excel is told what separates values."""
LINES_LOOKED_AT = 100


class FirstLines(NamedTuple):
    """What stands before the table.

    Attributes:
        size: of it, in bytes.
        delimiter: that it names; None if it names none.
        comments: how many of its lines are comments.
        titles: how many of its lines are a title of the table, or empty.
    """

    size: int
    delimiter: str | None
    comments: int
    titles: int = 0


def first_lines(start: bytes, delimiter: str | None, skiprows: int | None = None) -> FirstLines:
    """What stands before the table of a text.

    Lines that begin with # are comments if the lines after them are a table, each with as many values as the others, and they
    have another number of values themselves: otherwise # belongs to the name of the first column.

    Args:
        start: the first lines of the text, as UTF-8.
        delimiter: between its values; None if it is not known.
        skiprows: how many lines stand before the table, where that is known.
    """
    if skiprows is not None:
        return FirstLines(sum(map(len, start.splitlines(keepends=True)[:skiprows])), None, 0)
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
    rest = lines[comments:]
    titles = title_rows(rows_of(rest, delimiter))
    size += sum(map(len, lines[: comments + titles]))
    return FirstLines(size, named and named.group(1).decode(), comments, titles)


def title_rows(rows: Sequence[Sequence[str]]) -> int:
    """How many of the first rows are a title: empty, or one text at the left of a table of at least three columns.

    Args:
        rows: the first rows of the file, each as its values.
    """
    filled = [sum(value.strip() != "" for value in row) for row in rows]
    if len(rows) < 3 or max(filled) < 3:
        return 0
    titles = 0
    while titles < len(rows) - 2 and (
        filled[titles] == 0 or (filled[titles] == 1 and rows[titles][0].strip() and not is_value(rows[titles][0]))
    ):
        titles += 1
    # The row below a title holds names: in a table whose rows are mostly empty, the first row is one of them.
    return titles if 2 * filled[titles] > max(filled) else 0


def titles_note(titles: int) -> str:
    """What is said of a title that was left out."""
    first = f"The first {titles} rows stand" if titles > 1 else "The first row stands"
    return f"{first} above the table and {'were' if titles > 1 else 'was'} left out; `skiprows = 0` under [file] keeps every row."
