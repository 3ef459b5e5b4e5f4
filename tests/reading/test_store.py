"""The native store gives back the log that was written, opens without reading, and refuses damaged or partial files."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import full_columns, random_continuous_log, random_log, schema_of, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.reading.read import as_dataset, open_log
from stitchrl.reading.store import is_store, on_disk, open_store, write_store


def with_groups() -> st.Dataset:
    columns = full_columns() | {
        "episode": np.array(["ä", "ä", "ä", "bb", "bb", "c"]),
        "group": np.array(["x", "x", "x", "y", "y", "x"]),
        "time": np.datetime64("2026-01-31T23:59:00", "s") + np.arange(6) * np.timedelta64(90, "s"),
    }
    return st.read(columns, schema_of(columns))


def with_rules() -> st.Dataset:
    columns = {"age": np.array([1.0, np.nan, 3, 4, 5, 6]), "ward": np.array(list("abacab"))} | tiny_columns()
    del columns["observation"]
    schema = Schema(
        {**{role: role for role in columns if role not in ("age", "ward")}, "observation": ("age", "ward")},
        num_actions=3,
        gamma=1.0,
        name="wards",
        observations={"age": ColumnRule(missing="previous", indicator=True), "ward": ColumnRule(("a", "b", "c"))},
    )
    return st.read(columns, schema)


def images() -> st.Dataset:
    return st.read(tiny_columns() | {"observation": np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 2, 3)})


def one_row() -> st.Dataset:
    return st.read({name: column[5:] for name, column in tiny_columns().items()})


LOGS: dict[str, Callable[[], st.Dataset]] = {
    "every column": lambda: tiny_log(**full_columns()),
    "few columns": tiny_log,
    "text, times and groups": with_groups,
    "categories and gaps": with_rules,
    "continuous": random_continuous_log,
    "masks": random_log,
    "images": images,
    "one row": one_row,
    "a part": lambda: random_log().select_episodes([3, 1, 30]),
}


@pytest.mark.parametrize("make", LOGS.values(), ids=LOGS.keys())
def test_what_goes_in_comes_out(tmp_path: Path, make: Callable[[], st.Dataset]) -> None:
    log = make()
    written = write_store(log, tmp_path / "new" / "store")
    assert is_store(written)
    again = st.read(written)
    assert again.content_hash == log.content_hash
    assert dataclasses.replace(again).content_hash == log.content_hash  # counted again from the arrays
    for field in dataclasses.fields(log):
        value, back = getattr(log, field.name), getattr(again, field.name)
        if isinstance(value, np.ndarray):
            assert back.dtype == value.dtype, field.name
            if field.name not in ("observation_table", "observation_index", "next_observation_index"):
                np.testing.assert_array_equal(back, value, err_msg=field.name)
        else:
            assert back == value, field.name
    np.testing.assert_array_equal(
        again.observation_table[again.observation_index], log.observation_table[log.observation_index]
    )
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["store"]


def test_parts_are_written_without_what_they_do_not_use(tmp_path: Path) -> None:
    log = tiny_log(**full_columns())
    assert len(log.observation_table) == 9
    again = open_store(write_store(log.select_episodes([1]), tmp_path / "part"))
    np.testing.assert_array_equal(again.observation_table, [[3, 8], [4, 16], [12, 13]])
    assert again.observation_index.tolist() == [0, 1]
    assert again.next_observation_index.tolist() == [1, 2]


def test_opening_maps_and_reads_nothing(tmp_path: Path) -> None:
    again = open_store(write_store(tiny_log(**full_columns()), tmp_path / "store"))
    for field in dataclasses.fields(again):
        value = getattr(again, field.name)
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable, field.name
            assert not value.flags.owndata, field.name
    with pytest.raises(ValueError, match="read-only"):
        again.reward[0] = 1
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "store" in line}
    assert {Path(name).name for name in mapped} >= {"observations.arrow", "transitions.arrow", "choices.arrow"}


def test_nothing_is_overwritten_and_a_store_keeps_its_schema(tmp_path: Path) -> None:
    write_store(tiny_log(), tmp_path / "store")
    with pytest.raises(RunDirectoryError, match="exists; nothing is overwritten"):
        write_store(tiny_log(), tmp_path / "store")
    with pytest.raises(ConfigurationError, match="has its schema, fixed when it was made"):
        st.read(tmp_path / "store", schema_of(tiny_columns()))
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be made or written"):
        write_store(tiny_log(), tmp_path / "file" / "store")


# --- larger than memory ---------------------------------------------------------------------------------------------------


def test_arrays_on_disk_make_the_same_log(tmp_path: Path) -> None:
    columns = full_columns()
    source = open_log(columns)
    with on_disk(tmp_path / "spool") as new:
        log = as_dataset(source, schema_of(columns), False, new)
        assert isinstance(log.observation_table.base, np.memmap) or isinstance(log.observation_table, np.memmap)
        write_store(log, tmp_path / "store")
    assert list((tmp_path / "spool").iterdir()) == []
    assert open_store(tmp_path / "store").content_hash == tiny_log(**columns).content_hash


def test_next_observations_that_never_match_grow_the_table_on_disk(tmp_path: Path) -> None:
    columns = random_log(with_masks=False)
    given = {
        "episode": columns.episode_of_transition,
        "observation": columns.observation,
        "next_observation": columns.observation + 1000,
        "action": columns.action,
        "reward": columns.reward,
        "terminated": columns.terminated,
        "truncated": columns.truncated,
    }
    with on_disk(tmp_path) as new:
        log = as_dataset(open_log(given), schema_of(given), False, new)
        assert len(log.observation_table) == 2 * log.num_transitions
        np.testing.assert_array_equal(log.next_observation, given["next_observation"])


def test_no_room_on_the_disk_is_one_sentence(tmp_path: Path) -> None:
    """Writing to a memory-mapped file for which the disk has no space would crash the interpreter."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = random_log(400)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
        with (
            pytest.raises(RunDirectoryError, match="has no room for reward while converting"),
            on_disk(tmp_path) as new,
        ):
            new("reward", (4000,), np.float32)
        with pytest.raises(RunDirectoryError, match=r"The store .*store' cannot be written: File too large\. Free"):
            write_store(log, tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunDirectoryError, match="has no room for x"), on_disk(tmp_path) as new:
        new("x", (2**40, 2**40), np.float32)


KILLER = """
import dataclasses, os, random, shutil, signal, sys, time
from pathlib import Path
import numpy as np
from stitchrl.reading.read import read
from stitchrl.reading.store import open_store, write_store

rows = 20_000
log = read({
    "episode": np.repeat(np.arange(rows // 10), 10), "observation": np.ones((rows, 20), np.float32),
    "action": np.ones(rows, np.int32), "reward": np.ones(rows, np.float32),
    "terminated": np.arange(rows) % 10 == 9,
})
log.content_hash
random.seed(0)
whole = left = 0
for trial in range(8):
    folder = Path(sys.argv[1]) / str(trial)
    folder.mkdir()
    child = os.fork()
    if not child:
        for number in range(10_000):
            write_store(log, folder / f"store{number}")
    time.sleep(random.uniform(0.02, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in [p for p in folder.iterdir() if not p.name.startswith(".")]:
        again = open_store(path)
        assert again.content_hash == dataclasses.replace(again).content_hash == log.content_hash, path
        whole += 1
    parts = [p for p in folder.iterdir() if p.name.startswith(".")]
    assert len(parts) <= 1, parts
    for part in parts:  # what it left is swept away by the next writer of that name
        left += 1
        write_store(log, folder / part.name.split(".")[1])
        assert not part.exists()
    shutil.rmtree(folder)
print(whole, left)
"""


def test_a_killed_writer_leaves_a_whole_store_or_none(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, left = map(int, done.stdout.split())
    assert whole > 0
    assert left > 0


def test_what_a_living_writer_is_writing_stays(tmp_path: Path) -> None:
    (tmp_path / f".store.{os.getppid()}.abc.part").mkdir()
    write_store(tiny_log(), tmp_path / "store")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".store.{os.getppid()}.abc.part", "store"]


# --- damage ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tiny_log(**full_columns()), tmp_path_factory.mktemp("store") / "store")


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "store"))


def changed_meta(store: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    meta = json.loads((store / "meta.json").read_text())
    change(meta)
    (store / "meta.json").write_text(json.dumps(meta))


def at(meta: Any, path: str) -> Any:
    for key in path.split("/"):
        meta = meta[key]
    return meta


def put(path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    *parents, last = path.split("/")
    return lambda meta: (at(meta, "/".join(parents)) if parents else meta).__setitem__(last, value)


def drop(path: str) -> Callable[[dict[str, Any]], Any]:
    *parents, last = path.split("/")
    return lambda meta: (at(meta, "/".join(parents)) if parents else meta).__delitem__(last)


DAMAGED_META: dict[str, Callable[[dict[str, Any]], Any]] = {
    "newer": put("format_version", 2),
    "version is text": put("format_version", "one"),
    "no version": drop("format_version"),
    "no columns": drop("columns"),
    "columns are a list": put("columns", []),
    "no transitions": drop("columns/transitions"),
    "no reward": drop("columns/transitions/reward"),
    "no episodes": drop("columns/episodes"),
    "no table": drop("columns/observations"),
    "unknown group": put("columns/passwords", {}),
    "unknown column": put("columns/transitions/observation_table", {"shape": [], "dtype": "<f4"}),
    "reward of 8 bytes": put("columns/transitions/reward/dtype", "<f8"),
    "reward of 2 bytes": put("columns/transitions/reward/dtype", "<f2"),
    "reward is whole": put("columns/transitions/reward/dtype", "<i4"),
    "objects": put("columns/transitions/reward/dtype", "|O"),
    "no type": put("columns/transitions/reward/dtype", "float99"),
    "type is a number": put("columns/transitions/reward/dtype", 4),
    "text of no width": put("columns/transitions/source/dtype", "<U0"),
    "endless text": put("columns/transitions/source/dtype", "<U1000000000"),
    "wider text": put("columns/transitions/source/dtype", "<U3"),
    "text as structs": put("columns/transitions/source/dtype", "V4"),
    "wide action": put("columns/transitions/action/shape", [2]),
    "negative shape": put("columns/observations/observation_table/shape", [-1]),
    "zero shape": put("columns/observations/observation_table/shape", [0, 2]),
    "huge shape": put("columns/observations/observation_table/shape", [10**15]),
    "shape beyond 64 bits": put("columns/observations/observation_table/shape", [10**40]),
    "shape is text": put("columns/observations/observation_table/shape", "2"),
    "shape of floats": put("columns/observations/observation_table/shape", [2.0]),
    "more rows": put("transitions", 7),
    "fewer rows": put("transitions", 5),
    "rows beyond 64 bits": put("transitions", 10**30),
    "rows are text": put("transitions", "six"),
    "negative rows": put("transitions", -6),
    "more episodes": put("episodes", 4),
    "no schema": drop("schema"),
    "schema is a list": put("schema", []),
    "schema without roles": put("schema/columns", {}),
    "schema of other actions": put("schema/action/count", 5),
    "schema of continuous actions": put("schema/action", {"kind": "continuous"}),
    "schema of fewer actions": put("schema/action/count", 2),
    "no hash": drop("content_hash"),
    "no notes": drop("notes"),
    "notes are a number": put("notes", 3),
    "no names": drop("observation_names"),
}


@pytest.mark.parametrize("change", DAMAGED_META.values(), ids=DAMAGED_META.keys())
def test_damaged_descriptions_are_refused(store: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    changed_meta(store, change)
    with pytest.raises(DataError) as caught:
        st.read(store)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


def test_the_version_is_named(store: Path) -> None:
    changed_meta(store, put("format_version", 2))
    with pytest.raises(
        DataError, match=r"The store '.*store' is of format 2; this stitchrl reads 1\. Use the stitchrl"
    ):
        st.read(store)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000], ids=repr
)
def test_a_description_that_is_none(store: Path, content: bytes) -> None:
    (store / "meta.json").write_bytes(b'{"kind": "stitchrl log", "x": ' + content)
    assert is_store(store) or content == b"\xff\xfe"
    with pytest.raises(DataError):
        open_store(store)
    with pytest.raises(DataError):
        st.read(store)


@pytest.mark.parametrize("group", ["observations", "transitions", "choices", "episodes", "starts"])
def test_truncated_files_are_refused(store: Path, group: str) -> None:
    path = store / f"{group}.arrow"
    content = path.read_bytes()
    for length in range(0, len(content), 17):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"The store '.*store' is damaged"):
            st.read(store)
    path.unlink()
    with pytest.raises(DataError, match="is damaged"):
        st.read(store)
    path.mkdir()
    with pytest.raises(DataError, match="is damaged"):
        st.read(store)


def test_files_of_another_log_are_refused(store: Path, tmp_path: Path) -> None:
    other = write_store(random_log(), tmp_path / "other")
    for name in ("transitions.arrow", "episodes.arrow", "starts.arrow", "choices.arrow"):
        shutil.copytree(store, tmp_path / "mixed")
        shutil.copy(other / name, tmp_path / "mixed" / name)
        with pytest.raises(DataError, match="is damaged"):
            st.read(tmp_path / "mixed")
        shutil.rmtree(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("group", "column", "value", "message"),
    [
        ("transitions", "observation_index", 9, "observation_index points outside of what it counts"),
        ("transitions", "observation_index", -1, "observation_index points outside of what it counts"),
        ("transitions", "next_observation_index", -2, "next_observation_index points outside"),
        ("transitions", "next_observation_index", 2**30, "next_observation_index points outside"),
        ("transitions", "action", 3, "action points outside"),
        ("transitions", "action", -1, "action points outside"),
        ("transitions", "terminated", 7, "terminated holds neither true nor false"),
        ("choices", "action_mask", 255, "action_mask holds neither true nor false"),
        ("transitions", "source", 2**31, "source holds no text"),
        ("starts", "episode_start", 1, "episodes do not cover the transitions"),
        ("starts", "episode_start", 2**40, "episodes do not cover the transitions"),
    ],
)
def test_places_out_of_range_are_refused(store: Path, group: str, column: str, value: int, message: str) -> None:
    """The first number of a column is overwritten in the file."""
    log = open_store(store)
    array = getattr(log, column)
    path = store / f"{group}.arrow"
    content = bytearray(path.read_bytes())
    width = {"terminated": 1, "action_mask": 1, "source": 4}.get(column, array.itemsize)
    place = content.find(array.tobytes())
    assert place > 0
    content[place : place + width] = value.to_bytes(width, "little", signed=value < 0)
    del log, array
    path.unlink()  # the old file stays mapped
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=message):
        st.read(store)


def test_opening_looks_at_parts_of_the_starts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening looks at as many numbers of a log of 70,000 episodes as of one of 140,000."""
    looked: list[int] = []
    difference = np.diff

    def counted(values: np.ndarray, **given: Any) -> np.ndarray:
        looked.append(len(values))
        return difference(values, **given)

    monkeypatch.setattr(np, "diff", counted)
    sums = []
    for count in (70_000, 140_000):
        columns = {
            "observation": np.ones((count, 1), np.float32),
            "action": np.zeros(count, np.int32),
            "reward": np.zeros(count, np.float32),
        }
        schema = Schema({role: role for role in columns}, num_actions=2, bandit=True)
        path = write_store(st.read(columns, schema), tmp_path / str(count))
        looked.clear()
        log = open_store(path)
        assert log.episode_start[-1] == log.num_episodes == count
        sums.append(sum(looked))
    assert sums[0] == sums[1] <= 2**16
    # The last rows are among those that are checked.
    content = bytearray((path / "starts.arrow").read_bytes())
    place = content.find((count - 1).to_bytes(8, "little") + count.to_bytes(8, "little"))
    assert place > 0
    content[place : place + 8] = count.to_bytes(8, "little")
    del log
    (path / "starts.arrow").unlink()
    (path / "starts.arrow").write_bytes(bytes(content))
    with pytest.raises(DataError, match="episodes do not cover the transitions"):
        open_store(path)


def test_flipped_bytes_are_refused_or_change_numbers_only(store: Path) -> None:
    """After a flip of any byte, the store is refused or every array still is what its description says."""
    rng = np.random.default_rng(0)
    refused = 0
    for path in sorted(store.iterdir()):
        content = path.read_bytes()
        for place in rng.integers(0, len(content), 60):
            flipped = bytearray(content)
            flipped[place] ^= int(rng.integers(1, 256))
            path.unlink()
            path.write_bytes(bytes(flipped))
            try:
                log = open_store(store)
            except DataError:
                refused += 1
                continue
            assert log.num_transitions == 6
            assert log.observation.shape == (6, 2)
            assert log.action_mask is not None
            assert log.action_mask.sum() <= 18
            str(log.source), repr(log)
        path.unlink()
        path.write_bytes(content)
    assert refused > 50
