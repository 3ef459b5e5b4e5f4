"""Parquet file -> role columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stitchrl.data.schema import VECTOR_ROLES, Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.types import NumpyArray

__all__ = ["read_parquet_columns", "read_parquet_names", "table_columns"]


def read_parquet_names(path: Path) -> list[str]:
    """Column names of a Parquet file. Raises DataError where it is missing or is not one."""
    return _open(path).schema_arrow.names


def read_parquet_columns(path: Path, schema: Schema) -> dict[str, NumpyArray]:
    """The schema's columns of a Parquet file, role -> array.

    Raises:
        DataError: missing file, not Parquet, nulls, ragged lists.
        SchemaError: a column the schema names is absent.
    """
    file = _open(path)
    present = file.schema_arrow.names
    wanted: list[str] = []
    for role, column in schema.columns.items():
        for name in (column,) if isinstance(column, str) else column:
            if name not in present:
                raise SchemaError(
                    f"The schema says {role} is in column {name!r}, which {path.name} does not have; "
                    f"it has: {', '.join(present)}."
                )
            wanted.append(name)
    try:
        table = file.read(columns=list(dict.fromkeys(wanted)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {error}.") from None
    return table_columns(table, schema, path.name)


def table_columns(table: pa.Table, schema: Schema, origin: str) -> dict[str, NumpyArray]:
    """The schema's columns of an Arrow table, role -> array. Raises DataError on nulls or ragged lists."""
    columns = {}
    for role, column in schema.columns.items():
        if isinstance(column, str):
            columns[role] = _array(table[column], column, role, origin)
        else:
            columns[role] = np.stack([_array(table[name], name, role, origin) for name in column], axis=1)
    return columns


def _open(path: Path) -> pq.ParquetFile:
    if not path.exists():
        raise DataError(f"There is no log {str(path)!r}.")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as Parquet: {reason}. Give a .parquet file.") from None


def _array(column: pa.ChunkedArray, name: str, role: str, origin: str) -> NumpyArray:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(
            f"Column {name!r} ({role}) of {origin} must have no missing values; found {column.null_count}, the first "
            f"in row {row}."
        )
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if role not in VECTOR_ROLES:
            raise DataError(f"Column {name!r} ({role}) of {origin} must hold one value a row; it holds lists.")
        flat = array.flatten()
        if flat.null_count:
            raise DataError(f"The lists of column {name!r} ({role}) of {origin} must have no missing values.")
        values = flat.to_numpy(zero_copy_only=False)
        rows = len(array)
        if rows and (len(values) % rows or (array.value_lengths().to_numpy() != len(values) // rows).any()):
            raise DataError(f"The lists of column {name!r} ({role}) of {origin} must all have the same length.")
        return values.reshape(rows, len(values) // rows if rows else 0)
    values = array.to_numpy(zero_copy_only=False)
    return values.astype(str) if values.dtype.kind == "O" else values
