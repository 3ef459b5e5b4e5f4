"""Assembling a Dataset from a source: what is shared over a whole read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pytest
from worlds import tiny_columns

import stitchrl as st
from stitchrl.reading.encode import Encoder


@pytest.mark.parametrize("has_schema", [True, False])
def test_a_read_builds_exactly_one_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_schema: bool) -> None:
    columns = {name: column for name, column in tiny_columns().items() if name != "observation"}
    table = pa.table(columns | {f"obs_{i}": tiny_columns()["observation"][:, i] for i in range(2)})
    pyarrow.csv.write_csv(table, tmp_path / "log.csv")
    schema = st.read(tmp_path / "log.csv").schema if has_schema else None
    built = []
    build = Encoder.__init__

    def counted(self: Encoder, *args: Any, **settings: Any) -> None:
        built.append(self)
        build(self, *args, **settings)

    monkeypatch.setattr(Encoder, "__init__", counted)
    log = st.read(tmp_path / "log.csv", schema)
    assert len(built) == 1
    assert built[0].schema.num_actions is not None
    assert log.num_actions == 3
