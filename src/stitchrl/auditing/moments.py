"""Statistics of the columns of a matrix, accumulated block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from stitchrl.types import NumpyArray

__all__ = ["BLOCK_ROWS", "PARTS", "Accumulator", "Moments", "NotFinite", "blocks", "count_rows"]

BLOCK_ROWS = 2**16
"""Rows in a block."""
BLOCK_NUMBERS = 2**24
"""Numbers in a block of a wide array, 128 MB as float64."""
PARTS = 10
"""The log is cut into this many equal parts, early to late."""


def blocks(count: int, columns: int = 1) -> Iterator[slice]:
    """Slices that cover `count` rows, at most `BLOCK_ROWS` at a time, and fewer where rows have many columns."""
    step = max(1, min(BLOCK_ROWS, BLOCK_NUMBERS // max(columns, 1)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def count_rows(count: int, wrong: Callable[[slice], NumpyArray]) -> tuple[int, int]:
    """How many of `count` rows are wrong, and the first of them (-1 for none); `wrong` tells it for the rows of a block."""
    found, first = 0, -1
    for rows in blocks(count):
        here = wrong(rows)
        found += int(here.sum())
        if first < 0 and here.any():
            first = rows.start + int(here.argmax())
    return found, first


@dataclasses.dataclass
class NotFinite:
    """Counts of the values of each column that are not finite.

    Attributes:
        missing, infinite: (D,) number of NaN values and of infinities.
        first_missing, first_infinite: the first row that has one, -1 for none.
    """

    missing: NumpyArray
    infinite: NumpyArray
    first_missing: int
    first_infinite: int


@dataclasses.dataclass
class Moments(NotFinite):
    """Statistics of the columns of a matrix; values that are not finite are counted separately.

    Attributes:
        low, high, mean, spread: (D,) smallest, largest, mean and standard deviation of the finite values.
        part_mean: (PARTS, D) mean in each part of the log, early to late.
    """

    low: NumpyArray
    high: NumpyArray
    mean: NumpyArray
    spread: NumpyArray
    part_mean: NumpyArray


class Accumulator:
    """Accumulates `Moments` block by block, about a provisional mean, so that small spreads survive large means."""

    def __init__(self, columns: int) -> None:
        self.missing, self.infinite = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
        self.low, self.high = np.full(columns, np.inf), np.full(columns, -np.inf)
        self.shift: NumpyArray | None = None
        self.total, self.square = np.zeros((PARTS, columns)), np.zeros(columns)
        self.count = np.zeros((PARTS, columns))
        self.first = [-1, -1]

    def add(self, block: NumpyArray, part: NumpyArray, start: int) -> None:
        """Add a block of rows: `part` (rows,) is the part of the log of each row, `start` the number of its first row."""
        values = block.astype(np.float64)
        first = int(part[0])
        membership = None  # in a log without times, nearly every block lies in one part
        if (part != first).any():
            membership = (part[None] == np.arange(PARTS)[:, None]).astype(np.float64)
        if np.isfinite(values.sum()):
            self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))
            if self.shift is None:
                self.shift = values.mean(0)
            values -= self.shift
            if membership is None:
                self.count[first] += len(values)
            else:
                self.count += membership.sum(1)[:, None]
        else:
            finite, missing = np.isfinite(values), np.isnan(values)
            for k, bad in enumerate((missing, ~finite & ~missing)):
                (self.missing, self.infinite)[k][:] += bad.sum(0)
                if self.first[k] < 0 and bad.any():
                    self.first[k] = start + int(np.flatnonzero(bad.any(1))[0])
            self.low = np.minimum(self.low, np.where(finite, values, np.inf).min(0))
            self.high = np.maximum(self.high, np.where(finite, values, -np.inf).max(0))
            if self.shift is None:
                self.shift = np.where(finite, values, 0).sum(0) / np.maximum(finite.sum(0), 1)
            values = np.where(finite, values - self.shift, 0)
            if membership is None:
                self.count[first] += finite.sum(0)
            else:
                self.count += membership @ finite
        if membership is None:
            self.total[first] += values.sum(0)
        else:
            self.total += membership @ values
        self.square += np.einsum("ij,ij->j", values, values)

    def moments(self) -> Moments:
        """The statistics of all rows added so far."""
        shift = np.zeros(len(self.low)) if self.shift is None else self.shift
        count, total = np.maximum(self.count.sum(0), 1), self.total.sum(0)
        mean = total / count
        spread = np.sqrt(np.maximum(self.square / count - mean**2, 0))
        none = self.count.sum(0) == 0
        low, high = np.where(none, 0, self.low), np.where(none, 0, self.high)
        spread = np.where(high > low, spread, 0.0)
        part_mean = self.total / np.maximum(self.count, 1) + shift
        return Moments(
            self.missing,
            self.infinite,
            self.first[0],
            self.first[1],
            low,
            high,
            mean + shift,
            spread,
            np.where(self.count > 0, part_mean, mean + shift),
        )
