"""`check_format`: tests whether a file format keeps its contract, on a sound file and on damaged copies of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.errors import StitchRLError
from stitchrl.reading.recognise import HEAD_BYTES
from stitchrl.reading.sources.source import Column, Format, LogSource

__all__ = ["check_format"]

OTHERS = {
    "CSV": b"episode,action,reward\n0,1,0.5\n",
    "JSON Lines": b'{"episode": 0, "action": 1, "reward": 0.5}\n',
    "Parquet": b"PAR1\x15\x04\x15\x00",
    "HDF5": b"\x89HDF\r\n\x1a\n\x00\x00",
    "a zip archive": b"PK\x03\x04\x14\x00\x00\x00",
}
"""The first bytes of files of other formats."""
CUTS = (0.0, 0.3, 0.9)
"""Shares of a file that are kept in a damaged copy."""


def check_format(format: Format, path: str | Path) -> None:
    """Test what reading relies on in a format.

    It has a name, and its endings are well formed; it recognises the file, and not the first bytes of other formats; the file
    opens as columns that can be read in part and repeatedly; and a copy that was cut short is either read or refused with a
    stitchrl error, never with another one.

    Args:
        format: to be checked.
        path: a sound file of it, with at least two rows. A folder is not damaged.

    Raises:
        AssertionError: with a sentence that says which of these fails.
    """
    path = Path(path)
    _check_names(format, path)
    _check_recognises(format, path)
    _check_columns(format, path)
    if path.is_file():
        _check_damage(format, path)


def _require(holds: bool, format: Format, sentence: str) -> None:
    if not holds:
        raise AssertionError(f"{format.name or 'the format'}: {sentence}")


def _check_names(format: Format, path: Path) -> None:
    _require(bool(format.name.strip()), format, "a format needs a name.")
    for ending in format.endings:
        sound = ending.startswith(".") and ending == ending.lower()
        _require(sound, format, f"an ending must begin with a point and be in lower case; got {ending!r}.")
    named = not format.endings or path.is_dir() or path.suffix.lower() in format.endings
    _require(named, format, f"the file {path.name} must have one of the endings {', '.join(format.endings)}.")


def _check_recognises(format: Format, path: Path) -> None:
    head = b"" if path.is_dir() else path.read_bytes()[:HEAD_BYTES]
    _require(bool(format.recognises(path, head)) or bool(format.endings), format, f"it must recognise {path.name}.")
    with tempfile.TemporaryDirectory() as folder:
        for other, begin in OTHERS.items():
            file = Path(folder) / "other"
            file.write_bytes(begin)
            taken = bool(format.recognises(file, begin))
            _require(not taken, format, f"it must not recognise files of other formats; it takes {other} for its own.")


def _check_columns(format: Format, path: Path) -> None:
    source = format.open(path)
    _require(len(source.names) > 0, format, f"{path.name} opens without columns.")
    whole = _columns(source, source.names)
    rows = len(next(iter(whole.values())))
    _require(rows >= 2, format, f"the file must have at least two rows; {path.name} has {rows}.")
    _require(
        _same(whole, _columns(source, source.names)), format, "`blocks` must give the same rows whenever it is called."
    )
    for name in source.names:
        part = _columns(source, (name,))
        _require(
            list(part) == [name], format, f"`blocks` must give the columns that it is asked for; asked for {name!r}."
        )
        _require(_same(part, {name: whole[name]}), format, f"column {name!r} must be the same alone as among others.")


def _columns(source: LogSource, names: Sequence[str]) -> dict[str, list[Any]]:
    """All values of some columns, of every block in turn."""
    found: dict[str, list[Any]] = {}
    for *_, block in source.rows(names):
        for name, column in block.items():
            found.setdefault(name, []).extend(_values(column))
    return found


def _values(column: Column) -> list[Any]:
    values: list[Any] = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
    return values


def _same(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> bool:
    return one.keys() == other.keys() and all(repr(one[name]) == repr(other[name]) for name in one)


def _check_damage(format: Format, path: Path) -> None:
    content = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for share in CUTS:
            damaged = Path(folder) / path.name
            damaged.write_bytes(content[: int(share * len(content))])
            try:
                source = format.open(damaged)
                _columns(source, source.names)
            except StitchRLError:
                continue
            except Exception as error:  # whatever a library raises is what the check is for
                raise AssertionError(
                    f"{format.name}: a damaged file must be refused with a `DataError` of one sentence; cut to {share:.0%} of "
                    f"its bytes, {path.name} raised {type(error).__name__}: {error}. `reading_errors` turns such errors into one."
                ) from error
