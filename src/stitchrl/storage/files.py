"""Writing files without losing old ones: each is written beside its place and renamed when complete."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stitchrl.errors import RunDirectoryError

__all__ = [
    "append_bytes",
    "forget_abandoned",
    "make_directory",
    "write_atomic",
    "write_bytes",
    "write_json",
    "write_text",
]


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary path beside `path`, flush the file to the disk, and rename it to `path`.

    Whatever happens in between, a reader sees either the old file or the complete new one.

    Raises:
        RunDirectoryError: the disk is full or the directory cannot be written; `path` is unchanged.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        _forget(beside)
        raise _not_written(path, error) from None
    except BaseException:
        _forget(beside)
        raise


def append_bytes(path: Path, content: bytes) -> None:
    """Write at the end of a file and flush it to disk. A process killed meanwhile may leave a part of the content.

    Raises:
        RunDirectoryError: the disk is full or the file cannot be written; it has the content it had before.
    """
    size = None
    try:
        with open(path, "ab") as file:
            size = file.tell()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if size is not None:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
        raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> RunDirectoryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        way = "Free space, or choose another place"
    elif error.errno == errno.ENOENT and not os.path.isdir(path.absolute().parent):
        way = f"Make the folder {str(path.parent)!r} first, or choose another place"
    else:
        way = "Choose another place"
    return RunDirectoryError(
        f"{path} cannot be written: {error.strerror or error}. {way}; what was there is unchanged."
    )


def forget_abandoned(path: Path) -> None:
    """Remove the temporary files that killed processes left beside `path`, but not those of running processes."""
    for temporary in path.parent.glob(f".{path.name}.*.part"):
        pid = temporary.name.split(".")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            _forget(temporary)


def _alive(pid: int) -> bool:
    """Whether another process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `write_atomic`."""
    write_atomic(path, lambda beside: _write(beside, text))


def write_json(path: Path, content: Any) -> None:
    """Write JSON with `write_atomic`. Keys keep their order. NaN is refused with a ValueError."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def make_directory(path: Path) -> None:
    """Make a directory and its parents. Raises RunDirectoryError if that fails, or if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise RunDirectoryError(
            f"The output directory {str(path)!r} cannot be made or written: {(error.strerror or str(error)).lower()}. "
            "Choose another --out."
        ) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes plainly, for use inside `write_atomic`, where a full disk must show as an OSError."""
    path.write_bytes(content)


def _forget(path: Path) -> None:
    """Remove a file if that is possible."""
    with contextlib.suppress(OSError):
        path.unlink()


def _write(path: Path, text: str) -> None:
    """Write UTF-8 text plainly."""
    path.write_text(text, encoding="utf-8")
