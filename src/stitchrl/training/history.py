"""The metrics of a run in memory: columns that grow at their end, and rows for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stitchrl.errors import ConfigurationError
from stitchrl.types import NumpyArray

__all__ = ["History", "Rows"]

Rows = list[dict[str, Any]]
"""One row for each logged chunk and member: update, member, and each metric's mean over the chunk."""
SMALLEST = 64
OWN = ("update", "member")
"""Columns that every history has."""


class History:
    """Metrics in columns. Adding a chunk takes the same time however long the history is.

    Every metric in it is finite; NaN means that a row does not have the metric.
    """

    def __init__(self) -> None:
        self._length = 0
        self._update = np.zeros(SMALLEST, np.int64)
        self._member = np.zeros(SMALLEST, np.int64)
        self._metrics: dict[str, Float[NumpyArray, " capacity"]] = {}

    @classmethod
    def of(
        cls,
        update: Int[NumpyArray, " N"],
        member: Int[NumpyArray, " N"],
        metrics: Mapping[str, Float[NumpyArray, " N"]],
    ) -> History:
        """A history of these columns. Raises ValueError where their lengths or kinds differ."""
        history = cls()
        columns = {"update": np.asarray(update), "member": np.asarray(member)}
        if {column.shape for column in (*columns.values(), *metrics.values())} != {(len(columns["update"]),)}:
            raise ValueError("columns of the history differ in length")
        if any(column.dtype.kind != "i" for column in columns.values()):
            raise ValueError("updates and members of the history must be whole numbers")
        history._length = len(columns["update"])
        history._update, history._member = (column.astype(np.int64) for column in columns.values())
        history._metrics = {name: np.array(column, np.float64) for name, column in metrics.items()}
        return history

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> History:
        """A history of these rows, each with "update", "member" and its metrics."""
        rows = list(rows)
        names = dict.fromkeys(name for row in rows for name in row if name not in OWN)
        return cls.of(
            np.asarray([row["update"] for row in rows], np.int64),
            np.asarray([row["member"] for row in rows], np.int64),
            {name: np.asarray([row.get(name, np.nan) for row in rows], np.float64) for name in names},
        )

    def __len__(self) -> int:
        """Rows in it."""
        return self._length

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that any row has, in the order in which they came."""
        return tuple(self._metrics)

    def add(self, update: int, means: Mapping[str, Sequence[float]], members: Sequence[int]) -> None:
        """Add one row for each of these members: `means` has one number for every member of the run."""
        start, stop = self._length, self._length + len(members)
        self._grow(stop)
        chosen = np.asarray(members, np.int64)
        self._update[start:stop] = update
        self._member[start:stop] = chosen
        for name, values in means.items():
            if name not in self._metrics:
                if name in OWN:
                    raise ConfigurationError(
                        f"A metric must not be called {name!r}, which is a column of every row. Rename it."
                    )
                self._metrics[name] = np.full(len(self._update), np.nan)
            self._metrics[name][start:stop] = np.asarray(values, np.float64)[chosen]
        self._length = stop

    def columns(self, start: int = 0, stop: int | None = None) -> dict[str, NumpyArray]:
        """Columns of the rows [start, stop): "update", "member" and each metric. Views; not to be written to."""
        part = slice(start, self._length if stop is None else stop)
        named = {"update": self._update, "member": self._member} | self._metrics
        return {name: column[part] for name, column in named.items()}

    def rows(self, start: int = 0, *, members: Collection[int] | None = None) -> Rows:
        """Rows from `start` on, of these members or of all; each has the metrics that it was given."""
        columns = self._of_members(start, members)
        names = list(columns)
        lists = [column.tolist() for column in columns.values()]
        # What is not equal to itself is NaN.
        return [{n: v for n, v in zip(names, row, strict=True) if v == v} for row in zip(*lists, strict=True)]

    def of_members(self, members: Sequence[int]) -> History:
        """The rows of these members alone; the first of them is member 0 there, the next 1, and so on."""
        columns = self._of_members(0, members)
        number = np.zeros(1 + max([0, *members]), np.int64)
        number[list(members)] = np.arange(len(members))
        return History.of(columns.pop("update"), number[columns.pop("member")], columns)

    def _of_members(self, start: int, members: Collection[int] | None) -> dict[str, NumpyArray]:
        columns = self.columns(start)
        if members is None:
            return columns
        kept = np.isin(columns["member"], list(members))
        return {name: column[kept] for name, column in columns.items()}

    def _grow(self, length: int) -> None:
        """Make room for `length` rows. The room doubles, so that the cost of growing is linear in all."""
        if length <= len(self._update):
            return
        room = max(length, 2 * len(self._update), SMALLEST)

        def larger(column: NumpyArray, empty: float) -> NumpyArray:
            grown = np.full(room, empty, column.dtype)
            grown[: self._length] = column[: self._length]
            return grown

        self._update, self._member = larger(self._update, 0), larger(self._member, 0)
        self._metrics = {name: larger(column, np.nan) for name, column in self._metrics.items()}
