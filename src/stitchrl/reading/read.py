"""`st.read`: a path, an Arrow table, a data frame or a dict of arrays -> Dataset."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import REQUIRED_ROLES, ROLES, Schema
from stitchrl.errors import ConfigurationError, DataError, SchemaError
from stitchrl.messages import listed, printable, shown
from stitchrl.progress import RowsBar
from stitchrl.reading.allocation import New, in_memory
from stitchrl.reading.assemble import assemble
from stitchrl.reading.formats.frames import open_object
from stitchrl.reading.infer import guess_columns
from stitchrl.reading.recognise import format_of, named_format
from stitchrl.reading.sources.compressed import COMPRESSIONS
from stitchrl.reading.sources.files import files_of, joined
from stitchrl.reading.sources.source import Block, LogSource
from stitchrl.reading.store import is_store, open_store

__all__ = ["open_log", "read", "schema_of"]

SPARED = ("episode",)
"""Required roles that a log without a schema may lack: its episodes run from one end to the next."""


def read(source: Any, schema: Schema | str | os.PathLike[str] | None = None, *, format: str | None = None) -> Dataset:
    """Read a log.

    Args:
        source: path of a log in any known format, of a folder or a pattern of such files ("logs/*.parquet"), of a
            native store; a pandas or Polars frame or an Arrow table; or a dict role -> array.
        schema: a `Schema`, or the path of its TOML. By default, for a path, the TOML of the same name beside the
            log (`stays.parquet` -> `stays.toml`) where there is one; else what the format itself says; else columns
            must carry names that make their roles plain, and an integer action column counts as discrete with
            (largest + 1) actions. What was assumed stands in `notes` of the result.
        format: of the files, by name; found from their content by default.

    Returns:
        The log, checked: finite numbers, actions inside their space, every episode ended.

    Raises:
        DataError, SchemaError: one sentence saying what is wrong, where, and what to do.
        ConfigurationError: an unknown format.
    """
    if isinstance(source, str | os.PathLike) and is_store(Path(source)):
        if schema is not None:
            raise ConfigurationError(
                f"The store {str(source)!r} has its schema, fixed when it was made; convert the original log again "
                "to give another."
            )
        return open_store(Path(source))
    log = open_log(source, format=format)
    chosen, guessed = schema_of(source, log, schema)
    return as_dataset(log, chosen, guessed)


def as_dataset(log: LogSource, schema: Schema, guessed: bool, new: New = in_memory) -> Dataset:
    """The Dataset of an open log; what was guessed stands in its notes."""
    notes = (f"Read as {log.format}.", *log.notes)
    if guessed:
        said = ", ".join(f"{role} = {column!r}" for role, column in schema.columns.items() if column != role)
        notes += (f"Columns were given roles by their names: {said}.",) if said else ()
    with watched(dataclasses.replace(log, notes=notes)) as shown:
        return assemble(shown, schema, count_actions=guessed, new=new)


def open_log(source: Any, *, format: str | None = None) -> LogSource:
    """The columns of a log of any kind, without meaning yet. Raises as `read` does."""
    if not isinstance(source, str | os.PathLike):
        if format is not None:
            raise ConfigurationError(f"`format` is for paths; got {format!r} with {type(source).__name__}.")
        return open_object(source)
    path = Path(source)
    chosen = None if format is None else named_format(format)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be entered
        raise DataError(f"There is no log {shown(str(path))}: {printable(str(error))}.") from None
    if is_file:
        return (chosen or format_of(path)).open(path)
    if is_folder:
        found = chosen if chosen is not None and not chosen.endings else format_of(path, missing_ok=True)
        if found is not None:
            return found.open(path)
    elif not any(sign in str(path) for sign in "*?["):
        raise DataError(f"There is no log {shown(str(path))}.")
    files = files_of(path)
    return joined([(chosen or format_of(file)).open(file) for file in files], path.name)


def schema_of(source: Any, log: LogSource, schema: Schema | str | os.PathLike[str] | None) -> tuple[Schema, bool]:
    """The schema of a log, and whether it is a guess from names. Raises as `read` does."""
    if schema is None and isinstance(source, str | os.PathLike):
        schema = _beside(Path(source))
    if schema is not None:
        return (schema if isinstance(schema, Schema) else Schema.load(schema)), False
    if log.schema is not None:
        return log.schema, False
    columns = guess_columns(log.names)
    missing = [role for role in REQUIRED_ROLES if role not in columns and role not in SPARED]
    if missing:
        raise SchemaError(
            f"Without a schema the columns of {log.origin} must carry the role names; there is no "
            f"{', '.join(missing)}. Roles are: {', '.join(ROLES)}. Name your columns ({listed(log.names)}) in a TOML schema; "
            "`stitchrl schema LOG` writes a first one."
        )
    name = Path(source).stem if isinstance(source, str | os.PathLike) else "log"
    return Schema(columns, name=name), True


def _beside(path: Path) -> Path | None:
    """The schema beside a log, if there is one: its own name with `.toml`; for a folder or pattern `schema.toml`."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    candidates = [bare.with_suffix(".toml")] if bare.name else []
    if not path.is_file():
        candidates.append((path if path.is_dir() else path.parent) / "schema.toml")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@contextmanager
def watched(log: LogSource) -> Iterator[LogSource]:
    """The same log; how far its reading has come is shown on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield log
        return
    bar = _ReadingBar(log.origin)
    try:
        yield dataclasses.replace(log, blocks=lambda names: bar.watch(log, names))
    finally:
        bar.close()


class _ReadingBar(RowsBar):
    """One bar for all passes over a log; from the second pass on it is known how many rows there are."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin, self._rows = origin, 0

    def watch(self, log: LogSource, names: Sequence[str]) -> Iterator[Block]:
        done, total, begun = 0, self._rows or None, time.monotonic()
        for block in log.blocks(names):
            yield block
            done += len(next(iter(block.values()))) if block else 0
            step = "reading" if total else "ordering"
            self.show(f"{step} {self._origin}", done, total, time.monotonic() - begun)
        self._rows = max(self._rows, done)
