"""Tools for formats that store arrays: checks of declared sizes, lengths and flags, and cutting pieces into blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, LogSource
from stitchrl.types import NumpyArray

__all__ = [
    "Declared",
    "action_count",
    "as_flags",
    "check_lengths",
    "described",
    "in_blocks",
    "one_number_a_row",
    "one_or_several",
]

HARMLESS_BYTES = 2**26
"""Sizes up to this are never refused."""
MOST_TIMES = 1100
"""The largest plausible ratio of data to file size: DEFLATE, the strongest packing, shrinks zeros 1030 times."""


class Declared:
    """Adds up the sizes of the arrays that a file declares, before memory is allocated for them.

    Args:
        origin: name of the file.
        file_bytes: size of the file.
    """

    def __init__(self, origin: str, file_bytes: int) -> None:
        self._origin, self._file_bytes, self._total = origin, file_bytes, 0

    def add(self, what: str, shape: Sequence[int], item_bytes: int) -> None:
        """Count one more array.

        Args:
            what: what the message calls the array.
            shape: its declared shape.
            item_bytes: bytes of one of its numbers.

        Raises:
            DataError: the arrays so far would be larger than anything that can be packed into the file.
        """
        self._total += math.prod(int(n) for n in shape) * max(int(item_bytes), 1)
        if min((int(n) for n in shape), default=0) < 0 or self._total > max(
            HARMLESS_BYTES, MOST_TIMES * self._file_bytes
        ):
            raise DataError(
                f"{self._origin} declares {what} of shape {tuple(shape)}, which its {self._file_bytes:,} bytes cannot "
                "hold; it is damaged or made to fill memory."
            )


def in_blocks(pieces: Iterable[Mapping[str, NumpyArray]], origin: str) -> Iterator[Block]:
    """Join and cut pieces of any number of rows, mostly episodes, into blocks.

    Raises:
        DataError: two pieces do not fit together, or the columns of a piece differ in length.
    """
    held: list[Mapping[str, NumpyArray]] = []
    rows = 0
    for piece in pieces:
        count = check_lengths({name: len(values) for name, values in piece.items()}, origin)
        if rows and rows + count > BLOCK_ROWS:
            yield _joined(held, origin)
            held, rows = [], 0
        if count > BLOCK_ROWS:
            for start in range(0, count, BLOCK_ROWS):
                yield {name: values[start : start + BLOCK_ROWS] for name, values in piece.items()}
        elif count:
            held.append(piece)
            rows += count
    if held:
        yield _joined(held, origin)


def _joined(pieces: list[Mapping[str, NumpyArray]], origin: str) -> Block:
    """The pieces as one block. Raises DataError where a column changes its shape."""
    first = pieces[0]
    for piece in pieces:
        for name, values in piece.items():
            if values.shape[1:] != first[name].shape[1:]:
                raise DataError(
                    f"{name} of {origin} must have one shape in all episodes; it has {first[name].shape[1:]} and "
                    f"{values.shape[1:]}."
                )
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in first}


def check_lengths(lengths: Mapping[str, int], origin: str) -> int:
    """The number of rows, given the length of each column.

    Raises:
        DataError: the lengths differ.
    """
    counts = set(lengths.values())
    if len(counts) > 1:
        usual = max(counts, key=list(lengths.values()).count)
        others = [f"{name} {count:,}" for name, count in lengths.items() if count != usual]
        same = next(name for name, count in lengths.items() if count == usual)
        raise DataError(
            f"Columns of {origin} must have one row a transition; {same} has {usual:,}, but {', '.join(others[:6])}."
        )
    return next(iter(counts), 0)


def described(origin: str, columns: Mapping[str, str | tuple[str, ...]], **settings: Any) -> Schema:
    """The schema that a format gives its columns; `settings` are those of `Schema`.

    Raises:
        SchemaError: what the file says does not make a schema; the message names the file.
    """
    try:
        return Schema(columns, **settings)
    except SchemaError as error:
        raise SchemaError(f"{origin}: {error}") from None


def action_count(source: LogSource, name: str, mark: str = "") -> int | None:
    """The number of discrete actions in a column of one integer a row: the largest + 1. None for any other column.

    Args:
        source: the log.
        name: of its action column.
        mark: name of a column of flags, if any; rows where it is 0 do not count.
    """
    largest = -1
    for block in source.blocks([name, mark] if mark else [name]):
        values = np.asarray(block[name])
        if values.ndim != 1 or values.dtype.kind not in "iub":
            return None
        values = values[np.asarray(block[mark]) != 0] if mark else values
        largest = max(largest, int(values.max(initial=-1)))
    return max(largest + 1, 2)


def as_flags(values: NumpyArray, name: str, origin: str) -> Bool[NumpyArray, " n"]:
    """A column of 0 and 1 as bools. Raises DataError if it holds anything else."""
    known = values.ndim == 1 and (
        values.dtype.kind == "b" or (values.dtype.kind in "iuf" and np.isin(values, (0, 1)).all())
    )
    if not known:
        raise DataError(f"{name} of {origin} must be true or false (or 1 and 0), one a row; got {_shown(values)}.")
    return values.astype(bool, copy=False)


def _shown(values: NumpyArray) -> str:
    """What a column holds, for a message."""
    return f"{values.dtype} of shape {values.shape}" if values.ndim != 1 else f"values like {values[:3].tolist()}"


def one_number_a_row(values: NumpyArray) -> Shaped[NumpyArray, "n ..."]:
    """An array of shape (n, 1) as (n,); any other as it is."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def one_or_several(names: tuple[str, ...]) -> str | tuple[str, ...]:
    """What a schema holds for a role: the name of its column, or the names of several."""
    return names[0] if len(names) == 1 else names
