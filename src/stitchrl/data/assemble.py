"""A source and a schema -> a checked Dataset, block by block: what is held is the result and one block."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from stitchrl.data.dataset import NO_OBSERVATION, Dataset
from stitchrl.data.encode import Encoder
from stitchrl.data.episodes import Layout, lay_out
from stitchrl.data.messages import listed, shown
from stitchrl.data.readers.source import Block, LogSource
from stitchrl.data.schema import LARGEST_ACTION_COUNT, ColumnRule, Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.types import NumpyArray

__all__ = ["New", "assemble", "in_memory"]

New: TypeAlias = Callable[[str, tuple[int, ...], Any], NumpyArray]
"""(name, shape, dtype) -> an array to write into."""
PER_ROW = (
    "action",
    "reward",
    "behavior_log_prob",
    "propensity",
    "behavior_probs",
    "action_mask",
    "source",
    "weight",
    "observation_id",
)


def in_memory(name: str, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
    """Arrays in memory. Pages that are never written cost nothing.

    Raises:
        DataError: there is less memory than that.
    """
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        raise DataError(
            f"{name} would be {'x'.join(map(str, shape))} numbers, more than memory holds. Convert the log to a store, "
            "which is read from disk."
        ) from None


def assemble(source: LogSource, schema: Schema, *, count_actions: bool = False, new: New = in_memory) -> Dataset:
    """Read a source twice: where its rows belong, then everything else straight to its place.

    Args:
        source: the log.
        schema: what its columns mean.
        count_actions: the schema was guessed: an integer action is discrete, as wide as the masks or the largest seen.
        new: makes the arrays, in memory or on disk.

    Raises:
        SchemaError: a column that the schema names is absent, or does not fit.
        DataError: no rows, missing or non-finite values, an action outside its space, an episode without an end.
    """
    _check_columns(source, schema)
    layout = lay_out(source, schema)
    guessed = dataclasses.replace(schema, num_actions=LARGEST_ACTION_COUNT) if count_actions else schema
    encoder = Encoder(schema, source.origin)
    roles = tuple(role for role in PER_ROW if role in schema.columns or role == "reward")
    place = None if layout.order is None else np.argsort(layout.order)  # a row's place
    table = _ObservationTable(encoder, layout, place, new)
    columns: dict[str, Any] = {}
    end = 0
    for row, rows, block in source.rows(encoder.needed(("observation", "next_observation", *roles))):
        end = row + rows
        if end > layout.count:
            break
        if count_actions and row == 0:
            encoder.schema = schema = _action_space(schema, guessed, encoder, block)
        table.add(block, row)
        for role in roles:
            values = encoder.role(role, block, row)
            columns[role] = _put(columns.get(role), role, values, row, place, layout.count, new)
    if end != layout.count:
        raise DataError(f"{source.origin} changed while it was read: it had {layout.count} rows, then {end}.")
    observation_table, next_index = table.finish()
    columns = {role: _whole(v, layout.order) if isinstance(v, list) else v for role, v in columns.items()}
    notes = (*source.notes, *layout.notes, *encoder.notes)
    if count_actions:
        schema = _counted(schema, columns)
        notes += _guessed_note(schema, columns["action"])
    return Dataset(
        observation_table=observation_table,
        observation_index=_index(new, "observation_index", 0, layout.count),
        next_observation_index=next_index,
        terminated=layout.terminated,
        truncated=layout.truncated,
        step=layout.step,
        time=layout.time,
        episode_start=layout.episode_start,
        episode_id=layout.episode_id,
        group=layout.group,
        schema=schema,
        notes=notes,
        observation_names=table.names,
        **_with_propensities(columns, schema),
    )


def _check_columns(source: LogSource, schema: Schema) -> None:
    encoder, there = Encoder(schema, source.origin), set(source.names)
    for role in dict.fromkeys((*schema.columns, "reward")):
        for name in encoder.needed((role,)):
            if name not in there:
                raise SchemaError(
                    f"The schema says {role} is in column {shown(name)}, which {source.origin} does not have; it has: "
                    f"{listed(source.names, 40)}."
                )


def _action_space(schema: Schema, guessed: Schema, encoder: Encoder, block: Block) -> Schema:
    """The guessed schema: discrete where the first block's action is one integer a row, none negative."""
    action = encoder.column("action", block, 0)
    if action.ndim != 1 or action.dtype.kind not in "iub" or action.min() < 0:
        return schema
    wide = [encoder.column(r, block, 0) for r in ("behavior_probs", "action_mask") if r in schema.columns]
    return dataclasses.replace(guessed, num_actions=max(w.shape[-1] for w in wide)) if wide else guessed


def _counted(schema: Schema, columns: dict[str, Any]) -> Schema:
    """With as many actions as were seen, where nothing else says how many there are."""
    if schema.num_actions is None or "behavior_probs" in columns or "action_mask" in columns:
        return schema
    return dataclasses.replace(schema, num_actions=max(int(columns["action"].max()) + 1, 2))


def _guessed_note(schema: Schema, action: NumpyArray) -> tuple[str, ...]:
    if schema.num_actions is None:
        whole = action.shape[1] == 1 and bool((action == np.floor(action)).all())
        return ("The actions are whole numbers, some below 0 or written as floats: they count as continuous.",) * whole
    seen = len(np.unique(action))
    looks = " They look like doses: name bins or categories in a schema." if schema.num_actions > 4 * seen else ""
    return (f"The actions are whole numbers and count as {schema.num_actions:,} discrete ones; {seen:,} occur.{looks}",)


def _put(
    held: Any, role: str, values: NumpyArray, row: int, place: NumpyArray | None, count: int, new: New
) -> NumpyArray | list[NumpyArray]:
    """A block's values written to their places; text is gathered and joined at the end, its width being unknown."""
    text = values.dtype.kind == "U"
    if held is None:
        held = [] if text else new(role, (count, *values.shape[1:]), values.dtype)
    if text != isinstance(held, list) or (not text and not _alike(values, held)):
        raise DataError(f"{role} must be of one type and width in all rows; it changes in row {row}.")
    if isinstance(held, list):
        held.append(values)
    else:
        held[slice(row, row + len(values)) if place is None else place[row : row + len(values)]] = values
    return held


def _alike(values: NumpyArray, held: NumpyArray) -> bool:
    return values.shape[1:] == held.shape[1:] and np.can_cast(values.dtype, held.dtype, "safe")


def _whole(parts: list[NumpyArray], order: NumpyArray | None) -> NumpyArray:
    joined = np.concatenate(parts)
    return joined if order is None else joined[order]


def _index(new: New, name: str, start: int, stop: int) -> NumpyArray:
    kind = np.int32 if stop < 2**30 else np.int64  # half of what fits: next observations stand behind the others
    index = new(name, (stop - start,), kind)
    index[:] = np.arange(start, stop, dtype=kind)
    return index


def _with_propensities(columns: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """`behavior_log_prob` from a propensity, or from the probability of the action taken."""
    if "propensity" in columns:
        columns["behavior_log_prob"] = columns.pop("propensity")
    elif "behavior_probs" in columns and schema.num_actions is not None:
        chosen = np.take_along_axis(columns["behavior_probs"], columns["action"][:, None].astype(np.int64), 1)[:, 0]
        with np.errstate(divide="ignore"):
            columns.setdefault("behavior_log_prob", np.log(chosen).astype(np.float32))
    if schema.num_actions is None:
        for role in ("behavior_probs", "action_mask"):
            columns.pop(role, None)
    return columns


class _ObservationTable:
    """Observations, each once: those of rows in order, then those that no row holds.

    A next observation is stored only where the next row does not hold it: at the end of an episode, and where rows are
    missing. One that is itself missing inside an episode is the next row's.
    """

    def __init__(self, encoder: Encoder, layout: Layout, place: NumpyArray | None, new: New) -> None:
        self._encoder, self._layout, self._place, self._new = encoder, layout, place, new
        self._has_next = "next_observation" in encoder.schema.columns
        self._ends = np.zeros(layout.count, bool)
        self._ends[layout.episode_start[1:] - 1] = True
        self._table: NumpyArray | None = None
        self._given: NumpyArray | None = None  # next observations in their places, where rows are not in order
        self._pending: NumpyArray | None = None  # the last row's next observation: its next row comes with a block
        self._extra_rows: list[NumpyArray] = []
        self._extra: list[NumpyArray] = []
        self._capacity = layout.count + (len(layout.episode_id) if self._has_next else 0)
        self._names: list[tuple[str, ...]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """What each number of an observation is called; none for images."""
        return tuple(name for names in self._names for name in names)

    def add(self, block: Block, row: int) -> None:
        """Rows of the log that start at `row`."""
        values = self._encoder.observations("observation", block, row)
        if 0 in values.shape[1:]:
            raise DataError(
                f"observation of {self._encoder.origin} must hold at least one number; its lists are empty."
            )
        if self._table is None:
            self._names = self._encoder.observation_names(block) if values.ndim == 2 else []
            self._table = self._new("observation_table", (self._capacity, *values.shape[1:]), values.dtype)
        if not _alike(values, self._table):
            raise DataError(
                f"observation of {self._encoder.origin} must be of one type and width in all rows; it has "
                f"{self._table.shape[1:]}, from row {row} {values.shape[1:]}."
            )
        rows = slice(row, row + len(values))
        self._table[rows if self._place is None else self._place[rows]] = values
        if not self._has_next:
            return
        given = self._encoder.observations("next_observation", block, row)
        if given.dtype.kind == "f" and given[0].size <= 1 and np.isnan(given).all():
            given = np.full(values.shape, np.nan, np.float32)  # a block of nulls does not know its width
        if given.shape[1:] != values.shape[1:]:
            raise SchemaError(
                f"next_observation of {self._encoder.origin} must have as many numbers as observation, "
                f"{values.shape[-1]}; got {given.shape[-1]}."
            )
        if self._place is None:
            self._compare(given, values, row)
            return
        if self._given is None:
            self._given = self._new("next_observation", (self._layout.count, *given.shape[1:]), given.dtype)
        self._given[self._place[rows]] = given

    def _compare(self, given: NumpyArray, values: NumpyArray, row: int) -> None:
        """Keep those of `given` (places from `row`) that are not the observation after them."""
        if self._pending is not None:
            self._keep(self._pending, values[:1], row - 1)
        self._keep(given[:-1], values[1:], row)
        self._pending = given[-1:]

    def _keep(self, given: NumpyArray, following: NumpyArray, row: int) -> None:
        flat, after = _flat(given), _flat(following)
        other = flat != after
        if given.dtype.kind == "f":
            other &= ~(np.isnan(flat) & np.isnan(after))  # missing in both: the same, and filled the same
        differs = other.any(1) | self._ends[row : row + len(given)]
        if given.dtype.kind == "f":
            differs &= ~np.isnan(flat).all(1)  # not known at all: the next row's, or none at an end
        at = np.flatnonzero(differs)
        self._check(given[at], at + row)
        self._extra_rows.append(at + row)
        self._extra.append(given[at])

    def _check(self, extra: NumpyArray, places: NumpyArray) -> None:
        """A next observation known in part only is damaged, but for columns whose gaps a rule fills."""
        if extra.dtype.kind != "f":
            return
        schema = self._encoder.schema
        rules = [schema.observations.get(name, ColumnRule()) for name in schema.observation_columns]
        firm = [rule.missing == "error" for rule, names in zip(rules, self._names, strict=True) for _ in names]
        bad = (np.isnan(_flat(extra)) & np.asarray(firm)).any(1)
        if bad.any():
            place = int(places[int(np.argmax(bad))])
            row = place if self._layout.order is None else int(self._layout.order[place])
            raise DataError(
                f"next_observation of {self._encoder.origin} must be finite; found NaN in row {row}. A row without one "
                "has no number in any part of it."
            )

    def finish(self) -> tuple[NumpyArray, NumpyArray]:
        """The table, and where each row's next observation stands in it."""
        assert self._table is not None
        count, table = self._layout.count, self._table
        if self._given is not None:
            self._compare(self._given, table[:count], 0)
        if self._pending is not None:
            self._keep(self._pending, self._pending, count - 1)
        next_index = _index(self._new, "next_observation_index", 1, count + 1)
        next_index[self._ends] = NO_OBSERVATION
        if self._has_next:
            rows = np.concatenate(self._extra_rows)
            whole = count + len(rows)
            if whole > len(table):
                table = self._new("observation_table_grown", (whole, *table.shape[1:]), table.dtype)
                table[:count] = self._table[:count]
            np.concatenate(self._extra, out=table[count:whole])
            table = table[:whole]
            next_index[rows] = np.arange(count, whole)
        self._fill_gaps(table, next_index)
        return table, next_index

    def _fill_gaps(self, table: NumpyArray, next_index: NumpyArray) -> None:
        """Missing values of columns whose rule says so become the previous ones of their episode."""
        schema = self._encoder.schema
        if not any(rule.missing == "previous" for rule in schema.observations.values()):
            return
        count, start = self._layout.count, self._layout.episode_start
        stored = np.flatnonzero(next_index >= count)
        column = 0
        for name, names in zip(schema.observation_columns, self._names, strict=True):
            rule = schema.observations.get(name, ColumnRule())
            if rule.missing == "previous":
                for i in range(column, column + len(names) - rule.indicator):
                    table[:count, i] = _previous(table[:count, i], start)
                    after = table[next_index[stored], i]
                    table[next_index[stored], i] = np.where(np.isnan(after), table[stored, i], after)
                    fill = rule.fill if rule.categories is None else 0.0
                    table[:, i] = np.where(np.isnan(table[:, i]), np.float32(fill), table[:, i])
            column += len(names)


def _flat(values: NumpyArray) -> NumpyArray:
    """One row each, of no rows too."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _previous(values: NumpyArray, start: NumpyArray) -> NumpyArray:
    """NaN replaced by the last value before it in its episode."""
    first = np.repeat(start[:-1], np.diff(start))
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last >= first, values[np.maximum(last, 0)], np.float32(np.nan))
