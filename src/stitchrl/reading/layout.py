"""The layout of a log: to which episode each row belongs, its place there, and how the episode ends."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Shaped

from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.reading.encode import Encoder
from stitchrl.reading.identifiers import (
    LARGEST_EXACT,
    Identifiers,
    identifiers_of,
    in_microseconds,
    joined_blocks,
    number_by_appearance,
    over_files,
    ranks,
)
from stitchrl.reading.sources.clock_changes import names_zones, second_readings
from stitchrl.reading.sources.dates import times_of_text
from stitchrl.reading.sources.source import FILE_NUMBER, LogSource
from stitchrl.types import NumpyArray

__all__ = ["Layout", "lay_out"]

ROLES = ("episode", "step", "time", "terminated", "truncated", "group")
"""Roles that say where rows belong."""
Report: TypeAlias = "Callable[[DataError], None]"
NAMES = ("episode", "group")
"""Those of `ROLES` that hold identifiers."""
BYTES_A_ROW = 24
"""Lower bound on the memory per row while sorting. A few kilobytes of Parquet can hold a billion equal rows."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows of a log, ordered by episode and then by step.

    Attributes:
        order: (N,) the row of the log that belongs at each place; None where the log is in order as it stands.
        episode_start: (E + 1,) first place of each episode, then N.
        episode_id: (E,) the identifiers that the log gives its episodes; 0 to E - 1 where it gives none.
        terminated, truncated: (N,) how episodes end, in order.
        step: (N,) int64, as logged, or else the position in the episode.
        time: (N,) in order; None where the log has no time.
        group: (E,) None where the log has no groups.
        notes: what was changed, in sentences for people.
    """

    order: Int[NumpyArray, " N"] | None
    episode_start: Int[NumpyArray, " E_plus_1"]
    episode_id: Shaped[NumpyArray, " E"]
    terminated: Bool[NumpyArray, " N"]
    truncated: Bool[NumpyArray, " N"]
    step: Int[NumpyArray, " N"]
    time: Shaped[NumpyArray, " N"] | None
    group: Shaped[NumpyArray, " E"] | None
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many rows the log has."""
        return len(self.step)


def at_once(error: DataError) -> None:
    """Raise an error as soon as it is found."""
    raise error


def lay_out(source: LogSource, encoder: Encoder, report: Report = at_once) -> Layout:
    """Read the columns that say where rows belong, and put the rows in order.

    Args:
        source: the log.
        encoder: reads its columns by the schema.
        report: is given what is wrong with the order and the ends of episodes; by default it is raised.

    Raises:
        DataError: no rows, an episode without an end, rows after an end, steps that repeat, missing identifiers.
    """
    schema = encoder.schema
    columns, count = _columns(source, encoder)
    if count == 0:
        raise DataError(f"{source.origin} has no rows; a log needs at least one episode.")
    origin, notes = source.origin, []
    terminated = columns["terminated"] if "terminated" in columns else np.full(count, schema.bandit)
    truncated = columns["truncated"] if "truncated" in columns else np.zeros(count, bool)
    step = None if "step" not in columns else _steps(columns["step"], origin)
    time = None if "time" not in columns else _times(columns["time"], origin)
    if "episode" in columns:
        rank, identifiers, apart = ranks(columns["episode"])
        within = time if step is None else step
        by = "episode" if within is None else f"episode, then {'time' if step is None else 'step'}"
    else:
        rank = np.arange(count) if schema.bandit else _streams(columns, count, schema)
        apart = bool((rank[1:] < rank[:-1]).any())
        within = None if schema.bandit else time
        by = "time" if rank[-1] == 0 else "group or file" + (", then time" if within is not None else "")
    if time is not None and encoder.local_times and schema.file.timezone is not None:
        by_time, numbered = within is time, step if "episode" in columns else None
        time, said = second_readings(time, schema.file.timezone, rank, numbered)
        within = time if by_time else within
        notes += [said] if said else []
    order = None
    if apart or (within is not None and not _ascending(within, rank)):
        order = np.lexsort((rank,) if within is None else (within, rank))
        moved = int((order != np.arange(count)).sum())
        notes.append(f"{moved:,} rows were out of order and were sorted by {by}.")
        rank, terminated, truncated = rank[order], terminated[order], truncated[order]
        step = None if step is None else step[order]
        time = None if time is None else time[order]
    if "episode" not in columns:
        rank = rank if schema.bandit else _from_end_to_end(rank, terminated | truncated, step)
        identifiers = np.arange(rank[-1] + 1)
    if step is not None:
        _check_repeats(step, rank, identifiers, order, origin, report)
    start = np.concatenate([[0], np.flatnonzero(rank[1:] != rank[:-1]) + 1, [count]]).astype(np.int64)
    del rank
    groups = None if "group" not in columns else _groups(columns["group"], order, start, origin, report)
    if schema.gap is not None and time is not None:
        start, identifiers, truncated, groups, note = _cut_at_gaps(
            start, identifiers, time, terminated, truncated, groups, schema.gap
        )
        notes += note
    try:
        encoder.check_words(len(start) - 1)
    except DataError as error:
        report(error)
    terminated, truncated, closed = _close(terminated, truncated, start, schema)
    _check_ends(terminated, truncated, start, identifiers, order, origin, report)
    if step is None:
        step = np.arange(count) - np.repeat(start[:-1], np.diff(start))
    return Layout(order, start, identifiers, terminated, truncated, step, time, groups, (*notes, *closed))


def _columns(source: LogSource, encoder: Encoder) -> tuple[dict[str, Any], int]:
    """The whole columns of `ROLES`, identifiers as `Identifiers`, and the number of rows."""
    schema = encoder.schema
    # Every log has an action, which tells the number of rows where the log has none of `ROLES`.
    present = tuple(role for role in ROLES if role in schema.columns)
    many = source.files > 1
    held: dict[str, list[Any]] = {role: [] for role in present}
    files: list[NumpyArray] = []
    count = 0
    for row, rows, block in source.rows([*encoder.needed(present or ("action",)), *([FILE_NUMBER] if many else [])]):
        for role, values in held.items():
            if role in NAMES:
                values.append(encoder.identifiers(role, block, row))
            else:
                values.append(encoder.times(block, row) if role == "time" else encoder.role(role, block, row))
        if many:
            files.append(np.asarray(block[FILE_NUMBER]))
        count = row + rows
        if count * BYTES_A_ROW > _memory():
            raise DataError(
                f"{source.origin} has more than {count:,} rows: saying where they belong takes more memory than there is. "
                "Split it into several files, and learn from some of them."
            )
    if any(isinstance(values, pa.Array) for values in held.get("time", [])):
        held["time"], notes = _times_of_text(held["time"], encoder)
        encoder.notes |= dict.fromkeys(notes)
    columns: dict[str, Any] = {
        role: (identifiers_of if role in NAMES else joined_blocks)(blocks, f"{role} of {source.origin}")
        for role, blocks in held.items()
        if blocks
    }
    if files:
        columns["file"] = np.concatenate(files)
    if files and "episode" in columns:
        columns["episode"] = over_files(columns["episode"], columns["file"], schema.files, source.origin)
    return columns, count


def _times_of_text(blocks: list[Any], encoder: Encoder) -> tuple[list[NumpyArray], list[str]]:
    """The blocks of a column of times, some of them text, as one block of dates, and what was assumed."""
    called = encoder.where("time", 0).called
    if not all(isinstance(values, pa.Array) for values in blocks):
        raise DataError(f"{called} must be all numbers, all times or all text; it changes from block to block.")
    times, notes = times_of_text(blocks, called, encoder.schema.file)
    encoder.local_times = not any(map(names_zones, blocks))
    return [times], notes


def _memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _streams(columns: dict[str, Any], count: int, schema: Schema) -> Int[NumpyArray, " N"]:
    """For a log without episode identifiers: a number for each group and file, whose rows are put in order of time."""
    stream = np.zeros(count, np.int64)
    apart = [columns["group"].codes] if "group" in columns else []
    apart += [columns["file"]] if "file" in columns and schema.files != "joined" else []
    for codes in apart:
        number, places = number_by_appearance(codes)
        stream = stream * len(places) + number
    return number_by_appearance(stream)[0] if apart else stream


def _from_end_to_end(
    stream: Int[NumpyArray, " N"], ended: Bool[NumpyArray, " N"], step: Int[NumpyArray, " N"] | None
) -> Int[NumpyArray, " N"]:
    """The episode of each row of a log without identifiers.

    A new episode begins after an end, in another stream, and where the step does not rise.
    """
    new = ended[:-1] | (stream[1:] != stream[:-1])
    if step is not None:
        new = new | (step[1:] <= step[:-1])
    return np.concatenate([[0], np.cumsum(new)])


def _ascending(within: NumpyArray, rank: Int[NumpyArray, " N"]) -> bool:
    """Whether the values never fall from one row to the next of the same episode."""
    return bool(((within[1:] >= within[:-1]) | (rank[1:] != rank[:-1])).all())


def _times(time: NumpyArray, origin: str) -> NumpyArray:
    """The times, checked to be numbers or dates that are known in every row."""
    if time.dtype.kind not in "iufmM":
        raise DataError(
            f"time of {origin} must be numbers or dates; got {shown(time[0])}. Write dates as 2026-01-31 23:59:00."
        )
    unknown = np.isnat(time) if time.dtype.kind in "mM" else ~np.isfinite(time)
    if unknown.any():
        raise DataError(f"time of {origin} must be known in every row; row {int(np.argmax(unknown))} has none.")
    return in_microseconds(time)


def _steps(step: NumpyArray, origin: str) -> Int[NumpyArray, " N"]:
    """The steps as int64, checked to be whole numbers: otherwise the order of rows would be a guess."""
    whole = np.zeros(len(step), bool)
    if step.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = (step == np.floor(step)) & (np.abs(step) < LARGEST_EXACT)
    elif step.dtype.kind in "biu":
        whole = step <= np.iinfo(np.int64).max
    if not whole.all():
        row = int(np.argmin(whole))
        raise DataError(
            f"step of {origin} must be whole numbers; got {shown(step[row])} in row {row}. Give clock times the role "
            "`time`."
        )
    return step.astype(np.int64, copy=False)


def _check_repeats(
    step: NumpyArray,
    rank: NumpyArray,
    identifiers: NumpyArray,
    order: NumpyArray | None,
    origin: str,
    report: Report,
) -> None:
    """Report where two rows of an episode have the same step."""
    same = (step[1:] == step[:-1]) & (rank[1:] == rank[:-1])
    if same.any():
        at = int(np.argmax(same)) + 1
        report(
            DataError(
                f"step must differ between the rows of an episode; episode {shown(identifiers[rank[at]])} of {origin} has "
                f"step {shown(step[at])} twice (row {_row(at, order)}). Number its rows, or leave `step` out to keep the "
                "file's order."
            )
        )


def _groups(
    column: Identifiers, order: NumpyArray | None, start: NumpyArray, origin: str, report: Report
) -> NumpyArray:
    """The group of each episode. Reports where it changes inside an episode."""
    group = column.codes if order is None else column.codes[order]
    firsts = group[start[:-1]]
    other = group != np.repeat(firsts, np.diff(start))
    if other.any():
        row = _row(int(np.argmax(other)), order)
        report(DataError(f"group of {origin} must be the same in every row of an episode; it changes in row {row}."))
    return firsts if column.names is None else column.names[firsts]


def _cut_at_gaps(
    start: NumpyArray,
    identifiers: NumpyArray,
    time: NumpyArray,
    terminated: NumpyArray,
    truncated: NumpyArray,
    groups: NumpyArray | None,
    gap: float,
) -> tuple[NumpyArray, NumpyArray, NumpyArray, NumpyArray, list[str]]:
    """Cut episodes where more time than `gap` passes; the pieces of an episode become one group.

    Returns:
        The episode starts, identifiers, `truncated` and groups after cutting, and a note if anything was cut.
    """
    passed = np.diff(time if time.dtype.kind in "mM" else time.astype(np.float64))
    passed = passed / np.timedelta64(1, "s") if passed.dtype.kind == "m" else passed
    inside = np.ones(len(time), bool)
    inside[start[1:] - 1] = False
    cut = np.flatnonzero(inside[:-1] & (passed > gap)) + 1
    groups = identifiers if groups is None else groups
    if not len(cut):
        return start, identifiers, truncated, groups, []
    truncated = truncated.copy()
    truncated[cut - 1] |= ~terminated[cut - 1]
    pieces = np.sort(np.concatenate([start, cut]))
    whole = np.searchsorted(start, pieces[:-1], side="right") - 1
    number = np.arange(len(whole)) - np.searchsorted(whole, whole)
    named = np.array([f"{i}" if n == 0 else f"{i}/{n + 1}" for i, n in zip(identifiers[whole], number, strict=True)])
    note = f"{len(cut):,} gaps of more than {gap:g} cut episodes in two; the pieces stay in one group."
    return pieces, named, truncated, groups[whole], [note]


def _close(
    terminated: NumpyArray, truncated: NumpyArray, start: NumpyArray, schema: Schema
) -> tuple[NumpyArray, NumpyArray, list[str]]:
    """`terminated` and `truncated` with unmarked ends filled in by the schema's `end`, and a note if there were any."""
    last = start[1:] - 1
    unmarked = last[~(terminated | truncated)[last]]
    if schema.end is None or not len(unmarked):
        return terminated, truncated, []
    marked = (truncated if schema.end == "truncated" else terminated).copy()
    marked[unmarked] = True
    terminated, truncated = (terminated, marked) if schema.end == "truncated" else (marked, truncated)
    return terminated, truncated, [f"{len(unmarked):,} episodes had no end marked and count as {schema.end}."]


def _check_ends(
    terminated: NumpyArray,
    truncated: NumpyArray,
    start: NumpyArray,
    identifiers: NumpyArray,
    order: NumpyArray | None,
    origin: str,
    report: Report,
) -> None:
    """Report where the last row of an episode is no end, or another row is."""
    ended = terminated | truncated
    last = start[1:] - 1
    open_end = np.flatnonzero(~ended[last])
    if len(open_end):
        report(
            DataError(
                f"Every episode must end with terminated or truncated; episode {shown(identifiers[open_end[0]])} of "
                f"{origin} has no end ({len(open_end)} such episode{'s' if len(open_end) > 1 else ''}). "
                'Mark its last row truncated if the log was cut there, or say `end = "truncated"` under [episodes].'
            )
        )
    ended[last] = False
    if ended.any():
        at = int(np.argmax(ended))
        number = int(np.searchsorted(start, at, side="right")) - 1
        report(
            DataError(
                f"No row may follow the end of an episode; episode {shown(identifiers[number])} of {origin} goes on after "
                f"terminated or truncated in row {_row(at, order)}. Give what follows another episode id."
            )
        )


def _row(place: int, order: NumpyArray | None) -> int:
    """The number that a row has in the log, for messages."""
    return place if order is None else int(order[place])
