"""Columns behind the last one that the first line of a table names, as where every line ends with some delimiters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stitchrl.messages import listed

__all__ = ["notes_on_unnamed", "with_numbers_for_names"]


def with_numbers_for_names(fields: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of columns, in which the number of a column, counted from 0, stands for a name that is missing at the end of the
    first line; and those numbers alone."""
    named = len(fields)
    while named > 1 and not fields[named - 1].strip():
        named -= 1
    unnamed = tuple(_unused(str(k), fields) for k in range(named, len(fields)))
    return (*fields[:named], *unnamed), unnamed


def _unused(name: str, names: Sequence[str]) -> str:
    """A name, with "column" in front as often as another column has it."""
    while name in names:
        name = f"column {name}"
    return name


def notes_on_unnamed(empty: Sequence[str], filled: Sequence[str]) -> Iterator[str]:
    """What was done with columns without a name, a sentence each: those without any value, and the others."""
    if empty:
        several = f"{len(empty)} columns at the end have no name and no values, and were"
        yield f"{several if len(empty) > 1 else 'The last column has no name and no values, and was'} left out."
    if filled:
        what = "some columns at its end, which are" if len(filled) > 1 else "a column at its end, which is"
        yield (
            f"The first line has no name for {what} called {listed(map(repr, filled))} here, by number. Name all columns by "
            "`names` under [file]."
        )
