"""The table that stores each observation once, filled while a log is assembled."""

from __future__ import annotations

import math

import numpy as np

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.errors import DataError, SchemaError
from stitchrl.reading.allocation import New
from stitchrl.reading.encode import Encoder
from stitchrl.reading.layout import Layout
from stitchrl.reading.sources.source import Block
from stitchrl.types import NumpyArray

__all__ = ["ObservationTable", "alike", "index_of"]


def alike(values: NumpyArray, held: NumpyArray) -> bool:
    """Whether values fit into the rows of an array without loss."""
    return values.shape[1:] == held.shape[1:] and np.can_cast(values.dtype, held.dtype, "safe")


def index_of(new: New, name: str, start: int, stop: int) -> NumpyArray:
    """Consecutive row numbers of the observation table, from `start` up to `stop`, in a new array."""
    kind = np.int32 if stop < 2**30 else np.int64  # the table may grow to twice `stop` rows by next observations
    index = new(name, (stop - start,), kind)
    index[:] = np.arange(start, stop, dtype=kind)
    return index


class ObservationTable:
    """The observations of a log, each stored once: first those of the rows in order, then those that no row holds.

    A next observation is stored only if it is not the observation of the next row: at the end of an episode, and where
    rows are missing. If the log lacks a next observation inside an episode, it is that of the next row.

    Args:
        encoder: reads the observations.
        layout: where the rows belong.
        place: the place of each row of the log; None where the log is in order as it stands.
        new: makes the arrays.
    """

    def __init__(self, encoder: Encoder, layout: Layout, place: NumpyArray | None, new: New) -> None:
        self._encoder, self._layout, self._place, self._new = encoder, layout, place, new
        self._has_next = "next_observation" in encoder.schema.columns
        self._ends = np.zeros(layout.count, bool)
        self._ends[layout.episode_start[1:] - 1] = True
        self._table: NumpyArray | None = None
        # All next observations in their places, kept only if the rows of the log are not in order.
        self._given: NumpyArray | None = None
        # The next observation of the last row so far, which is compared once the next block brings the row after it.
        self._pending: NumpyArray | None = None
        self._extra_rows: list[NumpyArray] = []
        self._extra: list[NumpyArray] = []
        self._capacity = layout.count + (len(layout.episode_id) if self._has_next else 0)
        self._names: list[tuple[str, ...]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each number of an observation; none for images."""
        return tuple(name for names in self._names for name in names)

    def add(self, block: Block, row: int) -> None:
        """Store the observations of a block whose first row is number `row` of the log.

        Raises:
            DataError, SchemaError: observations that cannot be used, or that change their type or width.
        """
        values = self._encoder.observations("observation", block, row)
        if 0 in values.shape[1:]:
            raise DataError(
                f"observation of {self._encoder.origin} must hold at least one number; its lists are empty."
            )
        if self._table is None:
            self._names = self._encoder.observation_names(block) if values.ndim == 2 else []
            self._table = self._new("observation_table", (self._capacity, *values.shape[1:]), values.dtype)
        if not alike(values, self._table):
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
            given = np.full(values.shape, np.nan, np.float32)  # a block of missing values has no width
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
        """Store those of `given` that are not the observation of the row after them.

        Args:
            given: next observations of consecutive places.
            values: observations of the same places.
            row: the first of these places.
        """
        if self._pending is not None:
            self._keep(self._pending, values[:1], row - 1)
        self._keep(given[:-1], values[1:], row)
        self._pending = given[-1:]

    def _keep(self, given: NumpyArray, following: NumpyArray, row: int) -> None:
        """Store those of `given` (next observations from place `row` on) that differ from the
        `following` observations."""
        flat, after = _flat(given), _flat(following)
        other = flat != after
        if given.dtype.kind == "f":
            other &= ~(np.isnan(flat) & np.isnan(after))  # values that both lack are equal: they are filled alike
        differs = other.any(1) | self._ends[row : row + len(given)]
        if given.dtype.kind == "f":
            differs &= ~np.isnan(flat).all(1)  # one that is not known is that of the next row, or absent at an end
        at = np.flatnonzero(differs)
        self._check(given[at], at + row)
        self._extra_rows.append(at + row)
        self._extra.append(given[at])

    def _check(self, extra: NumpyArray, places: NumpyArray) -> None:
        """Raise DataError where a next observation is known only partly, unless a rule fills the missing columns."""
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
                "has no number at all."
            )

    def finish(self) -> tuple[NumpyArray, NumpyArray]:
        """The table, and the row of it that holds the next observation of each place."""
        assert self._table is not None
        count, table = self._layout.count, self._table
        if self._given is not None:
            self._compare(self._given, table[:count], 0)
        if self._pending is not None:
            self._keep(self._pending, self._pending, count - 1)
        next_index = index_of(self._new, "next_observation_index", 1, count + 1)
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
        """Replace missing values by the previous ones of their episode, in the columns whose rule says so."""
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
    """The values with one axis for rows and one for everything else, even if there are no rows."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _previous(values: NumpyArray, start: NumpyArray) -> NumpyArray:
    """The values with each NaN replaced by the last value before it in its episode, if there is one."""
    first = np.repeat(start[:-1], np.diff(start))
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last >= first, values[np.maximum(last, 0)], np.float32(np.nan))
