"""Writing a Dataset as one Parquet file whose columns are named like their roles, with its schema beside it."""

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
from stitchrl.data.named_columns import named_columns
from stitchrl.data.schema import Schema
from stitchrl.encoding.values import float32
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
"""Settings of the log's schema that also hold for the columns as they are written."""
OPTIONAL = (
    "behavior_log_prob",
    "behavior_probs",
    "action_mask",
    "source",
    "weight",
    "time",
    "observation_id",
    "policy_probs",
    "policy_log_prob",
)
NAMED = ("cost", "subgroup")
"""Roles of several columns that keep their names."""


def write_parquet(log: Dataset, path: Path) -> Path:
    """Write a log, a block of rows at a time. Reading the file gives a log with the same content hash.

    Discrete actions are written so that the schema keeps their meaning: named actions by their names, multi-discrete
    ones by their components. A log does not keep the dose of a binned action, so a dose inside its bin is written: the
    lower edge of the bin (or the lower bound, if that is higher), and below the first edge 0 or less.

    The next observation is written only where no other row holds it, and is NaN elsewhere. A reader takes NaN for the
    observation of the next row inside an episode, and for unknown at its end. Bytes have no NaN, so images are written in every
    row (as Arrow's tensors of a fixed shape).

    Raises:
        DataError: the observations are images, and of only some episodes the one after the last row is known.
        RunDirectoryError: the disk is full or the folder cannot be written.
    """
    images = log.observation_table.ndim != 2
    if images and _has_next(log) and (log.next_observation_index == NO_OBSERVATION).any():
        raise DataError(
            "Parquet has no missing images, and this log knows what was seen after the last step of only some episodes; convert "
            "to a native store, a folder."
        )
    schema, names = _schema(log)
    pixels = int(np.prod(log.observation_shape)) if images else 1
    rows_at_once = max(ROWS_AT_ONCE // pixels, 1)

    def write(beside: Path) -> None:
        writer = None
        try:
            for start in range(0, log.num_transitions, rows_at_once):
                table = _table(log, schema, names, slice(start, min(start + rows_at_once, log.num_transitions)))
                writer = writer or pq.ParquetWriter(beside, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()

    write_atomic(path, write)
    write_text(path.with_suffix(".toml"), schema.to_toml())
    return path


def _schema(log: Dataset) -> tuple[Schema, tuple[str, ...]]:
    """The schema of the file, and the names of its observation columns; no names if it is one column of lists."""
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
    if isinstance(action, tuple) and len(action) == _action_size(log) and not held & {*action}:
        columns["action"] = action
        held |= {*action}
    for role in NAMED:
        if named := tuple(named_columns(log, role)):
            columns[role] = tuple(name if name not in held else f"{role} {name}" for name in named)
            held |= {*columns[role]}
    kept = {name: getattr(schema, name) for name in KEPT}
    return Schema(columns, observations=_rules(log, names), **kept), names


def _action_size(log: Dataset) -> int:
    """How many numbers an action is written as."""
    counts = log.schema.action_counts
    return len(counts) if counts is not None else 1 if log.action.ndim == 1 else log.action.shape[1]


def _rules(log: Dataset, names: tuple[str, ...]) -> dict[str, ColumnRule]:
    """The units and bounds of observation columns that are written as they were read.

    Missing values have been filled by now. A bound is left out if a filled value lies beyond it.
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
        low = rule.low if rule.low is not None and least[i] >= float32(rule.low) else None
        high = rule.high if rule.high is not None and most[i] <= float32(rule.high) else None
        rules[name] = ColumnRule(low=low, high=high, unit=rule.unit)
    return {name: rule for name, rule in rules.items() if rule != ColumnRule()}


def _has_next(log: Dataset) -> bool:
    """Whether the log has a next observation that no row holds."""
    return bool((log.next_observation_index[~log.continues] != NO_OBSERVATION).any())


def _table(log: Dataset, schema: Schema, names: tuple[str, ...], rows: slice) -> pa.Table:
    """Some rows of the file, given its schema and the names of its observation columns."""
    action = schema.columns["action"]
    episode = np.searchsorted(log.episode_start, np.arange(rows.start, rows.stop), side="right") - 1
    columns: dict[str, Any] = {"episode": log.episode_id[episode]}
    acted = _actions(log, rows)
    columns |= {action: acted} if isinstance(action, str) else {name: acted[:, i] for i, name in enumerate(action)}
    columns |= {name: getattr(log, name)[rows] for name in PER_ROW if name != "action"}
    columns |= {name: getattr(log, name)[rows] for name in OPTIONAL if getattr(log, name) is not None}
    if log.group is not None:
        columns["group"] = log.group[episode]
    for role in NAMED:
        found = named_columns(log, role).values()
        columns |= {name: values[rows] for name, values in zip(schema.columns.get(role, ()), found, strict=True)}
    observed = {"observation": log.observation_table[log.observation_index[rows]]}
    if _has_next(log):
        after, inside = log.next_observation_index[rows], log.continues[rows]
        held = log.observation_table[np.maximum(after, 0)]
        if held.ndim == 2:
            held = np.where((inside | (after == NO_OBSERVATION))[:, None], np.float32(np.nan), held)
        observed["next_observation"] = held
    for role, values in observed.items():
        if names:
            prefix = "" if role == "observation" else "next "
            columns |= {f"{prefix}{name}": values[:, i] for i, name in enumerate(names)}
        else:
            columns[role] = values
    return pa.table({name: _arrow(column) for name, column in columns.items()})


def _actions(log: Dataset, rows: slice) -> Shaped[NumpyArray, "n ..."] | pa.Array:
    """The actions of some rows, as the schema beside the file describes them."""
    schema, action = log.schema, log.action[rows]
    if schema.action_categories is not None:
        return pa.array(schema.action_categories, pa.string()).take(pa.array(action))
    if schema.action_counts is None:
        return action
    components = schema.action_components(action)
    if schema.action_bins is None:
        return components
    low, high = schema.action_low or (), schema.action_high or ()
    bounds = itertools.zip_longest(schema.action_bins, low, high)
    return np.stack([_doses(*bound)[components[:, i]] for i, bound in enumerate(bounds)], axis=1)


def _doses(edges: tuple[float, ...], low: float | None, high: float | None) -> Float[NumpyArray, " bins"]:
    """A dose inside each bin, and inside the bounds if the bin reaches into them."""
    edge = float32(edges)
    first = np.float32(0) if edge[0] > 0 else edge[0] - np.float32(1)
    if not first < edge[0]:  # the edge is so large that subtracting 1 does not change it in float32
        first = np.nextafter(edge[0], np.float32(-np.inf))
    doses = np.append(first, edge)
    return np.clip(doses, -np.inf if low is None else float32(low), np.inf if high is None else float32(high))


def _arrow(column: NumpyArray | pa.Array) -> pa.Array:
    """A column as an Arrow array: of lists of a fixed length if it has two axes, of tensors if it has more."""
    if isinstance(column, pa.Array):
        return column
    column = np.ascontiguousarray(column)
    if column.ndim == 1:
        return pa.array(column)
    if column.ndim > 2:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
