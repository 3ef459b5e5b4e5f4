"""The template environment of all pages, and how numbers are written in them. It imports no JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2

from stitchrl.messages import likelier
from stitchrl.reporting import numbers

__all__ = ["environment"]


@cache  # templates are compiled once a process
def environment(decimals: int = 3) -> jinja2.Environment:
    """The templates beside this file; all text is escaped, and a field that is missing is an error.

    Args:
        decimals: places after the point of values, gains and intervals.
    """

    def value(number: Any, places: int = decimals) -> str:
        return numbers.number(number, places)

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # by name it would miss the .j2 ending
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "value": value,
        "gain": partial(numbers.number, decimals=decimals, sign=True),
        "count": partial(numbers.number, decimals=0),
        "short": numbers.short,
        "percent": numbers.percent,
        "interval": partial(_interval, decimals),
        "setting": _setting,
        "likelier": likelier,
    }
    made.filters |= {name: _strict(function) for name, function in filters.items()}
    return made


def _strict(function: Callable[..., str]) -> Callable[..., str]:
    """The same function, which refuses a missing field: a dash stands for null only, never for a misspelt name."""

    def filtered(value: Any, *args: Any, **kwargs: Any) -> str:
        if isinstance(value, jinja2.Undefined):
            str(value)  # StrictUndefined raises, naming the field
        return function(value, *args, **kwargs)

    return filtered


def _interval(decimals: int, bounds: Mapping[str, Any] | None, sign: bool = False) -> str:
    """``[lower, upper]``; empty when either end is missing."""
    if not bounds or not (numbers.is_number(bounds["lower"]) and numbers.is_number(bounds["upper"])):
        return ""
    lower, upper = (numbers.number(bounds[end], decimals, sign) for end in ("lower", "upper"))
    return f"[{lower}, {upper}]"


def _setting(value: Any) -> str:
    """A setting as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting(item)}" for name, item in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
