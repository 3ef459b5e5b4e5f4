"""Joining logs: whether their numbers mean the same, unique episode identifiers, groups, and shifted row numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.columns import MOST_ROWS, NO_OBSERVATION, PER_TRANSITION
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

__all__ = ["joined_columns"]


ACTION_MEANINGS = ("action_categories", "action_bins", "action_counts", "action_low", "action_high")
"""Settings of a schema that must be equal for the actions of two logs to mean the same."""

NAMED = ("cost", "subgroup")
"""Roles whose columns are told apart by their names."""


def joined_columns(logs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of one log that holds all of these, one after the other.

    Args:
        logs: for each log, field of a Dataset -> its value.

    Returns:
        The fields in which the joined log differs from the first one.

    Raises:
        DataError: the logs differ in observations or actions, or in what they mean.
    """
    first = logs[0]
    for other in logs[1:]:
        _check_joinable(first, other)
    joined: dict[str, Any] = {}
    joined["episode_id"], renamed = _unique_ids([log["episode_id"] for log in logs])
    joined["group"], grouped = _joined_groups(logs, joined["episode_id"])
    for name in (*PER_TRANSITION, "observation_table"):
        columns = [log[name] for log in logs]
        if name in NAMED and len({log["schema"].columns.get(name) for log in logs}) > 1:
            columns = [None]  # the same place would stand for another column
        joined[name] = None if any(column is None for column in columns) else np.concatenate(columns)
    first_observation = np.cumsum([0] + [len(log["observation_table"]) for log in logs])
    first_row = np.cumsum([0] + [len(log["reward"]) for log in logs])
    for name in ("observation_index", "next_observation_index"):
        shifted = [
            np.where(log[name] == NO_OBSERVATION, NO_OBSERVATION, log[name] + offset)
            for log, offset in zip(logs, first_observation[:-1], strict=True)
        ]
        joined[name] = np.concatenate(shifted).astype(np.int32 if first_observation[-1] <= MOST_ROWS else np.int64)
    starts = [log["episode_start"][:-1] + offset for log, offset in zip(logs, first_row[:-1], strict=True)]
    joined["episode_start"] = np.append(np.concatenate(starts), first_row[-1])
    joined["notes"] = tuple(dict.fromkeys([*(note for log in logs for note in log["notes"]), *renamed, *grouped]))
    return joined


def _check_joinable(first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise DataError where two logs differ in the shape or meaning of observations or actions."""
    counts = [log["schema"].num_actions for log in (first, other)]
    names = [log["observation_names"] for log in (first, other)]
    for what, (ours, theirs) in {"num_actions": counts, "observation_names": names}.items():
        if ours != theirs:
            raise DataError(f"Logs must have one {what} to be joined; got {ours} and {theirs}.")
    for what in ("observation_table", "action"):
        ours, theirs = first[what].shape[1:], other[what].shape[1:]
        if ours != theirs:
            raise DataError(f"Logs must have one shape of {what} to be joined; got {ours} and {theirs}.")
    _check_meanings(first["schema"], other["schema"])


def _check_meanings(first: Schema, other: Schema) -> None:
    """Raise DataError where the same number would stand for another action, observation or time."""
    pairs = [(name, getattr(first, name), getattr(other, name)) for name in (*ACTION_MEANINGS, "time_unit")]
    plain = ColumnRule()
    pairs += [
        (
            f"rule of observation column {shown(name)}",
            first.observations.get(name, plain),
            other.observations.get(name, plain),
        )
        for name in dict.fromkeys([*first.observations, *other.observations])
    ]
    for name, ours, theirs in pairs:
        if ours != theirs:
            raise DataError(
                f"Logs must have one {name} to be joined; got {shown(ours)} and {shown(theirs)}. Read them with one "
                "schema."
            )


def _unique_ids(columns: Sequence[NumpyArray]) -> tuple[NumpyArray, list[str]]:
    """The episode identifiers of all logs, and a note where some had to be renamed.

    They stay as they are where no identifier occurs twice. Otherwise all become text, and repeated ones get a suffix.
    """
    if len({column.dtype.kind for column in columns}) == 1:
        joined = np.concatenate(columns)
        if len(np.unique(joined)) == len(joined):
            return joined, []
    names = [str(name) for column in columns for name in column.tolist()]
    used, seen, repeated = set(names), set[str](), []
    for i, name in enumerate(names):
        if name in seen:
            names[i] = _fresh_name(name, used)
            repeated.append(name)
        seen.add(names[i])
    note = f"joined logs: {len(repeated):,} episode ids came again and got a suffix: {listed(repeated)}"
    return np.asarray(names), [note] if repeated else []


def _fresh_name(name: str, used: set[str]) -> str:
    """The name with the first suffix (-2, -3, ...) that makes it unused; it is added to `used`."""
    number = 2
    while f"{name}-{number}" in used:
        number += 1
    used.add(f"{name}-{number}")
    return f"{name}-{number}"


def _joined_groups(logs: Sequence[Mapping[str, Any]], ids: NumpyArray) -> tuple[NumpyArray | None, list[str]]:
    """The groups of all logs, and a note where some were made up; None where no log has groups.

    Each episode of a log without groups becomes a group of its own, named by its (unique) identifier in `ids`.
    """
    held = [log["group"] for log in logs]
    if all(group is None for group in held):
        return None, []
    if all(group is not None for group in held):
        if len({group.dtype.kind for group in held}) > 1:
            held = [np.asarray([str(name) for name in group.tolist()]) for group in held]
        return np.concatenate(held), []
    used = {str(name) for group in held if group is not None for name in group.tolist()}
    episodes = [len(log["episode_id"]) for log in logs]
    names: list[str] = []
    for group, own in zip(held, np.split(ids, np.cumsum(episodes)[:-1]), strict=True):
        if group is not None:
            names += [str(name) for name in group.tolist()]
        else:
            names += [_fresh_name(name, used) if name in used else name for name in map(str, own.tolist())]
    alone = sum(count for count, group in zip(episodes, held, strict=True) if group is None)
    note = f"joined logs: {alone:,} episodes of logs without groups are groups of their own, named by episode id"
    return np.asarray(names), [note]
