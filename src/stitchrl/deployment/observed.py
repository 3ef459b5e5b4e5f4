"""What a policy is asked about, as rows of numbers: arrays as they are, named columns by the rules of the policy's schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

if TYPE_CHECKING:
    from stitchrl.encoding.columns import Block

# PyArrow is imported where columns have names: a policy that is asked about arrays starts without it.

__all__ = ["Observed", "encoded", "names_of_numbers", "observed"]

PLAIN = ColumnRule()
LARGEST, LARGEST_WHOLE = 1e38, 2**24
"""Numbers, and whole numbers, up to which float32 has nothing to be said about."""
SHOWN_NAMES = 4
"""So many names of numbers stand in a message."""


class Observed(NamedTuple):
    """Rows that a policy is asked about.

    Attributes:
        rows: (B, D) float32.
        single: whether the caller asked about one row, and is to get one answer.
    """

    rows: NumpyArray
    single: bool


def observed(obs: Any, schema: Schema, width: int, *, gaps: bool = False) -> Observed:
    """The rows of numbers in what a caller gave.

    Args:
        obs: (D,) or (B, D) numbers as the policy's log has them when it is read; or named columns with raw values: a dict of
            values or of columns, a list of such dicts, or a frame of pandas, Polars or Arrow.
        schema: of the policy.
        width: D.
        gaps: whether a value that is missing, or is an unseen category, becomes NaN, and is no error.

    Raises:
        DataError: another width, columns that are not there, values that the schema's rules do not allow.
    """
    if not isinstance(obs, np.ndarray):
        if type(obs) is dict and schema.plain_observation and (row := _plain_row(obs, schema, width)) is not None:
            return Observed(row, single=True)
        named = _named(obs, schema, width)
        if named is not None:
            block, single = named
            rows, unseen = encoded(block, schema, gaps=gaps)
            for here in unseen.values():
                rows[here] = np.nan
            if not gaps:
                _refuse_gaps(rows, schema)
            if rows.shape[1] != width:
                raise DataError(
                    f"The policy takes observations of {width} numbers; the columns {listed(schema.observation_columns)} give "
                    f"{rows.shape[1]}."
                )
            return Observed(rows, single)
    try:
        numbers = np.asarray(obs)
        if numbers.dtype != np.float32:
            if numbers.dtype.kind not in "biuf":
                raise ValueError
            with np.errstate(over="ignore"):  # too large a number becomes infinite, which the guard sees
                numbers = numbers.astype(np.float32)
    except (TypeError, ValueError):
        raise DataError(
            f"A policy is asked about numbers, or about named columns; got {shown(obs)}. Values such as categories need the "
            "names of their columns: give a dict or a frame."
        ) from None
    single = numbers.ndim == 1
    rows = numbers[None] if single else numbers
    if rows.ndim != 2 or rows.shape[1] != width:
        names = names_of_numbers(schema, width)
        raise DataError(
            f"The policy takes observations of {width} numbers, one row each ({listed(names, SHOWN_NAMES)}); got shape "
            f"{numbers.shape}."
        )
    return Observed(rows, single)


def _plain_row(obs: dict[str, Any], schema: Schema, width: int) -> NumpyArray | None:
    """(1, D) the numbers of one row of named columns where they are plain, as the encoder gives them in more time; else None."""
    values = [obs.get(name) for name in schema.observation_columns]
    if len(values) == 1 and width > 1 and type(values[0]) is list:
        values = values[0]
    kinds = set(map(type, values))
    if len(values) != width or not kinds <= {float, int}:
        return None
    if kinds != {float} and any(type(value) is int and abs(value) > LARGEST_WHOLE for value in values):
        return None
    row = np.array([values], np.float64)
    return row.astype(np.float32) if (np.abs(row) < LARGEST).all() else None  # NaN is not below anything


def encoded(block: Block, schema: Schema, *, gaps: bool = False) -> tuple[NumpyArray, dict[str, NumpyArray]]:
    """(B, D) the numbers that the rules of a schema make of named columns, and where categories are unseen.

    Args:
        block: the columns of the observation, and perhaps others.
        schema: of the policy.
        gaps: whether missing values and unseen categories are no error. Missing ones become NaN.

    Returns:
        The numbers, NaN where "previous" is to fill a gap; and for each column with unseen categories the (B,) rows that
        have one.

    Raises:
        DataError: values that the rules do not allow.
    """
    from stitchrl.deployment.asked_encoder import AskedEncoder

    if gaps:  # what `previous` leaves open is NaN, and the guard knows NaN; it knows the bounds of the log as well
        rules = {name: _lenient(schema.observations.get(name, PLAIN)) for name in schema.observation_columns}
        schema = dataclasses.replace(schema, observations=rules)
    encoder = AskedEncoder(schema, lenient=gaps)
    made = encoder.observations("observation", block, 0)
    return np.asarray(made, np.float32), encoder.unseen


def _lenient(rule: ColumnRule) -> ColumnRule:
    missing = rule.missing if rule.missing == "value" else "previous"
    return dataclasses.replace(rule, missing=missing, low=None, high=None)


def names_of_numbers(schema: Schema, width: int) -> tuple[str, ...]:
    """What each of the D numbers of an observation is called."""
    columns, names = schema.observation_columns, list[str]()
    for name in columns:
        rule = schema.observations.get(name, PLAIN)
        if rule.categories is not None and rule.encoding == "one-hot":
            names += [f"{name}={category}" for category in rule.vocabulary]
        elif len(columns) == 1 and width > 1 + rule.indicator:
            names += [f"{name}[{i}]" for i in range(width - rule.indicator)]
        else:
            names.append(name)
        names += [f"{name} missing"] if rule.indicator else []
    return tuple(names) if len(names) == width else tuple(f"number {i}" for i in range(width))


def _named(obs: Any, schema: Schema, width: int) -> tuple[Block, bool] | None:
    """The named columns of the observation and whether they are of one row; None where nothing has names."""
    wanted = schema.observation_columns
    if hasattr(obs, "to_dict") and hasattr(obs, "index") and not hasattr(obs, "columns"):  # a row of a pandas frame
        obs = obs.to_dict()
    if isinstance(obs, list | tuple) and obs and all(isinstance(row, Mapping) for row in obs):
        for row in obs:
            _refuse_absent(wanted, row)
        return {name: _array([row[name] for row in obs], name) for name in wanted}, False
    if isinstance(obs, Mapping):
        _refuse_absent(wanted, obs)
        return _of_dict({name: obs[name] for name in wanted}, vector=width > 1)
    if not (hasattr(obs, "columns") or hasattr(obs, "to_arrow") or hasattr(obs, "column_names")):
        return None
    return _of_frame(obs, wanted), False


def _of_dict(columns: dict[str, Any], *, vector: bool) -> tuple[Block, bool]:
    """Columns of a dict. Values without a length are of one row; beside them, lists are vectors of this row."""
    depth = {name: 0 if isinstance(value, str | bytes) else np.ndim(value) for name, value in columns.items()}
    single = min(depth.values()) == 0 or (len(columns) == 1 and vector and max(depth.values()) == 1)
    made = {name: _array([value] if single else value, name) for name, value in columns.items()}
    lengths = {name: len(column) for name, column in made.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"The columns that a policy is asked about must be equally long; got {shown(lengths)}.")
    return made, single


def _of_frame(frame: Any, wanted: tuple[str, ...]) -> Block:
    import pyarrow as pa

    try:
        if hasattr(frame, "iloc"):
            frame = frame.rename(columns=str)
            _refuse_absent(wanted, frame.columns)
            frame = pa.Table.from_pandas(frame[list(wanted)], preserve_index=False)
        elif hasattr(frame, "to_arrow"):
            frame = frame.to_arrow()
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"The frame cannot be read: {shown(str(error))}.") from None
    _refuse_absent(wanted, table.column_names)
    return {name: table.column(name).combine_chunks() for name in wanted}


def _array(values: Any, name: str) -> Any:
    """Values of one column for the encoder."""
    import pyarrow as pa

    if isinstance(values, np.ndarray) and values.dtype.kind in "biufU":
        return values
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], np.ndarray):
        return values[0][None]
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"Column {shown(name)} must hold values of one type; {shown(str(error))}.") from None


def _refuse_absent(wanted: tuple[str, ...], there: Iterable[str]) -> None:
    known = set(there)
    absent = [name for name in wanted if name not in known]
    if absent:
        raise DataError(
            f"The policy observes {listed(wanted)}; what it is asked about has no column {listed(absent)}. Name the columns as "
            "its log did."
        )


def _refuse_gaps(rows: NumpyArray, schema: Schema) -> None:
    """Raise DataError where a value is missing that the row before it would fill."""
    gaps = np.isnan(rows)
    if gaps.any():
        row, number = np.argwhere(gaps)[0]
        raise DataError(
            f"{names_of_numbers(schema, rows.shape[1])[number]} is missing in row {row}, and the policy learned with the last "
            "value of the episode in its place, which one row does not tell. Give that value."
        )
