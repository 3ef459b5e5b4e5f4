"""What a schema makes of the first rows of a log: each role, its column and values, and everything that is wrong at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.messages import listed
from stitchrl.reading.assemble import assemble
from stitchrl.reading.sources.source import Block, LogSource
from stitchrl.types import NumpyArray

__all__ = ["ROWS_CHECKED", "check_schema", "problems_of"]

ROWS_CHECKED = 2**16
"""About how many rows are looked at."""
CLOSED = " episodes had no end marked"
"""What a note of reading says where ends were filled in."""
FIRST = 3
"""Values shown of each role."""


def check_schema(log: LogSource, schema: Schema) -> tuple[str, bool]:
    """What the schema makes of a log's first rows, as text for people, and whether they can be read.

    Args:
        log: the open log.
        schema: what its columns are said to mean.
    """
    head, longer = head_of(log)
    of = f"the first {ROWS_CHECKED:,} rows or so" if longer else "all rows"
    first = f"{log.origin}: {log.format}; {of} were looked at."
    try:
        found = assemble(head, _lenient(schema) if longer else schema)
        lines = _lines(found, schema, longer)
        if longer:
            lines += _unmarked(found, schema)
    except DataError as error:
        return f"{first}\n{error}", False
    return "\n".join([first, *lines]), True


def problems_of(log: LogSource, schema: Schema) -> tuple[str, ...]:
    """What is wrong with the first rows of a log read by a schema, one sentence each, with the way out of each."""
    head, longer = head_of(log)
    try:
        found = assemble(head, _lenient(schema) if longer else schema)
        return tuple(_unmarked(found, schema)) if longer else ()
    except DataError as error:
        first, *others = str(error).splitlines()
        return tuple(line.removeprefix("- ") for line in others) or (first,)


def head_of(log: LogSource) -> tuple[LogSource, bool]:
    """The log up to about `ROWS_CHECKED` rows, and whether it has more."""
    rows, longer = 0, False
    for block in log.blocks(log.names[:1]):
        longer = rows >= ROWS_CHECKED
        if longer:
            break
        rows += len(next(iter(block.values())))

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        left = ROWS_CHECKED
        for block in log.blocks(names):
            if left <= 0:
                return
            yield block
            left -= len(next(iter(block.values()))) if block else 0

    return dataclasses.replace(log, blocks=blocks), longer


def _lenient(schema: Schema) -> Schema:
    """The schema for the first rows of a longer log, whose last episode goes on after them."""
    return dataclasses.replace(schema, end=schema.end or "truncated")


def _unmarked(log: Dataset, schema: Schema) -> list[str]:
    """A sentence on ends that the first rows of a longer log do not mark, though more than the last episode lacks one.

    Raises:
        DataError: no episode has a marked end.
    """
    closed = next((note for note in log.notes if CLOSED in note), "")
    if schema.end is not None or not closed:
        return []
    count = int(closed.split(" ")[0].replace(",", ""))
    if count == log.num_episodes:
        raise DataError(
            f"None of the {count:,} episodes in these rows has a marked end. Name the column that marks ends, or say "
            '`end = "truncated"` under [episodes].'
        )
    if count > 1:
        return [f"{count:,} of {log.num_episodes:,} episodes have no end in these rows: later rows must mark them."]
    return []


def _lines(log: Dataset, schema: Schema, longer: bool) -> list[str]:
    """The table of roles, the counts, and what was assumed."""
    rows = [("role", "column", "becomes", "first values")]
    for role, column in schema.columns.items():
        names = (column,) if isinstance(column, str) else column
        rows.append((role, listed(names, 6), *_made(log, schema, role)))
    if "reward" not in schema.columns:
        rows.append(("reward", f"{schema.reward_expression}", *_made(log, schema, "reward")))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    table = [
        "  ".join((*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), row[3])).rstrip() for row in rows
    ]
    lengths = log.episode_lengths
    ends = f"{int(log.terminated.sum()):,} terminated, {int(log.truncated.sum()):,} truncated"
    last = ", the last of them perhaps not whole" if longer else ""
    counts = [
        "",
        f"{log.num_transitions:,} rows in {log.num_episodes:,} episodes of {lengths.min():,} to {lengths.max():,} steps; "
        f"{ends}{last}.",
        f"{log.observation_size:,} numbers an observation: {listed(log.observation_names, 12)}.",
        _actions(log, schema),
        f"The return of an episode is {log.episode_returns().mean():.4g} on average, from {log.episode_returns().min():.4g} to "
        f"{log.episode_returns().max():.4g}.",
    ]
    return [*table, *counts, *log.notes]


def _made(log: Dataset, schema: Schema, role: str) -> tuple[str, str]:
    """What a role becomes, and its first values."""
    values: dict[str, tuple[str, NumpyArray | None]] = {
        "observation": (f"{log.observation_size} numbers", log.observation[:FIRST]),
        "action": ("continuous" if log.num_actions is None else f"one of {log.num_actions}", log.action[:FIRST]),
        "reward": ("a number", log.reward[:FIRST]),
        "episode": ("an identifier", log.episode_id[:FIRST]),
        "terminated": ("true or false", log.terminated[:FIRST]),
        "truncated": ("true or false", log.truncated[:FIRST]),
        "step": ("a whole number", log.step[:FIRST]),
        "time": ("a time", None if log.time is None else log.time[:FIRST]),
        "group": ("an identifier", None if log.group is None else log.group[:FIRST]),
        "propensity": (
            "log of a probability",
            None if log.behavior_log_prob is None else log.behavior_log_prob[:FIRST],
        ),
    }
    kind, first = values.get(role, ("", None))
    if first is None and isinstance(column := getattr(log, role, None), np.ndarray):
        first = column[:FIRST]
    if first is None:
        return kind, ""
    if role == "action" and log.num_actions is not None and schema.action_categories is not None:
        return kind, listed([schema.action_categories[int(a)] for a in first])
    with np.printoptions(precision=4, suppress=True, threshold=6, edgeitems=3, linewidth=200):
        return kind, ", ".join(str(value) for value in first)


def _actions(log: Dataset, schema: Schema) -> str:
    """A sentence on the actions: how often each is taken, or their ranges."""
    if log.num_actions is None:
        low, high = log.action.min(0), log.action.max(0)
        each = listed([f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)], 6)
        return f"Actions of {log.action.shape[1]} numbers, from {each}."
    counts = np.bincount(log.action, minlength=log.num_actions)
    names = log.schema.action_names
    shares = [f"{names[k]} ({counts[k] / counts.sum():.0%})" for k in np.argsort(-counts)[:8]]
    never = int((counts == 0).sum())
    return f"{log.num_actions:,} actions: {listed(shares)}{f'; {never:,} are never taken' if never else ''}."
