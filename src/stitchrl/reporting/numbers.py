"""How the numbers of a page are written, and which of them are numbers at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

__all__ = ["DECIMALS", "Json", "decimals_for", "is_number", "number", "percent", "short", "signed"]

Json = Mapping[str, Any]
DECIMALS, MOST_DECIMALS = 3, 9
"""Places after the point by default, and at most."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number (null, NaN and infinities are not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, decimals: int = 3, sign: bool = False) -> str:
    """`value` with a true minus sign and thousands separators; a dash when there is none."""
    if not is_number(value):
        return "–"  # noqa: RUF001
    text = f"{abs(value):,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return ("−" if value < 0 else "+" if sign else "") + text  # noqa: RUF001


def short(value: Any) -> str:
    """`value` with four significant digits, for numbers of any size; a dash when there is none."""
    if not is_number(value):
        return number(None)
    size = abs(value)
    text = f"{size:,.0f}" if 1e4 <= size < 1e12 else f"{size:.4g}"
    return ("\N{MINUS SIGN}" if value < 0 else "") + text


def percent(share: Any, decimals: int = 1) -> str:
    """A share of 1 as percent; a dash when there is none. A share too small for the decimals is written as "<0.1%"."""
    if not is_number(share):
        return number(None)
    smallest = 10.0**-decimals
    if 0 < 100.0 * share < smallest / 2:
        return f"<{number(smallest, decimals)}%"
    return f"{number(100.0 * share, decimals)}%"


def decimals_for(intervals: Iterable[Json]) -> int:
    """Places after the point that show two significant digits of the typical width of some intervals.

    Widths from 0.01 to 1 keep the usual `DECIMALS`, as do numbers without any interval.
    """
    ends = [(interval["lower"], interval["upper"]) for interval in intervals]
    widths = sorted(upper - lower for lower, upper in ends if is_number(lower) and is_number(upper) and upper > lower)
    if not widths:
        return DECIMALS
    exponent = math.floor(math.log10(widths[len(widths) // 2]) + 1e-9)
    return DECIMALS if exponent in (-1, -2) else min(MOST_DECIMALS, max(0, 1 - exponent))


def signed(value: Any, decimals: int = 2) -> str:
    """A number with its sign, also where it is positive."""
    return number(value, decimals, sign=True)
