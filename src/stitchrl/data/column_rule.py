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
"""The largest vocabulary that is encoded with one number for each category."""
MISSING = ("error", "previous", "value")
"""What `missing` of a rule may be."""
ENCODINGS = ("one-hot", "code")
"""What `encoding` of a rule may be."""


@dataclasses.dataclass(frozen=True)
class ColumnRule:
    """How one observation column becomes numbers.

    Attributes:
        categories: the categories that may occur, in the order of their codes; None for a numeric column.
        encoding: how a category is written: "one-hot" (one number for each category) or "code" (0, 1, ...).
        missing: how a missing value is handled: "error" refuses it, "previous" takes the value before it in the
            episode, "value" takes `fill`.
        fill: the number for a missing value with "value", and with "previous" where no value comes before it.
        indicator: whether to add a number that is 1 where the value was missing.
        low, high: bounds; values outside are an error, None is no bound.
        unit: unit of the values, for people to read.
        unknown: whether values that are none of the categories are allowed. They count as one further category, the last
            one, which is called "unknown"; a text here is another name for it. If the name is one of the categories, they
            count as that one. False makes such a value an error.

    Raises:
        SchemaError: an unknown choice, no categories or repeated ones, `low` above `high`, a `fill` that is not finite.
    """

    categories: tuple[str, ...] | None = None
    encoding: str = "one-hot"
    missing: str = "error"
    fill: float = 0.0
    indicator: bool = False
    low: float | None = None
    high: float | None = None
    unit: str = ""
    unknown: bool | str = False

    def __post_init__(self) -> None:
        check_choice("encoding", self.encoding, ENCODINGS)
        check_choice("missing", self.missing, MISSING)
        if self.categories is not None:
            object.__setattr__(self, "categories", vocabulary_of(self.categories))
            if self.encoding == "one-hot" and len(self.vocabulary) > LARGEST_ONE_HOT:
                raise SchemaError(
                    f"Up to {LARGEST_ONE_HOT:,} categories can be one number each; got {len(self.vocabulary):,}. "
                    'Say encoding = "code", or group them.'
                )
        elif self.unknown is not False:
            raise SchemaError(
                "`unknown` says what unseen categories count as, and this column names no `categories`. List them, or leave "
                "`unknown` out."
            )
        if self.unknown == "":
            raise SchemaError("`unknown` must be true or the name of a category; got an empty text.")
        for name in ("fill", "low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_float(name, getattr(self, name)))
        if not math.isfinite(self.fill):
            raise SchemaError(f"`fill` must be a finite number; got {self.fill}.")
        check_ordered(self.low, self.high)

    @property
    def unknown_category(self) -> str | None:
        """The category that unseen values count as; None where they are an error."""
        return "unknown" if self.unknown is True else self.unknown or None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The categories in the order of their codes, with that of unseen values last unless it is one of them."""
        categories, unknown = self.categories or (), self.unknown_category
        return categories if unknown is None or unknown in categories else (*categories, unknown)

    @property
    def width(self) -> int:
        """How many numbers this column adds to an observation, if it does not hold lists."""
        one_hot = self.categories is not None and self.encoding == "one-hot"
        return (len(self.vocabulary) if one_hot else 1) + self.indicator


def vocabulary_of(values: Iterable[Any], name: str = "categories") -> tuple[str, ...]:
    """The values of a setting as text, `categories` by default. Raises SchemaError if there are none or one is repeated."""
    categories = tuple(str(value) for value in values)
    if not categories or len(set(categories)) < len(categories):
        raise SchemaError(f"`{name}` must be different values, at least one; got {shown(list(categories))}.")
    return categories


def as_float(name: str, value: Any) -> float:
    """The value of a setting as a float. Raises SchemaError if it is no number or too large."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise SchemaError(f"`{name}` must be a number that fits 64 bits; got {shown(value)}.") from None


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise SchemaError unless the value of a setting is one of its choices."""
    if value not in choices:
        raise SchemaError(f"`{name}` must be one of {', '.join(choices)}; got {shown(value)}.")


def check_ordered(low: float | None, high: float | None) -> None:
    """Raise SchemaError if a bound is NaN or the lower one is above the upper one."""
    for bound in (low, high):
        if bound is not None and math.isnan(bound):
            raise SchemaError("A bound must be a number; got NaN.")
    if low is not None and high is not None and low > high:
        raise SchemaError(f"`low` must not be above `high`; got {low} and {high}.")
