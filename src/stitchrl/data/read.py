"""`st.read`: a path, an Arrow table, a data frame or a dict of arrays -> Dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stitchrl.data.dataset import Dataset
from stitchrl.data.readers.columns import dataset_from_columns
from stitchrl.data.readers.parquet import read_parquet_columns, read_parquet_names, table_columns
from stitchrl.data.schema import REQUIRED_ROLES, ROLES, Schema
from stitchrl.errors import DataError, SchemaError

__all__ = ["read"]


def read(source: Any, schema: Schema | str | os.PathLike[str] | None = None) -> Dataset:
    """Read a log.

    Args:
        source: path of a Parquet file; a pandas or Polars frame or an Arrow table; or a dict role -> array.
        schema: a `Schema`, or the path of its TOML. By default, for a path, the TOML of the same name beside the
            log (`stays.parquet` -> `stays.toml`) where there is one; else columns must carry the role names, and
            an integer action column counts as discrete with (largest + 1) actions.

    Returns:
        The log, checked: finite numbers, actions inside their space, every episode ended.

    Raises:
        DataError, SchemaError: one sentence saying what is wrong, where, and what to do.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        beside = path.with_suffix(".toml")
        if schema is None and beside.is_file():
            schema = beside
        named = _resolve(schema)
        if named is None:
            names = read_parquet_names(path)
            guess = _inferred(names, path.name)
            columns = read_parquet_columns(path, guess)
            return dataset_from_columns(columns, _with_actions(guess, columns, path.stem), origin=path.name)
        return dataset_from_columns(read_parquet_columns(path, named), named, origin=path.name)
    named = _resolve(schema)
    if isinstance(source, Mapping):
        arrays = {role: _as_array(role, column) for role, column in source.items()}
        if named is None:
            guess = _inferred(list(arrays), "the dict")
            arrays = {role: arrays[role] for role in guess.columns}
            return dataset_from_columns(arrays, _with_actions(guess, arrays, "log"), origin="the dict")
        chosen = {}
        for role, column in named.columns.items():
            parts = (column,) if isinstance(column, str) else column
            for part in parts:
                if part not in arrays:
                    raise SchemaError(f"The schema says {role} is in {part!r}, which the dict does not have.")
            chosen[role] = arrays[column] if isinstance(column, str) else np.stack([arrays[p] for p in parts], 1)
        return dataset_from_columns(chosen, named, origin="the dict")
    table = _as_table(source)
    if named is None:
        guess = _inferred(table.column_names, "the table")
        columns = table_columns(table, guess, "the table")
        return dataset_from_columns(columns, _with_actions(guess, columns, "log"), origin="the table")
    for role, column in named.columns.items():
        for part in (column,) if isinstance(column, str) else column:
            if part not in table.column_names:
                raise SchemaError(f"The schema says {role} is in {part!r}, which the table does not have.")
    return dataset_from_columns(table_columns(table, named, "the table"), named, origin="the table")


def _resolve(schema: Schema | str | os.PathLike[str] | None) -> Schema | None:
    return schema if schema is None or isinstance(schema, Schema) else Schema.load(schema)


def _inferred(names: list[str], origin: str) -> Schema:
    missing = [role for role in REQUIRED_ROLES if role not in names]
    if missing:
        raise SchemaError(
            f"Without a schema the columns of {origin} must carry the role names; there is no {', '.join(missing)}. "
            f"Roles are: {', '.join(ROLES)}. Name your columns in a TOML schema."
        )
    return Schema.infer(names, num_actions=None)


def _with_actions(schema: Schema, columns: Mapping[str, np.ndarray], name: str) -> Schema:
    """The inferred schema with its action space: integers are discrete, as wide as the masks or the largest seen."""
    action = columns["action"]
    count = None
    if action.ndim == 1 and action.dtype.kind in "iub":
        wide = [
            columns[r].shape[-1] for r in ("behavior_probs", "action_mask") if r in columns and columns[r].ndim == 2
        ]
        count = max([*wide, int(action.max(initial=0)) + 1, 2])
    return Schema(schema.columns, count, schema.gamma, name)


def _as_array(role: str, column: Any) -> np.ndarray:
    try:
        array = np.asarray(column)
    except ValueError:
        array = np.empty((), object)
    if array.ndim == 0 or array.dtype.kind == "O":
        raise DataError(f"{role} of the dict must be an array with one row a transition; got {type(column).__name__}.")
    return array


def _as_table(source: Any) -> pa.Table:
    if isinstance(source, pa.Table):
        return source
    if hasattr(source, "to_arrow"):
        return source.to_arrow()
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        return pa.Table.from_pandas(source, preserve_index=False)
    raise SchemaError(
        f"`read` takes a path, a pandas or Polars frame, an Arrow table or a dict of arrays; got {type(source).__name__}."
    )
