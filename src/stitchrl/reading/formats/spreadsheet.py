"""Spreadsheets (xlsx, xls, xlsb, ods): one sheet, whose first row holds the names of the columns."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stitchrl.data.file_rules import FileRules
from stitchrl.errors import DataError
from stitchrl.messages import listed, shown
from stitchrl.reading.sources.delimited import MISSING
from stitchrl.reading.sources.first_lines import LINES_LOOKED_AT, title_rows, titles_note
from stitchrl.reading.sources.source import Format, LogSource, from_table, reading_errors
from stitchrl.reading.sources.text import MOST_COLUMNS

__all__ = ["FORMAT"]

KIND = "spreadsheet"


def open_spreadsheet(path: Path, rules: FileRules | None = None) -> LogSource:
    """The columns of a sheet. Whole numbers are read as such, although spreadsheets hold them as floats.

    Raises:
        DataError: the reader is not installed, the file is damaged, there is no such sheet, or it has no rows.
    """
    rules = rules or FileRules()
    try:
        from python_calamine import CalamineWorkbook
    except ImportError:
        raise DataError(f'Reading {path.name} needs python-calamine: pip install "stitchrl[excel]".') from None
    with reading_errors(path.name, f"a {KIND}"), CalamineWorkbook.from_path(path) as book:
        sheets = list(book.sheet_names)
        chosen = _sheet(rules.sheet, sheets, path.name)
        table_rows, titles = _table_of(list(book.get_sheet_by_name(chosen).iter_rows()), rules.skiprows)
        rows = _filled(table_rows, rules.names)
        names, values = _names(rows, rules, path.name)
        columns = list(zip(*values, strict=True))
        if not columns:
            raise DataError(f"Sheet {shown(chosen)} of {path.name} has no rows; a log needs at least one episode.")
        missing = {*MISSING, *rules.na_values}
        named = {name: missing - set(words) for name, words in rules.vocabularies}
        table = pa.table(
            [_column(column, named.get(name, missing)) for name, column in zip(names, columns, strict=True)],
            names=names,
        )
    notes = (
        [f"Sheet {shown(chosen)} was read, one of {len(sheets)}."] if len(sheets) > 1 and rules.sheet is None else []
    )
    notes += [titles_note(titles)] if titles else []
    return from_table(table, origin=path.name, format=KIND, notes=notes)


def _sheet(wanted: str | int | None, sheets: Sequence[str], origin: str) -> str:
    """The name of the sheet that the schema asks for, by its name or its number from 0 on."""
    if not sheets:
        raise DataError(f"{origin} has no sheet.")
    if isinstance(wanted, str) and wanted in sheets:
        return wanted
    if wanted is None or (isinstance(wanted, int) and 0 <= wanted < len(sheets)):
        return sheets[wanted or 0]
    raise DataError(
        f"`sheet` under [file] of the schema must be one of {origin}: {listed(map(repr, sheets))}, or its number from 0 on; "
        f"got {shown(wanted)}."
    )


def _table_of(rows: list[list[Any]], skiprows: int | None) -> tuple[list[list[Any]], int]:
    """The rows from the table on, and how many were taken for a title that stands above it."""
    if skiprows is not None:
        return rows[skiprows:], 0
    titles = title_rows([["" if value is None else str(value) for value in row] for row in rows[:LINES_LOOKED_AT]])
    return rows[titles:], titles if any(_is_filled(row) for row in rows[:titles]) else 0


def _is_filled(row: Sequence[Any]) -> bool:
    return any(value not in ("", None) for value in row)


def _filled(rows: list[list[Any]], names: Sequence[str] | None) -> Iterator[list[Any]]:
    """The rows that hold anything, without columns that hold nothing, not even a name, unless `names` names them."""
    filled = [row for row in rows if _is_filled(row)]
    width = max(map(len, filled), default=0)
    kept = [i for i in range(width) if any(i < len(row) and row[i] not in ("", None) for row in filled)]
    if len(kept) == width or (names is not None and len(names) == width):
        return iter(filled)
    return ([row[i] if i < len(row) else "" for i in kept] for row in filled)


def _names(rows: Iterator[list[Any]], rules: FileRules, origin: str) -> tuple[list[str], Iterator[list[Any]]]:
    """The names of the columns, and the rows below them."""
    first = next(rows, [])
    header = rules.header if rules.header is not None else rules.names is None or tuple(map(str, first)) == rules.names
    if len(first) > MOST_COLUMNS:
        raise DataError(f"{origin} has more than {MOST_COLUMNS:,} columns; put vectors into one column of lists.")
    if rules.names is not None and len(rules.names) != len(first):
        raise DataError(
            f"`names` under [file] of the schema must name every column; it names {len(rules.names)}, and {origin} has "
            f"{len(first)}: {listed(first)}."
        )
    own = [_text(value) for value in first] if header else [str(i) for i in range(len(first))]
    return list(rules.names or own), rows if header else itertools.chain([first], rows)


def _column(values: Sequence[Any], missing: set[str]) -> pa.Array:
    """A column whose cells are all numbers, all true or false, all dates or, failing that, all text."""
    kept = [None if _text(value).strip() in missing else value for value in values]
    kinds = {type(value) for value in kept if value is not None}
    if kinds <= {float, int} and kinds:
        numbers = np.array([np.nan if value is None else value for value in kept], np.float64)
        known = numbers[~np.isnan(numbers)]
        whole = bool((known == np.floor(known)).all()) and bool((np.abs(known) < 2.0**53).all())
        return pa.array(numbers, from_pandas=True).cast(pa.int64() if whole else pa.float64())
    if kinds <= {datetime.datetime, datetime.date} and kinds:
        midnight = datetime.time()
        dates = [
            v if v is None or isinstance(v, datetime.datetime) else datetime.datetime.combine(v, midnight) for v in kept
        ]
        return pa.array(dates, pa.timestamp("us"))
    if kinds in ({bool}, {str}, {datetime.time}, {datetime.timedelta}, set()):
        return pa.array(kept)
    return pa.array([None if value is None else _text(value) for value in kept], pa.string())


def _text(value: Any) -> str:
    """A cell as it is written: whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


FORMAT = Format(
    KIND,
    (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods"),
    lambda path, head: False,  # these are archives: the ending of the name tells
    open_spreadsheet,
    open_spreadsheet,
    ("header", "names", "na_values", "sheet", "skiprows"),
)
