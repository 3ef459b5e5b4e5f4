"""How one observation column becomes numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from stitchrl.errors import SchemaError
from stitchrl.messages import shown

__all__ = ["ColumnRule", "as_float", "check_choice", "check_ordered", "vocabulary_of"]


LARGEST_ONE_HOT = 2**12
"""Most categories that become one number each."""


MISSING = ("error", "previous", "value")


ENCODINGS = ("one-hot", "code")


@dataclasses.dataclass(frozen=True)
class ColumnRule:
    """How one observation column becomes numbers.

    Attributes:
        categories: its vocabulary, in the order of the codes; None for a numeric column.
        encoding: a category as "one-hot" (one number for each category) or as its "code" (0, 1, ...).
        missing: a missing value is an "error", the "previous" one of the episode, or `fill` ("value").
        fill: what stands for a missing value, and for one with nothing before it in its episode.
        indicator: add a number that is 1 where the value was missing.
        low, high: values outside are an error; None for no bound.
        unit: of the values, for people.

    Raises:
        SchemaError: an unknown choice, no or repeated categories, `low` above `high`, a fill that is not finite.
    """

    categories: tuple[str, ...] | None = None
    encoding: str = "one-hot"
    missing: str = "error"
    fill: float = 0.0
    indicator: bool = False
    low: float | None = None
    high: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        check_choice("encoding", self.encoding, ENCODINGS)
        check_choice("missing", self.missing, MISSING)
        if self.categories is not None:
            object.__setattr__(self, "categories", vocabulary_of(self.categories))
            if self.encoding == "one-hot" and len(self.categories) > LARGEST_ONE_HOT:
                raise SchemaError(
                    f"Up to {LARGEST_ONE_HOT:,} categories can be one number each; got {len(self.categories):,}. "
                    'Say encoding = "code", or group them.'
                )
        for name in ("fill", "low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_float(name, getattr(self, name)))
        if not math.isfinite(self.fill):
            raise SchemaError(f"`fill` must be a finite number; got {self.fill}.")
        check_ordered(self.low, self.high)

    @property
    def width(self) -> int:
        """Numbers this column adds to an observation, when it is not a list."""
        one_hot = self.categories is not None and self.encoding == "one-hot"
        return (len(self.categories or ()) if one_hot else 1) + self.indicator


def vocabulary_of(values: Iterable[Any]) -> tuple[str, ...]:
    categories = tuple(str(value) for value in values)
    if not categories or len(set(categories)) < len(categories):
        raise SchemaError(f"`categories` must be different values, at least one; got {shown(list(categories))}.")
    return categories


def as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise SchemaError(f"`{name}` must be a number that fits 64 bits; got {shown(value)}.") from None


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SchemaError(f"`{name}` must be one of {', '.join(choices)}; got {shown(value)}.")


def check_ordered(low: float | None, high: float | None) -> None:
    for bound in (low, high):
        if bound is not None and math.isnan(bound):
            raise SchemaError("A bound must be a number; got NaN.")
    if low is not None and high is not None and low > high:
        raise SchemaError(f"`low` must not be above `high`; got {low} and {high}.")
