"""The last known value of every episode, for columns in which a missing value counts as the one before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.encoding.columns import Block, Column
from stitchrl.errors import DataError
from stitchrl.messages import listed
from stitchrl.types import NumpyArray

__all__ = ["LastValues"]

PLAIN = ColumnRule()


class LastValues:
    """Fills missing values with the previous ones of their episode, block by block, in the order of the rows.

    Args:
        schema: of the policy.
        width: how many numbers an observation has.
        there: the columns that the log has.

    Attributes:
        columns: those that tell the episodes apart, and the step; none where nothing is filled.
    """

    def __init__(self, schema: Schema, width: int, there: set[str]) -> None:
        self.numbers, self.fill = _numbers_to_fill(schema, width)
        episode = schema.columns.get("episode", ())
        self._episode = [name for name in ((episode,) if isinstance(episode, str) else episode) if name in there]
        step = schema.columns.get("step", schema.columns.get("time"))
        self._step = step if isinstance(step, str) and step in there else None
        filling = bool(self.numbers.size and self._episode)
        self.columns = [*self._episode, *([self._step] if self._step else [])] if filling else []
        self._known: dict[tuple[str, ...], tuple[NumpyArray, Any]] = {}

    def filled(self, rows: NumpyArray, block: Block, first: int) -> NumpyArray:
        """The rows, with what is missing in the columns of "previous" filled; `first` is the number of the first row.

        Raises:
            DataError: the steps of an episode do not rise, so that it is not known which value is the previous one.
        """
        if not self.columns:
            return rows
        made = rows.copy()
        ids = zip(*(_values(block[name]) for name in self._episode), strict=True)
        steps = _values(block[self._step]) if self._step is not None else [None] * len(rows)
        for row, (episode, step) in enumerate(zip(ids, steps, strict=True)):
            key = tuple(map(str, episode))
            before, at = self._known.get(key, (self.fill, None))
            if step is not None and at is not None and not step > at:
                raise DataError(
                    f"The policy takes the previous value of the episode where one is missing, and the steps of episode "
                    f"{listed(key)} do not rise in row {first + row}. Sort the log by {listed(self.columns)}."
                )
            values = made[row, self.numbers]
            made[row, self.numbers] = values = np.where(np.isnan(values), before, values)
            self._known[key] = (values, step)
        return made


def _values(column: Column) -> list[Any]:
    found: list[Any] = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
    return found


def _numbers_to_fill(schema: Schema, width: int) -> tuple[NumpyArray, NumpyArray]:
    """Which numbers of an observation are filled so, and with what where no value comes before."""
    numbers, fill, place = list[int](), list[float](), 0
    columns = schema.observation_columns
    for name in columns:
        rule = schema.observations.get(name, PLAIN)
        size = width - rule.indicator if len(columns) == 1 else rule.width - rule.indicator
        if rule.missing == "previous":
            numbers += range(place, place + size)
            fill += [rule.fill if rule.categories is None else 0.0] * size
        place += size + rule.indicator
    return np.asarray(numbers, np.int64), np.asarray(fill, np.float32)
