"""The meaning of columns with D4RL's names: `observations`, `actions`, `rewards`, `terminals`, `timeouts`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stitchrl.reading.sources.arrays import (
    action_count,
    as_flags,
    described,
    one_number_a_row,
)
from stitchrl.reading.sources.source import Block, LogSource
from stitchrl.types import NumpyArray

__all__ = ["ROLES", "transitions"]

ROLES: Mapping[str, str] = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_observation": "next_observations",
    "terminated": "terminals",
    "truncated": "timeouts",
}
"""Role -> D4RL's name of its column."""
NEEDED = ("observations", "actions", "rewards")
FLAGS = ("terminals", "timeouts")


def transitions(raw: LogSource, name: str) -> LogSource:
    """The source with D4RL's schema, if its columns have D4RL's names; else the source as it is.

    Rows that are both terminals and timeouts count as terminated.

    Args:
        raw: the columns as they are stored.
        name: what reports call the log.

    Raises:
        DataError: flags that are neither 0 nor 1.
    """
    if not set(NEEDED) <= set(raw.names) or not set(FLAGS) & set(raw.names):
        return raw
    source = dataclasses.replace(raw, format=f"D4RL {raw.format}", blocks=lambda names: _blocks(raw, names))
    notes, both, timeouts = list(raw.notes), 0, "timeouts" in raw.names
    for block in raw.blocks([flag for flag in FLAGS if flag in raw.names]):
        flags = [as_flags(one_number_a_row(np.asarray(block[f])), f, raw.origin) for f in FLAGS if f in block]
        both += int(np.logical_and.reduce(flags).sum()) if len(flags) == 2 else 0
    if both:
        notes.append(f"{both:,} rows are terminals and timeouts; they count as terminated.")
    if not timeouts:
        notes.append("The log has no `timeouts`: only `terminals` end an episode, and the last row is taken as cut.")
    columns = {role: column for role, column in ROLES.items() if column in raw.names}
    schema = described(raw.origin, columns, num_actions=action_count(source, "actions"), name=name, end="truncated")
    return dataclasses.replace(source, schema=schema, notes=tuple(notes))


def _blocks(raw: LogSource, names: Sequence[str]) -> Iterator[Block]:
    """Blocks in which each row has one number as flag and as reward, and the action is a number or a vector."""
    both = "timeouts" in names and "terminals" in raw.names
    needed = [*names, "terminals"] if both and "terminals" not in names else list(names)
    for block in raw.blocks(needed):
        made: dict[str, Any] = {name: np.asarray(block[name]) for name in needed}
        for name in {"rewards", *FLAGS} & set(made):
            made[name] = one_number_a_row(made[name])
        if both:
            terminals = as_flags(made["terminals"], "terminals", raw.origin)
            made["timeouts"] = as_flags(made["timeouts"], "timeouts", raw.origin) & ~terminals
        if "actions" in made:
            made["actions"] = _flat(made["actions"])
        yield {name: made[name] for name in names}


def _flat(action: NumpyArray) -> NumpyArray:
    """Actions as (n,) integers or (n, size) numbers."""
    action = action.reshape(len(action), -1) if action.ndim > 2 else action
    return one_number_a_row(action) if action.dtype.kind in "iub" else action
