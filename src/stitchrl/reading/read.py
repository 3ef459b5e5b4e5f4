"""`st.read` makes a Dataset of a path, an Arrow table, a data frame or a dict of arrays."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stitchrl.data.dataset import Dataset
from stitchrl.data.file_rules import FileRules
from stitchrl.data.same_meaning import difference_of_meaning, whole_schema_of, with_meaning_of
from stitchrl.data.schema import REQUIRED_ROLES, ROLES, Schema
from stitchrl.data.shared_observations import with_shared_observations
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
from stitchrl.reading.sources.source import Block, Format, LogSource
from stitchrl.reading.store import is_store, open_store

__all__ = ["known_schema", "open_log", "read", "schema_of", "with_columns"]

OPTIONAL = ("episode",)
OF_THE_POLICY = ("policy_probs", "policy_log_prob")
"""Required roles that a log without a schema may lack, because its episodes then run from one end to the next."""


def read(
    source: Any,
    schema: Schema | str | os.PathLike[str] | None = None,
    *,
    format: str | Format | None = None,
    beside: Mapping[str, Sequence[str]] | None = None,
    policy: Any = None,
) -> Dataset:
    """Read a log.

    Args:
        source: one of these: the path of a file in any known format, of a folder of such files, or of a native store; a
            pattern of paths ("logs/*.parquet"); a pandas or Polars frame; an Arrow table; a dict role -> array.
        schema: a `Schema`, or the path of its TOML. The default, for a path, is the TOML file of the same name beside
            the log (`stays.toml` beside `stays.parquet`). If there is none, it is what the format itself says. If the
            format says nothing, the names of the columns must make their roles plain, and an action column of integers
            counts as discrete with as many actions as the largest integer + 1. `notes` of the result say what was
            assumed.
        format: name of the files' format, or a `Format` of your own; by default it is told from their content.
        beside: columns to be read beside those that the schema names: "cost" or "subgroup" -> their names. Columns that the
            schema reads already keep their roles. "policy_probs" or "policy_log_prob" -> the columns of the policy to be
            judged, which take the place of those that the schema names. A store has the columns that it was made with,
            and no others.
        policy: a policy with a `schema`, as bundles have, that the log is read for: its observations and actions then have the
            meaning that the policy learned, by the names of columns, categories and actions. `notes` of the result say what was
            put right. A log without a schema of its own is read by the policy's.

    Returns:
        The log. It is checked: all numbers are finite, actions are inside their space, and every episode has an end.

    Raises:
        DataError, SchemaError: one sentence says what is wrong, where, and what to do.
        ConfigurationError: the format is unknown.
    """
    learned = getattr(policy, "schema", None)
    if isinstance(source, str | os.PathLike) and is_store(Path(source)):
        if schema is not None:
            raise ConfigurationError(
                f"The store {str(source)!r} has its schema, fixed when it was made; convert the original log again "
                "to give another."
            )
        stored = open_store(Path(source))
        _check_beside(source, stored.schema, beside or {})
        if learned is not None and (difference := difference_of_meaning(learned, stored.schema)):
            raise SchemaError(
                f"The policy learned another meaning than the store {str(source)!r} has: {difference}. Convert the original log "
                "again by the policy's schema."
            )
        return stored
    known = known_schema(source, schema)
    rules = known or learned
    log = open_log(source, format=format, rules=None if rules is None else rules.file_rules)
    chosen, guessed, notes = schema_for(source, log, known, learned)
    found = as_dataset(
        dataclasses.replace(log, notes=(*log.notes, *notes)), with_columns(chosen, beside or {}), guessed
    )
    return with_shared_observations(found)


def schema_for(
    source: Any, log: LogSource, known: Schema | None, policy: Schema | None
) -> tuple[Schema, bool, tuple[str, ...]]:
    """The schema by which a log is read, whether it was guessed, and what was put right for a policy. Raises as `read` does."""
    if policy is None:
        return *schema_of(source, log, known), ()
    if known is None and log.schema is None:
        whole, notes = whole_schema_of(policy, log.names, guess_columns(log.names))
        return whole, False, notes
    chosen, guessed = schema_of(source, log, known)
    chosen, notes = with_meaning_of(policy, chosen, log.names)
    return chosen, guessed, notes


def _check_beside(source: str | os.PathLike[str], schema: Schema, beside: Mapping[str, Sequence[str]]) -> None:
    """A store holds the columns it was made with and no others: asked for others, it must not answer with its own."""
    for role, columns in beside.items():
        named = schema.columns.get(role, ())
        held = (named,) if isinstance(named, str) else tuple(named)
        same = tuple(columns) == held if role in OF_THE_POLICY else set(columns) <= set(held)
        if columns and not same:
            raise ConfigurationError(
                f"The store {str(source)!r} has its columns, fixed when it was made: for {role} {', '.join(held) or 'none'}, "
                f"not {', '.join(columns)}. Convert the original log again with that column in the role {role} of its schema."
            )


def with_columns(schema: Schema, beside: Mapping[str, Sequence[str]]) -> Schema:
    """The schema with further columns of the roles `cost` and `subgroup`, and with others of the policy to be judged.

    Columns that the schema has already are not repeated. Those of the policy take the place of the ones that it names.
    """
    columns = dict(schema.columns)
    if any(beside.get(role) for role in OF_THE_POLICY):  # what another column says is of another policy
        columns = {role: column for role, column in columns.items() if role not in OF_THE_POLICY}
    for role, names in beside.items():
        if role in OF_THE_POLICY and len(names) == 1:
            columns[role] = names[0]
            continue
        named = columns.get(role, ())
        held = (named,) if isinstance(named, str) else named
        if together := tuple(dict.fromkeys((*held, *names))):
            columns[role] = together
    return dataclasses.replace(schema, columns=columns)


def as_dataset(log: LogSource, schema: Schema, guessed: bool, new: New = in_memory) -> Dataset:
    """The Dataset of an open log.

    Args:
        log: the columns.
        schema: what they mean.
        guessed: whether the schema was guessed from names, which the notes then say.
        new: makes the arrays.

    Raises:
        DataError, SchemaError: as `read`.
    """
    notes = (f"Read as {log.format}.", *log.notes)
    if guessed:
        said = ", ".join(f"{role} = {column!r}" for role, column in schema.columns.items() if column != role)
        notes += (f"Columns were given roles by their names: {said}.",) if said else ()
    with _with_progress(dataclasses.replace(log, notes=notes)) as source:
        return assemble(source, schema, count_actions=guessed, new=new)


def open_log(source: Any, *, format: str | Format | None = None, rules: FileRules | None = None) -> LogSource:
    """The columns of a log of any kind, before a schema gives them meaning.

    Args:
        source, format: as `read` takes them.
        rules: how the values of its files are written; what they leave open is found from the content.

    Raises:
        DataError, SchemaError, ConfigurationError: as `read` does.
    """
    rules = rules or FileRules()
    if not isinstance(source, str | os.PathLike):
        if format is not None:
            raise ConfigurationError(f"`format` is for paths; got {format!r} with {type(source).__name__}.")
        return open_object(source)
    path = Path(source)
    chosen = named_format(format) if isinstance(format, str) else format
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be entered
        raise DataError(f"There is no log {shown(str(path))}: {printable(str(error))}.") from None
    if is_file:
        return (chosen or format_of(path)).opened(path, rules)
    if is_folder:
        of_folder = chosen if chosen is not None and not chosen.endings else format_of(path, missing_ok=True)
        if of_folder is not None:
            return of_folder.opened(path, rules)
    elif not any(sign in str(path) for sign in "*?["):
        raise DataError(f"There is no log {shown(str(path))}: no file and no folder has this path.")
    files = files_of(path)
    return _opened_alike([(chosen or format_of(file), file) for file in files], path.name, rules)


def _opened_alike(files: Sequence[tuple[Format, Path]], origin: str, rules: FileRules) -> LogSource:
    """Several files as one log. What is certain of how one of them writes numbers holds for all.

    Raises:
        DataError: as `joined`, and where the files do not write numbers alike.
    """
    logs = [of.opened(file, rules) for of, file in files]
    settled: dict[str, LogSource] = {}
    for log in logs:
        for value in log.settled.values():
            settled.setdefault(value, log)
    if len(settled) > 1:
        point, comma = settled["."].origin, settled[","].origin
        raise DataError(
            f"The files of {origin} must write numbers alike; {comma} has decimal commas and {point} decimal points. Read them "
            "apart, or say `decimal` under [file] of the schema."
        )
    if settled:
        rules = dataclasses.replace(rules, decimal=next(iter(settled)))
        logs = [log if log.settled else of.opened(file, rules) for log, (of, file) in zip(logs, files, strict=True)]
    return joined(logs, origin)


def known_schema(source: Any, schema: Schema | str | os.PathLike[str] | None) -> Schema | None:
    """The schema that is given, or else that of the TOML beside a log; None if there is none. Raises as `Schema.load`."""
    if schema is None and isinstance(source, str | os.PathLike):
        schema = _beside(Path(source))
    return schema if schema is None or isinstance(schema, Schema) else Schema.load(schema)


def schema_of(source: Any, log: LogSource, known: Schema | None) -> tuple[Schema, bool]:
    """The schema of a log, and whether it was guessed from the names of columns.

    Args:
        source: what `read` was given.
        log: the open log.
        known: the schema that was given or lies beside the log.

    Raises:
        SchemaError: there is none, and the names of the columns do not tell their roles.
    """
    if known is not None:
        return known, False
    if log.schema is not None:
        return log.schema, False
    columns = guess_columns(log.names)
    missing = [role for role in REQUIRED_ROLES if role not in columns and role not in OPTIONAL]
    if missing:
        raise SchemaError(
            f"Without a schema, the names of the columns of {log.origin} must tell their roles, and none is named like these: "
            f"{', '.join(missing)}. Say in a TOML schema which of the columns ({listed(log.names)}) has which role; "
            f"`stitchrl schema LOG` writes a first one. The roles are: {', '.join(ROLES)}."
        )
    name = Path(source).stem if isinstance(source, str | os.PathLike) else "log"
    return Schema(columns, name=name), True


def _beside(path: Path) -> Path | None:
    """The TOML file beside a log, if there is one: of the log's name, or `schema.toml` for a folder or a pattern."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    candidates = [bare.with_suffix(".toml")] if bare.name else []
    try:
        if not path.is_file():
            candidates.append((path if path.is_dir() else path.parent) / "schema.toml")
        return next((candidate for candidate in candidates if candidate.is_file()), None)
    except (OSError, ValueError):  # a name too long, a folder that may not be entered: opening the log says so
        return None


@contextmanager
def _with_progress(log: LogSource) -> Iterator[LogSource]:
    """The same log, but reading it shows progress on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield log
        return
    bar = _ReadingBar(log.origin)
    try:
        yield dataclasses.replace(log, blocks=lambda names: bar.track(log, names))
    finally:
        bar.close()


class _ReadingBar(RowsBar):
    """A progress bar for all passes over a log. From the second pass on it knows how many rows there are."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin, self._rows = origin, 0

    def track(self, log: LogSource, names: Sequence[str]) -> Iterator[Block]:
        """The blocks of the log; the bar is moved on after each."""
        done, total, begun = 0, self._rows or None, time.monotonic()
        for block in log.blocks(names):
            yield block
            done += len(next(iter(block.values()))) if block else 0
            step = "reading" if total else "ordering"
            self.show(f"{step} {self._origin}", done, total, time.monotonic() - begun)
        self._rows = max(self._rows, done)
