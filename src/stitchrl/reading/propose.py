"""Proposing a first schema for a log, as TOML with remarks, which a person should correct."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import REQUIRED_ROLES, Schema
from stitchrl.errors import SchemaError
from stitchrl.reading.check_schema import problems_of
from stitchrl.reading.column_kinds import MOST_CATEGORIES, described, is_number, sort_columns, used, vocabulary
from stitchrl.reading.infer import guess_columns
from stitchrl.reading.sources.source import Column, LogSource
from stitchrl.types import NumpyArray

__all__ = ["propose"]

SPARSE = 4
"""Integers that reach further than this many times the number of different values are amounts, not action numbers."""
ROWS_LOOKED_AT = 2**18
"""About how many rows the proposal is based on."""
DOUBTS = {
    "done": "`done` often mixes deaths with time limits; those that are time limits belong under `truncated`",
    "dones": "`dones` often mix deaths with time limits; those that are time limits belong under `truncated`",
}
"""Column that is taken as `terminated` -> why a person should doubt that."""


def propose(log: LogSource, name: str) -> str:
    """A schema for a log as TOML: what its format says, or what the names and values of its columns suggest.

    Remarks say what is doubtful and what is left for a person to fill in.

    Args:
        log: an open log.
        name: what reports will call the log.
    """
    columns, longer = _first_rows(log)
    remarks = [f"{log.origin}: {log.format}, {len(log.names)} columns.", *log.notes]
    if log.schema is not None:
        return _text([*remarks, "The format itself says what follows."], log.schema.to_toml())
    found = sort_columns(log.names, columns, guess_columns(log.names))
    roles, free = found.roles, [n for n in log.names if n not in used(found.roles)]
    if found.observed:
        roles["observation"] = tuple(found.observed)
        remarks.append(
            "No name says what the observation is: the columns that may be part of it are taken. Strike out those that are not."
        )
        free = [n for n in free if n not in found.observed]
    if found.apart:
        remarks.append(f"Not offered as observations: {described(list(found.apart), found.apart)}.")
    remarks += found.questions
    missing = [role for role in _required(roles) if role not in roles and not (role == "reward" and found.reward)]
    if "terminated" not in roles and "truncated" in roles:
        remarks.append(
            "No column looks like `terminated`, so that every end is taken for a cut: name one if tasks also end."
        )
    remarks += [
        f"No column looks like `{role}`: name one, or see the remarks below for logs without it." for role in missing
    ]
    remarks += [
        f"{text}." for role in ("terminated", "truncated") if (text := DOUBTS.get(str(roles.get(role)).lower()))
    ]
    if free := [name for name in free if name not in found.apart]:
        remarks.append(f"Columns without a role: {', '.join(_described(free, columns))}.")
    if {"episode", "terminated"} & set(missing):
        remarks += [
            "Under [episodes]: bandit = true (every row is an episode of its own), end = 'truncated' (an episode's "
            "last row ends it), gap = 3600.0 (a longer silence, by the column with the role `time`, ends it)."
        ]
    action = roles.get("action")
    doses = _doses(columns.get(action)) if isinstance(action, str) else None
    if doses is not None:
        remarks.append(
            f"Column {action!r} looks like doses: it holds {len(doses):,} different integers up to {doses[-1]:,}. Under "
            "[action], name them by `categories`, cut them by `bins`, or say kind = 'continuous'; not `count`."
        )
    if longer:
        remarks.append(
            f"The number of actions and the categories are those of the first {ROWS_LOOKED_AT:,} rows or so; the log is "
            "longer. Add the numbers and categories that only later rows hold."
        )
    reward = roles.get("reward")
    if isinstance(reward, str) and (gaps := _gaps(columns.get(reward))):
        remarks.append(f"{reward!r} is missing in {gaps:,} rows, and `fill = 0.0` counts these as 0: is that so?")
    toml = _toml(roles, columns, name, ends=found.ends, reward=found.reward)
    if (schema := _schema_of(toml)) is not None:
        remarks += [f"Still wrong: {sentence}" for sentence in problems_of(log, schema)]
    return _text(remarks, toml)


def _required(roles: Mapping[str, str | tuple[str, ...]]) -> tuple[str, ...]:
    """The roles that the log must have; where ends are cuts, there need be none of the other kind."""
    return tuple(role for role in REQUIRED_ROLES if role != "terminated" or "truncated" not in roles)


def _schema_of(toml: str) -> Schema | None:
    """The schema of a TOML document; None where a person has yet to name a column."""
    content = tomllib.loads(toml)
    named = [n for column in content["columns"].values() for n in ([column] if isinstance(column, str) else column)]
    return None if any(n.startswith("WHICH COLUMN") for n in named) else Schema.from_dict(content)


def _toml(
    roles: Mapping[str, str | tuple[str, ...]],
    columns: Mapping[str, Column],
    name: str,
    *,
    ends: tuple[str, ...] | None,
    reward: str | None,
) -> str:
    """The proposed schema. If the proposal is no valid schema, only its columns, after a comment that says why.

    Args:
        roles: role -> column or columns.
        columns: their first rows.
        name: what reports will call the log.
        ends: the words that mark ends.
        reward: an expression in place of a column.
    """
    observation = roles.get("observation", ())
    rules = {}
    for column in (observation,) if isinstance(observation, str) else observation:
        categories = vocabulary(columns.get(column))
        rule = ColumnRule(categories=categories) if categories is not None else ColumnRule()
        if _gaps(columns.get(column)):
            rule = dataclasses.replace(rule, missing="previous", fill=_median(columns[column]), indicator=True)
        if rule != ColumnRule():
            rules[column] = rule
    action = roles.get("action")
    acted = columns.get(action) if isinstance(action, str) else None
    doses = _doses(acted)
    count = _count(acted) if doses is None else None
    named = None if acted is None or count is not None else vocabulary(acted)
    if doses is not None and len(doses) <= MOST_CATEGORIES:
        named = tuple(map(str, doses))
    whole = dict(roles)
    for role in _required(roles):
        if role == "reward" and reward is not None:
            continue
        whole.setdefault(role, f"WHICH COLUMN IS THE {role.upper()}?")
    rewarded = roles.get("reward")
    fill = 0.0 if isinstance(rewarded, str) and _gaps(columns.get(rewarded)) else None
    try:
        return Schema(
            whole,
            count,
            name=name,
            observations=rules,
            action_categories=named,
            reward_fill=fill,
            reward_expression=reward,
            terminated_values=ends,
        ).to_toml()
    except SchemaError as error:
        return f"# {error}\n" + Schema(whole, name=name).to_toml()


def _text(remarks: Sequence[str], toml: str) -> str:
    """The TOML after the remarks, which become comments."""
    return "\n".join(f"# {remark}" for remark in remarks) + "\n\n" + toml


def _described(names: Sequence[str], columns: Mapping[str, Column]) -> list[str]:
    """The names of columns with the types they hold; numbered columns of one type are named together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name in names:
        alike.setdefault((re.sub(r"\d+$", "", name), _kind(columns.get(name))), []).append(name)
    return [
        f"{held[0]!r} ({kind})" if len(held) == 1 else f"{held[0]!r} to {held[-1]!r} ({len(held)} x {kind})"
        for (_, kind), held in alike.items()
    ]


def _first_rows(log: LogSource) -> tuple[dict[str, Column], bool]:
    """The first rows of each column, and whether the log has more."""
    blocks: dict[str, list[Column]] = {name: [] for name in log.names}
    rows, longer = 0, False
    for block in log.blocks(log.names):
        if rows >= ROWS_LOOKED_AT:
            longer = True
            break
        for name, column in block.items():
            blocks[name].append(column)
        rows += len(next(iter(block.values())))
    return {name: _joined(held) for name, held in blocks.items() if held}, longer


def _joined(blocks: Sequence[Column]) -> Column:
    """The blocks of a column as a whole."""
    if isinstance(blocks[0], np.ndarray):
        return np.concatenate([np.asarray(block) for block in blocks])
    joined = pa.chunked_array(blocks).combine_chunks()
    return joined if isinstance(joined, pa.Array) else joined.chunk(0)


def _gaps(column: Column | None) -> int:
    """How many values of a column are missing."""
    return column.null_count if isinstance(column, pa.Array) else 0


def _median(column: Column | None) -> float:
    """The median of a column's finite numbers, a plausible value for rows that lack one; 0 if there are none."""
    if not isinstance(column, pa.Array) or not is_number(column):
        return 0.0
    values = column.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else 0.0


def _doses(column: Column | None) -> list[int] | None:
    """The sorted different values of a column of sparse integers from 0, which look like doses; None for any other."""
    values = _integers(column)
    if values is None:
        return None
    different = np.unique(values)
    sparse = len(different) > 1 and int(different[-1]) + 1 > SPARSE * len(different)
    return [int(value) for value in different] if sparse else None


def _count(column: Column | None) -> int | None:
    """The number of actions in a column of integers from 0: the largest + 1. None for any other column."""
    values = _integers(column)
    return None if values is None else max(int(values.max()) + 1, 2)


def _integers(column: Column | None) -> NumpyArray | None:
    """The values of a column of integers from 0; None for any other."""
    if column is None or len(column) == 0:
        return None
    if isinstance(column, np.ndarray):
        values = column
    elif pa.types.is_integer(column.type) and not column.null_count:
        values = column.to_numpy(zero_copy_only=False)
    else:
        return None
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0:
        return None
    return values


def _kind(column: Column | None) -> str:
    """The name of a column's type, for a person."""
    if column is None:
        return "empty"
    return str(column.dtype) if isinstance(column, np.ndarray) else str(column.type)
