"""Small logs as tables, with and without schemas, for tests of reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.schema import Schema

COLUMNS = """
[columns]
episode = "stay"
observation = ["heart", "lung"]
action = "dose"
reward = "outcome"
terminated = "ended"
"""


def arrow_table(columns: dict[str, np.ndarray]) -> pa.Table:
    """The columns as an Arrow table, vectors as lists."""
    return pa.table({name: pa.array(column.tolist()) for name, column in columns.items()})


def write_parquet(path: Path, columns: dict[str, np.ndarray]) -> Path:
    """Write the columns as a Parquet file."""
    pq.write_table(arrow_table(columns), path)
    return path


def renamed_columns() -> dict[str, np.ndarray]:
    """`tiny_columns` under the names of a hospital, with the observation in two columns."""
    columns = tiny_columns()
    names = {"episode": "stay", "action": "dose", "reward": "outcome", "terminated": "ended"}
    renamed = {names.get(name, name): column for name, column in columns.items() if name != "observation"}
    return renamed | {"heart": columns["observation"][:, 0], "lung": columns["observation"][:, 1]}


RENAMED = COLUMNS + 'step = "step"\ntruncated = "truncated"\n[action]\nkind = "discrete"\ncount = 3\n'


def rows_with(schema: Schema, **columns: Any) -> st.Dataset:
    """The log of `tiny_columns` with some columns replaced or, by None, left out."""
    return st.read({k: v for k, v in (tiny_columns() | columns).items() if v is not None}, schema)
