"""Hashing the content of a log, column by column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stitchrl.types import NumpyArray

if TYPE_CHECKING:
    pass

__all__ = ["digest_rows"]


HASHED_ROWS = 2**16


def digest_rows(digest: Any, name: str, value: NumpyArray, table: NumpyArray | None) -> None:
    """Add a column to a hash, block by block, so that a log larger than memory can be hashed. With a table, the column
    is row numbers of it."""

    def plain(block: NumpyArray) -> NumpyArray:
        block = block if table is None else table[block]
        block = block.astype(np.int64) if block.dtype.kind in "iu" else block
        return block if block.dtype.kind in "bif" else block.astype(str)

    shape = value.shape if table is None else (*value.shape, *table.shape[1:])
    kind = plain(value[:0] if value.dtype.kind in "biuf" else value).dtype
    digest.update(f"{name}:{kind.str}:{shape};".encode())
    for start in range(0, len(value), HASHED_ROWS):
        # The width of text is that of its longest entry in the whole column.
        digest.update(np.ascontiguousarray(plain(value[start : start + HASHED_ROWS]).astype(kind)).tobytes())
