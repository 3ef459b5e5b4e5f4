"""The table that holds each observation once while a log is assembled."""

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
    return values.shape[1:] == held.shape[1:] and np.can_cast(values.dtype, held.dtype, "safe")


def index_of(new: New, name: str, start: int, stop: int) -> NumpyArray:
    kind = np.int32 if stop < 2**30 else np.int64  # half of what fits: next observations stand behind the others
    index = new(name, (stop - start,), kind)
    index[:] = np.arange(start, stop, dtype=kind)
    return index


class ObservationTable:
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
