"""A Dataset as one Parquet file whose columns carry the role names, and its schema beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stitchrl.data.dataset import NO_OBSERVATION, Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.files import write_atomic, write_text
from stitchrl.types import NumpyArray

__all__ = ["write_parquet"]

ROWS_AT_ONCE = 2**18
PER_ROW = ("action", "reward", "terminated", "truncated", "step")
OPTIONAL = ("behavior_log_prob", "behavior_probs", "action_mask", "source", "weight", "time", "observation_id")


def write_parquet(log: Dataset, path: Path) -> Path:
    """Write a log, a block of rows at a time; `st.read` of it gives the same content hash.

    The next observation is written only where no other row holds it: NaN elsewhere, which the reader takes as the next
    row's inside an episode and as unknown at its end.

    Raises:
        DataError: image observations, which Parquet has no column for.
        RunDirectoryError: the disk is full or the folder cannot be written.
    """
    if log.observation_table.ndim != 2:
        raise DataError("Image observations cannot be written as Parquet; convert to a native store.")
    schema, names = _schema(log)

    def write(beside: Path) -> None:
        writer = None
        try:
            for start in range(0, log.num_transitions, ROWS_AT_ONCE):
                table = _table(log, names, slice(start, min(start + ROWS_AT_ONCE, log.num_transitions)))
                writer = writer or pq.ParquetWriter(beside, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()

    write_atomic(path, write)
    write_text(path.with_suffix(".toml"), schema.to_toml())
    return path


def _schema(log: Dataset) -> tuple[Schema, tuple[str, ...]]:
    """The schema of the file, and the names of its observation columns: none for one list column."""
    roles = ["episode", *PER_ROW, *(name for name in OPTIONAL if getattr(log, name) is not None)]
    if log.group is not None:
        roles.append("group")
    numbered = all(re.fullmatch(r".*\[\d+\]", name) for name in log.observation_names)
    names = () if numbered or set(log.observation_names) & set(roles) else log.observation_names
    columns: dict[str, Any] = {role: role for role in roles} | {"observation": names or "observation"}
    if _has_next(log):
        columns["next_observation"] = tuple(f"next {name}" for name in names) or "next_observation"
    kept = {
        name: getattr(log.schema, name)
        for name in ("num_actions", "gamma", "name", "action_counts", "action_low", "action_high", "action_unit")
    }
    if log.schema.action_counts is not None:  # written as one number
        kept["action_counts"] = None
    return Schema(columns, **kept), names


def _has_next(log: Dataset) -> bool:
    return bool((log.next_observation_index[~log.continues] != NO_OBSERVATION).any())


def _table(log: Dataset, names: tuple[str, ...], rows: slice) -> pa.Table:
    episode = np.searchsorted(log.episode_start, np.arange(rows.start, rows.stop), side="right") - 1
    columns: dict[str, Any] = {"episode": log.episode_id[episode]}
    columns |= {name: getattr(log, name)[rows] for name in PER_ROW}
    columns |= {name: getattr(log, name)[rows] for name in OPTIONAL if getattr(log, name) is not None}
    if log.group is not None:
        columns["group"] = log.group[episode]
    seen = {"observation": log.observation_table[log.observation_index[rows]]}
    if _has_next(log):
        after, inside = log.next_observation_index[rows], log.continues[rows]
        held = log.observation_table[np.maximum(after, 0)]
        seen["next_observation"] = np.where((inside | (after == NO_OBSERVATION))[:, None], np.float32(np.nan), held)
    for role, values in seen.items():
        if names:
            prefix = "" if role == "observation" else "next "
            columns |= {f"{prefix}{name}": values[:, i] for i, name in enumerate(names)}
        else:
            columns[role] = values
    return pa.table({name: _arrow(column) for name, column in columns.items()})


def _arrow(column: NumpyArray) -> pa.Array:
    column = np.ascontiguousarray(column)
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
