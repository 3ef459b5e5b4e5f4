"""Formats values for messages: on one line, printable and of limited length."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = [
    "first_steps_in_words",
    "interval_in_words",
    "likelier",
    "likelier_between",
    "listed",
    "plain_number",
    "printable",
    "shown",
]

LONGEST_SHOWN = 300
"""The most characters of a value that a message shows."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlist = _SHORT.maxtuple = 8


def printable(text: str) -> str:
    """Text for a message of one line: control characters are escaped, and long text is cut."""
    start = text[: LONGEST_SHOWN + 1]
    start = start if start.isprintable() else repr(start)[1:-1]
    return start if len(start) <= LONGEST_SHOWN else start[:LONGEST_SHOWN] + "..."


def first_steps_in_words(horizon: int) -> str:
    """The steps that a horizon counts: "the first 20 steps"."""
    return "the first step" if horizon == 1 else f"the first {horizon:,} steps"


def interval_in_words(value: float, lower: float, upper: float, *, sign: bool = True) -> str:
    """A number with its interval: four places after the point, and more where the interval is so narrow that they would show
    fewer than two of the digits in which its ends differ."""
    width = upper - lower
    places = 4 if not 0 < width < math.inf else min(12, max(4, 1 - math.floor(math.log10(width))))
    form = f"{'+' if sign else ''}.{places}f"
    number, low, high = (format(round(one, places) + 0.0, form) for one in (value, lower, upper))
    return f"{number} [{low}, {high}]"


def plain_number(value: float) -> str:
    """A number with four digits; a whole number, allowing for 32-bit rounding, with all of its digits: "100,000"."""
    whole = abs(value) < 1e9 and abs(value - round(value)) <= 1e-6 * abs(value)
    return f"{round(value):,}" if whole else f"{value:.4g}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names of possibly many, separated by commas."""
    some = [printable(str(name)) for name in itertools.islice(names, most + 1)]
    return ", ".join(some[:most]) + (" ..." if len(some) > most else "")


def likelier(nats: float) -> str:
    """A difference of mean log-probabilities, in nats, in words: how much likelier what happened is on average.

    The geometric mean of the probabilities is exp(nats) times as large.
    """
    times = math.exp(min(nats, 700.0))
    if times >= 2:
        return f"{times:.3g} times as likely"
    return f"{times - 1:.1%} likelier" if nats >= 0 else f"{1 - times:.1%} less likely"


def likelier_between(lower: float, upper: float) -> str:
    """The ends of an interval of such a difference, in words."""
    return f"{likelier(lower)} to {likelier(upper)}"


def shown(value: Any) -> str:
    """Any value as a message shows it."""
    if isinstance(value, np.floating):  # with the digits of its own type: 32 bits hold -0.2, and 64 bits -0.20000000298
        value = float(str(value))
    try:
        return printable(_SHORT.repr(value.item() if isinstance(value, np.generic) else value))
    except ValueError:  # the integer has more digits than Python prints
        return type(value).__name__
