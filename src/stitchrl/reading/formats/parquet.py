"""Parquet: one file, read a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, reading_errors

__all__ = ["FORMAT"]

READ_BYTES = 2**20
"""Read of a column at a time: whole row groups of compressed bytes would cost as much memory as the log."""


def open_parquet(path: Path) -> LogSource:
    """Its columns. Raises DataError where it is not Parquet or damaged."""
    with reading_errors(str(path), "Parquet"):
        names = pq.read_schema(path).names

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with (
            reading_errors(path.name, "Parquet"),
            pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file,
        ):
            for batch in file.iter_batches(BLOCK_ROWS, columns=list(wanted)):
                batch.validate(full=True)  # Arrow's reader trusts what a file says of its dictionaries
                yield dict(zip(batch.schema.names, batch.columns, strict=True))

    return LogSource(path.name, "Parquet", tuple(names), blocks)


FORMAT = Format("Parquet", (".parquet", ".pq"), lambda path, head: head.startswith(b"PAR1"), open_parquet)
