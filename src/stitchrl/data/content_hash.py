"""The content hash of a log: equal logs hash alike on every machine, however their observations are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.types import Bool, NumpyArray

__all__ = ["hash_columns"]


HASHED_ROWS = 2**16
"""Rows hashed at a time, so that a log larger than memory can be hashed."""


def hash_columns(columns: Mapping[str, Any], continues: Bool[NumpyArray, " N"]) -> str:
    """SHA-256 over the content of every column, as hexadecimal digits.

    Observations are hashed by their values in the order of the rows, not by their place in the table, so that a part
    of a log has the same hash as the same rows read from a file of their own.

    Args:
        columns: field of a Dataset -> its value. Values that are no arrays do not count, but for the number of actions.
        continues: (N,) whether the next row is the next moment of the same episode.
    """
    digest = hashlib.sha256()
    table, next_index = columns["observation_table"], columns["next_observation_index"]
    last_rows = columns["episode_start"][1:] - 1
    last = next_index[last_rows]
    known = last != NO_OBSERVATION
    final_observation = table[last]
    final_observation[~known] = 0
    hashed = {name: value for name, value in columns.items() if name != "next_observation_index"}
    hashed["observation_index"] = final_observation
    hashed["next_observation_index"] = known
    for name, value in hashed.items():
        if name == "observation_table":
            _digest_rows(digest, name, columns["observation_index"], table)
        elif isinstance(value, np.ndarray):
            _digest_rows(digest, name, value)
    digest.update(repr(columns["schema"].num_actions).encode())
    gaps = np.setdiff1d(np.flatnonzero(~continues & (next_index != NO_OBSERVATION)), last_rows)
    if len(gaps):
        _digest_rows(digest, "gaps", gaps)
        _digest_rows(digest, "after_gaps", next_index[gaps], table)
    return digest.hexdigest()


def _digest_rows(digest: Any, name: str, value: NumpyArray, table: NumpyArray | None = None) -> None:
    """Add a column to a hash, block by block. With a table, the column holds row numbers of it, and the rows of the
    table are hashed in their place."""

    def plain(block: NumpyArray) -> NumpyArray:
        block = block if table is None else table[block]
        block = block.astype(np.int64) if block.dtype.kind in "iu" else block
        return block if block.dtype.kind in "bif" else block.astype(str)

    shape = value.shape if table is None else (*value.shape, *table.shape[1:])
    # NumPy text is as wide as its longest entry, which only the whole column knows.
    kind = plain(value[:0] if value.dtype.kind in "biuf" else value).dtype
    digest.update(f"{name}:{kind.str}:{shape};".encode())
    for start in range(0, len(value), HASHED_ROWS):
        digest.update(np.ascontiguousarray(plain(value[start : start + HASHED_ROWS]).astype(kind)).tobytes())
