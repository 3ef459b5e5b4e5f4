"""Settings of an algorithm: dataclass fields that know their range and meaning."""

from __future__ import annotations

import dataclasses
from numbers import Integral
from typing import Any

__all__ = ["choice", "setting"]


INTERVALS = {
    "(0, 1)": lambda x: 0 < x < 1,
    "(0, 1]": lambda x: 0 < x <= 1,
    "[0, 1]": lambda x: 0 <= x <= 1,
    "(-inf, inf)": lambda x: float("-inf") < x < float("inf"),
    "(0, inf)": lambda x: 0 < x < float("inf"),
    "[0, inf)": lambda x: 0 <= x < float("inf"),
    "at least 0": lambda x: isinstance(x, Integral) and int(x) >= 0,
    "at least 1": lambda x: isinstance(x, Integral) and int(x) >= 1,
}


def setting(default: Any, interval: str, meaning: str, *, static: bool = False, kw_only: bool = False) -> Any:
    """A dataclass field with its allowed range and meaning, checked when the algorithm is made.

    Number settings are inputs of the compiled program, so another value compiles nothing and several values train
    together (`fit_grid`). Whole numbers and tuples are built into it.

    Args:
        default: value when not given.
        interval: a key of `INTERVALS`; for tuples every entry must lie in it.
        meaning: one sentence; it ends the error message, so say what larger does.
        static: True where Python code branches on a number, so that it too must be built into the program.
        kw_only: as of `dataclasses.field`.
    """
    kind = {"interval": interval, "meaning": meaning, "input": isinstance(default, float) and not static}
    return dataclasses.field(default=default, metadata=kind, kw_only=kw_only)


def choice(default: str, choices: tuple[str, ...], meaning: str) -> Any:
    """As `setting`, for one word of several; keyword-only, and built into the program."""
    return dataclasses.field(default=default, metadata={"choices": choices, "meaning": meaning}, kw_only=True)
