"""One log in every format, in one block and in many: the same Dataset, to the bit; and columns of every type."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from worlds import full_columns, next_observations, tiny_columns

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, DataError, SchemaError
from stitchrl.reading.allocation import in_memory
from stitchrl.reading.formats import arrow_ipc, parquet
from stitchrl.reading.sources import source, text
from stitchrl.reading.sources.files import files_of

FLAT = {
    "episode": "episode",
    "step": "step",
    "observation": ("seen_a", "seen_b"),
    "next_observation": ("next_a", "next_b"),
    "action": "action",
    "reward": "reward",
    "terminated": "terminated",
    "truncated": "truncated",
    "source": "source",
    "weight": "weight",
    "time": "time",
    "behavior_log_prob": "behavior_log_prob",
}
LISTS = FLAT | {"observation": "observation", "next_observation": "next_observation"}


def table(form: str) -> pa.Table:
    """`full_columns` as an Arrow table, vectors as lists or spread over columns."""
    columns = full_columns()
    made = {role: pa.array(columns[role].tolist()) for role in FLAT if columns[role].ndim == 1}
    for role, name in (("observation", "seen"), ("next_observation", "next")):
        if form == "lists":
            made[role] = pa.array(columns[role].tolist())
        else:
            made |= {f"{name}_{c}": pa.array(columns[role][:, i].tolist()) for i, c in enumerate("ab")}
    return pa.table(made)


def schema(form: str) -> Schema:
    return Schema(LISTS if form == "lists" else FLAT, num_actions=3)


def as_json(content: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in content.to_pylist()).encode()


def as_csv(content: pa.Table, delimiter: str = ",") -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(content, sink, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue().to_pybytes()


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


def arrow_bytes(content: pa.Table, new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, content.schema) as writer:
        for start in range(0, len(content), 4):
            writer.write_table(content.slice(start, 4))
    return sink.getvalue().to_pybytes()


def parquet_bytes(content: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(content, sink, **options)
    return sink.getvalue().to_pybytes()


FILES: dict[str, Callable[[pa.Table], bytes]] = {
    "log.parquet": parquet_bytes,
    "groups.parquet": lambda t: parquet_bytes(t, row_group_size=2),
    "log.arrow": lambda t: arrow_bytes(t, pa.ipc.new_file),
    "log.arrows": lambda t: arrow_bytes(t, pa.ipc.new_stream),
    "log.jsonl": as_json,
    "log.jsonl.gz": lambda t: gzip.compress(as_json(t)),
    "log.csv": as_csv,
    "log.tsv": lambda t: as_csv(t, "\t"),
    "tabs.csv": lambda t: as_csv(t, "\t"),
    "log.csv.gz": lambda t: gzip.compress(as_csv(t)),
    "two.csv.gz": lambda t: gzip.compress(as_csv(t)[:90]) + gzip.compress(as_csv(t)[90:]),
    "log.csv.zst": lambda t: zst(as_csv(t)),
    "log.tsv.gz": lambda t: gzip.compress(as_csv(t, "\t")),
    "marked.csv": lambda t: b"\xef\xbb\xbf" + as_csv(t).replace(b"\n", b"\r\n"),
    "spaced.csv": lambda t: b"\n" + as_csv(t).replace(b"\n", b"\n\n"),
}
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


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block edges fall inside episodes: three rows a block, or few bytes."""
    for module in (source, parquet, arrow_ipc):
        monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    monkeypatch.setattr("stitchrl.reading.sources.compressed.PIECE_BYTES", 60)


@cache
def expected() -> st.Dataset:
    """The log that every format must give."""
    columns = full_columns()
    return st.read({role: columns[role] for role in LISTS}, Schema({role: role for role in LISTS}, num_actions=3))


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
        DataError, match=rf"^action of {name} must be an integer from 0 to 2; got 3 in row 4 \(1 such\)"
    ):
        st.read(tmp_path / name, schema("flat"))


# --- which format ------------------------------------------------------------------------------------------------------


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


# --- types of columns ----------------------------------------------------------------------------------------------------

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
    "float identifiers": ("episode", [1e17, 1e17, 1e17, 2e17, 2e17, 3e17], "episode of the table must tell its values apart"),
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


# --- next observations ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("form", ["lists", "flat"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_next_observation_that_is_not_known(form: str, shuffled: bool) -> None:
    rows = table(form).to_pylist()
    for row in (0, 4):  # inside an episode, and at a cut
        for name in ("next_observation",) if form == "lists" else ("next_a", "next_b"):
            rows[row][name] = None
    content = pa.Table.from_pylist(rows)
    log = st.read(content.take([4, 1, 5, 0, 2, 3]) if shuffled else content, schema(form))
    log = log.select_episodes([list(log.episode_id).index(e) for e in (7, 8, 9)])
    assert log.can_bootstrap.tolist() == [True, True, True, True, False, True]
    np.testing.assert_array_equal(log.next_observation[0], [1, 2])  # the next row's
    np.testing.assert_array_equal(log.next_observation[[2, 5]], [[10, 11], [14, 15]])
    nothing = content.set_column(content.column_names.index("weight"), "weight", content["weight"])
    for name in ("next_observation",) if form == "lists" else ("next_a", "next_b"):
        nothing = nothing.set_column(nothing.column_names.index(name), name, pa.nulls(6))
    bare = st.read(nothing, schema(form))
    assert bare.can_bootstrap.tolist() == [True, True, True, True, False, True]
    assert len(bare.observation_table) == 6


def test_half_a_next_observation_and_an_infinite_one() -> None:
    rows = table("flat").to_pylist()
    rows[2]["next_b"] = None
    with pytest.raises(DataError, match="next_observation of the table must be finite; found NaN in row 2"):
        st.read(pa.Table.from_pylist(rows), schema("flat"))
    rows[2]["next_b"] = float("inf")
    with pytest.raises(DataError, match=r"next_observation \(column 'next_b'\) of the table .* infinity in row 2"):
        st.read(pa.Table.from_pylist(rows), schema("flat"))


@pytest.mark.usefixtures("small_blocks")
def test_rows_missing_inside_an_episode_keep_their_next_observation() -> None:
    content = table("lists").filter(pa.array([True, False, True, True, True, True]))  # step 1 of episode 7 is lost
    log = st.read(content, schema("lists"))
    np.testing.assert_array_equal(log.next_observation, next_observations()[[0, 2, 3, 4, 5]])
    assert not log.continues[0]
    assert len(log.observation_table) == 9  # 5 rows, 3 ends, and what followed row 0


# --- images ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("with_next", [False, True])
def test_images_stay_bytes(with_next: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 5, 3), np.uint8)
    columns = tiny_columns() | {"observation": images}
    if with_next:
        columns["next_observation"] = np.roll(images, -1, axis=0)
    log = st.read(columns)
    assert log.observation_table.dtype == np.uint8
    np.testing.assert_array_equal(log.observation_table[log.observation_index], images)
    assert log.observation_names == ()
    known = log.next_observation_index >= 0
    assert known.tolist() == ([True] * 6 if with_next else [True, True, False, True, False, False])
    np.testing.assert_array_equal(
        log.observation_table[log.next_observation_index[known]], np.roll(images, -1, 0)[known]
    )
    with pytest.raises(DataError, match="must hold at least one number"):
        st.read(columns | {"observation": images[:, :0], "next_observation": images[:, :0]})


# --- text formats ------------------------------------------------------------------------------------------------------------

HEAD = "episode,observation,action,reward,terminated\n"


def csv_log(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "x.csv"
    path.write_text(head + "\n".join(rows) + "\n")
    return path


@pytest.mark.usefixtures("small_blocks")
def test_types_are_those_of_the_whole_file(tmp_path: Path) -> None:
    """Whole numbers for a block and then not; empty for a block; identifiers that turn out to be text."""
    rows = [f"{i},{i},{i % 2},{i},true" for i in range(40)]
    rows[38] = "38,2.5,0,.25,true"
    log = st.read(csv_log(tmp_path, *rows))
    assert log.observation[38, 0] == 2.5
    assert log.reward[38] == 0.25
    assert log.num_actions == 2
    rows[39] = "x39,39,1,39,true"
    log = st.read(csv_log(tmp_path, *rows))
    assert log.episode_id.tolist() == [*map(str, range(39)), "x39"]
    rows[39] = "39,39,1,later,true"
    with pytest.raises(DataError, match=r"reward of x\.csv must be numbers; got text\."):
        st.read(csv_log(tmp_path, *rows))
    lines = [{"episode": i, "observation": [i], "action": 0.5, "reward": i, "terminated": True} for i in range(40)]
    lines[38] |= {"observation": [2.5], "reward": 0.25}
    lines[39]["note"] = "a column that the first lines lack"
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    log = st.read(tmp_path / "x.jsonl")
    assert (log.observation[38, 0], log.reward[38], log.episode_id[39]) == (2.5, 0.25, 39)
    lines[39]["reward"] = "later"
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=r"Column 'reward' of x\.jsonl must be of one type in all rows"):
        st.read(tmp_path / "x.jsonl")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("first", [0, 39])
@pytest.mark.parametrize("quote", ["", '"'])
def test_identifiers_with_leading_zeros_are_text(tmp_path: Path, first: int, quote: str) -> None:
    """In the first block or the last: 1 and 01 are two episodes."""
    rows = [f"{i + 1},0.{i},{i % 2},{i},true" for i in range(40)]
    rows[first] = f"{quote}01{quote},0,0,0.5,true" if first else f"{quote}007{quote},0,1,0,true"
    log = st.read(csv_log(tmp_path, *rows))
    assert log.num_episodes == 40
    assert log.episode_id[first] == ("01" if first else "007")
    assert log.episode_id[5] == "6"
    assert log.num_actions == 2
    assert log.reward[first] == (0.5 if first else 0)


def test_zeros_alone_are_numbers(tmp_path: Path) -> None:
    log = st.read(csv_log(tmp_path, "0,0.05,0,-0.5,true", "10,0,1,0,true", "100,1e-05,1,0e0,true"))
    assert log.episode_id.tolist() == [0, 10, 100]
    np.testing.assert_allclose(log.observation[:, 0], [0.05, 0, 1e-5])


@pytest.mark.usefixtures("small_blocks")
def test_a_row_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    rows = [f"{i},{i},{i % 2},{i},true" for i in range(40)]
    rows[37] += ",more"
    with pytest.raises(DataError, match=r"x\.csv cannot be read as CSV: row 37: Expected 5 columns, got 6"):
        st.read(csv_log(tmp_path, *rows))
    lines = [json.dumps({"episode": i, "reward": i}) for i in range(40)]
    lines[37] = lines[37][:-1]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"x\.jsonl cannot be read as JSON Lines: JSON parse error: .* in row 37\."):
        st.read(tmp_path / "x.jsonl")


def test_what_a_cell_may_say_for_missing(tmp_path: Path) -> None:
    for said in ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"):
        with pytest.raises(DataError, match=r"Column 'reward' \(reward\) of x\.csv .* found 1, the first in row 1"):
            st.read(csv_log(tmp_path, "1,1,1,1,true", f"2,2,0,{said},true"))


def test_identifiers_beyond_int64_are_not_merged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"episode of x\.csv must tell its values apart"):
        st.read(csv_log(tmp_path, "18446744073709551617,1,1,1,true", "18446744073709551618,1,1,1,true"))
    log = st.read(csv_log(tmp_path, "9223372036854775806,1,1,1,true", "9223372036854775807,1,1,1,true"))
    assert log.num_episodes == 2


def test_names_from_pandas_and_odd_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(tiny_columns() | {"observation": list(tiny_columns()["observation"])})
    frame[3] = 1  # a name that is no text
    assert st.read(frame).num_transitions == 6
    columns = table("flat").to_pydict()
    names = {"seen_a": "seen.a", "seen_b": "seen", "next_a": "next a\n", "next_b": "ÄÖ\t\"'"}
    odd = pa.table({names.get(name, name): column for name, column in columns.items()})
    given = Schema(
        FLAT | {"observation": ("seen.a", "seen"), "next_observation": ("next a\n", "ÄÖ\t\"'")}, num_actions=3
    )
    for name in ("log.parquet", "log.arrow", "log.jsonl"):
        (tmp_path / name).write_bytes(FILES[name](odd))
        assert st.read(tmp_path / name, given).content_hash == expected().content_hash
    with pytest.raises(SchemaError) as caught:
        st.read(odd, schema("flat"))
    assert "\n" not in str(caught.value)


def test_a_stream_without_its_end_is_noted(tmp_path: Path) -> None:
    whole = FILES["log.arrows"](table("lists"))
    (tmp_path / "x.arrows").write_bytes(whole[:-8])
    log = st.read(tmp_path / "x.arrows", schema("lists"))
    assert any("no end mark" in note for note in log.notes)
    (tmp_path / "x.arrows").write_bytes(whole)
    assert not any("no end mark" in note for note in st.read(tmp_path / "x.arrows", schema("lists")).notes)


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


# --- how far it has come ----------------------------------------------------------------------------------


def test_a_long_reading_is_shown_on_a_terminal_and_short_or_piped_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stitchrl import progress

    st.read(tiny_columns())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    st.read(tiny_columns())
    assert capsys.readouterr().err == ""  # done within two seconds
    monkeypatch.setattr(progress, "FIRST_SHOWN_SECONDS", 0.0)
    log = st.read(tiny_columns())
    assert "reading the dict" in capsys.readouterr().err
    assert log.content_hash == st.read(tiny_columns()).content_hash


def test_a_long_audit_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stitchrl import progress

    log = st.read(tiny_columns())
    plain = st.audit(log)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(progress, "FIRST_SHOWN_SECONDS", 0.0)
    assert st.audit(log) == plain
    assert "auditing" in capsys.readouterr().err
