"""Times as text: which number is the day, time zones, and what is no date."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from stitchrl.data.file_rules import FileRules
from stitchrl.errors import DataError
from stitchrl.reading.sources.dates import times_of_text


def times(*values: str, **rules: str) -> list[str]:
    """The times that these texts mean, each in a block of its own."""
    found, _ = times_of_text([pa.array([value]) for value in values], "time of x", FileRules(**rules))
    return [str(time) for time in found.astype("M8[s]")]


@pytest.mark.parametrize(
    ("values", "rules", "expected"),
    [
        (["31.12.2025", "1.2.2025 9:05"], {}, ["2025-12-31T00:00:00", "2025-02-01T09:05:00"]),
        (["01.02.2025"], {}, ["2025-02-01T00:00:00"]),  # points stand after the day
        (["1/2/2025", "31/12/2025"], {}, ["2025-02-01T00:00:00", "2025-12-31T00:00:00"]),
        (["1/2/2025", "12/31/2025"], {}, ["2025-01-02T00:00:00", "2025-12-31T00:00:00"]),
        (["1/2/2025"], {"dates": "day first"}, ["2025-02-01T00:00:00"]),
        (["1/2/2025"], {"dates": "month first"}, ["2025-01-02T00:00:00"]),
        (["31.12.68", "31.12.69"], {}, ["2068-12-31T00:00:00", "1969-12-31T00:00:00"]),
        (["12/31/2025 12:30 AM", "12/31/2025 12:30 pm"], {}, ["2025-12-31T00:30:00", "2025-12-31T12:30:00"]),
        (["2024-02-29 23:59:58", "2024/3/1"], {}, ["2024-02-29T23:59:58", "2024-03-01T00:00:00"]),
        (["2025-01-01T01:00+02:00", "2025-01-01T01:00Z"], {}, ["2024-12-31T23:00:00", "2025-01-01T01:00:00"]),
        (["2025-07-01 12:00", "2025-07-01Z"], {"timezone": "Europe/Berlin"}, ["2025-07-01T10:00:00", "2025-07-01T00:00:00"]),
        (["20250131-0905"], {"dates": "%Y%m%d-%H%M"}, ["2025-01-31T09:05:00"]),
    ],
)  # fmt: skip
def test_what_a_date_means(values: list[str], rules: dict[str, str], expected: list[str]) -> None:
    assert times(*values, **rules) == expected


def test_an_hour_that_comes_twice_is_the_first_and_said() -> None:
    text = [pa.array(["2025-10-26 02:30", "2025-10-26 03:30"])]
    found, notes = times_of_text(text, "time of x", FileRules(timezone="Europe/Berlin"))
    assert found.astype("M8[m]").tolist() == np.array(["2025-10-26T00:30", "2025-10-26T02:30"], "M8[m]").tolist()
    assert notes[0] == "Times were taken to be of Europe/Berlin, and became UTC."
    assert notes[1].startswith("1 times lie in an hour that the clocks of Europe/Berlin show twice")


@pytest.mark.parametrize(
    ("values", "rules", "says"),
    [
        (["1/2/2025", "3/4/2025"], {}, "'1/2/2025', and no row tells days from months: say `dates = \"day first\"` or"),
        (["13/1/2025", "1/13/2025"], {}, "holds dates with the day first and others with the month first"),
        (["31.12.2025", "30.02.2025"], {}, "there is no '30.02.2025' with the day first, in row 1"),
        (["1.1.2025", "2025-01-01 24:30"], {}, "there is no '2025-01-01 24:30', in row 1"),
        (["13/1/2025"], {"dates": "month first"}, "there is no '13/1/2025' with the month first, in row 0"),
        (["1.1.2025", "soon"], {}, "must be numbers or dates; got 'soon' in row 1. Write dates as"),
        (["31.12.2025"], {"dates": "%Y"}, "must be dates of the pattern '%Y'; got '31.12.2025' in row 0"),
        (
            ["2025-01-01", "2025-01-01Z"],
            {},
            "names a time zone in some rows only; row 0 has '2025-01-01'. Say by `timezone`",
        ),
    ],
)
def test_what_is_refused(values: list[str], rules: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        times(*values, **rules)
