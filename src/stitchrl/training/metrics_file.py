"""The metrics of a run on disk: one Arrow IPC stream, `metrics.arrows`, that grows at its end.

A checkpoint says how many rows belong to it, and these rows are on disk before the checkpoint is. So a process that is
killed at any moment leaves a checkpoint and at least its rows. Rows beyond them are ignored when the run is read, and
removed when it continues.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from stitchrl.errors import CheckpointError
from stitchrl.storage.files import append_bytes, write_atomic, write_bytes
from stitchrl.training.history import History

__all__ = ["METRICS_FILE", "MetricsFile", "read_metrics"]

METRICS_FILE = "metrics.arrows"


class MetricsFile:
    """Writes a history beside its checkpoint: all of it at the first save of a process, then only what is new.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = 0
        self._schema: pa.Schema | None = None

    def save(self, history: History) -> None:
        """Bring the file up to date with a history that only ever grows.

        Raises:
            RunDirectoryError: the disk is full or the directory cannot be written; rows saved before are still there.
        """
        schema = _schema(history)
        if schema != self._schema:  # the first save of this process, or one with a metric that is new
            whole = schema.serialize().to_pybytes() + _batch(history, 0, schema)
            write_atomic(self._path, lambda beside: write_bytes(beside, whole))
        elif len(history) > self._rows:
            append_bytes(self._path, _batch(history, self._rows, schema))
        self._rows, self._schema = len(history), schema


def read_metrics(path: Path, rows: int) -> History:
    """The first rows of a file written by `MetricsFile`; what follows them is not read.

    Raises:
        CheckpointError: missing, damaged, or of fewer rows.
    """
    if rows == 0:
        return History()
    batches, found = [], 0
    try:
        with pa.OSFile(str(path)) as file, ipc.open_stream(file) as reader:
            while found < rows:
                batches.append(reader.read_next_batch())
                found += batches[-1].num_rows
        table = pa.Table.from_batches(batches).slice(0, rows)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return History.of(columns.pop("update"), columns.pop("member"), columns)
    except StopIteration:
        problem = f"it ends after {found:,} rows"
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        problem = str(error)
    raise CheckpointError(
        f"The metrics {path}, of which {rows:,} rows belong to the checkpoint beside it, cannot be read: {problem}. "
        "Put the file back, or delete the run to start over."
    )


def _schema(history: History) -> pa.Schema:
    """Update and member as whole numbers, metrics as numbers, NaN where a row has none."""
    fields = [pa.field("update", pa.int64()), pa.field("member", pa.int64())]
    return pa.schema(fields + [pa.field(name, pa.float64()) for name in history.metrics])


def _batch(history: History, start: int, schema: pa.Schema) -> bytes:
    """The rows from `start` on, as one message of the stream; nothing where there are none."""
    columns = history.columns(start)
    if not len(columns["update"]):
        return b""
    arrays = [pa.array(np.ascontiguousarray(column)) for column in columns.values()]
    content: bytes = pa.RecordBatch.from_arrays(arrays, schema=schema).serialize().to_pybytes()
    return content
