"""What every format opens a log as: named columns in blocks of rows, with what the format itself says about them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from stitchrl.data.file_rules import FileRules
from stitchrl.data.schema import Schema
from stitchrl.encoding.columns import Block, Column
from stitchrl.errors import DataError, StitchRLError
from stitchrl.messages import printable, shown
from stitchrl.types import NumpyArray

__all__ = [
    "BLOCK_ROWS",
    "FILE_NUMBER",
    "Block",
    "Column",
    "DamagedError",
    "Format",
    "LogSource",
    "concatenated",
    "from_arrays",
    "from_table",
    "reading_errors",
]

BLOCK_ROWS = 2**16
"""The largest number of rows in a block."""
OF_EVERY_FORMAT = ("text_columns", "dates", "timezone", "true_values", "false_values")
"""The settings of [file] that hold for the columns of every format."""
FILE_NUMBER = "number of the file"
"""The column that says which of several files a row is from; `files.joined` adds it."""


class DamagedError(DataError):
    """A file cannot be read as the format that it should be of."""


@dataclasses.dataclass(frozen=True)
class LogSource:
    """The columns of a log as its format holds them, before a schema gives them meaning.

    Attributes:
        origin: what messages call the log, such as the name of a file.
        format: the format it was read as: "Parquet", "CSV", ...
        names: the names of its columns.
        blocks: gives the named columns, in order, in blocks of rows; it may be called more than once. It raises
            DataError in place of errors of the format's own library.
        schema: what the format itself says the columns mean; None where it says nothing.
        notes: sentences that a user should know: what was left out, what was assumed.
        files: how many files the log was joined from; if more than one, `blocks` also gives the column `FILE_NUMBER`.
        doubts: columns of text that may be numbers in several ways -> the question, for whoever needs their numbers.
        settled: settings of [file] that the content of this file makes certain, which other files of the log may leave open.

    Raises:
        DataError: two columns have the same name.
    """

    origin: str
    format: str
    names: tuple[str, ...]
    blocks: Callable[[Sequence[str]], Iterator[Block]]
    schema: Schema | None = None
    notes: tuple[str, ...] = ()
    files: int = 1
    doubts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settled: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", printable(self.origin))
        if len(set(self.names)) < len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise DataError(f"Columns of {self.origin} must have different names; {shown(twice)} stands twice.")

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, int, Block]]:
        """The blocks that are not empty, each as (number of its first row in the log, how many rows, the block).

        Raises:
            DataError: as `blocks`, and for columns of different lengths.
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
    """A format of files or folders.

    Attributes:
        name: what `st.read(path, format=...)` calls it, in upper or lower case.
        endings: the endings of its file names, with the dot; empty if only the content tells it.
        recognises: whether a path is of this format, judged by the path and its first 512 bytes (none for a folder).
        open: opens a path. Raises DataError with one sentence.
        open_by: the same by what a schema says of how the file is written; None where the format leaves nothing to say.
        uses: the settings of [file] that `open_by` looks at.
    """

    name: str
    endings: tuple[str, ...]
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path], LogSource]
    open_by: Callable[[Path, FileRules], LogSource] | None = None
    uses: tuple[str, ...] = ()

    def opened(self, path: Path, rules: FileRules) -> LogSource:
        """The columns of a path, by what a schema says of how the file is written, with a note on what has no use there."""
        log = self.open(path) if self.open_by is None else self.open_by(path, rules)
        useless = [name for name in rules.given() if name not in (*OF_EVERY_FORMAT, *self.uses)]
        if not useless:
            return log
        note = (
            f"{', '.join(f'`{name}`' for name in useless)} under [file] of the schema was not needed for {self.name}."
        )
        return dataclasses.replace(log, notes=(*log.notes, note))


def from_arrays(
    arrays: Mapping[str, NumpyArray],
    *,
    origin: str,
    format: str,
    schema: Schema | None = None,
    notes: Sequence[str] = (),
) -> LogSource:
    """A log of arrays in memory, each with one row for each transition.

    Raises:
        DataError: the arrays differ in length.
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
    """A log in an Arrow table in memory.

    Raises:
        DataError: the content of the table is not what its types say.
    """
    with reading_errors(origin, format):
        table.validate(full=True)  # offsets of text and lists that point elsewhere would crash the interpreter

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        chosen = table.select(list(dict.fromkeys(names)))
        yield from (
            dict(zip(b.schema.names, b.columns, strict=True)) for b in chosen.to_batches(max_chunksize=BLOCK_ROWS)
        )

    return LogSource(origin, format, tuple(table.column_names), blocks, schema, tuple(notes))


@contextmanager
def reading_errors(origin: str, kind: str) -> Iterator[None]:
    """Turns whatever a format's library raises on a damaged file into a DataError of one sentence.

    Args:
        origin: what the message calls the file.
        kind: what the file should have been, such as "Parquet".

    Raises:
        DamagedError: in place of any error raised inside that is not a StitchRLError.
    """
    try:
        yield
    except (StitchRLError, GeneratorExit):
        raise
    except MemoryError:
        raise DamagedError(f"{printable(origin)} asks for more memory than there is; it may be damaged.") from None
    except Exception as error:  # a damaged file makes a library raise nearly anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DamagedError(
            f"{printable(origin)} cannot be read as {kind}: {printable(lines[0].rstrip('.'))}."
        ) from None


def concatenated(blocks: Sequence[Column]) -> Column:
    """The blocks of one column as a whole; numbers of different types become the wider type.

    Raises:
        DataError: the column holds numbers in one block and text in another.
    """
    if len(blocks) == 1:
        return blocks[0]
    if all(isinstance(block, np.ndarray) for block in blocks):
        return np.concatenate([np.asarray(block) for block in blocks])
    try:
        tables = [pa.table({"": block}) for block in blocks]
        joined = pa.concat_tables(tables, promote_options="permissive").column(0).combine_chunks()
    except (pa.ArrowException, TypeError) as error:
        raise DataError(
            f"A column changes its type from block to block: {printable(str(error).rstrip('.'))}."
        ) from None
    return joined if isinstance(joined, pa.Array) else joined.chunk(0)
