"""Columns of every type are read as what they mean, or refused."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from tables import LISTS, expected, parquet_bytes, schema, table
from worlds import full_columns, tiny_columns

import stitchrl as st
from stitchrl.errors import DataError

TYPES: dict[str, tuple[str, pa.Array | pa.ChunkedArray]] = {
    "dictionary of text": ("source", pa.array(list("aabbab")).dictionary_encode()),
    "large text": ("source", pa.array(list("aabbab"), pa.large_string())),
    "text view": ("source", pa.array(list("aabbab"), pa.string_view())),
    "binary": ("source", pa.array([c.encode() for c in "aabbab"])),
    "fixed binary": ("source", pa.array([c.encode() for c in "aabbab"], pa.binary(1))),
    "dictionary of numbers": ("episode", pa.array([7, 7, 7, 8, 8, 9]).dictionary_encode()),
    "uint8 episodes": ("episode", pa.array([7, 7, 7, 8, 8, 9], pa.uint8())),
    "decimal": ("reward", pa.array([Decimal(x) for x in ("1", "2", "4", "-1", "3", "0.5")])),
    "half floats": ("reward", pa.array(np.array([1, 2, 4, -1, 3, 0.5], np.float16))),
    "double": ("reward", pa.array([1, 2, 4, -1, 3, 0.5], pa.float64())),
    "flags of 0 and 1": ("terminated", pa.array([0, 0, 1, 0, 0, 1], pa.int8())),
    "flags of 0. and 1.": ("truncated", pa.array([0.0, 0, 0, 0, 1, 0])),
    "uint64 steps": ("step", pa.array([0, 1, 2, 0, 1, 0], pa.uint64())),
    "float steps": ("step", pa.array([0.0, 1, 2, 0, 1, 0])),
    "float actions": ("action", pa.array([0.0, 1, 2, 0, 0, 1])),
    "run ends": ("weight", pa.RunEndEncodedArray.from_arrays(list(range(1, 7)), pa.array([1.0, 2, 3, 4, 5, 6]))),
    "large lists": ("observation", pa.array(tiny_columns()["observation"].tolist(), pa.large_list(pa.float64()))),
    "fixed lists of ints": ("observation", pa.array(tiny_columns()["observation"].tolist(), pa.list_(pa.int16(), 2))),
    "lists of decimals": (
        "observation",
        pa.array([[Decimal(int(x)) for x in row] for row in tiny_columns()["observation"]]),
    ),
    "tensors": (
        "observation",
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(tiny_columns()["observation"])),
    ),
}


@pytest.mark.parametrize(("role", "column"), TYPES.values(), ids=TYPES.keys())
def test_types_that_mean_the_same(role: str, column: pa.Array) -> None:
    content = table("lists")
    changed = content.set_column(content.column_names.index(role), role, column)
    assert st.read(changed, schema("lists")).content_hash == expected().content_hash
    sliced = pa.concat_tables([changed.slice(0, 2), changed.slice(2)])
    assert st.read(sliced, schema("lists")).content_hash == expected().content_hash


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.float16, np.int8])
def test_numpy_types_that_mean_the_same(dtype: Any) -> None:
    columns = {role: full_columns()[role] for role in LISTS}
    plain = st.read(columns, schema("lists"))
    columns["observation"] = columns["observation"].astype(dtype)
    columns["episode"] = columns["episode"].astype(">i8")
    columns["source"] = columns["source"].astype("S")
    assert st.read(columns, schema("lists")).content_hash == plain.content_hash


def test_times_in_any_unit_are_one(tmp_path: Path) -> None:
    times = [datetime(2026, 1, 31, 23, 59) + timedelta(minutes=i) for i in range(6)]
    content = table("lists")
    place = content.column_names.index("time")
    hashes = set()
    for unit in ("s", "ms", "us", "ns"):
        made = content.set_column(place, "time", pa.array(times, pa.timestamp(unit)))
        hashes.add(st.read(made, schema("lists")).content_hash)
        (tmp_path / "x.parquet").write_bytes(parquet_bytes(made))
        hashes.add(st.read(tmp_path / "x.parquet", schema("lists")).content_hash)
    zoned = content.set_column(place, "time", pa.array(times, pa.timestamp("us", tz="UTC")))
    hashes.add(st.read(zoned, schema("lists")).content_hash)
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps(row | {"time": str(t)}) + "\n" for row, t in zip(content.to_pylist(), times, strict=True))
    )
    log = st.read(tmp_path / "x.jsonl", schema("lists"))
    assert {*hashes, log.content_hash} == {log.content_hash}
    assert log.time is not None
    assert log.time[1] - log.time[0] == np.timedelta64(60, "s")
    fine = pa.array(np.arange(6).astype("M8[ns]"))  # what microseconds cannot hold is kept
    kept = st.read(content.set_column(place, "time", fine), schema("lists")).time
    assert kept is not None
    assert np.diff(kept).astype(int).tolist() == [1] * 5


def test_dates_and_times_of_day() -> None:
    content = table("lists")
    place = content.column_names.index("time")
    days = st.read(
        content.set_column(place, "time", pa.array([date(2026, 1, 1 + i) for i in range(6)])), schema("lists")
    )
    assert days.time is not None
    assert days.time.astype("M8[D]").astype(str).tolist() == [f"2026-01-0{i}" for i in range(1, 7)]
    clock = st.read(
        content.set_column(place, "time", pa.array([60, 120, 180, 240, 300, 360], pa.time32("s"))), schema("lists")
    )
    assert clock.time is not None
    assert clock.time.astype("m8[s]").astype(int).tolist() == [60, 120, 180, 240, 300, 360]


REFUSED_TYPES: dict[str, tuple[str, Any, str]] = {
    "overflow of float32": ("reward", [1.0, 2, 4, -1, 1e39, 0.5], "reward .* must be finite; found infinity in row 4"),
    "overflow in observations": ("observation", [[0.0, 1e300]] * 6, "observation .* must be finite; found infinity in row 0"),
    "date rewards": ("reward", [date(2026, 1, 1)] * 6, "reward of the table must be numbers; got"),
    "structs": ("reward", [{"a": 1}] * 6, "must hold numbers, text or lists of numbers; it holds struct"),
    "nested lists": ("observation", [[[1.0], [2.0]]] * 6, "must hold flat lists"),
    "empty lists": ("observation", [[]] * 6, "observation of the table must hold at least one number"),
    "text lists": ("observation", [["a", "b"]] * 6, "observation of the table must be numbers; got 'a' in row 0"),
    "all null": ("reward", pa.nulls(6), r"Column 'reward' \(reward\) .* found 6, the first in row 0"),
    "null step": ("step", [0, 1, None, 0, 1, 0], r"Column 'step' .* found 1, the first in row 2"),
    "null time": ("time", [0, 1, None, 3, 4, 5], r"Column 'time' .* found 1, the first in row 2"),
    "null episode": ("episode", [7, None, 7, 8, 8, 9], r"Column 'episode' .* found 1, the first in row 1"),
    "null text episode": ("episode", ["7", None, "7", "8", "8", "9"], r"Column 'episode' .* found 1, the first in row 1"),
    "null action": ("action", [0, 1, 2, 0, 0, None], r"Column 'action' .* found 1, the first in row 5"),
    "null flag": ("terminated", [False, False, True, None, False, True], r"Column 'terminated' .* the first in row 3"),
    "null source": ("source", [None, "a", "b", "b", "a", "b"], r"Column 'source' .* the first in row 0"),
    "null weight": ("weight", [1.0, None, 1, 1, 1, 1], r"Column 'weight' .* the first in row 1"),
    "null propensity": ("behavior_log_prob", [-1.0, None, -1, -1, -1, -1], r"Column 'behavior_log_prob' .* row 1"),
    "null observation": ("observation", [[1.0, 2], None, *[[1.0, 2]] * 4], r"Column 'observation' .* the first in row 1"),
    "null in a list": ("observation", [[1.0, 2], [1.0, None], *[[1.0, 2]] * 4], "lists of observation .* must have no missing"),
    "text times": ("time", ["9", "10", "11", "1", "2", "3"], "time of the table must be numbers or dates; got '9'"),
    "infinite step": ("step", [0.0, 1, float("inf"), 0, 1, 0], "step of the table must be whole numbers; got inf in row 2"),
    "steps beyond int64": ("step", pa.array([0, 1, 2**63, 0, 1, 0], pa.uint64()), "got 9223372036854775808 in row 2"),
    "float identifiers": ("episode", [1e17, 1e17, 1e17, 2e17, 2e17, 3e17], "the table must have identifiers that differ"),
    "long text": ("source", ["a" * 1001, *"aaaaa"], "Text of source of the table may have 1,000 bytes a row; some has 1,001"),
    "bad UTF-8": ("source", pa.array([b"a", b"a", b"a", b"\xff", b"a", b"a"]), "must be UTF-8 text; row 3 is not"),
    "bad UTF-8 episode": ("episode", pa.array([b"a", b"a", b"\xff\xfe", b"b", b"b", b"c"]), "must be UTF-8 text; row 2 is not"),
    "vector rewards": ("reward", [[1.0]] * 6, "must hold one value a row; it holds lists"),
    "vector episodes": ("episode", [[1]] * 6, "must hold one value a row; it holds lists"),
    "complex action": ("action", [[0, 1]] * 6, r"action of the table, discrete, must be one integer a row; got shape \(6, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize(("role", "values", "message"), REFUSED_TYPES.values(), ids=REFUSED_TYPES.keys())
def test_types_that_are_refused(role: str, values: Any, message: str) -> None:
    content = table("lists")
    column = values if isinstance(values, pa.Array) else pa.array(values)
    with pytest.raises(DataError, match=message) as caught:
        st.read(content.set_column(content.column_names.index(role), role, column), schema("lists"))
    assert "\n" not in str(caught.value)
