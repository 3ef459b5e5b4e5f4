"""Checks of values that formats hold: finite numbers, whole numbers, flags and bounds. Messages name column and row."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.encoding.columns import Where
from stitchrl.encoding.words import FALSE_WORDS, TRUE_WORDS
from stitchrl.errors import DataError
from stitchrl.messages import listed, printable, shown
from stitchrl.types import NumpyArray

__all__ = [
    "LARGEST_WHOLE",
    "as_bools",
    "check_within",
    "finite_numbers",
    "float32",
    "is_rounded",
    "such_values",
    "whole_numbers",
]

LARGEST_WHOLE = 2**24
"""The largest whole number up to which 32-bit floats are exact."""


def finite_numbers(values: NumpyArray, where: Where, *, gaps: bool = False) -> Float[NumpyArray, "n ..."]:
    """The values as finite float32 numbers; with `gaps`, NaN is allowed and stands for a missing value.

    Raises:
        DataError: a value is no number, or not finite.
    """
    if values.dtype.kind not in "biuf":
        flat = values.reshape(-1)
        at = next((i for i, value in enumerate(flat.tolist()) if not _is_number(value)), None)
        seen = "text" if at is None else f"{shown(flat[at])} in row {where.row + at * len(values) // values.size}"
        named = where.role == "observation" and values.ndim == 1 and values.dtype.kind == "U"
        also = (
            f" If these are names, list them: `categories` under [observation.{printable(where.name)}]."
            if named
            else ""
        )
        raise DataError(f"{where.called} must be numbers; got {seen}.{also}")
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32, copy=False)  # numbers too large for float32 become infinite
        # A finite sum proves in one pass, without a copy, that every value is finite.
        if np.isfinite(values.sum(dtype=np.float32)):
            return values
    bad = np.isinf(values) if gaps else ~np.isfinite(values)
    if bad.any():
        at = np.argwhere(bad)[0]
        seen = "NaN" if np.isnan(values[tuple(at)]) else "infinity"
        raise DataError(
            f"{where.called} must be finite; found {seen} in row {where.row + at[0]} "
            f"({such_values(int(bad.sum()))}). Correct these episodes, or leave them out of the log, first."
        )
    return values


def is_rounded(values: NumpyArray) -> bool:
    """Whether integers are too large for float32 to tell neighbours apart."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize <= 2 or not values.size:
        return False
    return max(int(values.max()), -int(values.min())) > LARGEST_WHOLE


def whole_numbers(raw: NumpyArray, count: int, where: Where) -> NumpyArray:
    """The values, checked to be whole numbers from 0 to `count` - 1.

    Raises:
        DataError: a value is none of them.
    """
    values = raw.astype(np.int64) if raw.dtype.kind == "b" else raw
    outside = (values < 0) | (values >= count)
    if values.dtype.kind == "f":
        outside |= values != np.floor(values)
    if outside.any():
        at = int(np.argmax(outside))
        raise DataError(
            f"{where.called} must be an integer from 0 to {count - 1}; got {shown(raw[at])} in row "
            f"{where.row + at} ({such_values(int(outside.sum()))}). Correct `count` under [action] or the log."
        )
    return values


def as_bools(values: NumpyArray, where: Where) -> Bool[NumpyArray, "n ..."]:
    """The values as bools; 1 and 0 count as true and false, and what is text is refused.

    Raises:
        DataError: a value is anything else.
    """
    if values.dtype.kind == "b":
        return values
    wrong: NumpyArray = np.ones(len(values), bool)
    if values.dtype.kind in "iuf":
        wrong = ((values != 0) & (values != 1)).reshape(len(values), -1).any(axis=1)
    elif values.dtype.kind == "U":
        words = np.isin(np.char.lower(np.char.strip(values)), [*TRUE_WORDS, *FALSE_WORDS]).reshape(len(values), -1)
        wrong = wrong if words.all() else np.logical_not(words.all(axis=1))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"{where.called} must be true or false (or 1 and 0); got {shown(values[at].tolist())} in row "
            f"{where.row + at}.{_ends_in_words(values, where)}"
        )
    return values.astype(bool)


def _ends_in_words(values: NumpyArray, where: Where) -> str:
    """The way out where a column of ends holds words."""
    if values.dtype.kind != "U" or where.role not in ("terminated", "truncated"):
        return ""
    words = f"[{listed((repr(str(word)) for word in np.unique(values)[:4]), 4)}]".replace("'", '"')
    return f" Under [episodes], list those of its words that mark an end: `{where.role}_values`, from {words}."


def check_within(
    values: NumpyArray,
    low: float | None,
    high: float | None,
    where: Where,
    *,
    way: str = "Correct the log or the bounds.",
) -> None:
    """Raise DataError where a value is outside the bounds; None is no bound. `way` is the last sentence, the way out."""
    if low is None and high is None:
        return
    outside = np.zeros(values.shape, bool)
    if low is not None:
        outside |= values < float32(low)
    if high is not None:
        outside |= values > float32(high)
    if outside.any():
        at = tuple(np.argwhere(outside)[0])
        lower, upper = "-inf" if low is None else f"{low:g}", "inf" if high is None else f"{high:g}"
        raise DataError(
            f"{where.called} must be in [{lower}, {upper}]; got {shown(values[at])} in row {where.row + at[0]} "
            f"({such_values(int(outside.sum()))}). {way}"
        )


def such_values(count: int) -> str:
    """How many values of a kind there are: "1 such value", "1,234 such values"."""
    return f"{count:,} such value{'' if count == 1 else 's'}"


def float32(values: Any) -> Any:
    """Bounds and edges as float32, the type in which they are compared with the values of the log."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)


def _is_number(value: Any) -> bool:
    """Whether a value, which may be text, can be read as a number."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
