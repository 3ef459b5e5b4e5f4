"""Arrow IPC (Feather) files and streams, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, reading_errors

__all__ = ["FORMAT"]

MAGIC, STREAM = b"ARROW1", b"\xff\xff\xff\xff"
END = STREAM + bytes(4)
"""The end mark of a stream; where it is absent, the last blocks may be lost."""


def _is_file(path: Path) -> bool:
    """Whether it is an Arrow file rather than a stream."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _batches(path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The record batches of a file or stream, with the named columns."""
    with pa.memory_map(str(path)) as mapped:
        if not _is_file(path):
            with pa.ipc.open_stream(mapped) as stream:
                yield from (batch.select(list(names)) for batch in stream)
            return
        wanted = [i for i, n in enumerate(pa.ipc.open_file(mapped).schema.names) if n in set(names)]
        # Columns that are not included are never touched.
        with pa.ipc.open_file(mapped, options=pa.ipc.IpcReadOptions(included_fields=wanted)) as file:
            for number in range(file.num_record_batches):
                yield file.get_batch(number)


def open_arrow(path: Path) -> LogSource:
    """The columns of a file or stream. Raises DataError if it is not Arrow IPC or is damaged."""
    with reading_errors(str(path), "Arrow IPC"), pa.memory_map(str(path)) as mapped:
        file = _is_file(path)
        names = (pa.ipc.open_file(mapped) if file else pa.ipc.open_stream(mapped)).schema.names
        mapped.seek(max(mapped.size() - len(END), 0))
        whole = file or mapped.read() == END

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with reading_errors(path.name, "Arrow IPC"):
            for batch in _batches(path, wanted):
                batch.validate(full=True)  # offsets that point elsewhere would crash the interpreter
                for start in range(0, batch.num_rows, BLOCK_ROWS):
                    block = batch.slice(start, BLOCK_ROWS)
                    yield dict(zip(block.schema.names, block.columns, strict=True))

    notes = () if whole else ("The stream has no end mark: whoever wrote it may have been interrupted.",)
    return LogSource(path.name, "Arrow IPC", tuple(names), blocks, notes=notes)


FORMAT = Format(
    "Arrow IPC",
    (".arrow", ".feather", ".ipc", ".arrows"),
    lambda path, head: head.startswith((MAGIC, STREAM)),
    open_arrow,
)
