"""Times that a log writes as text: the order of day and month, patterns, and time zones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stitchrl.data.file_rules import DAY_FIRST, MONTH_FIRST, FileRules
from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = ["in_utc", "times_of_text"]

CLOCK = (
    r"(?:[T ,]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:\.\d+)?))?)?"
    r"\s*(?P<half>[AaPp])?(?:\.?[Mm]\.?)?\s*(?P<zone>Z|UTC|[+-]\d{2}:?\d{2})?\s*$"
)
YEAR_FIRST = r"^\s*(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})" + CLOCK
YEAR_LAST = r"^\s*(?P<first>\d{1,2})(?P<sign>[-/.])(?P<second_>\d{1,2})[-/.](?P<year>\d{4}|\d{2})" + CLOCK
DAY = 86_400_000_000
"""Microseconds of a day."""


class _Parts(NamedTuple):
    """The parts of a block of times: (n,) numbers each, -1 where a part is missing.

    Attributes:
        year_last: whether the year stands last, so that `month` and `day` are the first and the second number.
        pointed: whether points stand between the numbers.
        year, month, day: of the date.
        clock: microseconds since midnight.
        offset: microseconds by which the zone is ahead of UTC.
        zoned: whether the time names its zone.
    """

    year_last: NumpyArray
    pointed: NumpyArray
    year: NumpyArray
    month: NumpyArray
    day: NumpyArray
    clock: NumpyArray
    offset: NumpyArray
    zoned: NumpyArray


def times_of_text(blocks: Sequence[pa.Array], called: str, rules: FileRules) -> tuple[NumpyArray, list[str]]:
    """The times that the text of a whole column means, in microseconds, and what was assumed.

    Args:
        blocks: of the column, without missing values.
        called: what messages call the column.
        rules: what is known of how it is written.

    Raises:
        DataError: a value is no date, or nothing tells its day from its month.
    """
    if rules.dates is not None and "%" in rules.dates:
        return _by_pattern(blocks, called, rules.dates, rules.timezone)
    parts = [_parts(block, called, row) for block, row in zip(blocks, _rows(blocks), strict=True)]
    whole = _Parts(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    order, notes = _order(whole, blocks, called, rules)
    month, day = whole.month, whole.day
    if order == DAY_FIRST:
        month, day = (np.where(whole.year_last, a, b) for a, b in ((day, month), (month, day)))
    with np.errstate(over="ignore"):
        months = (whole.year - 1970).astype("M8[Y]").astype("M8[M]") + (np.clip(month, 1, 12) - 1)
        dates = months.astype("M8[D]") + (day - 1)
    bad = (month < 1) | (month > 12) | (dates.astype("M8[M]") != months)
    if bad.any():
        row = int(np.argmax(bad))
        also = f" with the {order}" if whole.year_last[row] and order else ""
        raise DataError(f"{called} must be dates; there is no {shown(_value(blocks, row))}{also}, in row {row}.")
    times = dates.astype("M8[us]") + whole.clock - whole.offset
    if rules.timezone is None and whole.zoned.any() and not whole.zoned.all():
        row = int(np.argmin(whole.zoned))
        raise DataError(
            f"{called} names a time zone in some rows only; row {row} has {shown(_value(blocks, row))}. Say by `timezone` under "
            "[file] of the schema to which zone such times belong."
        )
    if rules.timezone is not None and not whole.zoned.all():
        local, said = in_utc(times[~whole.zoned], rules.timezone)
        times[~whole.zoned] = local
        notes += said
    return times, notes


def in_utc(times: NumpyArray, timezone: str) -> tuple[NumpyArray, list[str]]:
    """Clock times of a zone in UTC, and what was assumed. An hour that a clock shows twice is taken for the first."""
    local = pa.array(times.astype("M8[us]"))
    first, last = (
        pc.assume_timezone(local, timezone, ambiguous=which, nonexistent=which).cast(pa.timestamp("us")).to_numpy()
        for which in ("earliest", "latest")
    )
    notes = [f"Times were taken to be of {timezone}, and became UTC."]
    twice = int((first != last).sum())
    if twice:
        notes.append(
            f"{twice:,} times lie in an hour that the clocks of {timezone} show twice or never; the first is taken."
        )
    return first, notes


def _rows(blocks: Sequence[pa.Array]) -> list[int]:
    """The number of the first row of each block."""
    return [0, *np.cumsum([len(block) for block in blocks])[:-1].tolist()]


def _value(blocks: Sequence[pa.Array], row: int) -> str:
    """The text of a row."""
    return str(pa.chunked_array(blocks)[row].as_py())


def _by_pattern(
    blocks: Sequence[pa.Array], called: str, pattern: str, timezone: str | None
) -> tuple[NumpyArray, list[str]]:
    """The times of text that a pattern describes."""
    text = pa.chunked_array(blocks)
    times = pc.strptime(pc.utf8_trim_whitespace(text), format=pattern, unit="us", error_is_null=True)
    if times.null_count:
        row = int(np.argmax(times.is_null().to_numpy()))
        raise DataError(
            f"{called} must be dates of the pattern {shown(pattern)}; got {shown(text[row].as_py())} in row {row}."
        )
    values = times.to_numpy().astype("M8[us]")
    return in_utc(values, timezone) if timezone is not None else (values, [])


def _parts(text: pa.Array, called: str, row: int) -> _Parts:
    """The parts of each time of a block whose first row is number `row` of the log."""
    text = text.cast(pa.string())
    front, back = pc.extract_regex(text, YEAR_FIRST), pc.extract_regex(text, YEAR_LAST)
    year_last = back.is_valid().to_numpy(zero_copy_only=False)
    known = front.is_valid().to_numpy(zero_copy_only=False) | year_last
    if not known.all():
        at = int(np.argmin(known))
        raise DataError(
            f"{called} must be numbers or dates; got {shown(text[at].as_py())} in row {row + at}. Write dates as "
            "2026-01-31 23:59:00, or give their pattern by `dates` under [file] of the schema."
        )

    def field(name: str, other: str | None = None) -> pa.Array:
        values = pc.coalesce(pc.struct_field(front, name), pc.struct_field(back, other or name))
        return pc.if_else(pc.equal(values, ""), None, values)

    def number(name: str, other: str | None = None, missing: float = 0) -> NumpyArray:
        return field(name, other).cast(pa.float64()).fill_null(float(missing)).to_numpy(zero_copy_only=False)

    year = number("year")
    year = np.where(year < 69, year + 2000, np.where(year < 100, year + 1900, year))
    hour, half = (
        number("hour"),
        pc.utf8_lower(field("half")).to_pylist() if field("half").null_count < len(text) else None,
    )
    if half is not None:
        afternoon = np.array([letter == "p" for letter in half])
        hour = np.where([letter is not None for letter in half], hour % 12 + 12 * afternoon, hour)
    clock = (hour * 3600 + number("minute") * 60 + number("second")) * 1e6
    if (clock >= DAY + 1e6).any() or (number("minute") > 59).any() or (number("second") >= 61).any():
        at = int(np.argmax((clock >= DAY + 1e6) | (number("minute") > 59) | (number("second") >= 61)))
        raise DataError(f"{called} must be dates; there is no {shown(text[at].as_py())}, in row {row + at}.")
    zone = field("zone")
    offset = np.zeros(len(text), np.int64)
    if zone.null_count < len(text):
        offset = np.array([_ahead(value) for value in zone.to_pylist()], np.int64)
    sign = pc.struct_field(back, "sign").fill_null("").to_numpy(zero_copy_only=False)
    whole = {"month": number("month", "first"), "day": number("day", "second_")}
    return _Parts(
        year_last,
        sign == ".",
        year.astype(np.int64),
        whole["month"].astype(np.int64),
        whole["day"].astype(np.int64),
        np.round(clock).astype(np.int64),
        offset,
        zone.is_valid().to_numpy(zero_copy_only=False),
    )


def _ahead(zone: str | None) -> int:
    """Microseconds by which a zone such as +01:00 is ahead of UTC."""
    if zone is None or zone in ("Z", "UTC"):
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[-2:])
    return (-1 if zone[0] == "-" else 1) * minutes * 60_000_000


def _order(parts: _Parts, blocks: Sequence[pa.Array], called: str, rules: FileRules) -> tuple[str | None, list[str]]:
    """Whether the day or the month stands first where the year stands last, and a note; None if no year stands last."""
    last = parts.year_last
    if not last.any():
        return None, []
    if rules.dates is not None:
        return rules.dates, []
    first_large, second_large = bool((parts.month[last] > 12).any()), bool((parts.day[last] > 12).any())
    row = (
        int(np.argmax(last & ((parts.month > 12) | (parts.day > 12))))
        if first_large or second_large
        else int(np.argmax(last))
    )
    example = shown(_value(blocks, row))
    if first_large and second_large:
        raise DataError(
            f"{called} holds dates with the day first and others with the month first, such as {example} in row {row}; write all "
            "of them alike."
        )
    if not (first_large or second_large or parts.pointed[last].all()):
        raise DataError(
            f'{called} holds {example}, and no row tells days from months: say `dates = "{DAY_FIRST}"` or '
            f'`dates = "{MONTH_FIRST}"` under [file] of the schema.'
        )
    order = MONTH_FIRST if second_large else DAY_FIRST
    return order, [f"Times such as {example} were read with the {order}."]
