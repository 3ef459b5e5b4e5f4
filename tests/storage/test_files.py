"""Files are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stitchrl.errors import RunDirectoryError
from stitchrl.storage.files import append_bytes, make_directory, write_atomic, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_write_atomic_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_writer_that_raises_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(beside: Path) -> None:
        beside.write_text("half")
        assert path.read_text() == "old"
        raise error

    with pytest.raises(type(error)):
        write_atomic(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunDirectoryError, match=r"a\.txt cannot be written: No space left on device"):
        write_atomic(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_advice_on_space_is_given_for_a_full_disk_alone(tmp_path: Path) -> None:
    with pytest.raises(
        RunDirectoryError, match=r"No such file or directory\. Make the folder '.*absent' first, or choose another"
    ):
        write_text(tmp_path / "absent" / "a.txt", "x")

    def full(beside: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        RunDirectoryError, match=r"No space left on device\. Free space, or choose another place; what was there"
    ):
        write_atomic(tmp_path / "a.txt", full)

    def forbidden(beside: Path) -> None:
        raise OSError(13, "Permission denied")

    with pytest.raises(
        RunDirectoryError, match=r"Permission denied\. Choose another place; what was there is unchanged"
    ):
        write_atomic(tmp_path / "a.txt", forbidden)


def test_the_file_is_written_beside_its_place(tmp_path: Path) -> None:
    seen = []
    write_atomic(tmp_path / "a.txt", lambda beside: seen.append(beside) or (beside.write_text("x") and None))  # type: ignore[func-returns-value]
    assert seen[0].parent == tmp_path
    assert seen[0].name.startswith(".a.txt.")
    assert seen[0].name.endswith(".part")


def test_writing_into_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_json_keeps_order_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [1.5, None, "é"]})
    assert list(json.loads(path.read_text(encoding="utf-8")).items()) == [("b", 1), ("a", [1.5, None, "é"])]
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == 1


def test_make_directory_makes_parents_and_accepts_what_is_there(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "x", tmp_path / "file"):
        with pytest.raises(RunDirectoryError, match="cannot be made or written"):
            make_directory(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_appending_adds_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    append_bytes(path, b"new")
    append_bytes(path, b"er")
    assert path.read_bytes() == b"oldnewer"


@pytest.mark.parametrize("when", ["write", "fsync"])
def test_appending_to_a_full_disk_leaves_what_was_there_and_says_so(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    if when == "write":  # a part of the content reaches the file
        monkeypatch.setattr("builtins.open", lambda *words: HalfFile(path))
    with pytest.raises(RunDirectoryError, match=r"a\.bin cannot be written: No space left on device"):
        append_bytes(path, b"content")
    assert path.read_bytes() == b"old"


class HalfFile:
    """An open file whose disk is full after two bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> HalfFile:
        return self

    def __exit__(self, *what: Any) -> None:
        pass

    def tell(self) -> int:
        return self._path.stat().st_size

    def write(self, content: bytes) -> None:
        self._path.write_bytes(self._path.read_bytes() + content[:2])
        raise OSError(28, "No space left on device")
