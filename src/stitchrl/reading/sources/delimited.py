"""Tables of delimited text (CSV and TSV), plain or compressed, read a block of lines at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from stitchrl.errors import DataError
from stitchrl.reading.sources.compressed import without_compression
from stitchrl.reading.sources.source import Block, LogSource, reading_errors
from stitchrl.reading.sources.text import MOST_COLUMNS, line_blocks, wider

__all__ = ["open_delimited"]

MAYBE_LEADING_ZERO = re.compile(rb"(?:^|[,\t\r\n\" ])0[0-9]")
"""Quick test of raw lines: whether any value may have a leading zero."""
LEADING_ZERO = r"^\s*0[0-9]"
"""Matches leading zeros: 01 and 1 may be different identifiers."""
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
"""How files write a missing value."""


def open_delimited(path: Path) -> LogSource:
    """The columns of a CSV or TSV file. The whole file is read once to find their types.

    A column is text if any of its values has a leading zero before another digit, such as 01 or 007.

    Raises:
        DataError: not text, no header, rows of different lengths, repeated column names.
    """
    kind = "TSV" if without_compression(path) == ".tsv" else "CSV"
    with reading_errors(str(path), kind):
        names, delimiter = _header(path)
        source = LogSource(path.name, "TSV" if delimiter == "\t" else "CSV", names, lambda wanted: iter(()))
        types: list[pa.DataType] = [pa.null()] * len(names)
        for batch in _batches(path, names, delimiter):
            types = [_wider(a, b) for a, b in zip(types, batch.schema.types, strict=True)]
    known = dict(zip(names, types, strict=True))

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with reading_errors(path.name, source.format):
            for batch in _batches(path, names, delimiter, known, list(wanted)):
                yield dict(zip(batch.schema.names, batch.columns, strict=True))

    return LogSource(path.name, source.format, names, blocks)


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The type that holds the values of both: text holds every value, and bytes hold even what is not text."""
    return pa.binary() if pa.binary() in (a, b) else wider(a, b) or pa.string()


def _header(path: Path) -> tuple[tuple[str, ...], str]:
    """The column names in the first line, and the delimiter between them."""
    first = next(line_blocks(path), b"").lstrip(b"\r\n")
    line = first[: first.find(b"\n") + 1] or (first + b"\n" if first else b"")
    tab = b"\t" in line and (without_compression(path) == ".tsv" or b"," not in line)
    delimiter = "\t" if tab or without_compression(path) == ".tsv" else ","
    if not line:
        raise DataError(f"{path.name} has no rows; a log needs at least one episode.")
    if line.count(delimiter.encode()) >= MOST_COLUMNS:
        raise DataError(f"{path.name} has more than {MOST_COLUMNS:,} columns; put vectors into one list column.")
    parsed = arrow_csv.read_csv(
        pa.py_buffer(line),
        arrow_csv.ReadOptions(autogenerate_column_names=True, block_size=len(line) + 1),
        arrow_csv.ParseOptions(delimiter=delimiter),
        arrow_csv.ConvertOptions(
            column_types={f"f{i}": pa.string() for i in range(line.count(delimiter.encode()) + 1)}
        ),
    )
    return tuple(column[0].as_py() or "" for column in parsed.columns), delimiter


def _batches(
    path: Path,
    names: tuple[str, ...],
    delimiter: str,
    types: dict[str, pa.DataType] | None = None,
    wanted: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a file in batches.

    Args:
        path: the file.
        names: of its columns.
        delimiter: between values.
        types: of the columns; without them each batch infers its own.
        wanted: the columns to read; all by default.
    """
    convert = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=wanted,
        null_values=MISSING,
        strings_can_be_null=True,
        true_values=["true", "True", "TRUE"],
        false_values=["false", "False", "FALSE"],
    )
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=False)
    row = 0
    for number, lines in enumerate(line_blocks(path)):
        if number == 0:
            lines = lines.lstrip(b"\r\n")
            lines = lines[lines.find(b"\n") + 1 :] if b"\n" in lines else b""
        if not lines.strip():
            continue
        read = arrow_csv.ReadOptions(column_names=list(names), block_size=len(lines) + 1)
        try:
            table = arrow_csv.read_csv(pa.py_buffer(lines), read, parse, convert)
        except pa.ArrowInvalid:
            read.use_threads = False  # only a single-threaded reader says which row is wrong
            try:
                table = arrow_csv.read_csv(pa.py_buffer(lines), read, parse, convert)
            except pa.ArrowInvalid as error:
                raise pa.ArrowInvalid(_with_log_row(str(error), row)) from None
        if types is None and MAYBE_LEADING_ZERO.search(lines):
            table = _with_leading_zeros(table, lines, read, parse)
        yield from table.combine_chunks().to_batches()
        row += table.num_rows


def _with_leading_zeros(
    table: pa.Table, lines: bytes, read: arrow_csv.ReadOptions, parse: arrow_csv.ParseOptions
) -> pa.Table:
    """The same block, in which numeric columns are text if any of their values has a leading zero."""
    numeric = [f.name for f in table.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    if not numeric:
        return table
    convert = arrow_csv.ConvertOptions(column_types=dict.fromkeys(numeric, pa.string()), include_columns=numeric)
    written = arrow_csv.read_csv(pa.py_buffer(lines), read, parse, convert)
    for name in numeric:
        if pc.any(pc.match_substring_regex(written[name], LEADING_ZERO)).as_py():
            table = table.set_column(table.column_names.index(name), name, written[name])
    return table


def _with_log_row(message: str, row: int) -> str:
    """The message with the number of the row in the log in place of its number in the block, which begins at `row`."""
    return re.sub(
        r"^(?:CSV parse error: )?Row #(\d+): ", lambda match: f"row {row + int(match.group(1)) - 1}: ", message
    )
