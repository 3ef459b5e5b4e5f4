"""A Dataset as one Parquet file whose columns carry the role names, and its schema beside it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Shaped

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.storage.files import write_atomic, write_text
from stitchrl.types import NumpyArray

__all__ = ["write_parquet"]

ROWS_AT_ONCE = 2**18
PER_ROW = ("action", "reward", "terminated", "truncated", "step")
KEPT = (
    "num_actions",
    "gamma",
    "name",
    "action_counts",
    "action_bins",
    "action_categories",
    "action_low",
    "action_high",
    "action_unit",
    "reward_low",
    "reward_high",
)
"""What the schema says that holds of the columns as they are written."""
OPTIONAL = ("behavior_log_prob", "behavior_probs", "action_mask", "source", "weight", "time", "observation_id")


def write_parquet(log: Dataset, path: Path) -> Path:
    """Write a log, a block of rows at a time; `st.read` of it gives the same content hash.

    Discrete actions are written so that the schema can keep their meaning: named ones by their names, multi-discrete
    ones part by part, and of a binned dose one that stands for its bin, since a log keeps no other: the bin's lower
    edge, or the lower bound where that is higher; below the first edge 0 or what is lower.

    The next observation is written only where no other row holds it: NaN elsewhere, which the reader takes as the next
    row's inside an episode and as unknown at its end.

    Raises:
        DataError: image observations, which Parquet has no column for.
        RunDirectoryError: the disk is full or the folder cannot be written.
    """
    if log.observation_table.ndim != 2:
        raise DataError("Image observations cannot be written as Parquet; convert to a native store.")
    schema, names = _schema(log)
    action = schema.columns["action"]

    def write(beside: Path) -> None:
        writer = None
        try:
            for start in range(0, log.num_transitions, ROWS_AT_ONCE):
                table = _table(log, names, action, slice(start, min(start + ROWS_AT_ONCE, log.num_transitions)))
                writer = writer or pq.ParquetWriter(beside, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()

    write_atomic(path, write)
    write_text(path.with_suffix(".toml"), schema.to_toml())
    return path


def _schema(log: Dataset) -> tuple[Schema, tuple[str, ...]]:
    """The schema of the file, and the names of its observation columns: none for one list column."""
    schema = log.schema
    roles = ["episode", *PER_ROW, *(name for name in OPTIONAL if getattr(log, name) is not None)]
    if log.group is not None:
        roles.append("group")
    numbered = all(re.fullmatch(r".*\[\d+\]", name) for name in log.observation_names)
    names = () if numbered or set(log.observation_names) & set(roles) else log.observation_names
    columns: dict[str, Any] = {role: role for role in roles} | {"observation": names or "observation"}
    if _has_next(log):
        columns["next_observation"] = tuple(f"next {name}" for name in names) or "next_observation"
    action = schema.columns.get("action")
    held = {*roles, *names, "observation", *columns.get("next_observation", ())}
    if isinstance(action, tuple) and len(action) == _parts(log) and not held & {*action}:
        columns["action"] = action
    kept = {name: getattr(schema, name) for name in KEPT}
    return Schema(columns, observations=_rules(log, names), **kept), names


def _parts(log: Dataset) -> int:
    """Numbers that an action is written as."""
    counts = log.schema.action_counts
    return len(counts) if counts is not None else 1 if log.action.ndim == 1 else log.action.shape[1]


def _rules(log: Dataset, names: tuple[str, ...]) -> dict[str, ColumnRule]:
    """Units and bounds of the columns that are written as they were read; the gaps in them are filled by now.

    A bound that a filled gap is beyond is left out.
    """
    rules = {
        name: ColumnRule(low=rule.low, high=rule.high, unit=rule.unit)
        for name, rule in log.schema.observations.items()
        if name in names and rule.categories is None and not rule.indicator
    }
    if not any(rule.low is not None or rule.high is not None for rule in rules.values()):
        return {name: rule for name, rule in rules.items() if rule != ColumnRule()}
    least, most = log.observation_table.min(axis=0), log.observation_table.max(axis=0)
    for name, rule in rules.items():
        i = names.index(name)
        low = rule.low if rule.low is not None and least[i] >= _float32(rule.low) else None
        high = rule.high if rule.high is not None and most[i] <= _float32(rule.high) else None
        rules[name] = ColumnRule(low=low, high=high, unit=rule.unit)
    return {name: rule for name, rule in rules.items() if rule != ColumnRule()}


def _has_next(log: Dataset) -> bool:
    return bool((log.next_observation_index[~log.continues] != NO_OBSERVATION).any())


def _table(log: Dataset, names: tuple[str, ...], action: str | tuple[str, ...], rows: slice) -> pa.Table:
    episode = np.searchsorted(log.episode_start, np.arange(rows.start, rows.stop), side="right") - 1
    columns: dict[str, Any] = {"episode": log.episode_id[episode]}
    acted = _actions(log, rows)
    columns |= {action: acted} if isinstance(action, str) else {name: acted[:, i] for i, name in enumerate(action)}
    columns |= {name: getattr(log, name)[rows] for name in PER_ROW if name != "action"}
    columns |= {name: getattr(log, name)[rows] for name in OPTIONAL if getattr(log, name) is not None}
    if log.group is not None:
        columns["group"] = log.group[episode]
    seen = {"observation": log.observation_table[log.observation_index[rows]]}
    if _has_next(log):
        after, inside = log.next_observation_index[rows], log.continues[rows]
        held = log.observation_table[np.maximum(after, 0)]
        seen["next_observation"] = np.where((inside | (after == NO_OBSERVATION))[:, None], np.float32(np.nan), held)
    for role, values in seen.items():
        if names:
            prefix = "" if role == "observation" else "next "
            columns |= {f"{prefix}{name}": values[:, i] for i, name in enumerate(names)}
        else:
            columns[role] = values
    return pa.table({name: _arrow(column) for name, column in columns.items()})


def _actions(log: Dataset, rows: slice) -> Shaped[NumpyArray, "n ..."] | pa.Array:
    """As the schema beside the file reads them."""
    schema, action = log.schema, log.action[rows]
    if schema.action_categories is not None:
        return pa.array(schema.action_categories, pa.string()).take(pa.array(action))
    if schema.action_counts is None:
        return action
    parts = schema.action_components(action)
    if schema.action_bins is None:
        return parts
    low, high = schema.action_low or (), schema.action_high or ()
    bounds = itertools.zip_longest(schema.action_bins, low, high)
    return np.stack([_doses(*bound)[parts[:, i]] for i, bound in enumerate(bounds)], axis=1)


def _doses(edges: tuple[float, ...], low: float | None, high: float | None) -> Float[NumpyArray, " bins"]:
    """One dose of each bin, inside the bounds: wherever the log had one, there is one."""
    edge = _float32(edges)
    first = np.float32(0) if edge[0] > 0 else edge[0] - np.float32(1)
    if not first < edge[0]:  # so large that float32 has no 1 less
        first = np.nextafter(edge[0], np.float32(-np.inf))
    doses = np.append(first, edge)
    return np.clip(doses, -np.inf if low is None else _float32(low), np.inf if high is None else _float32(high))


def _float32(values: Any) -> Any:
    """As the reader compares them."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)


def _arrow(column: NumpyArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    column = np.ascontiguousarray(column)
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
