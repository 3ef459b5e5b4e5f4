"""Objects in memory: Arrow tables, pandas and Polars frames, dicts of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from stitchrl.data.readers.source import LogSource, from_arrays, from_table, reading
from stitchrl.errors import DataError, SchemaError

__all__ = ["open_object"]


def open_object(source: Any) -> LogSource:
    """An object's columns.

    Raises:
        SchemaError: it is nothing that can be read.
        DataError: a dict holds something that is no array.
    """
    if isinstance(source, Mapping):
        arrays = {str(name): _array(name, column) for name, column in source.items()}
        return from_arrays(arrays, origin="the dict", format="dict of arrays")
    if isinstance(source, pa.Table):
        return from_table(source, origin="the table", format="Arrow table")
    if hasattr(source, "to_arrow"):
        return from_table(source.to_arrow(), origin="the frame", format="Polars frame")
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        with reading("the frame", "a pandas frame"):
            table = pa.Table.from_pandas(source, preserve_index=False)
        return from_table(table, origin="the frame", format="pandas frame")
    raise SchemaError(
        "`read` takes a path, a pandas or Polars frame, an Arrow table or a dict of arrays; got "
        f"{type(source).__name__}."
    )


def _array(name: Any, column: Any) -> np.ndarray:
    try:
        array = np.asarray(column)
    except ValueError:
        array = np.empty((), object)
    if array.ndim == 0 or array.dtype.kind == "O":
        raise DataError(f"{name} of the dict must be an array with one row a transition; got {type(column).__name__}.")
    return array
