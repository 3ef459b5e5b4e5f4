"""Many files of one log, read one after the other."""

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


def files_of(path: Path) -> list[Path]:
    """The files that a pattern or a folder means: those that match; all of a folder's that are not hidden.

    In the order of their names, numbers in them as numbers: part2 comes before part10.

    Raises:
        DataError: there are none, or they end differently.
    """
    try:
        if path.is_dir():
            found = [
                p for p in sorted(path.iterdir(), key=_in_order) if p.is_file() and not p.name.startswith((".", "_"))
            ]
            found = [p for p in found if p.suffix.lower() not in (".toml", ".md", ".txt")]
        else:
            found = sorted((Path(p) for p in glob.glob(str(path), recursive=True)), key=_in_order)
            found = [p for p in found if p.is_file()]
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    if not found:
        raise DataError(f"There is no file in {str(path)!r}.")
    endings = {without_compression(p) for p in found}
    if len(endings) > 1:
        raise DataError(
            f"The files of {str(path)!r} must be of one format; they end in {listed(sorted(endings))}. "
            "Name them by a pattern such as 'folder/*.parquet'."
        )
    return found


def _in_order(path: Path) -> tuple[list[list[str | int]], str]:
    """What paths are sorted by: folder by folder, text and numbers in turn; the name itself where 1 stands as 01."""
    split = [re.split(r"([0-9]+)", part) for part in path.parts]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(pieces)] for pieces in split], str(path)


def joined(sources: Sequence[LogSource], origin: str) -> LogSource:
    """One source of several that have the same columns, in their order.

    Raises:
        DataError: a file has other columns than the first.
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
    return LogSource(origin, first.format, first.names, blocks, first.schema, notes, len(sources))
