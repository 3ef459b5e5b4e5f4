"""A source and a schema -> a checked Dataset, block by block: what is held is the result and one block."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import LARGEST_ACTION_COUNT, Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.messages import listed, shown
from stitchrl.reading.allocation import New, in_memory
from stitchrl.reading.encode import Encoder
from stitchrl.reading.layout import lay_out
from stitchrl.reading.observation_table import ObservationTable, alike, index_of
from stitchrl.reading.sources.source import Block, LogSource
from stitchrl.types import NumpyArray

__all__ = ["assemble"]

PER_ROW = (
    "action",
    "reward",
    "behavior_log_prob",
    "propensity",
    "behavior_probs",
    "action_mask",
    "source",
    "weight",
    "observation_id",
)


def assemble(source: LogSource, schema: Schema, *, count_actions: bool = False, new: New = in_memory) -> Dataset:
    """Read a source twice: where its rows belong, then everything else straight to its place.

    Args:
        source: the log.
        schema: what its columns mean.
        count_actions: the schema was guessed: an integer action is discrete, as wide as the masks or the largest seen.
        new: makes the arrays, in memory or on disk.

    Raises:
        SchemaError: a column that the schema names is absent, or does not fit.
        DataError: no rows, missing or non-finite values, an action outside its space, an episode without an end.
    """
    _check_columns(source, schema)
    layout = lay_out(source, schema)
    guessed = dataclasses.replace(schema, num_actions=LARGEST_ACTION_COUNT) if count_actions else schema
    encoder = Encoder(schema, source.origin)
    roles = tuple(role for role in PER_ROW if role in schema.columns or role == "reward")
    place = None if layout.order is None else np.argsort(layout.order)  # a row's place
    table = ObservationTable(encoder, layout, place, new)
    columns: dict[str, Any] = {}
    end = 0
    for row, rows, block in source.rows(encoder.needed(("observation", "next_observation", *roles))):
        end = row + rows
        if end > layout.count:
            break
        if count_actions and row == 0:
            encoder.schema = schema = _action_space(schema, guessed, encoder, block)
        table.add(block, row)
        for role in roles:
            values = encoder.role(role, block, row)
            columns[role] = _put(columns.get(role), role, values, row, place, layout.count, new)
    if end != layout.count:
        raise DataError(f"{source.origin} changed while it was read: it had {layout.count} rows, then {end}.")
    observation_table, next_index = table.finish()
    columns = {role: _whole(v, layout.order) if isinstance(v, list) else v for role, v in columns.items()}
    notes = (*source.notes, *layout.notes, *encoder.notes)
    if count_actions:
        schema = _counted(schema, columns)
        notes += _guessed_note(schema, columns["action"])
    return Dataset(
        observation_table=observation_table,
        observation_index=index_of(new, "observation_index", 0, layout.count),
        next_observation_index=next_index,
        terminated=layout.terminated,
        truncated=layout.truncated,
        step=layout.step,
        time=layout.time,
        episode_start=layout.episode_start,
        episode_id=layout.episode_id,
        group=layout.group,
        schema=schema,
        notes=notes,
        observation_names=table.names,
        **_with_propensities(columns, schema),
    )


def _check_columns(source: LogSource, schema: Schema) -> None:
    encoder, there = Encoder(schema, source.origin), set(source.names)
    for role in dict.fromkeys((*schema.columns, "reward")):
        for name in encoder.needed((role,)):
            if name not in there:
                raise SchemaError(
                    f"The schema says {role} is in column {shown(name)}, which {source.origin} does not have; it has: "
                    f"{listed(source.names, 40)}."
                )


def _action_space(schema: Schema, guessed: Schema, encoder: Encoder, block: Block) -> Schema:
    """The guessed schema: discrete where the first block's action is one integer a row, none negative."""
    action = encoder.column("action", block, 0)
    if action.ndim != 1 or action.dtype.kind not in "iub" or action.min() < 0:
        return schema
    wide = [encoder.column(r, block, 0) for r in ("behavior_probs", "action_mask") if r in schema.columns]
    return dataclasses.replace(guessed, num_actions=max(w.shape[-1] for w in wide)) if wide else guessed


def _counted(schema: Schema, columns: dict[str, Any]) -> Schema:
    """With as many actions as were seen, where nothing else says how many there are."""
    if schema.num_actions is None or "behavior_probs" in columns or "action_mask" in columns:
        return schema
    return dataclasses.replace(schema, num_actions=max(int(columns["action"].max()) + 1, 2))


def _guessed_note(schema: Schema, action: NumpyArray) -> tuple[str, ...]:
    if schema.num_actions is None:
        whole = action.shape[1] == 1 and bool((action == np.floor(action)).all())
        return ("The actions are whole numbers, some below 0 or written as floats: they count as continuous.",) * whole
    seen = len(np.unique(action))
    looks = " They look like doses: name bins or categories in a schema." if schema.num_actions > 4 * seen else ""
    return (f"The actions are whole numbers and count as {schema.num_actions:,} discrete ones; {seen:,} occur.{looks}",)


def _put(
    held: Any, role: str, values: NumpyArray, row: int, place: NumpyArray | None, count: int, new: New
) -> NumpyArray | list[NumpyArray]:
    """A block's values written to their places; text is gathered and joined at the end, its width being unknown."""
    text = values.dtype.kind == "U"
    if held is None:
        held = [] if text else new(role, (count, *values.shape[1:]), values.dtype)
    if text != isinstance(held, list) or (not text and not alike(values, held)):
        raise DataError(f"{role} must be of one type and width in all rows; it changes in row {row}.")
    if isinstance(held, list):
        held.append(values)
    else:
        held[slice(row, row + len(values)) if place is None else place[row : row + len(values)]] = values
    return held


def _whole(parts: list[NumpyArray], order: NumpyArray | None) -> NumpyArray:
    joined = np.concatenate(parts)
    return joined if order is None else joined[order]


def _with_propensities(columns: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """`behavior_log_prob` from a propensity, or from the probability of the action taken."""
    if "propensity" in columns:
        columns["behavior_log_prob"] = columns.pop("propensity")
    elif "behavior_probs" in columns and schema.num_actions is not None:
        chosen = np.take_along_axis(columns["behavior_probs"], columns["action"][:, None].astype(np.int64), 1)[:, 0]
        with np.errstate(divide="ignore"):
            columns.setdefault("behavior_log_prob", np.log(chosen).astype(np.float32))
    if schema.num_actions is None:
        for role in ("behavior_probs", "action_mask"):
            columns.pop(role, None)
    return columns
