"""Looks at test parts: who counts, which share of the episodes they saw, and a ledger that never fails a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stitchrl
from stitchrl.errors import StitchRLWarning
from stitchrl.storage import looks as looks_module
from stitchrl.storage.looks import EarlierLooks, looks_folder, record_look

EPISODES = np.random.default_rng(1).integers(0, 2**64, 1000, np.uint64)
ONE, OTHER, THIRD = (np.array([1.0, value]) for value in (0.5, 0.6, 0.7))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STITCHRL_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "looks"


def test_the_same_policy_on_the_same_episodes_is_one_look(folder: Path) -> None:
    for episodes, judged in ((EPISODES, ONE), (EPISODES[::-1], ONE), (EPISODES, ONE + 1e-7)):
        assert record_look(episodes, judged) == EarlierLooks()
    assert len(list(folder.iterdir())) == 1


def test_other_policies_count_once_each() -> None:
    record_look(EPISODES, ONE)
    for _ in range(2):
        assert record_look(EPISODES, OTHER) == EarlierLooks(count=1, share=1.0, whole=1)
    assert record_look(EPISODES, THIRD) == EarlierLooks(count=2, share=1.0, whole=2)
    # Whoever looked first is told of those that came later, should it be run again.
    assert record_look(EPISODES, ONE) == EarlierLooks(count=2, share=1.0, whole=2)
    assert record_look(EPISODES, np.append(ONE, 0.0)).count == 3


def test_a_look_at_some_of_the_episodes_counts_with_its_share() -> None:
    record_look(EPISODES[:400], ONE)
    found = record_look(EPISODES[300:], ONE)
    assert (found.count, found.share, found.whole) == (1, pytest.approx(100 / 700, abs=1e-4), 0)
    assert record_look(EPISODES[350:500], ONE) == EarlierLooks(count=2, share=1.0)
    assert record_look(EPISODES[1:400], ONE).count == 3  # an episode less
    other = np.random.default_rng(2).integers(0, 2**64, 500, np.uint64)
    assert record_look(other, ONE) == EarlierLooks()


def test_equal_episodes_by_coincidence_are_no_look() -> None:
    rng = np.random.default_rng(3)
    # 20 contents occur again and again; seven tenths of the episodes are like no other.
    log = np.where(rng.random(6000) < 0.3, EPISODES[rng.integers(0, 20, 6000)], rng.integers(0, 2**64, 6000, np.uint64))
    record_look(log[:2000], ONE)
    assert record_look(log[2000:], ONE) == EarlierLooks()
    found = record_look(log[1000:3000], ONE)  # half of the first, and a quarter of the second
    assert found.count == 2
    assert found.share == pytest.approx(1.0, abs=0.03)
    found = record_look(log[1600:2000], ONE)
    assert (found.count, found.share) == (2, 1.0)


def test_where_all_episodes_are_alike_only_the_whole_part_is_recognised() -> None:
    few = EPISODES[np.random.default_rng(4).integers(0, 5, 900)]
    record_look(few[:300], ONE)
    assert record_look(few[300:600], ONE) == EarlierLooks()
    assert record_look(few[:300], OTHER) == EarlierLooks(count=1, share=1.0, whole=1)


def test_of_a_large_part_some_hashes_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "MOST_CONTENTS", 200)
    record_look(EPISODES[:600], ONE)
    assert max(path.stat().st_size for path in folder.iterdir()) < 200 * 8 + 2000
    found = record_look(EPISODES[300:900], ONE)
    assert (found.count, found.share) == (1, pytest.approx(0.5, abs=0.1))
    assert record_look(EPISODES[:600], OTHER).whole == 1
    assert record_look(EPISODES[900:], ONE) == EarlierLooks()
    assert record_look(EPISODES[500:550], ONE).count == 3


# --- a ledger that never fails a run -------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
import numpy as np
from stitchrl.storage.looks import record_look
if sys.argv[1] == "die":
    os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.readline()
print(record_look(np.arange(1000, dtype=np.uint64), np.array([float(sys.argv[2])])).count)
"""


def start(*words: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(stitchrl.__file__).parent.parent)}
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_killed_while_it_writes_it_leaves_no_look(folder: Path) -> None:
    dying = start("die", 1)
    dying.communicate("\n")
    assert dying.returncode == -signal.SIGKILL
    (left,) = folder.iterdir()
    assert left.suffix == ".part"
    episodes = np.arange(1000, dtype=np.uint64)
    assert record_look(episodes, np.array([2.0])) == EarlierLooks()
    assert record_look(episodes, np.array([1.0])).count == 1
    assert not left.exists()


def test_of_runs_at_the_same_time_one_knows_of_the_other(folder: Path) -> None:
    running = [start("live", k) for k in range(4)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [int(process.communicate()[0]) for process in running]
    assert sum(counts) >= 6  # as many as there are pairs
    assert max(counts) == 3
    assert len(list(folder.iterdir())) == 4


def test_a_folder_that_cannot_be_written_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parent.write_text("a file where the folder should be")
    with pytest.warns(StitchRLWarning, match="not recorded: .*state/looks' cannot be written"):
        assert record_look(EPISODES, ONE) == EarlierLooks(problem="not writable")
    folder.parent.unlink()
    record_look(EPISODES, OTHER)

    def full(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(StitchRLWarning, match="not recorded"):
        found = record_look(EPISODES, ONE)
    assert found == EarlierLooks(count=1, share=1.0, whole=1, problem="not writable")
    assert len(list(folder.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_read_only_is_said(folder: Path) -> None:
    record_look(EPISODES, OTHER)
    folder.chmod(0o500)
    with pytest.warns(StitchRLWarning, match="not recorded"):
        assert record_look(EPISODES, ONE).count == 1
    folder.chmod(0o700)


def damaged_records() -> dict[str, dict[str, object]]:
    sound = {"format": 1, "part": "x", "contents": EPISODES, "limit": EPISODES.max(), "count": 1000, "judged": ONE}
    return {
        "missing": {name: value for name, value in sound.items() if name != "limit"},
        "floats": sound | {"contents": EPISODES.astype(np.float64)},
        "objects": sound | {"contents": np.array([None, 1], object)},
        "words": sound | {"limit": "many"},
    }


def test_damaged_records_are_left_out_and_said(folder: Path) -> None:
    record_look(EPISODES, OTHER)
    (sound,) = folder.iterdir()
    whole = sound.read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped.npz").write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:])
    (folder / "text.npz").write_text("no record")
    (folder / "empty.npz").write_bytes(b"")
    for name, fields in damaged_records().items():
        np.savez(folder / f"{name}.npz", **{key: np.asarray(value) for key, value in fields.items()})  # type: ignore[arg-type]
    with pytest.warns(StitchRLWarning, match="8 records of earlier looks .* are damaged"):
        assert record_look(EPISODES, ONE) == EarlierLooks(count=1, share=1.0, whole=1, unreadable=8)


def test_a_damaged_record_of_this_very_look_is_written_anew(folder: Path) -> None:
    record_look(EPISODES, ONE)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert record_look(EPISODES, ONE) == EarlierLooks()
    assert file.read_bytes() == whole


def test_records_of_another_version_are_left_out(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / "new.npz", format=np.array(2), anything=EPISODES)
    (folder / "README").write_text("not ours")
    assert record_look(EPISODES, ONE) == EarlierLooks()


# --- where it is ---------------------------------------------------------------------------------------------------


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_STATE", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert looks_folder() == tmp_path / "stitchrl" / "looks"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert looks_folder() == tmp_path / "home" / ".local" / "state" / "stitchrl" / "looks"
    monkeypatch.setenv("STITCHRL_STATE", "off")
    assert looks_folder() is None
    assert record_look(EPISODES, ONE) == EarlierLooks(problem="off")
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("STITCHRL_STATE", "")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.warns(StitchRLWarning, match="home directory"):
        assert record_look(EPISODES, ONE).problem == "not writable"


def test_a_result_survives_json() -> None:
    found = EarlierLooks(3, 0.4, 1, 2, "off")
    assert EarlierLooks.from_dict(found.to_dict()) == found
