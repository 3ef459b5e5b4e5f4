"""Rows are handed to a compiled function in pieces of one shape, so that it compiles once."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["pieces"]


def pieces(count: int, at_once: int) -> Iterator[tuple[int, int, int]]:
    """(first row asked, first row kept, end) of each piece; the last piece begins earlier, with rows that are known already."""
    for start in range(0, count, at_once):
        first = max(0, min(start, count - at_once))
        yield first, start, min(first + at_once, count)
