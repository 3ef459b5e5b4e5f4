"""What every reader gives: named columns in blocks of rows, and what the format itself says about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, StitchRLError
from stitchrl.types import NumpyArray

__all__ = [
    "BLOCK_ROWS",
    "Block",
    "Column",
    "Format",
    "LogSource",
    "concatenated",
    "from_arrays",
    "from_table",
    "reading",
]

Column: TypeAlias = "pa.Array | NumpyArray"
Block: TypeAlias = "Mapping[str, Column]"
BLOCK_ROWS = 2**16


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
    """

    origin: str
    format: str
    names: tuple[str, ...]
    blocks: Callable[[Sequence[str]], Iterator[Block]]
    schema: Schema | None = None
    notes: tuple[str, ...] = ()


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
                f"Every column of {origin} needs one row a transition; {name} has {have}, {first} {len(arrays[first])}."
            )

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        count = len(arrays[first]) if arrays else 0
        for start in range(0, count, BLOCK_ROWS):
            yield {name: arrays[name][start : start + BLOCK_ROWS] for name in names}

    return LogSource(origin, format, tuple(arrays), blocks, schema, tuple(notes))


def from_table(
    table: pa.Table, *, origin: str, format: str, schema: Schema | None = None, notes: Sequence[str] = ()
) -> LogSource:
    """A source of an Arrow table in memory."""

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        chosen = table.select(list(names))
        yield from (dict(zip(names, b.columns, strict=True)) for b in chosen.to_batches(max_chunksize=BLOCK_ROWS))

    return LogSource(origin, format, tuple(table.column_names), blocks, schema, tuple(notes))


@contextmanager
def reading(origin: str, kind: str) -> Iterator[None]:
    """What a format's library raises on a damaged file becomes one sentence.

    Raises:
        DataError: instead of whatever was raised inside, errors of ours excepted.
    """
    try:
        yield
    except (StitchRLError, KeyboardInterrupt, GeneratorExit):
        raise
    except MemoryError:
        raise DataError(f"{origin} asks for more memory than there is; it may be damaged.") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, EOFError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0].rstrip(".")[:300]
        raise DataError(f"{origin} cannot be read as {kind}: {reason}.") from None


def concatenated(parts: Sequence[Column]) -> Column:
    """Blocks of one column, joined."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts]) if len(parts) != 1 else np.asarray(parts[0])
    arrays = [pa.array(part) if isinstance(part, np.ndarray) else part for part in parts]
    joined = pa.chunked_array(arrays).combine_chunks()
    return joined if isinstance(joined, pa.Array) else joined.chunk(0)
