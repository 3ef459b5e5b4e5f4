"""The message for rows that a guard does not admit, and the actions that a guard may take there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import Guard
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

__all__ = ["action_outside", "action_range", "refusal"]

ROUNDING = 1e-5
"""Share of its range by which an action may lie outside, which allows for rounding to float32."""


def refusal(rows: NumpyArray, outside: NumpyArray, guard: Guard, names: Sequence[str]) -> DataError:
    """The error for the first number that is not admitted.

    Args:
        rows: (B, D) the input of the policy.
        outside: (B, D) the numbers on which it does not act.
        guard: of the policy.
        names: of the D numbers.
    """
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


def action_range(policy: Any, schema: Schema) -> tuple[NumpyArray, NumpyArray] | None:
    """The smallest and the largest continuous action: the bounds of the schema, else the range that the policy learned from.

    None where actions are discrete, or nothing is known of them.
    """
    if schema.num_actions is not None:
        return None
    bounds = [None if one is None else np.asarray(one, np.float64) for one in (schema.action_low, schema.action_high)]
    while policy is not None and not _centre(policy):
        policy = getattr(policy, "policy", None)
    if policy is not None:
        center, half = (np.asarray(one, np.float64) for one in _centre(policy))
        bounds = [end if one is None else one for one, end in zip(bounds, (center - half, center + half), strict=True)]
    low, high = bounds
    if low is None and high is None:
        return None
    return (
        np.full_like(high, -np.inf) if low is None else low,
        np.full_like(low, np.inf) if high is None else high,
    )


def _centre(policy: Any) -> tuple[Any, ...]:
    """The centre and the half-width of a policy's actions, by the names that JAX and NumPy give them; empty where it has none."""
    for names in (("action_center", "action_half_width"), ("center", "half_width")):
        if hasattr(policy, names[1]):
            return tuple(getattr(policy, name) for name in names)
    return ()


def action_outside(
    asked: Any, schema: Schema, size: int, known_range: tuple[NumpyArray, NumpyArray] | None
) -> int | tuple[float, ...]:
    """The action that a guard takes: a discrete one by its number or name, a continuous one by its numbers.

    Args:
        asked: what the guard was told.
        schema: of the policy.
        size: how many numbers a continuous action has.
        known_range: the smallest and the largest continuous action, as far as they are known.

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
    if known_range is not None:
        low, high = (np.broadcast_to(one, (size,)) for one in known_range)
        slack = ROUNDING * np.where(np.isfinite(high - low), high - low, 1)
        outside = (numbers < low - slack) | (numbers > high + slack)
        if outside.any():
            at = int(np.argmax(outside))
            raise ConfigurationError(
                f"The guard cannot take an action that the log never could: number {at + 1} of the action must be in "
                f"[{low[at]:.6g}, {high[at]:.6g}], the bounds of the schema or the range that the policy learned from; got "
                f"{numbers[at]:.6g}."
            )
    return numbers
