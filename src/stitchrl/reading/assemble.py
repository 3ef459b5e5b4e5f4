"""Assembling a checked Dataset from a source and a schema, block by block: memory holds the result and one block."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.reading.allocation import New, in_memory
from stitchrl.reading.encode import PER_ACTION, Encoder
from stitchrl.reading.layout import lay_out
from stitchrl.reading.observation_table import ObservationTable, alike, index_of
from stitchrl.reading.problems import misfits, with_all_others
from stitchrl.reading.sources.source import LogSource
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
    "cost",
    "subgroup",
    "policy_probs",
    "policy_log_prob",
)


def assemble(source: LogSource, schema: Schema, *, count_actions: bool = False, new: New = in_memory) -> Dataset:
    """Read a source twice: once to find where each row belongs, once to write everything else straight to its place.

    Args:
        source: the log.
        schema: what its columns mean.
        count_actions: whether the schema was guessed, so that the number of discrete actions has to be found as well.
        new: makes the arrays, in memory or on disk.

    Raises:
        SchemaError: a column that the schema names is absent, or does not fit.
        DataError: no rows, missing or non-finite values, an action outside its space, an episode without an end. If more
            than one thing is wrong, the error has a line for each.
    """
    try:
        return _assembled(source, schema, count_actions, new)
    except DataError as error:
        raise with_all_others(error, source, schema, guessed=count_actions) from None


def _assembled(source: LogSource, schema: Schema, count_actions: bool, new: New) -> Dataset:
    """`assemble`, which stops at the first problem."""
    encoder = Encoder(schema, source.origin, guessed=count_actions)
    for _, _, error in misfits(source, encoder):
        raise error
    layout = lay_out(source, encoder)
    roles = tuple(role for role in PER_ROW if role in schema.columns or role == "reward")
    place = None if layout.order is None else np.argsort(layout.order)  # row of the log -> row of the Dataset
    table = ObservationTable(encoder, layout, place, new)
    columns: dict[str, Any] = {}
    end = 0
    for row, rows, block in source.rows(encoder.needed(("observation", "next_observation", *roles))):
        end = row + rows
        if end > layout.count:
            break
        if row == 0:
            encoder.settle_action(block)
        table.add(block, row)
        for role in roles:
            values = encoder.role(role, block, row)
            columns[role] = _put(columns.get(role), role, values, row, place, layout.count, new)
    if end != layout.count:
        raise DataError(f"{source.origin} changed while it was read: it had {layout.count} rows, then {end}.")
    observation_table, next_index = table.finish()
    columns = {role: _whole(v, layout.order) if isinstance(v, list) else v for role, v in columns.items()}
    schema, notes = encoder.schema, (*source.notes, *layout.notes, *encoder.notes, *encoder.last_notes())
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


def _counted(schema: Schema, columns: dict[str, Any]) -> Schema:
    """The guessed schema with as many actions as occur, where masks or probabilities do not say how many there are."""
    if schema.num_actions is None or any(role in columns for role in PER_ACTION):
        return schema
    return dataclasses.replace(schema, num_actions=max(int(columns["action"].max()) + 1, 2))


def _guessed_note(schema: Schema, action: NumpyArray) -> tuple[str, ...]:
    """What a user should know about an action of whole numbers whose kind was guessed."""
    if schema.num_actions is None:
        whole = action.shape[1] == 1 and bool((action == np.floor(action)).all())
        return ("The actions are whole numbers, some below 0 or written as floats: they count as continuous.",) * whole
    seen = len(np.unique(action))
    looks = " They look like doses: name bins or categories in a schema." if schema.num_actions > 4 * seen else ""
    return (f"The actions are whole numbers and count as {schema.num_actions:,} discrete ones; {seen:,} occur.{looks}",)


def _put(
    held: Any, role: str, values: NumpyArray, row: int, place: NumpyArray | None, count: int, new: New
) -> NumpyArray | list[NumpyArray]:
    """Write the values of a block to their places in `held`, which the first block makes.

    Text is gathered in a list and joined at the end, because its width is not known before.
    """
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


def _whole(blocks: list[NumpyArray], order: NumpyArray | None) -> NumpyArray:
    """Gathered blocks of text as one column in the order of the Dataset."""
    joined = np.concatenate(blocks)
    return joined if order is None else joined[order]


def _with_propensities(columns: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """The columns with `behavior_log_prob` made from a propensity or from the probability of the action taken.

    Probabilities and masks are dropped where the action is continuous.
    """
    if "propensity" in columns:
        columns["behavior_log_prob"] = columns.pop("propensity")
    elif "behavior_probs" in columns and schema.num_actions is not None:
        chosen = np.take_along_axis(columns["behavior_probs"], columns["action"][:, None].astype(np.int64), 1)[:, 0]
        with np.errstate(divide="ignore"):
            columns.setdefault("behavior_log_prob", np.log(chosen).astype(np.float32))
    if schema.num_actions is None:
        for role in PER_ACTION:
            columns.pop(role, None)
    return columns
