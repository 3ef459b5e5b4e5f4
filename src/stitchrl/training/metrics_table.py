"""`metrics.parquet`: the metrics of a run for people and other programs. Nothing here reads it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stitchrl.errors import RunDirectoryError
from stitchrl.storage.files import write_atomic, write_bytes
from stitchrl.training.history import History

__all__ = ["MetricsTable"]

GROWTH = 1.25
"""The table is written again once the history is this many times as long, so that the cost of writing stays linear in all."""


class MetricsTable:
    """Keeps a Parquet file close to the saved history, and brings it up to date when the context ends, even by an error.

    Args:
        path: of the file.
        members: what tells members apart: their seeds, and in a grid their settings.
    """

    def __init__(self, path: Path, members: Sequence[dict[str, Any]]) -> None:
        self._path, self._members = path, members
        self._history = History()
        self._saved, self._written = 0, -1  # rows of the last save, and in the file as far as this process wrote it

    def __enter__(self) -> MetricsTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._written < 0 or self._written == self._saved:
            return
        try:
            self._write()
        except RunDirectoryError:
            if error is None:  # otherwise that error says more
                raise

    def save(self, history: History) -> None:
        """Take note of what is saved, and write the file where it has fallen far enough behind.

        Raises:
            RunDirectoryError: the disk is full or the directory cannot be written; the file is unchanged.
        """
        self._history, self._saved = history, len(history)
        if self._written < 0 or self._saved >= GROWTH * self._written:
            self._write()

    def complete(self, history: History) -> None:
        """Make sure that the file has the whole history of a run that has ended. Raises as `save`."""
        self._history, self._saved = history, len(history)
        if self._saved not in (self._written, _rows_in(self._path)):
            self._write()

    def _write(self) -> None:
        write_table(self._path, self._history, self._members, self._saved)
        self._written = self._saved


def write_table(path: Path, history: History, members: Sequence[dict[str, Any]], rows: int) -> None:
    """Write the first rows atomically: update, what tells the members apart, the metrics; null where a row has none."""
    columns = history.columns(0, rows)
    member = columns.pop("member")
    table = {"update": pa.array(columns.pop("update"))}
    for name in members[0]:
        table[name] = pa.array([entry[name] for entry in members]).take(pa.array(member))
    table |= {name: pa.array(column, from_pandas=True) for name, column in columns.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    write_atomic(path, lambda beside: write_bytes(beside, sink.getvalue().to_pybytes()))


def _rows_in(path: Path) -> int:
    """Rows of a Parquet file; -1 where there is none to read."""
    try:
        rows: int = pq.read_metadata(path).num_rows
    except (OSError, ValueError, pa.ArrowException):
        return -1
    return rows
