"""Metrics of a run: columns in memory, a file that only grows, a table for people; none costs more the longer it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc
from training_cases import SETTINGS, TINY, StopHereError, stop_after
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.errors import CheckpointError, RunDirectoryError
from stitchrl.training import metrics_table
from stitchrl.training.history import History
from stitchrl.training.metrics_file import MetricsFile, read_metrics
from stitchrl.training.metrics_table import MetricsTable
from stitchrl.training.stopping import EarlyStopWatch


def history_of(chunks: int, *, played: tuple[int, ...] = ()) -> History:
    """Two members; a loss in every chunk, and a return in those that are played."""
    history = History()
    for k in range(chunks):
        grow(history, k, played=k in played)
    return history


def grow(history: History, k: int, *, played: bool = False) -> None:
    means = {"loss": [k + 0.25, k + 0.5]} | ({"online/return": [1.0, 2.0]} if played else {})
    history.add(10 * (k + 1), means, [0, 1])


# --- in memory ---------------------------------------------------------------------------------------------------------


def test_rows_have_the_metrics_they_were_given() -> None:
    history = history_of(3, played=(1,))
    assert history.metrics == ("loss", "online/return")
    assert history.rows() == [
        {"update": 10, "member": 0, "loss": 0.25},
        {"update": 10, "member": 1, "loss": 0.5},
        {"update": 20, "member": 0, "loss": 1.25, "online/return": 1.0},
        {"update": 20, "member": 1, "loss": 1.5, "online/return": 2.0},
        {"update": 30, "member": 0, "loss": 2.25},
        {"update": 30, "member": 1, "loss": 2.5},
    ]
    assert history.rows(2, members=[1]) == [history.rows()[k] for k in (3, 5)]
    assert history.of_members([1]).rows() == [history.rows()[k] | {"member": 0} for k in (1, 3, 5)]
    assert history.of_members([1, 0]).rows()[:2] == [
        history.rows()[0] | {"member": 1},
        history.rows()[1] | {"member": 0},
    ]
    assert len(history.of_members([])) == 0
    assert History.of_rows(history.rows()).rows() == history.rows()
    assert (len(History()), History().rows(), History.of_rows([]).rows()) == (0, [], [])


def test_members_that_are_left_out_of_a_chunk_have_no_row() -> None:
    history = History()
    history.add(10, {"loss": [1.0, 2.0, 3.0]}, [0, 1, 2])
    history.add(20, {"loss": [float("nan"), 5.0, 6.0]}, [1, 2])
    assert [(row["update"], row["member"], row["loss"]) for row in history.rows()] == [
        (10, 0, 1.0), (10, 1, 2.0), (10, 2, 3.0), (20, 1, 5.0), (20, 2, 6.0),
    ]  # fmt: skip


def test_growing_moves_what_is_there_a_few_times_only() -> None:
    history, places = History(), set()
    for k in range(5000):
        grow(history, k)
        places.add(history.columns()["loss"].__array_interface__["data"][0])
    assert len(places) <= 10  # room doubles from 64 rows to 16,384
    np.testing.assert_array_equal(history.columns()["update"], np.repeat(10 * (1 + np.arange(5000)), 2))
    np.testing.assert_array_equal(history.columns(9998)["loss"], [4999.25, 4999.5])


@pytest.mark.parametrize(
    "columns",
    [
        (np.zeros(2, np.int64), np.zeros(3, np.int64), {}),
        (np.zeros(2, np.int64), np.zeros(2, np.int64), {"loss": np.zeros(3)}),
        (np.zeros(2), np.zeros(2, np.int64), {}),
        (np.zeros((2, 1), np.int64), np.zeros(2, np.int64), {}),
    ],
)
def test_columns_that_are_no_history(columns: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        History.of(*columns)


# --- the file ----------------------------------------------------------------------------------------------------------


def test_each_save_adds_as_many_bytes_however_long_the_history_is(tmp_path: Path) -> None:
    path, history, sizes = tmp_path / "metrics.arrows", History(), []
    file = MetricsFile(path)
    before = b""
    for k in range(300):
        grow(history, k)
        file.save(history)
        content = path.read_bytes()
        assert content.startswith(before)  # appended: nothing that was there is written again
        sizes.append(len(content) - len(before))
        before = content
    assert set(sizes[1:]) == {sizes[1]}
    assert read_metrics(path, 600).rows() == history.rows()
    file.save(history)
    assert path.read_bytes() == before  # nothing new


def test_other_programs_read_the_file_as_a_stream(tmp_path: Path) -> None:
    path, history = tmp_path / "metrics.arrows", history_of(2)
    file = MetricsFile(path)
    file.save(history)
    grow(history, 2, played=True)  # a metric that is new: the file gets a column
    file.save(history)
    grow(history, 3)
    file.save(history)
    table = ipc.open_stream(path.read_bytes()).read_all()
    assert table.column_names == ["update", "member", "loss", "online/return"]
    assert table["loss"].to_pylist() == [0.25, 0.5, 1.25, 1.5, 2.25, 2.5, 3.25, 3.5]
    assert np.isnan(table["online/return"].to_numpy()).tolist() == [True] * 4 + [False] * 2 + [True] * 2
    assert read_metrics(path, 8).rows() == history.rows()


@pytest.mark.parametrize("rows", range(13))
def test_rows_beyond_those_asked_for_are_not_looked_at(rows: int, tmp_path: Path) -> None:
    path, history = tmp_path / "metrics.arrows", History()
    file = MetricsFile(path)
    for k in range(6):
        grow(history, k, played=k == 3)
        file.save(history)
    with open(path, "ab") as end:  # as a process leaves it that is killed while it appends
        end.write(path.read_bytes()[-200:-7])
    assert read_metrics(path, rows).rows() == history.rows()[:rows]
    with pytest.raises(CheckpointError, match=r"of which 14 rows belong to the checkpoint beside it, cannot be read"):
        read_metrics(path, 14)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "short", "other columns", "folder"])
def test_metrics_that_are_damaged_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.arrows"
    MetricsFile(path).save(history_of(2))
    content = path.read_bytes()
    path.unlink()
    if kind == "other columns":
        batch = pa.RecordBatch.from_pydict({"update": [1.5] * 4, "loss": [1.0] * 4})
        content = batch.schema.serialize().to_pybytes() + batch.serialize().to_pybytes()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"no metrics" * 50, "cut": content[:-9]}.get(kind, content))
    with pytest.raises(CheckpointError, match=r"metrics\.arrows, of which \d rows belong to the checkpoint beside it"):
        read_metrics(path, 5 if kind == "short" else 4)


# --- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_is_written_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written, history = tmp_path / "metrics.parquet", [], History()
    write = metrics_table.write_table
    monkeypatch.setattr(
        metrics_table, "write_table", lambda *words: written.append(words[3]) or write(*words)  # type: ignore[func-returns-value]
    )  # fmt: skip
    with MetricsTable(path, [{"seed": 3}, {"seed": 8}]) as table:
        for k in range(1000):
            grow(history, k, played=k % 2 == 0)
            table.save(history)
            assert pq.read_metadata(path).num_rows >= len(history) / 1.25 - 2
        grow(history, 1000)  # not saved: no checkpoint has it
    assert len(written) < 40
    assert sum(written) < 12_000  # rows: a few times the history, where a table a save would be a million
    found = pq.read_table(path)
    assert found.column_names == ["update", "seed", "loss", "online/return"]
    assert found["seed"].to_pylist() == [3, 8] * 1000
    assert found["update"].to_pylist() == [row["update"] for row in history.rows()[:2000]]
    assert found["online/return"].null_count == 1000


def save_and_fail(path: Path, error: Exception) -> None:
    """Save twice, so that the file is behind, and leave by an error."""
    history = history_of(20)
    with MetricsTable(path, [{"seed": 3}, {"seed": 8}]) as table:
        table.save(history)
        grow(history, 20)
        table.save(history)
        raise error


def test_an_error_brings_the_table_up_to_date_too(tmp_path: Path) -> None:
    with pytest.raises(StopHereError):
        save_and_fail(tmp_path / "m.parquet", StopHereError())
    assert pq.read_metadata(tmp_path / "m.parquet").num_rows == 42


def test_a_table_that_cannot_be_written_does_not_hide_the_error_that_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = metrics_table.write_table

    def once(*words: Any) -> None:
        if words[3] > 40:
            raise RunDirectoryError("the disk is full")
        write(*words)

    monkeypatch.setattr(metrics_table, "write_table", once)
    with pytest.raises(StopHereError):
        save_and_fail(tmp_path / "m.parquet", StopHereError())
    table = MetricsTable(tmp_path / "m.parquet", [{"seed": 3}, {"seed": 8}])
    table.save(history_of(20))
    table.save(history_of(21))
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        table.__exit__(None, None, None)


# --- in a run ----------------------------------------------------------------------------------------------------------


def test_a_longer_history_makes_no_save_larger_and_is_told_to_a_stop_rule_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, sizes, files = [], [], []
    see = EarlyStopWatch.see
    monkeypatch.setattr(
        EarlyStopWatch,
        "see",
        lambda self, update, values: told.append(update) or see(self, update, values),  # type: ignore[func-returns-value]
    )

    def look(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        sizes.append((tmp_path / "checkpoint.safetensors").stat().st_size)
        files.append((tmp_path / "metrics.arrows").stat().st_size)

    settings = SETTINGS | {"updates": 60, "log_every_updates": 1, "save_every_updates": 1, "seeds": [3, 1]}
    stop = st.EarlyStop("loss/actor", 1000)
    st.fit(st.BC(**TINY), random_log(12), out=tmp_path, callbacks=[look], stop=stop, **settings)
    assert told == list(range(1, 61))
    assert max(sizes) - min(sizes) <= 16  # the header's numbers have more digits
    grown = np.diff(files)
    assert set(grown.tolist()) == {int(grown[0])}


def test_what_is_on_disk_during_a_run(tmp_path: Path) -> None:
    seen = []

    def look(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        table = pq.read_table(tmp_path / "metrics.parquet")
        stream = ipc.open_stream((tmp_path / "metrics.arrows").read_bytes()).read_all()
        seen.append(
            (done, table.num_rows, stream.num_rows, stream["loss/actor"].to_pylist()[-1] == metrics["loss/actor"][0])
        )

    settings = SETTINGS | {"updates": 30, "log_every_updates": 1, "save_every_updates": 1}
    run = st.fit(st.BC(**TINY), random_log(12), out=tmp_path, callbacks=[look], **settings)
    assert [(done, rows, last) for done, _, rows, last in seen] == [(k, k, True) for k in range(1, 31)]
    assert all(rows >= done / 1.25 for done, rows, _, _ in seen)
    assert len({rows for _, rows, _, _ in seen}) < 20
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table["loss/actor"].to_pylist() == [row["loss/actor"] for row in run.history]


def test_a_table_that_was_lost_is_made_again_when_the_finished_run_is_found(tmp_path: Path) -> None:
    settings = SETTINGS | {"seeds": [3, 1]}
    run = st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings)
    whole = pq.read_table(tmp_path / "metrics.parquet")
    (tmp_path / "metrics.parquet").write_bytes(b"lost")
    before = {name: (tmp_path / name).read_bytes() for name in ("checkpoint.safetensors", "metrics.arrows")}
    assert st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings).history == run.history
    assert pq.read_table(tmp_path / "metrics.parquet").equals(whole)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_run_without_its_metrics_is_refused(tmp_path: Path) -> None:
    st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **SETTINGS)
    (tmp_path / "metrics.arrows").unlink()
    for again in (lambda: st.load(tmp_path), lambda: st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **SETTINGS)):
        with pytest.raises(CheckpointError, match=r"metrics\.arrows, of which 5 rows belong to the checkpoint"):
            again()


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_disk_that_fills_up_while_metrics_are_appended_costs_nothing(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stitchrl.storage import files

    settings = SETTINGS | {"save_every_updates": 10}
    calls, real = [], files.os.fsync

    def fsync(number: int) -> None:
        calls.append(number)
        if len(calls) >= 5 + failing:  # after the configuration and the episodes the first save flushes three files
            raise OSError(28, "No space left on device")
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(RunDirectoryError, match="cannot be written: No space left on device"):
            st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings)
    read = st.load(tmp_path)
    assert read.history[-1]["update"] == read.updates < 45
    assert not list(tmp_path.glob(".*"))
    whole = st.fit(st.BC(**TINY), random_log(12), **settings)
    resumed = st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings)
    assert_trees_equal(resumed.states, whole.states)
    assert resumed.history == whole.history


def test_metrics_saved_beyond_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    settings = SETTINGS | {"save_every_updates": 10}
    with pytest.raises(StopHereError):
        st.fit(st.BC(**TINY), random_log(12), out=tmp_path, callbacks=[stop_after(2)], **settings)
    checkpoint = (tmp_path / "checkpoint.safetensors").read_bytes()
    st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings)
    (tmp_path / "checkpoint.safetensors").write_bytes(checkpoint)  # of update 20; the metrics are of 45
    assert [row["update"] for row in st.load(tmp_path).history] == [10, 20]
    resumed = st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings)
    assert [row["update"] for row in resumed.history] == [10, 20, 30, 40, 45]
    table = ipc.open_stream((tmp_path / "metrics.arrows").read_bytes()).read_all()
    assert table["update"].to_pylist() == [10, 20, 30, 40, 45]
