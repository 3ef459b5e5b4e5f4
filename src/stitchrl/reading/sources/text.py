"""Tools for formats of text lines: blocks of whole lines, and a type that holds the values of all blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from stitchrl.errors import DataError
from stitchrl.messages import printable
from stitchrl.reading.sources.compressed import unpacked

__all__ = ["MOST_COLUMNS", "line_blocks", "wider"]

BLOCK_BYTES = 2**22
"""About how many bytes a block of lines has."""
LONGEST_LINE = 2**24
"""The most bytes of a line; a row of a million numbers has no more."""
MOST_COLUMNS = 2**15
"""The most columns; Arrow would take minutes to read a million."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def line_blocks(path: Path) -> Iterator[bytes]:
    """The lines of a file in blocks of whole lines, about `BLOCK_BYTES` each. Blocks of white space are left out.

    Raises:
        DataError: a line is longer than `LONGEST_LINE`, or the first bytes say that the text is not UTF-8.
    """
    held: list[bytes] = []
    size, first = 0, True
    for piece in unpacked(path):
        if first:
            first = False
            if piece[:2] in OTHER_ENCODINGS:
                raise DataError(f"{printable(path.name)} is {OTHER_ENCODINGS[piece[:2]]} text; save it as UTF-8.")
            piece = piece.removeprefix(BYTE_ORDER_MARK)
        held.append(piece)
        size += len(piece)
        if size < BLOCK_BYTES:
            continue
        end = piece.rfind(b"\n") + 1
        if end:
            block = b"".join((*held[:-1], piece[:end]))
            held, size = [piece[end:]], len(piece) - end
            if block.strip():
                yield block
        elif size > LONGEST_LINE:
            raise DataError(
                f"{printable(path.name)} has a line of more than {LONGEST_LINE:,} bytes; a log has one line a row."
            )
    last = b"".join(held)
    if last.strip():
        yield last


def wider(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both types, or None if there is no such type.

    Dates in one block and other text in the next become text.
    """
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in (a, b)):
        return pa.float64()
    if pa.types.is_list(a) and pa.types.is_list(b):
        inner = wider(a.value_type, b.value_type)
        return None if inner is None else pa.list_(inner)
    dates = [pa.types.is_date(t) or pa.types.is_timestamp(t) for t in (a, b)]
    if all(dates):
        finest = any(pa.types.is_timestamp(t) and t.unit == "ns" for t in (a, b))
        return pa.timestamp("ns" if finest else "s", tz=next((t.tz for t in (a, b) if pa.types.is_timestamp(t)), None))
    if any(pa.types.is_string(t) or date for t, date in zip((a, b), dates, strict=True)) and all(
        pa.types.is_string(t) or date for t, date in zip((a, b), dates, strict=True)
    ):
        return pa.string()
    return None
