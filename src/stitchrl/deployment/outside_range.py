"""What is said of rows that a guard does not admit, and which action a guard may be told to take there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import Guard
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

__all__ = ["action_outside", "refusal"]


def refusal(rows: NumpyArray, guard: Guard, names: Sequence[str]) -> DataError:
    """The error for the first number that is not admitted."""
    outside = ~guard.inside(rows)
    row, number = np.argwhere(outside)[0]
    value, count = float(rows[row, number]), int(outside.any(1).sum())
    more = f" ({count:,} such rows of {len(rows):,})" if count > 1 else ""
    if not np.isfinite(value):
        seen = "missing (NaN)" if np.isnan(value) else "infinite"
        return DataError(
            f"{names[number]} is {seen} in row {row}{more}, and the policy acts on known values only. Give the value, or say "
            "which action to take in such rows: `policy.guarded(action)`."
        )
    return DataError(
        f"{names[number]} is {value:.6g} in row {row}{more}, and the policy learned from values of "
        f"{float(guard.low[number]):.6g} to {float(guard.high[number]):.6g}; its guard admits {guard.margin:.0%} of that range "
        "beyond. Correct the value or its unit, or say what to do in such rows: `policy.guarded(...)` with "
        '"clip", "behavior" or an action.'
    )


def action_outside(asked: Any, schema: Schema, size: int) -> int | tuple[float, ...]:
    """The action that a guard is told to take: a discrete one by its number or name, a continuous one by its numbers.

    Raises:
        ConfigurationError: it is none of the policy's actions.
    """
    others = '"refuse", "clip", "behavior"'
    if schema.num_actions is not None:
        if isinstance(asked, str) and asked in schema.action_names:
            return schema.action_names.index(asked)
        if isinstance(asked, int | np.integer) and not isinstance(asked, bool) and 0 <= asked < schema.num_actions:
            return int(asked)
        known = (
            listed(schema.action_names) if schema.action_categories is not None else f"0 to {schema.num_actions - 1}"
        )
        raise ConfigurationError(f"A guard can be told {others} or an action, {known}; got {shown(asked)}.")
    try:
        numbers = tuple(float(one) for one in np.atleast_1d(np.asarray(asked, np.float64)))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != size or not np.isfinite(numbers).all():
        raise ConfigurationError(
            f"A guard can be told {others} or an action of {size} finite numbers; got {shown(asked)}."
        )
    return numbers
