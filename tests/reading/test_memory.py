"""What does not fit in memory, or hides values, is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tables import parquet_bytes, schema, table
from worlds import tiny_columns

import stitchrl as st
from stitchrl.errors import DataError
from stitchrl.reading.allocation import in_memory


def test_masked_arrays_are_not_read_under_their_mask() -> None:
    reward = np.ma.masked_array(tiny_columns()["reward"], mask=[0, 0, 1, 0, 0, 0])
    with pytest.raises(DataError, match="reward of the dict has masked values"):
        st.read(tiny_columns() | {"reward": reward})
    unmasked = np.ma.masked_array(tiny_columns()["reward"])
    assert st.read(tiny_columns() | {"reward": unmasked}).content_hash == st.read(tiny_columns()).content_hash


def test_more_rows_than_memory_holds_are_refused_while_they_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet_bytes(table("lists")))
    monkeypatch.setattr("stitchrl.reading.layout._memory", lambda: 24 * 6)
    assert st.read(tmp_path / "x.parquet", schema("lists")).num_transitions == 6
    monkeypatch.setattr("stitchrl.reading.layout._memory", lambda: 24 * 5)
    with pytest.raises(DataError, match=r"x\.parquet has more than 6 rows: saying where they belong takes more memory"):
        st.read(tmp_path / "x.parquet", schema("lists"))
    with pytest.raises(DataError, match=r"x would be 1099511627776x1024 numbers, more than memory holds"):
        in_memory("x", (2**40, 2**10), np.float32)
