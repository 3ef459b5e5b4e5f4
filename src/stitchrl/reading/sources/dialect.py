"""How a text file separates, encloses and names its values, found from its first lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from stitchrl.data.file_rules import FileRules

__all__ = ["DELIMITERS", "Dialect", "delimiter_counts", "dialect_of", "is_value", "rows_of"]

DELIMITERS = {"\t": "a tab", ";": "a semicolon", "|": "a vertical bar", ",": "a comma"}
"""The delimiters that are looked for, and what notes call them. Where several fit equally well, the first is taken."""
LINES_LOOKED_AT = 100
VALUE = re.compile(
    r"[+-]?(\d+([.,]\d+)*|[.,]\d+)([eE][+-]?\d+)?|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ].*)?|true|false|\[.*\]",
    re.IGNORECASE,
)
"""What a number, a date, true, false or a list looks like, which no name of a column does but for whole numbers."""
WHOLE = re.compile(r"\d+")


class Dialect(NamedTuple):
    """How a text file separates, encloses and names its values.

    Attributes:
        delimiter: between values.
        quotechar: around values.
        header: whether the first line holds names.
    """

    delimiter: str
    quotechar: str
    header: bool


def dialect_of(start: bytes, rules: FileRules, *, tabs: bool) -> Dialect:
    """The dialect of a text.

    Args:
        start: its first lines, as UTF-8.
        rules: what is known of the file.
        tabs: whether the ending of the file's name says that tabs separate its values.
    """
    text = start.decode("utf-8", "replace")
    lines = [line for line in text.splitlines()[: LINES_LOOKED_AT + 1] if line.strip()]
    if len(start) > len("".join(lines).encode()) + len(lines) or not lines:
        lines = lines[:LINES_LOOKED_AT] or [""]
    delimiter = rules.delimiter or ("\t" if tabs else None)
    quotechar = rules.quotechar or _quotechar(lines, delimiter)
    delimiter = delimiter or _delimiter([_without_quoted(line, quotechar) for line in lines])
    header = rules.header
    if header is None:
        first = _fields(lines[0], delimiter, quotechar)
        second = _fields(lines[1], delimiter, quotechar) if len(lines) > 1 else []
        names = tuple(first) == rules.names or (_values(second) and not _values(first))
        header = bool(names) if rules.names is not None else not _are_values(first)
    return Dialect(delimiter, quotechar, header)


def delimiter_counts(lines: Sequence[bytes], delimiter: str | None, table: Sequence[bytes]) -> list[int]:
    """How many delimiters stand in each line, outside quotes.

    Args:
        lines: the lines, as UTF-8.
        delimiter: between values; None if it is to be found.
        table: lines that are known to hold values, by which it is found.
    """
    known = [line.decode("utf-8", "replace").rstrip("\r\n") for line in table]
    quotechar = _quotechar(known, delimiter)
    sign = delimiter or _delimiter([_without_quoted(line, quotechar) for line in known])
    return [_without_quoted(line.decode("utf-8", "replace"), quotechar).count(sign) for line in lines]


def rows_of(lines: Sequence[bytes], delimiter: str | None) -> list[list[str]]:
    """The values of the first lines of a text, as UTF-8, of which the last ones belong to a table."""
    text = [line.decode("utf-8", "replace").rstrip("\r\n") for line in lines]
    table = [line for line in reversed(text) if line.strip()]
    if not table:
        return [[] for _ in text]
    quotechar = _quotechar(table, delimiter)
    sign = delimiter or _delimiter([_without_quoted(line, quotechar) for line in table])
    return [_fields(line, sign, quotechar) for line in text]


def is_value(field: str) -> bool:
    """Whether a text looks like a number, a date, true, false or a list."""
    return VALUE.fullmatch(field.strip()) is not None


def _delimiter(lines: list[str]) -> str:
    """The delimiter that stands in the first line and as often in most others; a comma if there is none."""
    first, *others = lines

    def agreement(sign: str) -> float:
        return sum(line.count(sign) == first.count(sign) for line in others) / len(others) if others else 0.0

    there = [sign for sign in DELIMITERS if sign in first]
    return max(there, key=lambda sign: round(agreement(sign), 1)) if there else ","


def _quotechar(lines: list[str], delimiter: str | None) -> str:
    """The apostrophe if it encloses whole values, stands nowhere else, and no double quote stands anywhere."""
    if any('"' in line for line in lines):
        return '"'
    signs = re.escape(delimiter or "".join(sign for sign in DELIMITERS if sign in lines[0]) or ",")
    enclosed = re.compile(rf"(?:(?<=^)|(?<=[{signs}]))'[^']*'(?=[{signs}]|$)")
    found = any(enclosed.search(line) for line in lines)
    return "'" if found and not any("'" in enclosed.sub("", line) for line in lines) else '"'


def _without_quoted(line: str, quotechar: str) -> str:
    """A line without what stands in quotes, where a delimiter separates nothing."""
    quote = re.escape(quotechar)
    return re.sub(f"{quote}[^{quote}]*{quote}", "", line)


def _fields(line: str, delimiter: str, quotechar: str) -> list[str]:
    """The values of a line, without their quotes."""
    quote = re.escape(quotechar)
    pieces = re.findall(f"((?:{quote}[^{quote}]*{quote}|[^{re.escape(delimiter)}])*)(?:{re.escape(delimiter)}|$)", line)
    return [piece.strip().strip(quotechar) for piece in (pieces[:-1] if len(pieces) > 1 else pieces)]


def _values(fields: list[str]) -> list[str]:
    """Those of the fields that look like values."""
    return [field for field in fields if VALUE.fullmatch(field)]


def _are_values(fields: list[str]) -> bool:
    """Whether the fields of a first line are plainly values and not the names of columns.

    At least half of them look like values. Whole numbers may also be names; they count as values where some repeat, or where
    all fields are whole numbers that do not count on from one to the next.
    """
    values = _values(fields)
    if not values or 2 * len(values) < len(fields):
        return False
    whole = [int(field) for field in values if WHOLE.fullmatch(field)]
    if len(whole) < len(values) or max(Counter(whole).values()) > 1:
        return True
    return len(whole) == len(fields) and whole != list(range(whole[0], whole[0] + len(whole)))
