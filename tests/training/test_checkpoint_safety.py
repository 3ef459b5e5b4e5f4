"""What a checkpoint survives: hostile files, a full disk, a read-only folder, kill -9."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import training_cases
from safetensors import safe_open
from safetensors.numpy import save_file
from training_cases import TINY, StopHereError, environment, python, stop_at
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.errors import CheckpointError, RunDirectoryError
from stitchrl.training.checkpoint import FORMAT_VERSION, load_checkpoint, read_meta

SETTINGS: dict[str, Any] = training_cases.SETTINGS | {"updates": 40, "save_every_updates": 10}


# --- hostile files ---------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def header_only(header: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header


def hostile(trap: Path) -> dict[str, bytes]:
    archive = io.BytesIO()
    np.savez(archive, x=np.array([Trap(trap)], dtype=object))
    deep = '{"a":' * 200_000 + "1" + "}" * 200_000
    tensor = {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}
    overlapping = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")}
    return {
        "pickle": pickle.dumps(Trap(trap)),
        "npz of objects": archive.getvalue(),
        "huge header": header_only(b"{}", 2**62),
        "huge shape": header_only(json.dumps({".x": tensor}).encode()) + bytes(8),
        "overlapping": header_only(json.dumps(overlapping).encode()) + bytes(8),
        "not JSON": header_only(b"{" * 50),
        "deep JSON": header_only(json.dumps({"__metadata__": {"stitchrl": deep}}).encode()),
        "list for meta": header_only(json.dumps({"__metadata__": {"stitchrl": "[1, 2]"}}).encode()),
        "format as text": header_only(json.dumps({"__metadata__": {"stitchrl": '{"format": "1"}'}}).encode()),
        "format as bool": header_only(json.dumps({"__metadata__": {"stitchrl": '{"format": true}'}}).encode()),
        "zeros": bytes(4096),
        "random": np.random.default_rng(0).bytes(4096),
    }


@pytest.mark.parametrize("kind", list(hostile(Path("nowhere"))))
def test_hostile_files_end_in_one_error_and_run_nothing(kind: str, tmp_path: Path) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "c.safetensors"
    path.write_bytes(hostile(trap)[kind])
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_checkpoint(path, {"x": np.zeros(2, np.float32)})
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "arrays"),
    [
        ({"versions": [1]}, {}),
        ({"update": None}, {}),
        ({"update": "3"}, {}),
        (
            {},
            {
                "history/loss": np.zeros(3),
                "history/update": np.zeros(2, np.int64),
                "history/member": np.zeros(2, np.int64),
            },
        ),
        ({}, {"history/loss": np.zeros(3)}),
        ({"format": 1, "history": "many"}, {}),
        ({"diverged": [1]}, {}),
        ({"diverged": {"2": "there are members 0 and 1"}}, {}),
        ({"diverged": {"-1": "no member"}}, {}),
        ({"diverged": {"0": {"not": "text"}}}, {}),
        ({"diverged": {"0": "both", "1": "lost"}}, {}),
        ({"format": 1, "history": [1, 2]}, {}),
        ({"format": 3}, {}),
        ({"format": 3, "rows": "4"}, {}),
        ({"format": 3, "rows": -1}, {}),
        ({"format": 3, "rows": 4}, {}),
        ({"format": 3, "rows": 0}, {"history/loss": np.zeros(0)}),
    ],
)
def test_whole_files_of_wrong_content_end_in_the_same_error(change: Any, arrays: Any, tmp_path: Path) -> None:
    path = written(tmp_path, {"format": 2, "versions": {}, "update": 3} | change, arrays)
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_checkpoint(path, State({"x": np.zeros(2, np.float32)}))


@pytest.mark.parametrize("change", [{"format": 1}, {"format": 2}, {"format": 3, "rows": 0}])
def test_the_same_files_of_right_content_are_read(change: Any, tmp_path: Path) -> None:
    path = written(tmp_path, {"versions": {}, "update": 3, "diverged": {"1": "lost"}} | change, {})
    state, history, meta = load_checkpoint(path, State({"x": np.zeros(2, np.float32)}))
    assert np.asarray(state.algorithm["x"]).tolist() == [5, 5]
    assert (len(history), meta["update"], meta["format"], meta["diverged"]) == (0, 3, FORMAT_VERSION, {1: "lost"})


class State(NamedTuple):
    """As a member's, of two members."""

    algorithm: dict[str, Any]


def written(folder: Path, meta: dict[str, Any], arrays: dict[str, Any]) -> Path:
    """A checkpoint of a `State` in the format that `meta` names, with further arrays."""
    path, name = folder / "c.safetensors", "['x']" if meta["format"] == 1 else ".algorithm['x']"
    save_file({name: np.full(2, 5, np.float32)} | arrays, path, metadata={"stitchrl": json.dumps(meta)})
    return path


def test_the_trap_would_spring(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung"))).close()
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("position", [0, 7, 8, 60, -1])
def test_no_single_cut_or_flipped_byte_of_the_header_is_taken_for_a_run(position: int, tmp_path: Path) -> None:
    st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **SETTINGS)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:position] if position else b"")
    with pytest.raises(CheckpointError):
        st.load(tmp_path)
    assert path.read_bytes() == (content[:position] if position else b"")


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["open", "write", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, bc = random_log(12), st.BC(**TINY)
    with pytest.raises(StopHereError):
        st.fit(bc, log, out=tmp_path, callbacks=[stop_at(20)], **SETTINGS)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(*arguments: Any, **named: Any) -> Any:
        raise full

    def half(self: Path, content: bytes) -> int:
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise full

    with monkeypatch.context() as patch:
        if when == "open":
            patch.setattr(Path, "write_bytes", fails)
        elif when == "write":
            patch.setattr(Path, "write_bytes", half)
        else:
            patch.setattr(os, when, fails)
        with pytest.raises(RunDirectoryError, match=r"cannot be written: No space left on device. Free space"):
            st.fit(bc, log, out=tmp_path, **SETTINGS)
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after.keys() == before.keys()  # no part left behind
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert_trees_equal(st.fit(bc, log, out=tmp_path, **SETTINGS).states, st.fit(bc, log, **SETTINGS).states)


ON_A_SMALL_DISK = """
    import resource, signal, sys
    import stitchrl as st
    from worlds import random_log

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    out, limit = sys.argv[1], int(sys.argv[2])

    def no_more(done, total, metrics):
        if done == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    try:
        st.fit(st.BC(hidden_sizes=(8,), learning_rate=1e-2), random_log(12), out=out, updates=40, batch_size=8,
               log_every_updates=10, save_every_updates=10, progress=False, callbacks=[no_more])
    except Exception as error:
        print(error)
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    # The kernel's own refusal, in the middle of a real write.
    done = python(ON_A_SMALL_DISK, str(tmp_path), "2000")
    assert "cannot be written: File too large" in done.stdout, done.stderr[-2000:]
    assert st.load(tmp_path).updates == 20
    assert not list(tmp_path.glob(".*"))


IN_A_READ_ONLY_FOLDER = """
    import os, sys
    import stitchrl as st
    from worlds import random_log

    log, bc, out = random_log(12), st.BC(hidden_sizes=(8,), learning_rate=1e-2), sys.argv[1]
    settings = dict(updates=40, batch_size=8, log_every_updates=10, save_every_updates=10, progress=False)

    def lock(done, total, metrics):
        if done == 20:
            os.chmod(out, 0o555)
            if os.getuid() == 0:
                os.setuid(65534)

    try:
        st.fit(bc, log, out=out, callbacks=[lock], **settings)
    except Exception as error:
        print(error)
"""


@pytest.mark.slow
def test_a_folder_that_turns_read_only_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    done = python(IN_A_READ_ONLY_FOLDER, str(out))
    assert "cannot be written: Permission denied" in done.stdout, done.stderr[-2000:]
    os.chmod(out, 0o755)
    assert st.load(out).updates == 20


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **SETTINGS)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".checkpoint.safetensors.{dead.pid}.part"
    living = tmp_path / f".checkpoint.safetensors.{os.getppid()}.part"
    other = tmp_path / ".notes.1.part"
    for file in (left, living, other):
        file.write_bytes(b"x")
    st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **SETTINGS)
    assert [file.exists() for file in (left, living, other)] == [False, True, True]


# --- kill -9 -----------------------------------------------------------------------------------------------------------

KILLED = """
    import sys
    import stitchrl as st
    from worlds import random_continuous_log, random_log

    name, kind, out = sys.argv[1:]
    log = random_log(12) if kind == "discrete" else random_continuous_log(12)
    algorithm = getattr(st, name)(hidden_sizes=(8,), learning_rate=1e-2)
    st.fit(algorithm, log, out=out, seeds=[3, 1], updates=500, batch_size=8, log_every_updates=5,
           save_every_updates=5, progress=False, callbacks=[lambda done, *_: print(done, flush=True)])
"""
KILLED_CASES = [
    ("BC", "discrete"), ("FilteredBC", "discrete"), ("IQL", "discrete"), ("CQL", "discrete"), ("DQN", "discrete"),
    ("BC", "continuous"), ("IQL", "continuous"), ("CQL", "continuous"), ("TD3BC", "continuous"),
]  # fmt: skip
CHUNKS = 100


def start(name: str, kind: str, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", textwrap.dedent(KILLED), name, kind, str(out)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())


def finish(name: str, kind: str, out: Path) -> None:
    """Train the same run in this process, undisturbed."""
    algorithm = getattr(st, name)(hidden_sizes=(8,), learning_rate=1e-2)
    settings = {"batch_size": 8, "log_every_updates": 5, "save_every_updates": 5, "progress": False}
    st.fit(algorithm, training_cases.log_of(kind), out=out, seeds=[3, 1], updates=500, **settings)


def content_of(out: Path) -> str:
    """Hash of every array of the checkpoint, and of the metrics."""
    digest = hashlib.sha256()
    with safe_open(out / "checkpoint.safetensors", framework="np") as file:
        for name in sorted(file.keys()):
            digest.update(name.encode() + file.get_tensor(name).tobytes())
    digest.update(repr(pq.read_table(out / "metrics.parquet").to_pydict()).encode())
    digest.update(repr(st.load(out).history).encode())
    return digest.hexdigest()


def whole_files(out: Path) -> int:
    """Open every file that a reader would: each is whole, and the metrics are those of the checkpoint. Returns how many
    updates the checkpoint is of."""
    if (out / "config.json").exists():
        json.loads((out / "config.json").read_text())
    if (out / "metrics.parquet").exists():
        pq.read_table(out / "metrics.parquet")
    if not (out / "checkpoint.safetensors").exists():
        return 0
    read = st.load(out)
    assert [row["update"] for row in read.history[:: len(read.seeds)]] == list(range(5, read.updates + 1, 5))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(read.states))
    return int(read.updates)


def kill_at_random(name: str, kind: str, out: Path, kills: int, seed: int) -> int:
    """Kill a run `kills` times while it trains and saves. Returns the kills that met it alive."""
    rng, met, done = random.Random(seed), 0, 0
    for _ in range(kills):
        left = CHUNKS - done // 5
        process = start(name, kind, out)
        assert process.stdout is not None
        for _ in range(rng.randint(1, max(1, left // 8))):  # each line is a chunk that was saved
            process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.01))
        met += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert whole_files(out) >= done
        done = whole_files(out)
    return met


FINISHED = ["checkpoint.safetensors", "config.json", "episodes.safetensors", "metrics.arrows", "metrics.parquet"]


def test_a_killed_run_continues_to_the_same_numbers(tmp_path: Path) -> None:
    assert kill_at_random("BC", "discrete", tmp_path / "killed", 2, seed=0) == 2
    assert whole_files(tmp_path / "killed") < 500
    finish("BC", "discrete", tmp_path / "killed")
    assert sorted(file.name for file in (tmp_path / "killed").iterdir()) == FINISHED
    finish("BC", "discrete", tmp_path / "whole")
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    total = 0
    for number, (name, kind) in enumerate(KILLED_CASES):
        killed, undisturbed = tmp_path / f"killed {number}", tmp_path / f"whole {number}"
        total += kill_at_random(name, kind, killed, 12, seed=number)
        finish(name, kind, killed)
        finish(name, kind, undisturbed)
        assert content_of(killed) == content_of(undisturbed), (name, kind)
    assert total >= 100, total


class Moments:
    """Copies a run directory as it is just before every step by which files change: as kill -9 there would leave it."""

    def __init__(self, out: Path, copies: Path, patch: pytest.MonkeyPatch) -> None:
        self.kept: list[Path] = []
        replace, fsync, write = os.replace, os.fsync, Path.write_bytes

        def keep() -> None:
            if out.exists():
                self.kept.append(copies / str(len(self.kept)))
                shutil.copytree(out, self.kept[-1])

        def and_keep(function: Any) -> Any:
            def kept(*words: Any, **named: Any) -> Any:
                keep()
                return function(*words, **named)

            return kept

        patch.setattr(os, "replace", and_keep(replace))
        patch.setattr(os, "fsync", and_keep(fsync))
        patch.setattr(Path, "write_bytes", and_keep(write))


def test_a_run_continues_from_every_moment_of_its_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, bc, out = random_log(12), st.BC(**TINY), tmp_path / "run"
    settings = SETTINGS | {"seeds": [3, 1], "updates": 30}
    with monkeypatch.context() as patch:
        moments = Moments(out, tmp_path / "copies", patch)
        whole = st.fit(bc, log, out=out, **settings)
    table = pq.read_table(out / "metrics.parquet")
    assert len(moments.kept) > 15
    # The last moment before the last checkpoint, killed in the middle of the append before it.
    last = [folder for folder in moments.kept if updates_in(folder) == 20][-1]
    for size in (1, 100, 300):
        moments.kept.append(tmp_path / f"torn {size}")
        shutil.copytree(last, moments.kept[-1])
        content = (last / "metrics.arrows").read_bytes()
        (moments.kept[-1] / "metrics.arrows").write_bytes(content[:-size])
    seen = set()
    for folder in moments.kept:
        if updates_in(folder):
            read = st.load(folder)
            seen.add(read.updates)
            assert read.history == whole.history[: read.updates // 5]
        resumed = st.fit(bc, log, out=folder, **settings)
        assert_trees_equal(resumed.states, whole.states)
        assert resumed.history == whole.history
        assert pq.read_table(folder / "metrics.parquet").equals(table)
        assert sorted(file.name for file in folder.iterdir()) == FINISHED
    assert seen == {10, 20}


def updates_in(folder: Path) -> int:
    """How many updates the checkpoint in a folder is of; 0 where there is none."""
    path = folder / "checkpoint.safetensors"
    return int(read_meta(path)["update"]) if path.exists() else 0
