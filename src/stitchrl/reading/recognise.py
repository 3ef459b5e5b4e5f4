"""The formats of files and folders, and which one a path is of."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

from stitchrl.errors import ConfigurationError, DataError
from stitchrl.reading.formats import (
    arrow_ipc,
    csv,
    d3rlpy_buffer,
    d4rl,
    json_lines,
    lerobot,
    minari,
    npz,
    ogbench,
    open_bandit,
    parquet,
    rlds,
    stable_baselines3,
)
from stitchrl.reading.sources.compressed import COMPRESSIONS, MAGIC, without_compression
from stitchrl.reading.sources.source import Format

__all__ = ["FORMATS", "format_of", "named_format"]

FORMATS: tuple[Format, ...] = (
    lerobot.FORMAT,
    minari.FORMAT,
    rlds.FORMAT,
    stable_baselines3.FORMAT,
    ogbench.FORMAT,
    npz.FORMAT,
    d3rlpy_buffer.FORMAT,
    d4rl.FORMAT,
    open_bandit.FORMAT,
    parquet.FORMAT,
    arrow_ipc.FORMAT,
    json_lines.FORMAT,
    csv.FORMAT,
)
"""In the order they are asked: whoever knows the content best comes first."""
HEAD_BYTES = 512


def named_format(name: str) -> Format:
    """The format of this name, in any case. Raises ConfigurationError where there is none."""
    for known in FORMATS:
        if known.name.lower() == name.lower() or f".{name.lower()}" in known.endings:
            return known
    raise ConfigurationError(f"There is no format {name!r}; there are {', '.join(f.name for f in FORMATS)}.")


@overload
def format_of(path: Path, *, missing_ok: Literal[False] = False) -> Format: ...
@overload
def format_of(path: Path, *, missing_ok: Literal[True]) -> Format | None: ...
def format_of(path: Path, *, missing_ok: bool = False) -> Format | None:
    """The format of a file or folder by its content; by its ending where the content says nothing.

    Raises:
        DataError: neither says anything, or the file cannot be read.
    """
    head = _head(path)
    for known in FORMATS:
        if known.recognises(path, head):
            return known
    ending = without_compression(path)
    for known in FORMATS:
        if ending in known.endings:
            return known
    if missing_ok:
        return None
    raise DataError(
        f"The format of {path.name} cannot be told from its content; known are {', '.join(f.name for f in FORMATS)}. "
        "Name it with `format`."
    )


def _head(path: Path) -> bytes:
    """The first bytes; none of a folder, and none of a compressed file, which goes by the ending inside its name."""
    if path.is_dir():
        return b""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    packed = path.suffix.lower() in COMPRESSIONS or any(head.startswith(magic) for magic in MAGIC)
    return b"" if packed else head
