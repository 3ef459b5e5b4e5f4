"""Logs in several files, which are read one after the other."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stitchrl.errors import DataError
from stitchrl.messages import listed
from stitchrl.reading.sources.compressed import without_compression
from stitchrl.reading.sources.source import FILE_NUMBER, Block, LogSource

__all__ = ["files_of", "joined"]

NO_DATA = (".toml", ".md", ".txt")
"""Endings of files that may stand beside the data of a log."""


def files_of(path: Path) -> list[Path]:
    """The files that match a pattern, or all files of a folder that are not hidden.

    They are sorted by name, with the numbers in names compared as numbers: part2 comes before part10.

    Raises:
        DataError: there are no files, or they have different endings.
    """
    try:
        if path.is_dir():
            files = [p for p in sorted(path.iterdir(), key=_sort_key) if p.is_file()]
            files = [p for p in files if not p.name.startswith((".", "_")) and p.suffix.lower() not in NO_DATA]
        else:
            files = sorted((Path(p) for p in glob.glob(str(path), recursive=True)), key=_sort_key)
            files = [p for p in files if p.is_file()]
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    if not files:
        raise DataError(f"There is no file in {str(path)!r}.")
    endings = {without_compression(p) for p in files}
    if len(endings) > 1:
        raise DataError(
            f"The files of {str(path)!r} must be of one format; they end in {listed(sorted(endings))}. "
            "Name them by a pattern such as 'folder/*.parquet'."
        )
    return files


def _sort_key(path: Path) -> tuple[list[list[str | int]], str]:
    """What paths are sorted by: the text and the numbers in each folder's name, then the path itself (1 against 01)."""
    split = [re.split(r"([0-9]+)", name) for name in path.parts]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(pieces)] for pieces in split], str(path)


def joined(sources: Sequence[LogSource], origin: str) -> LogSource:
    """One source that gives the rows of several, one after the other.

    Raises:
        DataError: a file has other columns than the first one.
    """
    first = sources[0]
    if len(sources) == 1:
        return first
    for other in sources[1:]:
        missing = sorted({*first.names} ^ {*other.names})
        if missing:
            raise DataError(
                f"The files of {origin} must have the same columns; {first.origin} and {other.origin} differ in "
                f"{listed(missing)}."
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

    if FILE_NUMBER in first.names:
        raise DataError(f"The files of {origin} have a column {FILE_NUMBER!r}, which stitchrl adds itself; rename it.")
    notes = tuple(dict.fromkeys(note for source in sources for note in source.notes))
    notes = (f"{len(sources):,} files were read as one log.", *notes)
    doubts = {name: question for source in reversed(sources) for name, question in source.doubts.items()}
    return LogSource(origin, first.format, first.names, blocks, first.schema, notes, len(sources), doubts)
