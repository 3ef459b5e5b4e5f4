"""Joining logs: whether they mean the same, and unique episode identifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

if TYPE_CHECKING:
    pass

__all__ = ["check_meanings", "fresh_name", "unique_ids"]


MEANINGS = ("action_categories", "action_bins", "action_counts", "action_low", "action_high")
"""What of a schema must be one for the actions of two logs to be the same."""


def check_meanings(one: Schema, other: Schema) -> None:
    """Raise DataError where the same number would be another action or observation."""
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in MEANINGS]
    plain = ColumnRule()
    pairs += [
        (
            f"rule of observation column {shown(name)}",
            one.observations.get(name, plain),
            other.observations.get(name, plain),
        )
        for name in dict.fromkeys([*one.observations, *other.observations])
    ]
    for name, first, second in pairs:
        if first != second:
            raise DataError(
                f"Logs must have one {name} to be joined; got {shown(first)} and {shown(second)}. Read them with one "
                "schema."
            )


def unique_ids(columns: Sequence[NumpyArray]) -> tuple[NumpyArray, list[str]]:
    """The ids of logs one after the other; as text with suffixes where one comes twice, which is noted."""
    if len({column.dtype.kind for column in columns}) == 1:
        joined = np.concatenate(columns)
        if len(np.unique(joined)) == len(joined):
            return joined, []
    names = [str(name) for column in columns for name in column.tolist()]
    used, seen, again = set(names), set[str](), []
    for i, name in enumerate(names):
        if name in seen:
            names[i] = fresh_name(name, used)
            again.append(name)
        seen.add(names[i])
    note = f"joined logs: {len(again):,} episode ids came again and got a suffix: {listed(again)}"
    return np.asarray(names), [note] if again else []


def fresh_name(name: str, used: set[str]) -> str:
    """A name with the first suffix, -2 and on, that makes it unused; used from now on."""
    number = 2
    while f"{name}-{number}" in used:
        number += 1
    used.add(f"{name}-{number}")
    return f"{name}-{number}"
