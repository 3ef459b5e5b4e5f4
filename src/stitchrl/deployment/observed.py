"""The input of a policy as rows of numbers: arrays unchanged, named columns by the rules of the policy's schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.deployment.places import names_of_numbers, places_of
from stitchrl.errors import DataError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

if TYPE_CHECKING:
    from stitchrl.encoding.columns import Block

# PyArrow is imported where columns have names: a policy whose input is arrays starts without it.

__all__ = ["Observed", "encoded", "mask_columns", "observed"]

PLAIN = ColumnRule()
LARGEST, LARGEST_WHOLE = 1e38, 2**24
"""The largest number, and the largest whole number, that float32 holds without remark."""
SHOWN_NAMES = 4
"""The most names of numbers in a message."""


class Observed(NamedTuple):
    """The input rows of a policy.

    Attributes:
        rows: (B, D) float32.
        single: whether the caller gave a single row, and gets a single result.
        mask: (B, A) the columns of the action mask where they are among named ones: 1, 0, or NaN for anything else.
        named: whether the rows were given by the names of their columns.
    """

    rows: NumpyArray
    single: bool
    mask: NumpyArray | None = None
    named: bool = False


def observed(obs: Any, schema: Schema, width: int, *, gaps: bool = False) -> Observed:
    """The rows of numbers in what a caller gave.

    Args:
        obs: (D,) or (B, D) numbers as the policy's log has them when it is read; or named columns with raw values: a dict of
            values or of columns, a list of such dicts, or a frame of pandas, Polars or Arrow.
        schema: of the policy.
        width: D.
        gaps: whether a value that is missing, or that the policy cannot use, becomes NaN instead of an error.

    Raises:
        DataError: another width, columns that are not there, values that the schema's rules do not allow.
    """
    if isinstance(obs, np.ma.MaskedArray):
        obs = _unmasked(obs)
    if isinstance(obs, list | tuple) and not len(obs):
        return Observed(np.empty((0, width), np.float32), False, named=True)
    if not isinstance(obs, np.ndarray):
        plain = type(obs) is dict and schema.plain_observation and not any(one in obs for one in mask_columns(schema))
        if plain and (row := _plain_row(obs, schema, width)) is not None:
            return Observed(row, single=True, named=True)
        named = _named(obs, schema, width)
        if named is not None:
            return _of_names(*named, schema, width, gaps=gaps)
    try:
        numbers = np.asarray(obs)
        if numbers.dtype != np.float32:
            if numbers.dtype.kind not in "biuf":
                raise ValueError
            with np.errstate(over="ignore"):  # too large a number becomes infinite, which the guard sees
                numbers = numbers.astype(np.float32)
    except (TypeError, ValueError):
        raise DataError(
            f"The input of a policy must be numbers, or named columns; got {shown(obs)}. Values such as categories need the "
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


def _of_names(block: Block, single: bool, schema: Schema, width: int, *, gaps: bool) -> Observed:
    """The rows in named columns. Raises as `observed`."""
    from stitchrl.deployment.asked_encoder import AskedEncoder

    count = len(next(iter(block.values())))
    if not count:
        return Observed(np.empty((0, width), np.float32), False, named=True)
    rows, unusable = encoded(block, schema, width=width)
    if rows.shape[1] != width:
        raise DataError(
            f"The policy takes observations of {width} numbers; the columns {listed(schema.observation_columns)} give "
            f"{rows.shape[1]}."
        )
    if not gaps:
        _refuse_unusable(rows, unusable, schema)
    for reasons in unusable.values():
        rows[reasons != ""] = np.nan
    masks = mask_columns(schema)
    mask = AskedEncoder(schema).masks(block) if masks and set(masks) <= set(block) else None
    return Observed(rows, single, mask, True)


def _plain_row(obs: dict[str, Any], schema: Schema, width: int) -> NumpyArray | None:
    """(1, D) the numbers of one row of named columns where these are plain, faster than by the encoder; else None."""
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


def encoded(
    block: Block, schema: Schema, *, decimal: str = ".", width: int | None = None
) -> tuple[NumpyArray, dict[str, NumpyArray]]:
    """(B, D) the numbers that the rules of a schema make of named columns, and which values the policy cannot use.

    Args:
        block: the columns of the observation, and perhaps others.
        schema: of the policy.
        decimal: the sign before the decimals of numbers that are still text.
        width: D, where lists that are still text are to be read.

    Returns:
        The numbers, NaN where a value is missing that no rule fills alone; and for each column with unseen categories, or with
        text in the place of numbers, (B,) what is wrong with each row, "" where nothing is.

    Raises:
        DataError: a column whose values are all of another kind.
    """
    from stitchrl.deployment.asked_encoder import AskedEncoder

    # A value that `previous` cannot fill is NaN, which the guard sees; bounds are checked where rows are refused.
    rules = {name: _lenient(schema.observations.get(name, PLAIN)) for name in schema.observation_columns}
    encoder = AskedEncoder(dataclasses.replace(schema, observations=rules), decimal=decimal, width=width)
    made = encoder.observations("observation", block, 0)
    return np.array(made, np.float32), encoder.unusable


def _lenient(rule: ColumnRule) -> ColumnRule:
    missing = rule.missing if rule.missing == "value" else "previous"
    return dataclasses.replace(rule, missing=missing, low=None, high=None)


def mask_columns(schema: Schema) -> tuple[str, ...]:
    """The columns that say which actions are allowed, where the log of the policy had them and its actions are discrete."""
    named = schema.columns.get("action_mask", ()) if schema.num_actions is not None else ()
    return (named,) if isinstance(named, str) else named


def _unmasked(array: np.ma.MaskedArray[Any, Any]) -> NumpyArray:
    """A masked array of NumPy as a plain one, with NaN for masked entries, whose values must not be used."""
    if not np.ma.is_masked(array):
        return np.asarray(array.data)
    kind, gap = (np.float64, np.nan) if array.dtype.kind in "biuf" else (object, None)
    found: NumpyArray = np.array(array.data, kind)
    found[np.ma.getmaskarray(array)] = gap
    return found


def _named(obs: Any, schema: Schema, width: int) -> tuple[Block, bool] | None:
    """The named columns of the observation, and of the action mask, and whether they are of one row; None without names."""
    wanted, masks = schema.observation_columns, mask_columns(schema)
    if type(obs).__name__ == "LazyFrame":
        raise DataError("A lazy frame of Polars holds no rows yet: give `frame.collect()`.")
    if hasattr(obs, "to_dict") and hasattr(obs, "index") and not hasattr(obs, "columns"):  # a row of a pandas frame
        obs = obs.to_dict()
    if isinstance(obs, list | tuple) and obs and all(isinstance(row, Mapping) for row in obs):
        names = (*wanted, *_given_masks(masks, obs[0]))
        for row in obs:
            _refuse_absent(names, row)
        return {name: _array([row[name] for row in obs], name) for name in names}, False
    if isinstance(obs, Mapping):
        _refuse_absent(wanted, obs)
        columns = {name: obs[name] for name in (*wanted, *_given_masks(masks, obs))}
        return _of_dict(columns, vectors=_vectors(wanted, masks, width))
    if not (hasattr(obs, "columns") or hasattr(obs, "to_arrow") or hasattr(obs, "column_names")):
        return None
    return _of_frame(obs, wanted, masks), False


def _vectors(wanted: tuple[str, ...], masks: tuple[str, ...], width: int) -> set[str]:
    """The columns that hold several numbers per row."""
    return {names[0] for names, several in ((wanted, width > 1), (masks, True)) if len(names) == 1 and several}


def _given_masks(masks: tuple[str, ...], there: Iterable[str]) -> tuple[str, ...]:
    """The columns of the action mask, or none where none is there. Raises DataError where some are there and some are not."""
    known = set(there)
    absent = [name for name in masks if name not in known]
    if absent and len(absent) < len(masks):
        raise DataError(
            f"The action mask of the policy is in the columns {listed(masks)}; the input has no column {listed(absent)}. Give "
            "all of them, or `action_mask`."
        )
    return () if absent else masks


def _of_dict(columns: dict[str, Any], *, vectors: set[str]) -> tuple[Block, bool]:
    """Columns of a dict. Values without a length are of one row; beside them, lists are vectors of this row.

    Args:
        columns: the values of each.
        vectors: the columns that hold several numbers per row.
    """
    depth = {name: 0 if isinstance(value, str | bytes) else np.ndim(value) for name, value in columns.items()}
    # A list in a column of vectors is one row, but an empty one is none.
    flat = {name: depth[name] - (name in vectors and depth[name] == 1 and len(columns[name]) > 0) for name in columns}
    single = min(flat.values()) == 0
    made = {name: _array([value] if single else value, name) for name, value in columns.items()}
    lengths = {name: len(column) for name, column in made.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"The columns of a policy's input must be equally long; got {shown(lengths)}.")
    return made, single


def _of_frame(frame: Any, wanted: tuple[str, ...], masks: tuple[str, ...]) -> Block:
    import pyarrow as pa

    try:
        if hasattr(frame, "iloc"):
            frame = frame.rename(columns=str)
            there = list(frame.columns)
        elif hasattr(frame, "to_arrow"):
            frame = frame.to_arrow()
            there = list(frame.column_names)
        else:
            frame = pa.table(frame)
            there = list(frame.column_names)
        _refuse_absent(wanted, there)
        names = [*wanted, *_given_masks(masks, there)]
        twice = [name for name in names if there.count(name) > 1]
        if twice:
            raise DataError(
                f"The input of the policy has more than one column {listed(twice)}. Leave one, or rename the others."
            )
        if hasattr(frame, "iloc"):
            frame = pa.Table.from_pandas(frame[names], preserve_index=False)
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"The frame cannot be read: {shown(str(error))}.") from None
    return {name: table.column(name).combine_chunks() for name in names}


def _array(values: Any, name: str) -> Any:
    """Values of one column for the encoder."""
    import pyarrow as pa

    if isinstance(values, np.ma.MaskedArray):
        values = _unmasked(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "biufU":
        return values
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], np.ndarray) and values[0].ndim:
        only = values[0]
        return (_unmasked(only) if isinstance(only, np.ma.MaskedArray) else only)[None]
    if isinstance(values, list):
        values = [None if value is np.ma.masked else value for value in values]
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"Column {shown(name)} must hold values of one type; {shown(str(error))}.") from None


def _refuse_absent(wanted: tuple[str, ...], there: Iterable[str]) -> None:
    known = set(there)
    absent = [name for name in wanted if name not in known]
    if absent:
        raise DataError(
            f"The policy observes {listed(wanted)}; the input has no column {listed(absent)}. Name the columns as its log did."
        )


def _refuse_unusable(rows: NumpyArray, unusable: dict[str, NumpyArray], schema: Schema) -> None:
    """Raise DataError for the first value that the policy cannot use, or that is missing and filled by no rule."""
    way_out = "say which action to take in such rows: `policy.guarded(action)`"
    for name, reasons in unusable.items():
        row = int(np.flatnonzero(reasons != "")[0])
        rule = schema.observations.get(name, PLAIN)
        known = "" if rule.categories is None else f"; the policy learned {listed(rule.vocabulary)}"
        raise DataError(f"Column {name}, row {row}: {reasons[row]}{known}. Correct the value, or {way_out}.")
    gaps = np.isnan(rows)
    if not gaps.any():
        return
    row, number = np.argwhere(gaps)[0]
    place = next((one for one in places_of(schema, rows.shape[1]) if one.first <= number < one.end), None)
    name = names_of_numbers(schema, rows.shape[1])[number] if place is None or not place.one_hot else place.name
    if place is not None and place.rule.missing == "previous":
        raise DataError(
            f"{name} is missing in row {row}, where the policy learned with the last value of the episode, which a single row "
            "does not hold. Give that value."
        )
    raise DataError(
        f"{name} is missing in row {row}, and the policy acts on known values only. Give the value, or {way_out}."
    )
