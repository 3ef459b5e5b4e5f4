"""Tools for formats of text lines: blocks of whole lines, and a type that holds the values of all blocks."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from stitchrl.errors import DataError
from stitchrl.messages import printable
from stitchrl.reading.sources.compressed import unpacked

__all__ = ["MOST_COLUMNS", "arrow_owned", "encoding_of", "line_blocks", "wider"]

BLOCK_BYTES = 2**22
"""About how many bytes a block of lines has."""
LONGEST_LINE = 2**24
"""The most bytes of a line; a row of a million numbers has no more."""
MOST_COLUMNS = 2**15
"""The most columns; Arrow would take minutes to read a million."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LOOKED_AT = 512
"""How many bytes of a file tell whether it is UTF-16 without a mark."""


def encoding_of(start: bytes) -> str:
    """The encoding that the first bytes of a text tell: UTF-16 by its mark or by its zeros, and UTF-8 for every other."""
    if start[:2] in UTF_16_MARKS:
        return "utf-16"
    first, second = start[0:LOOKED_AT:2], start[1:LOOKED_AT:2]
    if second and not any(second) and all(first):
        return "utf-16-le"  # every second byte of Latin text is zero there
    return "utf-16-be" if first and not any(first) and all(second) else "utf-8"


def line_blocks(path: Path, encoding: str | None = None, *, carriage_returns: bool = False) -> Iterator[bytes]:
    """The lines of a file as UTF-8 in blocks of whole lines, about `BLOCK_BYTES` each. Blocks of white space are left out.

    Args:
        path: the file.
        encoding: of its text; by default its first bytes tell. UTF-8 is not checked.
        carriage_returns: whether a carriage return ends a line where the file has no line feeds, as in old spreadsheets.

    Raises:
        DataError: a line is longer than `LONGEST_LINE`.
        UnicodeError: the text is not of this encoding.
    """
    held: list[bytes] = []
    size = 0
    alone = False
    for number, piece in enumerate(_utf8_pieces(path, encoding)):
        if number == 0:
            alone = carriage_returns and b"\n" not in piece and b"\r" in piece[:-1]
        if alone:
            piece = piece.replace(b"\r", b"\n")
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


def _utf8_pieces(path: Path, encoding: str | None) -> Iterator[bytes]:
    """The text of a file in pieces of UTF-8, without a byte order mark."""
    decoder = None
    for number, piece in enumerate(unpacked(path)):
        if number == 0:
            encoding = encoding_of(piece) if encoding is None else codecs.lookup(encoding).name
            if encoding not in ("utf-8", "utf-8-sig", "ascii"):
                decoder = codecs.getincrementaldecoder(encoding)()
            else:
                piece = piece.removeprefix(BYTE_ORDER_MARK)
        yield piece if decoder is None else decoder.decode(piece).encode()
    if decoder is not None:
        decoder.decode(b"", final=True)  # raises where a character is cut in two


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


def arrow_owned(content: bytes) -> pa.Buffer:
    """A copy of some bytes in memory that Arrow owns, for its readers with threads.

    A reader's thread may let go of what it read only when the interpreter is about to end. Of an object of Python's that takes
    the interpreter's lock, and then the whole process aborts ("terminate called without an active exception").
    """
    buffer = pa.allocate_buffer(len(content))
    np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(content, np.uint8)
    return buffer
