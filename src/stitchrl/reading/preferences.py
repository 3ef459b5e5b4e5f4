"""`st.read_preferences` makes Preferences of a table with one row a decision, or with one row a pair."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from stitchrl.data.dataset import Dataset
from stitchrl.data.preferences import Preferences
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.messages import listed, shown
from stitchrl.reading.infer import guess_columns
from stitchrl.reading.read import as_dataset, known_schema, open_log, with_columns
from stitchrl.reading.sources.source import Block, Column, LogSource, concatenated
from stitchrl.types import Bool, NumpyArray, Shaped

__all__ = ["read_preferences"]

PAIR, PREFERRED = "pair", "preferred"
"""Columns of a table with one row a decision: which pair it belongs to, and whether its side was preferred."""
WIDE = ("preferred_action", "rejected_action")
"""Columns of a table with one row a pair of single actions."""
OF_ONE_ACTION = ("action", "behavior_log_prob", "propensity")
YES, NO = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")


def read_preferences(
    source: Any, schema: Schema | str | os.PathLike[str] | None = None, *, format: str | None = None
) -> Preferences:
    """Read pairs of segments, of which one was preferred.

    The table has one of two forms:

    - One row a decision, with the columns `pair` (any identifier), `preferred` (true or 1 on the decisions of the preferred
      segment, false or 0 on those of the other), the observation and the action; with several decisions a segment, `step` or
      `time` orders them, else the order of the rows does.
    - One row a pair of single actions at one observation, with the columns `preferred_action` and `rejected_action`.

    Further columns have the roles that they have in a log: `action_mask`, `behavior_log_prob`, `weight` (of a pair: that of
    its preferred side counts), `group` (such as who judged). Rewards and ends may be there and are not needed; a segment
    whose last row has no end counts as truncated there.

    Args:
        source: what `st.read` takes: a path of any known format, a frame, an Arrow table, or a dict of arrays.
        schema: what the columns mean, as `st.read` takes it; its column `episode` is not read. A table with one row a pair
            has the column `action` in it for both actions. By default the names of the columns say what they mean, and an
            action column of integers counts as discrete, with as many actions as the largest integer + 1.
        format: name of the files' format; by default it is told from their content.

    Raises:
        SchemaError: columns are missing.
        DataError: a pair does not have two sides, or `preferred` holds something else than yes and no; else as `st.read`.
    """
    known = known_schema(source, schema)
    opened = open_log(source, format=format, rules=None if known is None else known.file_rules)
    log = _one_row_a_decision(opened)
    chosen = with_columns(_schema_of(log, known or opened.schema), {"subgroup": (PAIR, PREFERRED)})
    return _paired(as_dataset(log, chosen, known is None and opened.schema is None), log.origin)


def _one_row_a_decision(log: LogSource) -> LogSource:
    """The log as it is, or with two rows for each of a table with one row a pair. Raises SchemaError where it is neither."""
    if set(WIDE) <= set(log.names) and PREFERRED not in log.names:
        return _long(log)
    missing = [name for name in (PAIR, PREFERRED) if name not in log.names]
    if missing:
        raise SchemaError(
            f"Preferences need the columns {PAIR!r} and {PREFERRED!r}, with one row a decision, or "
            f"{' and '.join(map(repr, WIDE))}, with one row a pair; {log.origin} has no {listed(missing)}, but "
            f"{listed(log.names)}."
        )
    return log


def _long(log: LogSource) -> LogSource:
    """Two rows for each row of a table with one row a pair: the preferred action and the rejected one."""
    of_one = [name for name in log.names if name in OF_ONE_ACTION]
    if of_one:
        raise SchemaError(
            f"A row of {log.origin} has two actions, and the column {listed(of_one)} one value, which cannot be of both. "
            f"Leave it out, or write one row a decision, with the columns {PAIR!r} and {PREFERRED!r}."
        )
    shared = tuple(name for name in log.names if name not in (*WIDE, PAIR))
    made = (PAIR, PREFERRED, "action")

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        wanted = [name for name in names if name not in made]
        for first, rows, block in log.rows([*wanted, *WIDE]):
            twice = np.repeat(np.arange(rows), 2)
            sides = np.arange(2 * rows).reshape(2, rows).T.reshape(-1)  # preferred, rejected, preferred, ...
            long: dict[str, Column] = {name: _taken(block[name], twice) for name in wanted}
            long[PAIR], long[PREFERRED] = first + twice, np.tile([True, False], rows)
            long["action"] = _taken(concatenated([block[name] for name in WIDE]), sides)
            yield {name: long[name] for name in names}

    return dataclasses.replace(log, names=(*shared, *made), blocks=blocks)


def _taken(column: Column, rows: NumpyArray) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else column.take(pa.array(rows))


def _schema_of(log: LogSource, known: Schema | None) -> Schema:
    """The schema of the rows, whose episodes are the sides of pairs, and which need neither rewards nor ends."""
    columns = guess_columns(log.names) if known is None else dict(known.columns)
    absent = [role for role in ("observation", "action") if role not in columns]
    if absent:
        raise SchemaError(
            f"The columns of {log.origin} must be named by their roles, or a schema must say their roles; there is no "
            f"{listed(absent)} among {listed(log.names)}."
        )
    columns["episode"] = (PAIR, PREFERRED)
    columns = {role: name for role, name in columns.items() if known is not None or name not in (PAIR, PREFERRED)}
    settings: dict[str, Any] = {} if known is None else {"columns": columns}
    reward = known.reward_expression if known is not None else None
    if "reward" not in columns and reward is None:
        settings["reward_expression"] = "0"
    if known is None or known.end is None:
        settings["end"] = "truncated"
    if known is None:
        return Schema(columns, name="preferences", **settings)
    return dataclasses.replace(known, bandit=False, **settings)


def _paired(segments: Dataset, origin: str) -> Preferences:
    """Segments with the texts of `pair` and `preferred` beside them, as pairs."""
    assert segments.subgroup is not None
    names = segments.schema.columns["subgroup"]
    texts = {name: segments.subgroup[:, names.index(name)] for name in (PAIR, PREFERRED)}
    first = segments.episode_start[:-1]
    pair = texts[PAIR][first]
    yes = _said(texts[PREFERRED][first], pair, origin)
    each, number = np.unique(pair, return_inverse=True)
    sides = [np.bincount(number.reshape(-1)[side], minlength=len(each)) for side in (yes, ~yes)]
    wrong = np.flatnonzero((sides[0] != 1) | (sides[1] != 1))
    if len(wrong):
        found = (
            f"{count[wrong[0]] or 'no'} {name}" for count, name in zip(sides, (PREFERRED, "rejected"), strict=True)
        )
        raise DataError(
            f"Every pair of {origin} must have one preferred side and one rejected one, each with one word in {PREFERRED!r}; "
            f"pair {shown(each[wrong[0]])} has {' and '.join(found)}. Leave it out, or correct it."
        )
    # In the order in which pairs first appear.
    order = np.argsort(np.unique(pair, return_index=True)[1])
    preferred, rejected = (np.flatnonzero(side)[np.argsort(number.reshape(-1)[side])][order] for side in (yes, ~yes))
    weight = None if segments.weight is None else segments.weight[first][preferred]
    group = None if segments.group is None else segments.group[preferred]
    bare = dataclasses.replace(segments, subgroup=None, weight=None, group=None, schema=_without(segments.schema))
    return Preferences(bare, preferred, rejected, weight, group)


def _said(word: Shaped[NumpyArray, " E"], pair: Shaped[NumpyArray, " E"], origin: str) -> Bool[NumpyArray, " E"]:
    """Whether each side was preferred. Raises DataError where that cannot be told."""
    lower = np.char.lower(word)
    unknown = np.flatnonzero(~np.isin(lower, (*YES, *NO)))
    if len(unknown):
        raise DataError(
            f"{PREFERRED!r} of {origin} must be true or false, or 1 or 0, on every row; pair {shown(pair[unknown[0]])} has "
            f"{shown(word[unknown[0]])}."
        )
    return np.isin(lower, YES)


def _without(schema: Schema) -> Schema:
    """The schema without the columns that only said what belongs together."""
    columns = {role: name for role, name in schema.columns.items() if role not in ("subgroup", "weight", "group")}
    return dataclasses.replace(schema, columns=columns)
