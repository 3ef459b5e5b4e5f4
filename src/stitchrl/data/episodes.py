"""Where each row of a log belongs: its episode, its place in it, and how the episode ends."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Shaped

from stitchrl.data.encode import Encoder
from stitchrl.data.readers.files import FILE_NUMBER
from stitchrl.data.readers.source import LogSource, concatenated
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["Layout", "lay_out"]

ROLES = ("episode", "step", "time", "terminated", "truncated", "group")
IDENTIFIERS = ("episode", "group")
WHOLE = "biuf"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows of a log in order of episode, then step.

    Attributes:
        order: (N,) the log's row at each place; None where the log is in order as it stands.
        episode_start: (E + 1,) first place of each episode, then N.
        episode_id: (E,) the log's own identifiers; 0 to E - 1 where it has none.
        terminated, truncated: (N,) in order.
        step: (N,) int64.
        time: (N,) or None.
        group: (E,) or None.
        notes: what was changed, for people.
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
        """Rows."""
        return len(self.step)


def lay_out(source: LogSource, schema: Schema) -> Layout:
    """Read the columns that say where rows belong, and find the order.

    Raises:
        DataError: no rows, an episode without an end, rows after an end, steps that repeat, missing identifiers.
    """
    columns = _columns(source, schema)
    first = next(iter(columns.values()))
    count = len(first.codes if isinstance(first, _Identifiers) else first)
    if count == 0:
        raise DataError(f"{source.origin} has no rows; a log needs at least one episode.")
    origin, notes = source.origin, []
    terminated = columns.get("terminated", np.full(count, schema.bandit))
    truncated = columns.get("truncated", np.zeros(count, bool))
    rank, identifiers, order = _ranks(columns, terminated | truncated, schema, origin)
    step = columns.get("step")
    if step is not None:
        _check_steps(step, origin)
    time = None if "time" not in columns else _times(columns["time"], origin)
    within = step if step is not None else time
    if order is not None or (within is not None and not _ascending(within, rank)):
        keys = (rank,) if within is None else (within, rank)
        order = np.lexsort(keys)
        moved = int((order != np.arange(count)).sum())
        if moved:
            by = "episode" if within is None else f"episode, then {'step' if step is not None else 'time'}"
            notes.append(f"{moved:,} rows were out of order and were sorted by {by}.")
    if order is not None:
        rank, terminated, truncated = rank[order], terminated[order], truncated[order]
        step = None if step is None else step[order]
        time = None if time is None else time[order]
    if step is not None:
        _check_repeats(step, rank, identifiers, order, origin)
    start = np.concatenate([[0], np.flatnonzero(np.diff(rank)) + 1, [count]]).astype(np.int64)
    group = columns.get("group")
    groups = None if group is None else _groups(group, order, start, origin)
    if schema.gap is not None and time is not None:
        start, identifiers, truncated, groups, note = _cut_at_gaps(
            start, identifiers, time, terminated, truncated, groups, schema.gap
        )
        notes += note
    terminated, truncated, closed = _close(terminated, truncated, start, schema)
    notes += closed
    _check_ends(terminated, truncated, start, identifiers, origin)
    steps = np.arange(count) - np.repeat(start[:-1], np.diff(start)) if step is None else step.astype(np.int64)
    return Layout(order, start, identifiers, terminated, truncated, steps.astype(np.int64), time, groups, tuple(notes))


def _columns(source: LogSource, schema: Schema) -> dict[str, Any]:
    """The columns of `ROLES`, whole; identifiers as `_Identifiers`."""
    encoder = Encoder(schema, source.origin)
    present = tuple(role for role in ROLES if role in schema.columns)
    many = FILE_NUMBER in source.names and "episode" in schema.columns
    # Every log has an action: without any of `ROLES` it says how many rows there are.
    parts: dict[str, list[Any]] = {role: [] for role in present or ("action",)}
    row = 0
    files: list[Any] = []
    for block in source.blocks([*encoder.needed(tuple(parts)), *([FILE_NUMBER] if many else [])]):
        files += [block[FILE_NUMBER]] if many else []
        for role, held in parts.items():
            values = encoder.role(role, block, row)  # refuses what cannot be
            held.append(block[str(schema.columns[role])] if role in IDENTIFIERS else values)
        row += len(values)
    joined = {role: concatenated(held) if held else np.empty(0) for role, held in parts.items()}
    found: dict[str, Any] = {
        role: _identifiers(column) if role in IDENTIFIERS else column for role, column in joined.items()
    }
    if many:
        found["episode"] = _over_files(found["episode"], np.concatenate(files), schema, source.origin)
    return found


class _Identifiers(NamedTuple):
    """Numbers that tell rows apart, and what each stands for (None: itself)."""

    codes: NumpyArray
    names: NumpyArray | None


def _identifiers(column: Any) -> _Identifiers:
    """Text by its place in a dictionary: comparing numbers is cheaper, and so is holding them."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "biufmM":
        return _Identifiers(column, None)
    array = pa.array(column.tolist()) if isinstance(column, np.ndarray) else column
    if not (
        pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_dictionary(array.type)
    ):
        return _Identifiers(array.to_numpy(zero_copy_only=False), None)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    return _Identifiers(encoded.indices.to_numpy(zero_copy_only=False), names.astype(str))


def _over_files(episode: _Identifiers, file: NumpyArray, schema: Schema, origin: str) -> _Identifiers:
    """Identifiers of a log in many files, which may number their episodes alike."""
    if schema.files == "joined":
        return episode
    _, codes = np.unique(episode.codes, return_inverse=True)
    both = codes.astype(np.int64) * (int(file.max(initial=0)) + 1) + file
    pairs, at = np.unique(both, return_index=True)
    if len(pairs) == codes.max(initial=-1) + 1:
        return episode
    if schema.files is None:
        shared = int(np.flatnonzero(np.bincount(codes[at]) > 1)[0])
        which = episode.codes[np.argmax(codes == shared)]
        shown = which if episode.names is None else episode.names[which]
        raise DataError(
            f"Episode {_shown(shown)} is in several files of {origin}: say under [episodes] whether they number their "
            'episodes each for itself (`files = "separate"`) or share them (`files = "joined"`).'
        )
    own = episode.codes[at] if episode.names is None else episode.names[episode.codes[at]]
    names = np.array([f"{i}@{n}" for i, n in zip(own, file[at], strict=True)])
    return _Identifiers(np.searchsorted(pairs, both), names)


def _ranks(
    columns: dict[str, Any], ended: Bool[NumpyArray, " N"], schema: Schema, origin: str
) -> tuple[Int[NumpyArray, " N"], Shaped[NumpyArray, " E"], NumpyArray | None]:
    """Episode of each row, numbered by first appearance; their identifiers; and not None if rows must be sorted."""
    count = len(ended)
    if schema.bandit and "episode" not in columns:
        return np.arange(count), np.arange(count), None
    if "episode" not in columns:
        rank = np.concatenate([[0], np.cumsum(ended[:-1])]).astype(np.int64)
        return rank, np.arange(rank[-1] + 1), None
    episode, texts = columns["episode"]
    if episode.dtype.kind == "f" and np.isnan(episode).any():
        raise DataError(f"episode of {origin} must name an episode in every row; found NaN.")
    first = np.concatenate([[0], np.flatnonzero(episode[1:] != episode[:-1]) + 1])
    names, place, inverse = np.unique(episode[first], return_index=True, return_inverse=True)
    appearance = np.argsort(place)
    number = np.empty(len(names), np.int64)
    number[appearance] = np.arange(len(names))
    runs = number[inverse.reshape(-1)]
    rank = np.repeat(runs, np.diff(np.append(first, count)))
    names = names[appearance] if texts is None else texts[names[appearance]]
    return rank, names, None if len(names) == len(first) else np.arange(count)


def _ascending(within: NumpyArray, rank: Int[NumpyArray, " N"]) -> bool:
    return bool(((within[1:] >= within[:-1]) | (rank[1:] != rank[:-1])).all())


def _times(time: NumpyArray, origin: str) -> NumpyArray:
    """Times that can be put in order."""
    wrong = np.isnat(time) if time.dtype.kind in "mM" else ~np.isfinite(time) if time.dtype.kind == "f" else None
    if wrong is not None and wrong.any():
        raise DataError(f"time of {origin} must be known in every row; row {int(np.argmax(wrong))} has none.")
    return time


def _check_steps(step: NumpyArray, origin: str) -> None:
    """Steps are whole numbers: otherwise the order of rows is anybody's guess."""
    if step.dtype.kind not in WHOLE or (step.dtype.kind == "f" and not (step == np.floor(step)).all()):
        raise DataError(f"step of {origin} must be whole numbers; got {step.dtype}. Give clock times the role `time`.")


def _check_repeats(
    step: NumpyArray, rank: NumpyArray, identifiers: NumpyArray, order: NumpyArray | None, origin: str
) -> None:
    same = (step[1:] == step[:-1]) & (rank[1:] == rank[:-1])
    if same.any():
        at = int(np.flatnonzero(same)[0]) + 1
        row = at if order is None else int(order[at])
        raise DataError(
            f"step must differ between the rows of an episode; episode {_shown(identifiers[rank[at]])} of {origin} has "
            f"step {_shown(step[at])} twice (row {row}). Number its rows, or leave `step` out to keep the file's order."
        )


def _groups(column: _Identifiers, order: NumpyArray | None, start: NumpyArray, origin: str) -> NumpyArray:
    """The group of each episode."""
    group = column.codes if order is None else column.codes[order]
    firsts = group[start[:-1]]
    other = group != np.repeat(firsts, np.diff(start))
    if other.any():
        raise DataError(
            f"group of {origin} must be the same in every row of an episode; it changes at place "
            f"{int(np.argmax(other))}."
        )
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
    """Episodes cut where more time than `gap` passes; the pieces of one episode stay one group."""
    passed = np.diff(time)
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
    """Ends that nothing marks, by the rule of the schema."""
    last = start[1:] - 1
    unmarked = last[~(terminated | truncated)[last]]
    if schema.end is None or not len(unmarked):
        return terminated, truncated, []
    marked = (truncated if schema.end == "truncated" else terminated).copy()
    marked[unmarked] = True
    terminated, truncated = (terminated, marked) if schema.end == "truncated" else (marked, truncated)
    return terminated, truncated, [f"{len(unmarked):,} episodes had no end marked and count as {schema.end}."]


def _check_ends(
    terminated: NumpyArray, truncated: NumpyArray, start: NumpyArray, identifiers: NumpyArray, origin: str
) -> None:
    ended = terminated | truncated
    last = start[1:] - 1
    open_end = np.flatnonzero(~ended[last])
    if len(open_end):
        raise DataError(
            f"Every episode must end with terminated or truncated; episode {_shown(identifiers[open_end[0]])} of "
            f"{origin} has no end ({len(open_end)} such episode{'s' if len(open_end) > 1 else ''}). "
            'Mark its last row truncated if the log was cut there, or say `end = "truncated"` under [episodes].'
        )
    inside = ended.copy()
    inside[last] = False
    if inside.any():
        at = int(np.flatnonzero(inside)[0])
        number = int(np.searchsorted(start, at, side="right")) - 1
        raise DataError(
            f"No row may follow the end of an episode; episode {_shown(identifiers[number])} of {origin} goes on after "
            f"terminated or truncated. Give what follows another episode id."
        )


def _shown(value: Any) -> str:
    return repr(value.item() if hasattr(value, "item") else value)
