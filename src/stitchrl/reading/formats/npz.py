"""Logs in .npz files: named arrays, as `numpy.savez` writes them. Pickled objects are never read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import check_lengths
from stitchrl.reading.sources.npz_arrays import KIND, Header, headers_in, load_array, names_in_npz
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.reading.sources.transitions import transitions

__all__ = ["FORMAT", "plain_source"]


def plain_source(path: Path, headers: dict[str, Header]) -> LogSource:
    """The arrays of a file as columns; single numbers are left out.

    Raises:
        DataError: there are no arrays with rows, or they differ in length.
    """
    columns = {name: header for name, header in headers.items() if header.shape}
    if not columns:
        raise DataError(f"{path.name} holds single numbers only; a log needs one row a transition.")
    count = check_lengths({name: header.shape[0] for name, header in columns.items()}, path.name)

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        arrays = {name: load_array(path, name) for name in names}
        for start in range(0, count, BLOCK_ROWS):
            yield {name: values[start : start + BLOCK_ROWS] for name, values in arrays.items()}

    return LogSource(path.name, KIND, tuple(columns), blocks)


def open_npz(path: Path) -> LogSource:
    """The columns of a file. Columns with D4RL's names get D4RL's schema; others are left to a schema of the user.

    Raises:
        DataError: the file is no .npz, is damaged, holds Python objects, or its columns differ in length.
    """
    return transitions(plain_source(path, headers_in(path)), path.stem)


FORMAT = Format("npz", (".npz",), lambda path, head: bool(names_in_npz(path, head)), open_npz)
