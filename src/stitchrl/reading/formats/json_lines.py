"""JSON Lines, plain or compressed: each line is an object that holds one row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json

from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.reading.sources.source import Block, Format, LogSource, reading_errors
from stitchrl.reading.sources.text import MOST_COLUMNS, arrow_owned, line_blocks, wider

__all__ = ["FORMAT"]

DEEPEST = 100
"""The deepest nesting of lists and objects; some thousands would make Arrow's parser crash the interpreter."""


def open_json_lines(path: Path) -> LogSource:
    """The columns of all lines; a row whose line lacks one has a missing value there.

    Raises:
        DataError: the file is not JSON, a line is not an object, or there are no rows.
    """
    types: dict[str, pa.DataType | None] = {}
    with reading_errors(str(path), "JSON Lines"):
        for batch in _batches(path, None):
            for field in batch.schema:
                known = types.get(field.name, pa.null())
                types[field.name] = None if known is None else wider(known, field.type)
    if not types:
        raise DataError(f"{path.name} has no rows; a log needs at least one episode.")

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        for name in wanted:
            if types[name] is None:
                raise DataError(
                    f"Column {shown(name)} of {path.name} must be of one type in all rows; it is of several."
                )
        with reading_errors(path.name, "JSON Lines"):
            for batch in _batches(path, pa.schema([(name, types[name]) for name in wanted])):
                yield {name: batch.column(name) for name in wanted}

    return LogSource(path.name, "JSON Lines", tuple(types), blocks)


def _batches(path: Path, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    """The rows of a file in batches; without a schema, each batch infers its own columns and types."""
    parse = arrow_json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
    )
    row = 0
    for lines in line_blocks(path):
        if not lines.lstrip().startswith(b"{"):  # a leading `null` would crash the interpreter
            raise DataError(f"{path.name} must hold one object a line, {{...}}; row {row} is none.")
        _check_depth(lines, path.name)
        read = arrow_json.ReadOptions(block_size=len(lines) + 1)
        try:
            table = arrow_json.read_json(arrow_owned(lines), read, parse)
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(_with_log_row(str(error), row)) from None
        if table.num_columns > MOST_COLUMNS:
            raise DataError(f"{path.name} has more than {MOST_COLUMNS:,} columns; put vectors into one list column.")
        yield from table.combine_chunks().to_batches()
        row += table.num_rows


def _with_log_row(message: str, row: int) -> str:
    """The message with the number of the row in the log in place of its number in the block, which begins at `row`."""
    return re.sub(r"in row (\d+)$", lambda match: f"in row {row + int(match.group(1))}", message)


def _check_depth(lines: bytes, origin: str) -> None:
    """Raise DataError if a line nests lists and objects deeper than `DEEPEST`.

    Brackets inside text count as well: a line with a hundred unclosed ones is not a row of a log.
    """
    content = np.frombuffer(lines, np.uint8)
    kind = content & 0xDF  # clears the bit in which [ and { differ, and ] and }
    at = np.flatnonzero((kind == ord("[")) | (kind == ord("]")) | (content == ord("\n")))
    signs = content[at]
    step = np.where(signs & 0xDF == ord("["), 1, np.where(signs == ord("\n"), 0, -1))
    depth = np.cumsum(step)
    line = np.maximum.accumulate(np.where(signs == ord("\n"), np.arange(len(at)), -1))
    before = np.where(line >= 0, depth[np.maximum(line, 0)], 0)
    if len(at) and (depth - before).max() > DEEPEST:
        raise DataError(f"{origin} has more than {DEEPEST} lists or objects inside each other; a log has two or three.")


FORMAT = Format(
    "JSON Lines",
    (".jsonl", ".ndjson", ".json"),
    lambda path, head: head.lstrip().startswith(b"{") and b"\x00" not in head,
    open_json_lines,
)
