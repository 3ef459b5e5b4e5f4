"""The CSV of the Open Bandit Dataset: one impression a row, with the probability that its item was shown.

Every row is an episode of one step. The action is `item_id`, one of the items in `item_context.csv` beside the log, and
the reward is `click`. `propensity_score` is the probability of the item at its `position`, so the position is part of
the observation. Hashed user features are categories in the order of their text, so two logs that are to be compared
must be read with the same schema.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stitchrl.data.column_rule import ColumnRule
from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import described
from stitchrl.reading.sources.delimited import open_delimited
from stitchrl.reading.sources.source import Format, LogSource, reading_errors

__all__ = ["FORMAT"]

KIND = "Open Bandit"
NEEDED = ("timestamp", "item_id", "position", "click", "propensity_score")
USER, AFFINITY = "user_feature_", "user-item_affinity_"
ITEMS = "item_context.csv"
MOST_CATEGORIES = 1000
"""The most values of a categorical column."""


def open_open_bandit(path: Path) -> LogSource:
    """The columns of a log, with their schema.

    Raises:
        DataError: columns are missing, there are no rows, the file is damaged, or a user feature has more than 1000
            values.
    """
    source = open_delimited(path)
    missing = [name for name in NEEDED if name not in source.names]
    if missing:
        raise DataError(f"{path.name} is not of the Open Bandit Dataset: it has no {', '.join(missing)}.")
    categorical = ["position", *_numbered(source.names, USER)]
    affinities = _numbered(source.names, AFFINITY)
    values, largest = _scan(source, categorical, path.name)
    items, notes = _items(path, largest)
    schema = described(
        path.name,
        {
            "observation": (*categorical, *affinities),
            "action": "item_id",
            "reward": "click",
            "propensity": "propensity_score",
            "time": "timestamp",
        },
        num_actions=items,
        name=f"{path.parent.name}/{path.stem}" if path.parent.name else path.stem,
        observations={name: ColumnRule(categories=values[name]) for name in categorical},
        bandit=True,
    )
    return dataclasses.replace(source, format=KIND, schema=schema, notes=notes)


def _numbered(names: tuple[str, ...], prefix: str) -> list[str]:
    """The names that are a prefix and a number, in the order of the numbers."""
    numbered = [name for name in names if name.startswith(prefix) and name.removeprefix(prefix).isdigit()]
    return sorted(numbered, key=lambda name: int(name.removeprefix(prefix)))


def _scan(source: LogSource, categorical: list[str], origin: str) -> tuple[dict[str, tuple[str, ...]], int]:
    """The sorted values of each categorical column, and the number of the largest item."""
    seen: dict[str, set[Any]] = {name: set() for name in categorical}
    largest, rows = -1, 0
    for block in source.blocks([*categorical, "item_id"]):
        for name in categorical:
            column = block[name]
            if isinstance(column, pa.Array) and column.null_count:
                raise DataError(f"{name} of {origin} must have no missing values; row {rows} or later has one.")
            seen[name] |= set(pc.unique(column).to_pylist())
            if len(seen[name]) > MOST_CATEGORIES:
                raise DataError(f"{name} of {origin} has more than {MOST_CATEGORIES} values; it is no category.")
        items = block["item_id"]
        if not isinstance(items, pa.Array) or not pa.types.is_integer(items.type) or items.null_count:
            raise DataError(
                f"item_id of {origin} must be a whole number in every row; it holds something else from row {rows}."
            )
        largest = max(largest, int(pc.max(items).as_py()))
        rows += len(items)
    if not rows:
        raise DataError(f"{origin} has no rows; a log needs at least one impression.")
    return {name: tuple(str(value) for value in sorted(values)) for name, values in seen.items()}, largest


def _items(path: Path, largest: int) -> tuple[int, tuple[str, ...]]:
    """How many items there are, and a note on where that number comes from."""
    beside = path.parent / ITEMS
    if not beside.is_file():
        note = f"There is no {ITEMS} beside the log: its items are taken to be 0 to the largest seen, {largest}."
        return max(largest + 1, 2), (note,)
    with reading_errors(beside.name, "CSV"):
        context = open_delimited(beside)
        listed = np.concatenate([np.asarray(block["item_id"]) for block in context.blocks(["item_id"])])
    if listed.dtype.kind not in "iu" or sorted(listed.tolist()) != list(range(len(listed))):
        raise DataError(f"item_id of {ITEMS} beside {path.name} must be the numbers from 0 up, each once.")
    return max(len(listed), 2), (f"The items' own features in {ITEMS} are not part of the observation.",)


def _recognises(path: Path, head: bytes) -> bool:
    """Whether the header names the columns of the dataset."""
    header = head.split(b"\n", 1)[0].decode("utf-8", "replace").replace('"', "").strip()
    return set(NEEDED) <= set(header.split(","))


FORMAT = Format(KIND, (), _recognises, open_open_bandit)
