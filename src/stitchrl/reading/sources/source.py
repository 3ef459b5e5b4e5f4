"""What every reader gives: named columns in blocks of rows, and what the format itself says about them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, StitchRLError
from stitchrl.messages import printable, shown
from stitchrl.types import NumpyArray

__all__ = [
    "BLOCK_ROWS",
    "FILE_NUMBER",
    "Block",
    "Column",
    "Format",
    "LogSource",
    "concatenated",
    "from_arrays",
    "from_table",
    "reading_errors",
]

Column: TypeAlias = "pa.Array | NumpyArray"
Block: TypeAlias = "Mapping[str, Column]"
BLOCK_ROWS = 2**16
FILE_NUMBER = "number of the file"
"""Which of several files a row is from: made by `joined`."""


@dataclasses.dataclass(frozen=True)
class LogSource:
    """A log as a format holds it, not yet given meaning.

    Attributes:
        origin: what messages call it: a file's name.
        format: what it was found to be: "Parquet", "CSV", ...
        names: its columns.
        blocks: (names) -> those columns, in order, in blocks of rows; may be called more than once. Errors of the
            format's own library leave it as DataError.
        schema: what the format itself says the columns mean; None where it says nothing.
        notes: sentences a user should know: what was left out, what was assumed.
        files: how many it was joined from; of more than one, `blocks` also gives the column `FILE_NUMBER`.

    Raises:
        DataError: two columns of one name.
    """

    origin: str
    format: str
    names: tuple[str, ...]
    blocks: Callable[[Sequence[str]], Iterator[Block]]
    schema: Schema | None = None
    notes: tuple[str, ...] = ()
    files: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", printable(self.origin))
        if len(set(self.names)) < len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise DataError(f"Columns of {self.origin} must have different names; {shown(twice)} stands twice.")

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, int, Block]]:
        """Blocks that have rows: (the first one's number in the log, how many, the block).

        Raises:
            DataError: as `blocks`; columns of different lengths.
        """
        first = 0
        for block in self.blocks(names):
            lengths = {len(column) for column in block.values()}
            if len(lengths) > 1:
                raise DataError(f"{self.origin} is damaged: its columns differ in length from row {first}.")
            rows = lengths.pop() if lengths else 0
            if rows:
                yield first, rows, block
            first += rows


@dataclasses.dataclass(frozen=True)
class Format:
    """One format of files or folders.

    Attributes:
        name: as `st.read(path, format=...)` takes it, in any case.
        endings: of file names, with the dot; empty for folders.
        recognises: (path, its first 512 bytes; none for a folder) -> whether the content is of this format.
        open: path -> its columns. Raises DataError with one sentence.
    """

    name: str
    endings: tuple[str, ...]
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path], LogSource]


def from_arrays(
    arrays: Mapping[str, NumpyArray],
    *,
    origin: str,
    format: str,
    schema: Schema | None = None,
    notes: Sequence[str] = (),
) -> LogSource:
    """A source of arrays in memory, one row a transition.

    Raises:
        DataError: columns of different lengths.
    """
    first = "reward" if "reward" in arrays else next(iter(arrays), "")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != len(arrays[first]):
            have = "no rows" if array.ndim == 0 else len(array)
            raise DataError(
                f"Every column of {printable(origin)} needs one row a transition; {printable(name)} has {have}, {first} "
                f"{len(arrays[first]) if arrays[first].ndim else 'no rows'}."
            )

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        count = len(arrays[first]) if arrays else 0
        for start in range(0, count, BLOCK_ROWS):
            yield {name: arrays[name][start : start + BLOCK_ROWS] for name in names}

    return LogSource(origin, format, tuple(arrays), blocks, schema, tuple(notes))


def from_table(
    table: pa.Table, *, origin: str, format: str, schema: Schema | None = None, notes: Sequence[str] = ()
) -> LogSource:
    """A source of an Arrow table in memory.

    Raises:
        DataError: its content is not what its types say.
    """
    with reading_errors(origin, format):
        table.validate(full=True)  # offsets of text and lists that point elsewhere would end the interpreter

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        chosen = table.select(list(dict.fromkeys(names)))
        yield from (
            dict(zip(b.schema.names, b.columns, strict=True)) for b in chosen.to_batches(max_chunksize=BLOCK_ROWS)
        )

    return LogSource(origin, format, tuple(table.column_names), blocks, schema, tuple(notes))


@contextmanager
def reading_errors(origin: str, kind: str) -> Iterator[None]:
    """What a format's library raises on a damaged file becomes one sentence.

    Raises:
        DataError: instead of whatever was raised inside, errors of ours excepted.
    """
    try:
        yield
    except (StitchRLError, GeneratorExit):
        raise
    except MemoryError:
        raise DataError(f"{printable(origin)} asks for more memory than there is; it may be damaged.") from None
    except Exception as error:  # a damaged file makes a library raise nearly anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{printable(origin)} cannot be read as {kind}: {printable(lines[0].rstrip('.'))}.") from None


def concatenated(parts: Sequence[Column]) -> Column:
    """Blocks of one column, joined; numbers of different types become the wider.

    Raises:
        DataError: numbers in one block, text in another.
    """
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts])
    try:
        tables = [pa.table({"": part}) for part in parts]
        joined = pa.concat_tables(tables, promote_options="permissive").column(0).combine_chunks()
    except (pa.ArrowException, TypeError) as error:
        raise DataError(
            f"A column changes its type from block to block: {printable(str(error).rstrip('.'))}."
        ) from None
    return joined if isinstance(joined, pa.Array) else joined.chunk(0)
