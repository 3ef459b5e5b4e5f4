"""Logs in memory: Arrow tables, pandas and Polars frames, dicts of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from stitchrl.errors import DataError, SchemaError
from stitchrl.messages import printable
from stitchrl.reading.sources.source import LogSource, from_arrays, from_table, reading_errors
from stitchrl.types import NumpyArray

__all__ = ["open_object"]


def open_object(source: Any) -> LogSource:
    """The columns of an object in memory.

    Raises:
        SchemaError: the object is of a kind that cannot be read.
        DataError: a dict holds something that is not an array.
    """
    if isinstance(source, Mapping):
        arrays = {str(name): _array(str(name), column) for name, column in source.items()}
        return from_arrays(arrays, origin="the dict", format="dict of arrays")
    if isinstance(source, pa.Table):
        return from_table(source, origin="the table", format="Arrow table")
    if hasattr(source, "to_arrow"):
        with reading_errors("the frame", "a Polars frame"):
            table = source.to_arrow()
        return from_table(table, origin="the frame", format="Polars frame")
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        with reading_errors("the frame", "a pandas frame"):
            table = pa.Table.from_pandas(source.rename(columns=str), preserve_index=False)
        return from_table(table, origin="the frame", format="pandas frame")
    raise SchemaError(
        "`read` takes a path, a pandas or Polars frame, an Arrow table or a dict of arrays; got "
        f"{type(source).__name__}."
    )


def _array(name: str, column: Any) -> NumpyArray:
    """A value of a dict as an array. Raises DataError if it is none, or hides values behind a mask."""
    called = f"{printable(name)} of the dict"
    if np.ma.isMaskedArray(column):
        if np.ma.getmaskarray(column).any():
            raise DataError(f"{called} has masked values, which NumPy arrays do not keep; fill them first.")
        column = np.ma.getdata(column)
    try:
        array = np.asarray(column)
        if array.dtype.kind == "O" and array.ndim == 1 and all(isinstance(value, str) for value in array):
            array = array.astype(str)
    except Exception:  # an object of another library may raise anything when asked for an array
        array = np.empty((), object)
    if array.ndim == 0 or array.dtype.kind == "O":
        raise DataError(f"{called} must be an array with one row a transition; got {type(column).__name__}.")
    return array
