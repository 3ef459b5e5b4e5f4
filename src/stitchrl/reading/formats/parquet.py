"""Parquet files, read a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, reading_errors

__all__ = ["FORMAT"]

READ_BYTES = 2**20
"""Bytes of a column that are read at a time: whole row groups could take as much memory as the log."""


def open_parquet(path: Path) -> LogSource:
    """The columns of a file. Raises DataError if it is not Parquet or is damaged."""
    with reading_errors(str(path), "Parquet"):
        names = pq.read_schema(path).names

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with (
            reading_errors(path.name, "Parquet"),
            pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file,
        ):
            for batch in file.iter_batches(BLOCK_ROWS, columns=list(wanted)):
                batch.validate(full=True)  # Arrow's reader does not check the dictionaries of a file
                yield dict(zip(batch.schema.names, batch.columns, strict=True))

    return LogSource(path.name, "Parquet", tuple(names), blocks)


FORMAT = Format("Parquet", (".parquet", ".pq"), lambda path, head: head.startswith(b"PAR1"), open_parquet)
