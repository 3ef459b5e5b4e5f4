"""A source and a schema -> a checked Dataset, block by block: what is held is the result and one block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from stitchrl.data.dataset import NO_OBSERVATION, Dataset
from stitchrl.data.encode import Encoder
from stitchrl.data.episodes import Layout, lay_out
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
TEXT_LIKE = "USOmM"


def in_memory(name: str, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
    """Arrays in memory. Pages that are never written cost nothing."""
    return np.empty(shape, dtype)


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
    row = 0
    for block in source.blocks(encoder.needed(("observation", "next_observation", *roles))):
        rows = len(next(iter(block.values())))
        if count_actions and row == 0:
            encoder.schema = schema = _action_space(schema, guessed, encoder, block)
        table.add(block, row)
        for role in roles:
            values = encoder.role(role, block, row)
            columns[role] = _put(columns.get(role), role, values, row, place, layout.count, new)
        row += rows
    if row != layout.count:
        raise DataError(f"{source.origin} changed while it was read: it had {layout.count} rows, then {row}.")
    observation_table, next_index = table.finish()
    columns = {role: np.concatenate(v) if isinstance(v, list) else v for role, v in columns.items()}
    columns = {
        role: v if v.dtype.kind not in TEXT_LIKE or layout.order is None else v[layout.order]
        for role, v in columns.items()
    }
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
        schema=_counted(schema, columns) if count_actions and schema.num_actions else schema,
        notes=(*source.notes, *layout.notes),
        observation_names=table.names,
        **_with_propensities(columns, schema),
    )


def _check_columns(source: LogSource, schema: Schema) -> None:
    for role in (*schema.columns, "reward"):
        for name in Encoder(schema, source.origin).needed((role,)):
            if name not in source.names:
                raise SchemaError(
                    f"The schema says {role} is in column {name!r}, which {source.origin} does not have; it has: "
                    f"{', '.join(source.names[:40])}{' ...' if len(source.names) > 40 else ''}."
                )


def _action_space(schema: Schema, guessed: Schema, encoder: Encoder, block: Block) -> Schema:
    """The guessed schema: discrete where the first block's action is one integer a row."""
    action = encoder.column("action", block, 0)
    if action.ndim != 1 or action.dtype.kind not in "iub":
        return schema
    wide = [encoder.column(r, block, 0).shape[1] for r in ("behavior_probs", "action_mask") if r in schema.columns]
    return dataclasses.replace(guessed, num_actions=max(wide)) if wide else guessed


def _counted(schema: Schema, columns: dict[str, Any]) -> Schema:
    if "behavior_probs" in columns or "action_mask" in columns:
        return schema
    return dataclasses.replace(schema, num_actions=max(int(columns["action"].max()) + 1, 2))


def _put(
    held: Any, role: str, values: NumpyArray, row: int, place: NumpyArray | None, count: int, new: New
) -> NumpyArray | list[NumpyArray]:
    """A block's values written to their places; text is gathered and joined at the end, its width being unknown."""
    if values.dtype.kind in TEXT_LIKE or isinstance(held, list):
        return [*(held or []), values]
    if held is None:
        held = new(role, (count, *values.shape[1:]), values.dtype)
    if values.shape[1:] != held.shape[1:]:
        raise DataError(
            f"{role} must have one width in all rows; it has {held.shape[1:]}, from row {row} {values.shape[1:]}."
        )
    rows = slice(row, row + len(values))
    held[rows if place is None else place[rows]] = values
    return held


def _index(new: New, name: str, start: int, stop: int) -> NumpyArray:
    kind = np.int32 if stop < 2**31 else np.int64
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
        if self._table is None:
            self._names = self._encoder.observation_names(block) if values.ndim == 2 else []
            self._table = self._new("observation_table", (self._capacity, *values.shape[1:]), values.dtype)
        if values.shape[1:] != self._table.shape[1:]:
            raise DataError(
                f"observation of {self._encoder.origin} must have one width in all rows; it has "
                f"{self._table.shape[1:]}, from row {row} {values.shape[1:]}."
            )
        rows = slice(row, row + len(values))
        self._table[rows if self._place is None else self._place[rows]] = values
        if not self._has_next:
            return
        given = self._encoder.observations("next_observation", block, row)
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
        flat = given.reshape(len(given), -1)
        known = np.isfinite(flat).all(1) if given.dtype.kind == "f" else np.ones(len(given), bool)
        differs = (flat != following.reshape(len(given), -1)).any(1) & known
        differs |= self._ends[row : row + len(given)]
        at = np.flatnonzero(differs)
        self._extra_rows.append(at + row)
        self._extra.append(given[at])

    def finish(self) -> tuple[NumpyArray, NumpyArray]:
        """The table, and where each row's next observation stands in it."""
        assert self._table is not None
        count, table = self._layout.count, self._table
        if self._has_next and self._given is not None:
            self._compare(self._given, table[:count], 0)
        if self._pending is not None:
            self._keep(self._pending, self._pending, count - 1)
        next_index = _index(self._new, "next_observation_index", 1, count + 1)
        next_index[self._ends] = NO_OBSERVATION
        if self._has_next:
            rows, extra = np.concatenate(self._extra_rows), np.concatenate(self._extra)
            self._check_ends(rows, extra)
            next_index[rows] = np.arange(count, count + len(rows))
            if count + len(rows) > len(table):
                table = np.concatenate([table[:count], extra])
            else:
                table[count : count + len(rows)] = extra
                table = table[: count + len(rows)]
        self._fill_gaps(table, next_index)
        return table, next_index

    def _check_ends(self, rows: NumpyArray, extra: NumpyArray) -> None:
        rules = [self._encoder.schema.observations.get(n) for n in self._encoder.schema.observation_columns]
        if extra.dtype.kind != "f" or any(rule is not None and rule.missing != "error" for rule in rules):
            return
        bad = ~np.isfinite(extra.reshape(len(extra), -1)).all(1)
        if bad.any():
            at = int(np.argmax(bad))
            row = int(rows[at] if self._layout.order is None else self._layout.order[rows[at]])
            self._encoder.numbers("next_observation", extra[at : at + 1], row)

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


def _previous(values: NumpyArray, start: NumpyArray) -> NumpyArray:
    """NaN replaced by the last value before it in its episode."""
    first = np.repeat(start[:-1], np.diff(start))
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last >= first, values[np.maximum(last, 0)], np.float32(np.nan))
