"""CSV and TSV, plain or compressed, a block at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv

from stitchrl.data.readers.compressed import opened, without_compression
from stitchrl.data.readers.source import Block, Format, LogSource, reading
from stitchrl.errors import DataError

__all__ = ["FORMAT", "open_csv"]

BLOCK_BYTES = 2**22
WIDER = {pa.int64(): pa.float64(), pa.bool_(): pa.string(), pa.null(): pa.string()}
"""What a column becomes that a later block does not fit; text at last."""
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]


def open_csv(path: Path) -> LogSource:
    """Its columns; their types are those of the whole file, found by reading it once.

    Raises:
        DataError: not text, no header, rows of different lengths, repeated column names.
    """
    tab = without_compression(path) == ".tsv"
    with reading(str(path), "CSV"):
        types = _types(path, tab)

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with reading(path.name, "CSV"):
            for batch in _batches(path, tab, types, list(wanted)):
                yield dict(zip(batch.schema.names, batch.columns, strict=True))

    return LogSource(path.name, "TSV" if tab else "CSV", tuple(types), blocks)


def _batches(
    path: Path, tab: bool, types: dict[str, pa.DataType], wanted: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    convert = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=wanted,
        null_values=MISSING,
        strings_can_be_null=True,
        true_values=["true", "True", "TRUE"],
        false_values=["false", "False", "FALSE"],
    )
    parse = arrow_csv.ParseOptions(delimiter="\t" if tab else ",", newlines_in_values=False)
    read = arrow_csv.ReadOptions(block_size=BLOCK_BYTES)
    with opened(path) as file, arrow_csv.open_csv(file, read, parse, convert) as stream:
        yield from stream


def _types(path: Path, tab: bool) -> dict[str, pa.DataType]:
    """Column -> type that holds all its values; a column that a later block does not fit is widened and read again."""
    types: dict[str, pa.DataType] = {}
    while True:
        try:
            schema = None
            for batch in _batches(path, tab, types):
                schema = batch.schema
            if schema is None:
                raise DataError(f"{path.name} has no rows; a log needs at least one episode.")
            if len(set(schema.names)) < len(schema.names):
                twice = next(n for n in schema.names if schema.names.count(n) > 1)
                raise DataError(f"Columns of {path.name} must have different names; {twice!r} stands twice.")
            return {field.name: field.type for field in schema}
        except pa.ArrowInvalid as error:
            found = re.search(r"In CSV column #(\d+):.*conversion error to ([a-z0-9_]+)", str(error))
            if found is None:
                raise
            with opened(path) as file:
                name = _header(file, tab)[int(found.group(1))]
            now = types.get(name) or next((t for t in WIDER if str(t) == found.group(2)), pa.float64())
            wider = WIDER.get(now, pa.string())
            if types.get(name) == pa.string():
                raise
            types[name] = wider


def _header(file: object, tab: bool) -> list[str]:
    parse = arrow_csv.ParseOptions(delimiter="\t" if tab else ",")
    with arrow_csv.open_csv(file, arrow_csv.ReadOptions(block_size=BLOCK_BYTES), parse) as stream:
        return list(stream.schema.names)


def _looks_like_text_table(path: Path, head: bytes) -> bool:
    line = head.split(b"\n", 1)[0]
    return b"\x00" not in head and (b"," in line or b"\t" in line) and not line.lstrip().startswith((b"{", b"["))


FORMAT = Format("CSV", (".csv", ".tsv"), _looks_like_text_table, open_csv)
