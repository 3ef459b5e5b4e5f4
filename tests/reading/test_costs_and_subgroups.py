"""Columns with the roles `cost` and `subgroup`: read by name, kept through splits, joins and every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.data.named_columns import named_columns
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.reading.read import read

EXTRA = {
    "pain": np.array([0.5, 1, 2, 3, 4, 5]),
    "hours": np.array([1, 2, 3, 4, 5, 6]),
    "ward": np.array(["ICU", "ICU", "ER", "surgery", "ICU", "ER"]),
    "sex": np.array([0, 0, 0, 1, 1, 0]),
}


def log_of(**roles: tuple[str, ...]) -> Dataset:
    columns = tiny_columns()
    schema = Schema({role: role for role in columns} | roles, num_actions=3)
    return st.read(columns | EXTRA, schema)


def test_columns_keep_their_names_values_and_text() -> None:
    log = log_of(cost=("pain", "hours"), subgroup=("ward", "sex"))
    costs, groups = named_columns(log, "cost"), named_columns(log, "subgroup")
    assert list(costs) == ["pain", "hours"]
    assert costs["pain"].tolist() == [0.5, 1, 2, 3, 4, 5]
    assert costs["hours"].dtype == np.float32
    assert groups["ward"].tolist() == EXTRA["ward"].tolist()
    assert groups["sex"].tolist() == ["0", "0", "0", "1", "1", "0"]
    last = log.select_episodes([2])
    assert named_columns(last, "cost")["pain"].tolist() == [5.0]
    assert named_columns(last, "subgroup")["ward"].tolist() == ["ER"]
    assert named_columns(st.read(tiny_columns()), "cost") == {}


@pytest.mark.parametrize("target", ["log.parquet", "log"])
def test_they_survive_a_conversion(tmp_path: Path, target: str) -> None:
    columns = tiny_columns()
    roles = {role: role for role in columns} | {"cost": ("pain", "hours"), "subgroup": ("ward",)}
    again = st.read(st.convert(columns | EXTRA, tmp_path / target, schema=Schema(roles, num_actions=3)))
    assert {name: values.tolist() for name, values in named_columns(again, "cost").items()} == {
        "pain": EXTRA["pain"].tolist(),
        "hours": EXTRA["hours"].tolist(),
    }
    assert named_columns(again, "subgroup")["ward"].tolist() == EXTRA["ward"].tolist()
    assert again.content_hash == log_of(cost=("pain", "hours"), subgroup=("ward",)).content_hash


def test_columns_beside_those_of_the_schema_are_read_in_the_order_of_the_log() -> None:
    columns = tiny_columns()
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = {name: values[order] for name, values in (columns | EXTRA).items()}
    schema = Schema({role: role for role in columns} | {"cost": "pain"}, num_actions=3)
    log = read(shuffled, schema, beside={"cost": ("hours", "pain"), "subgroup": ("ward",)})
    assert list(named_columns(log, "cost")) == ["pain", "hours"]
    assert named_columns(log, "cost")["pain"].tolist() == [3.0, 4.0, 0.5, 1.0, 2.0, 5.0]  # by first appearance
    assert named_columns(log, "subgroup")["ward"].tolist() == ["surgery", "ICU", "ICU", "ICU", "ER", "ER"]
    with pytest.raises(SchemaError, match="cost is in column 'pian'"):
        read(shuffled, schema, beside={"cost": ("pian",)})


def test_a_cost_that_is_missing_is_refused() -> None:
    columns = tiny_columns()
    with pytest.raises(DataError, match="cost of the dict"):
        st.read(columns | {"cost": np.array([1, np.nan, 1, 1, 1, 1])}, Schema({r: r for r in (*columns, "cost")}))


def test_joined_logs_keep_only_columns_that_all_of_them_have() -> None:
    one, other = log_of(cost=("pain",), subgroup=("ward",)), log_of(cost=("hours",), subgroup=("ward",))
    joined = one.concat(other)
    assert joined.cost is None
    assert named_columns(joined, "subgroup")["ward"].tolist() == 2 * EXTRA["ward"].tolist()
