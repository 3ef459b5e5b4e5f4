"""Many files of one log, read one after the other."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stitchrl.data.readers.source import Block, LogSource
from stitchrl.errors import DataError

__all__ = ["FILE_NUMBER", "files_of", "joined"]

FILE_NUMBER = "file number"
"""The column that says which of the files a row is from."""


def files_of(path: Path) -> list[Path]:
    """The files that a pattern or a folder means: those that match; all of a folder's that are not hidden.

    Raises:
        DataError: there are none, or they end differently.
    """
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith((".", "_"))]
        found = [p for p in found if p.suffix.lower() not in (".toml", ".md", ".txt")]
    else:
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
    if not found:
        raise DataError(f"There is no file in {str(path)!r}.")
    endings = {"".join(p.suffixes).lower() for p in found}
    if len(endings) > 1:
        raise DataError(
            f"The files of {str(path)!r} must be of one format; they end in {', '.join(sorted(endings)[:6])}. "
            "Name them by a pattern such as 'folder/*.parquet'."
        )
    return found


def joined(sources: Sequence[LogSource], origin: str) -> LogSource:
    """One source of several that have the same columns, in their order.

    Raises:
        DataError: a file has other columns than the first.
    """
    first = sources[0]
    for other in sources[1:]:
        missing = sorted(set(first.names) ^ set(other.names))
        if missing:
            raise DataError(
                f"The files of {origin} must have the same columns; {first.origin} and {other.origin} differ in "
                f"{', '.join(missing[:8])}."
            )

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        own = [name for name in names if name != FILE_NUMBER]
        for number, source in enumerate(sources):
            for block in source.blocks(own or [first.names[0]]):
                rows = len(next(iter(block.values())))
                made = dict(block)
                if FILE_NUMBER in names:
                    made[FILE_NUMBER] = np.full(rows, number, np.int32)
                yield {name: made[name] for name in names}

    notes = (f"{len(sources):,} files were read as one log.", *first.notes)
    return LogSource(origin, first.format, (*first.names, FILE_NUMBER), blocks, first.schema, notes)
