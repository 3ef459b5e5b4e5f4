"""Logs in several files: folders, patterns, order, and files that do not agree."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from tables import FILES, FLAT, LISTS, as_csv, expected, parquet_bytes, schema, table

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.reading.sources import source
from stitchrl.reading.sources.files import files_of


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["log.parquet", "log.arrow", "log.jsonl.gz", "log.csv", "log.csv.zst"])
def test_a_folder_or_pattern_is_one_log(tmp_path: Path, name: str) -> None:
    whole = table("flat")
    ending = name.removeprefix("log")
    for number, (start, count) in enumerate(((0, 2), (2, 3), (5, 1))):  # episode 7 spans two files
        (tmp_path / f"part.2026.{number}{ending}").write_bytes(FILES[name](whole.slice(start, count)))
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "README.md").touch()
    with pytest.raises(DataError, match="Episode 7 is in several files of"):
        st.read(tmp_path, schema("flat"))
    joined = Schema(FLAT, num_actions=3, files="joined")
    for where in (tmp_path, tmp_path / f"part*{ending}"):
        log = st.read(where, joined)
        assert log.content_hash == expected().content_hash
        assert "3 files were read as one log." in log.notes
    (tmp_path / "schema.toml").write_text(joined.to_toml())
    assert st.read(tmp_path).content_hash == expected().content_hash


@pytest.mark.parametrize("where", ["", "*.parquet", "*/*.parquet"])
def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path, where: str) -> None:
    names = [f"day{day}/part{part}.parquet" for day in (9, 10) for part in (1, 2, 10)]
    for number, name in enumerate(names):
        path = tmp_path / (name if "/" in where else name.replace("/", "."))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(parquet_bytes(table("lists").slice(0, 3).set_column(0, "episode", pa.array([number] * 3))))
    log = st.read(tmp_path / where, Schema(LISTS, num_actions=3, files="joined"))
    assert log.episode_id.tolist() == [*range(6)]
    assert [p.name for p in files_of(tmp_path / where)] == [
        Path(n if "/" in where else n.replace("/", ".")).name for n in names
    ]


def test_files_that_number_their_episodes_alike(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_bytes(parquet_bytes(table("lists")))
    log = st.read(tmp_path, Schema(LISTS, num_actions=3, files="separate"))
    assert log.episode_id.tolist() == ["7@0", "8@0", "9@0", "7@1", "8@1", "9@1"]
    assert log.num_transitions == 12
    with pytest.raises(DataError, match="has step 0 twice"):
        st.read(tmp_path, Schema(LISTS, num_actions=3, files="joined"))


def test_files_must_agree(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(table("lists")))
    (tmp_path / "b.parquet").write_bytes(parquet_bytes(table("lists").drop_columns(["weight", "time"])))
    with pytest.raises(DataError, match=r"a\.parquet and b\.parquet differ in time, weight\."):
        st.read(tmp_path, schema("lists"))
    (tmp_path / "c.csv").write_bytes(as_csv(table("flat")))
    with pytest.raises(DataError, match=r"must be of one format; they end in \.csv, \.parquet"):
        st.read(tmp_path, schema("lists"))
    with pytest.raises(DataError, match="There is no file in"):
        st.read(tmp_path / "*.feather")


def test_types_that_differ_between_files(tmp_path: Path) -> None:
    base = table("lists")
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(base))
    for column, values, message in (
        ("episode", list("aaabbc"), "episode of .* must be all numbers or all text"),
        ("time", [datetime(2026, 1, 1)] * 6, "time of .* must be all numbers, all times or all text"),
        ("source", [1, 1, 2, 2, 1, 2], "source must be of one type and width in all rows; it changes in row 6"),
    ):
        other = base.set_column(base.column_names.index(column), column, pa.array(values))
        (tmp_path / "b.parquet").write_bytes(parquet_bytes(other))
        with pytest.raises(DataError, match=message):
            st.read(tmp_path, Schema(LISTS, num_actions=3, files="separate"))


def test_a_column_named_like_the_number_of_the_file(tmp_path: Path) -> None:
    named = table("lists").append_column(source.FILE_NUMBER, pa.array(range(6)))
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(named))
    assert st.read(tmp_path, schema("lists")).content_hash == expected().content_hash
    (tmp_path / "b.parquet").write_bytes(parquet_bytes(named))
    with pytest.raises(DataError, match="'number of the file', which stitchrl adds itself; rename it"):
        st.read(tmp_path, schema("lists"))
