"""How the text of a column writes numbers: with a decimal comma, with signs between groups of three digits."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["SEPARATORS", "Seen", "Style", "points_may_group"]

SPACES = " \u00a0\u202f"
SEPARATORS = {",": "a comma", ".": "a point", " ": "a space", "'": "an apostrophe"}
"""Signs between groups of three digits, and what notes call them."""
CERTAIN_COMMA = r"(?:^|[^0-9])0,[0-9]|,[0-9]{1,2}(?:[eE]|\s*$)|,[0-9]{4}|[0-9]{4},|[. '][0-9]{3},|(?:^|[+-]),"
"""Matches numbers whose comma cannot stand between groups of three digits."""
POINTED = r"^\s*[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+\s*$"
SHORT = r"^\s*[+-]?(0|[1-9][0-9]{0,2})\s*$"
"""Matches numbers whose points may stand between groups of three digits, and whole numbers that need no such point."""


class Style(NamedTuple):
    """How a column writes numbers.

    Attributes:
        decimal: between the whole part and the decimals.
        thousands: between groups of three digits; empty if there are none.
        whole: whether all numbers of the column are whole.
    """

    decimal: str
    thousands: str
    whole: bool = False

    def pattern(self) -> str:
        """Matches what is a number in this style and has no leading zeros."""
        groups = f"[1-9][0-9]{{0,2}}(?:{_class(self.thousands)}[0-9]{{3}})+|" if self.thousands else ""
        decimals = f"[{self.decimal}][0-9]+"
        return rf"^\s*[+-]?(?:(?:{groups}0|[1-9][0-9]*)(?:{decimals})?|{decimals})(?:[eE][+-]?[0-9]+)?\s*$"

    def numbers(self, text: pa.Array) -> pa.Array:
        """The numbers that a column's text means. Raises ArrowInvalid where a value is none."""
        text = pc.utf8_trim_whitespace(text)
        if self.thousands:
            text = pc.replace_substring_regex(text, _class(self.thousands), "")
        if self.decimal != ".":
            text = pc.replace_substring(text, self.decimal, ".")
        return pc.replace_substring_regex(text, r"^\+", "").cast(pa.int64() if self.whole else pa.float64())


class Seen:
    """What the blocks of one column have shown so far of how it may write its numbers.

    Args:
        decimal: between whole parts and decimals in this file, as far as is known.
        thousands: what may stand between groups of three digits.
        commas: whether a decimal comma is looked for as well.

    Attributes:
        styles: the styles in which every value so far is a number.
        certain: whether some comma can only be a decimal one.
        example: a value that is text, and the row of it.
        pointed: whether every value so far may have points between groups of three digits, or needs none.
    """

    def __init__(self, decimal: str, thousands: tuple[str, ...], *, commas: bool) -> None:
        styles = [Style(decimal, sign) for sign in thousands]
        self.styles = [*styles, *([Style(",", "any")] if commas else [])]
        self.certain, self._whole, self.example = False, True, ("", 0)
        self._rows = 0
        self.pointed = True

    def add(self, column: pa.Array) -> None:
        """Look at the next block of the column; where it is not text, how its numbers are written is known."""
        row, self._rows = self._rows, self._rows + len(column)
        self.pointed = self.pointed and (pa.types.is_null(column.type) or _may_be_grouped(column))
        if not self.styles or pa.types.is_null(column.type) or pa.types.is_integer(column.type):
            return
        if pa.types.is_floating(column.type):
            self._whole = False
            return
        if not pa.types.is_string(column.type):
            self.styles = []
            return
        values = column.drop_null()
        first = values[:1]  # decides for most columns of text
        self.styles = [style for style in self.styles if _all(first, style.pattern()) and _all(values, style.pattern())]
        if not self.styles:
            return
        if not self.example[0]:
            sign = "." if self.pointed else ","
            at = pc.index(pc.match_substring(column, sign).fill_null(False), True).as_py()
            at = max(at, 0)
            self.example = (column[at].as_py() or values[0].as_py(), row + at)
        decimals = "[eE.]" if any(style.decimal == "." for style in self.styles) else "[eE,]"
        self._whole = self._whole and not _any(values, decimals)
        if any(style.thousands == "any" for style in self.styles):
            self.certain = self.certain or _any(values, CERTAIN_COMMA)

    @property
    def comma(self) -> bool:
        """Whether all numbers so far may be written with a decimal comma; `certain` says whether they must be."""
        return any(style.thousands == "any" for style in self.styles)

    def style(self) -> Style | None:
        """The style with signs between groups of three digits; None if there is none."""
        grouped = next((style for style in self.styles if style.thousands != "any"), None)
        return None if grouped is None else grouped._replace(whole=self._whole)


def points_may_group(column: pa.Array) -> bool:
    """Whether the points in a column of text may stand between groups of three digits.

    All numbers with a point have exactly three digits after it, and whole numbers of up to three digits stand beside them
    without one: no program that writes decimals writes 2.260 and 965 in one column.
    """
    if not pa.types.is_string(column.type):
        return False
    values = column.drop_null()
    return _any(values, POINTED) and _any(values, SHORT) and _may_be_grouped(column)


def _may_be_grouped(column: pa.Array) -> bool:
    """Whether every value may have points between groups of three digits, or needs none."""
    if pa.types.is_integer(column.type):
        return bool((np.abs(column.drop_null().to_numpy()) < 1000).all())
    if not pa.types.is_string(column.type):
        return False
    return _all(column.drop_null(), f"{POINTED}|{SHORT}")


def _class(thousands: str) -> str:
    """Matches one sign between groups of three digits."""
    signs = {"any": f"[.'{SPACES}]", " ": f"[{SPACES}]"}
    return signs.get(thousands, re.escape(thousands))


def _all(values: pa.Array, pattern: str) -> bool:
    """Whether every value matches."""
    return pc.all(pc.match_substring_regex(values, pattern), min_count=0).as_py()


def _any(values: pa.Array, pattern: str) -> bool:
    """Whether some value matches."""
    return pc.any(pc.match_substring_regex(values, pattern), min_count=0).as_py()
