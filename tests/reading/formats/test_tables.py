"""One log in every tabular format, in one block and in many, is the same Dataset to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pytest
from tables import FILES, LISTS, expected, parquet_bytes, schema, table
from worlds import full_columns, next_observations

import stitchrl as st
from stitchrl.errors import DataError

ONLY_FLAT = (".csv", ".tsv")


OBJECTS: dict[str, Callable[[pa.Table], Any]] = {
    "table": lambda t: t,
    "chunked table": lambda t: pa.concat_tables([t.slice(0, 1), t.slice(1, 0), t.slice(1)]),
    "pandas": lambda t: pd.DataFrame(t.to_pydict(), index=range(10, 16)),
    "polars": lambda t: pl.DataFrame(t.to_pydict()),
    "dict of arrays": lambda t: {name: np.array(column) for name, column in t.to_pydict().items()},
    "dict of lists": lambda t: t.to_pydict(),
    "dict of series": lambda t: {name: pd.Series(column) for name, column in t.to_pydict().items()},
}


CASES = [
    (kind, name, form)
    for kind, names in (("file", FILES), ("object", OBJECTS))
    for name in names
    for form in ("flat", "lists")
    if form == "flat" or not (any(e in name for e in ONLY_FLAT) or name == "dict of series")
]


def read_case(folder: Path, kind: str, name: str, form: str) -> st.Dataset:
    if kind == "object":
        return st.read(OBJECTS[name](table(form)), schema(form))
    (folder / name).write_bytes(FILES[name](table(form)))
    return st.read(folder / name, schema(form))


def test_the_expected_log_is_what_was_written_by_hand() -> None:
    log, columns = expected(), full_columns()
    for name in set(LISTS) - {"episode"}:
        np.testing.assert_array_equal(getattr(log, name), columns[name], err_msg=name)
    # Rows 0, 1 and 3 are followed by the row that their next observation shows; 2, 4 and 5 end episodes.
    assert log.next_observation_index.tolist() == [1, 2, 6, 4, 7, 8]


@pytest.mark.parametrize(("kind", "name", "form"), CASES, ids=lambda value: str(value))
def test_every_format_gives_one_hash(tmp_path: Path, kind: str, name: str, form: str) -> None:
    assert read_case(tmp_path, kind, name, form).content_hash == expected().content_hash


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("kind", "name", "form"), CASES, ids=lambda value: str(value))
def test_every_format_gives_one_hash_in_many_blocks(tmp_path: Path, kind: str, name: str, form: str) -> None:
    log = read_case(tmp_path, kind, name, form)
    assert log.content_hash == expected().content_hash
    np.testing.assert_array_equal(log.next_observation, next_observations())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", range(4))
def test_rows_out_of_order_across_blocks(tmp_path: Path, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(6)
    path = tmp_path / "log.parquet"
    path.write_bytes(parquet_bytes(table("lists").take(order), row_group_size=2))
    log = st.read(path, schema("lists"))
    first = list(dict.fromkeys(np.array([7, 7, 7, 8, 8, 9])[order].tolist()))
    again = expected().select_episodes([[7, 8, 9].index(episode) for episode in first])
    assert log.content_hash == again.content_hash
    np.testing.assert_array_equal(log.next_observation, again.next_observation)
    assert len(log.observation_table) == 9
    moved = int((np.lexsort((order, [first.index(e) for e in np.array([7, 7, 7, 8, 8, 9])[order]])) != range(6)).sum())
    assert any(f"{moved} rows were out of order" in note for note in log.notes) == (moved > 0)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["log.parquet", "log.arrow", "log.arrows", "log.jsonl", "log.csv", "log.csv.gz"])
def test_messages_count_rows_over_blocks(tmp_path: Path, name: str) -> None:
    content = table("flat")
    content = content.set_column(content.column_names.index("action"), "action", pa.array([0, 1, 2, 0, 3, 1]))
    (tmp_path / name).write_bytes(FILES[name](content))
    with pytest.raises(
        DataError, match=rf"^action of {name} must be an integer from 0 to 2; got 3 in row 4 \(1 such value\)"
    ):
        st.read(tmp_path / name, schema("flat"))


def test_a_stream_without_its_end_is_noted(tmp_path: Path) -> None:
    whole = FILES["log.arrows"](table("lists"))
    (tmp_path / "x.arrows").write_bytes(whole[:-8])
    log = st.read(tmp_path / "x.arrows", schema("lists"))
    assert any("no end mark" in note for note in log.notes)
    (tmp_path / "x.arrows").write_bytes(whole)
    assert not any("no end mark" in note for note in st.read(tmp_path / "x.arrows", schema("lists")).notes)
