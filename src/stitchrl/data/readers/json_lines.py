"""JSON Lines, plain or compressed: one object a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.json as arrow_json

from stitchrl.data.readers.compressed import opened
from stitchrl.data.readers.source import Block, Format, LogSource, reading
from stitchrl.errors import DataError

__all__ = ["FORMAT"]

BLOCK_BYTES = 2**22


def open_json_lines(path: Path) -> LogSource:
    """Its columns, those of the first block of lines.

    Raises:
        DataError: not JSON, lines that are not objects, values that do not fit the first block's types.
    """
    with reading(str(path), "JSON Lines"):
        schema = _whole_schema(path)

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with reading(path.name, "JSON Lines"):
            for batch in _batches(path, schema):
                yield {name: batch.column(name) for name in wanted}

    return LogSource(path.name, "JSON Lines", tuple(schema.names), blocks)


def _batches(path: Path, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    parse = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
    with opened(path) as file:
        options = arrow_json.ReadOptions(block_size=BLOCK_BYTES)
        with arrow_json.open_json(file, read_options=options, parse_options=parse) as stream:
            yield from stream


def _whole_schema(path: Path) -> pa.Schema:
    """Types that hold all values: a later block may need floats where the first had integers."""
    fields: dict[str, pa.Field] = {}
    schema: pa.Schema | None = None
    while True:
        try:
            for batch in _batches(path, schema):
                fields |= {field.name: field for field in batch.schema}
            break
        except pa.ArrowInvalid as error:
            wider = None if "JSON parse error: Column" not in str(error) else _floats(schema, fields)
            if wider is None or wider == schema:
                raise
            schema = wider
    if not fields:
        raise DataError(f"{path.name} has no rows; a log needs at least one episode.")
    return pa.schema(list(fields.values()))


def _floats(schema: pa.Schema | None, fields: dict[str, pa.Field]) -> pa.Schema:
    """The schema with every integer a float: a number that is whole in one block need not be in the next."""

    def wider(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.list_(wider(kind.value_type))
        return pa.float64() if pa.types.is_integer(kind) else kind

    return pa.schema([(name, wider(field.type)) for name, field in fields.items()])


FORMAT = Format(
    "JSON Lines",
    (".jsonl", ".ndjson", ".json"),
    lambda path, head: head.lstrip().startswith(b"{") and b"\x00" not in head,
    open_json_lines,
)
