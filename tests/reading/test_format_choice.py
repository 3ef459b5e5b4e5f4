"""The format of a file is told from its content, then its ending, or given by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import FILES, as_csv, expected, parquet_bytes, schema, table
from worlds import tiny_columns

import stitchrl as st
from stitchrl.errors import ConfigurationError, DataError


@pytest.mark.parametrize(
    ("name", "called", "found"),
    [
        ("log.parquet", "log.csv", "Parquet"),
        ("log.arrow", "log.parquet", "Arrow IPC"),
        ("log.arrows", "log.jsonl", "Arrow IPC"),
        ("log.jsonl", "log.parquet", "JSON Lines"),
        ("log.csv", "log.txt", "CSV"),
        ("log.tsv", "log", "TSV"),
        ("log.parquet", "log", "Parquet"),
    ],
)
def test_content_goes_before_the_ending(tmp_path: Path, name: str, called: str, found: str) -> None:
    (tmp_path / called).write_bytes(FILES[name](table("flat")))
    log = st.read(tmp_path / called, schema("flat"))
    assert log.notes[0] == f"Read as {found}."
    assert log.content_hash == expected().content_hash


@pytest.mark.parametrize("given", ["Parquet", "parquet", "pq"])
def test_a_format_may_be_given(tmp_path: Path, given: str) -> None:
    (tmp_path / "x").write_bytes(parquet_bytes(table("lists")))
    assert st.read(tmp_path / "x", schema("lists"), format=given).content_hash == expected().content_hash


def test_a_wrong_or_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(as_csv(table("flat")))
    with pytest.raises(DataError, match=r"x\.csv cannot be read as Parquet"):
        st.read(tmp_path / "x.csv", schema("flat"), format="parquet")
    with pytest.raises(ConfigurationError, match=r"There is no format 'excel'; there are .*Parquet, Arrow IPC"):
        st.read(tmp_path / "x.csv", format="excel")
    with pytest.raises(ConfigurationError, match="`format` is for paths; got 'csv' with dict"):
        st.read(tiny_columns(), format="csv")
