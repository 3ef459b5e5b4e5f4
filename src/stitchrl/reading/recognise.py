"""The formats of files and folders, and telling the format of a path."""

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
    spreadsheet,
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
    spreadsheet.FORMAT,
    csv.FORMAT,
)
"""All formats, in the order in which they are asked: those that recognise their content most surely come first."""
HEAD_BYTES = 512
"""How many bytes of a file a format may look at."""


def named_format(name: str) -> Format:
    """The format of this name, in upper or lower case. Raises ConfigurationError if there is none."""
    for known in FORMATS:
        if known.name.lower() == name.lower() or f".{name.lower()}" in known.endings:
            return known
    raise ConfigurationError(f"There is no format {name!r}; there are {', '.join(f.name for f in FORMATS)}.")


@overload
def format_of(path: Path, *, missing_ok: Literal[False] = False) -> Format: ...
@overload
def format_of(path: Path, *, missing_ok: Literal[True]) -> Format | None: ...
def format_of(path: Path, *, missing_ok: bool = False) -> Format | None:
    """The format of a file or folder by its content, or by its ending if the content does not tell.

    Args:
        path: the file or folder.
        missing_ok: whether to return None, rather than raise DataError, if neither tells.

    Raises:
        DataError: neither content nor ending tells the format, or the file cannot be read.
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
    """The first bytes of a file; none of a folder, or of a compressed file, whose format is told by its ending."""
    if path.is_dir():
        return b""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    packed = path.suffix.lower() in COMPRESSIONS or any(head.startswith(magic) for magic in MAGIC)
    return b"" if packed else head
