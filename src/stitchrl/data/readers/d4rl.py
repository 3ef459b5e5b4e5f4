"""D4RL's HDF5: flat arrays of transitions, `terminals` apart from `timeouts`.

A row where `timeouts` is 1 is the last of an episode that a time limit cut; the observation after it is in
`next_observations` or nowhere, never in the next row. Where `terminals` is 1 too, the episode truly ended: D4RL's own
`qlearning_dataset` takes `terminals` alone for its targets. Arrays under `infos` become columns without a role.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.data.readers.hdf5 import MAGIC, array_in, member, opened
from stitchrl.data.readers.parts import (
    Declared,
    action_count,
    as_flags,
    check_lengths,
    described,
    one_number_a_row,
)
from stitchrl.data.readers.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["FORMAT", "transitions"]

KIND = "HDF5"
ROLES: Mapping[str, str] = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_observation": "next_observations",
    "terminated": "terminals",
    "truncated": "timeouts",
}
NEEDED = ("observations", "actions", "rewards")
FLAGS = ("terminals", "timeouts")
DEEPEST, MOST_COLUMNS = 4, 10_000


def transitions(raw: LogSource, name: str) -> LogSource:
    """A source whose columns have D4RL's names, with their meaning; any other as it is.

    Args:
        raw: the columns as they are stored.
        name: what reports call the log.

    Raises:
        DataError: flags that are neither 0 nor 1.
    """
    if not set(NEEDED) <= set(raw.names) or not set(FLAGS) & set(raw.names):
        return raw
    source = dataclasses.replace(raw, format=f"D4RL {raw.format}", blocks=lambda names: _blocks(raw, names))
    notes, both, timeouts = list(raw.notes), 0, "timeouts" in raw.names
    for block in raw.blocks([flag for flag in FLAGS if flag in raw.names]):
        flags = [as_flags(one_number_a_row(np.asarray(block[f])), f, raw.origin) for f in FLAGS if f in block]
        both += int(np.logical_and.reduce(flags).sum()) if len(flags) == 2 else 0
    if both:
        notes.append(f"{both:,} rows are terminals and timeouts; they count as terminated.")
    if not timeouts:
        notes.append("The log has no `timeouts`: only `terminals` end an episode, and the last row is taken as cut.")
    columns = {role: column for role, column in ROLES.items() if column in raw.names}
    schema = described(raw.origin, columns, num_actions=action_count(source, "actions"), name=name, end="truncated")
    return dataclasses.replace(source, schema=schema, notes=tuple(notes))


def _blocks(raw: LogSource, names: Sequence[str]) -> Iterator[Block]:
    """Blocks where one row has one flag, one reward, and a flat action."""
    both = "timeouts" in names and "terminals" in raw.names
    needed = [*names, "terminals"] if both and "terminals" not in names else list(names)
    for block in raw.blocks(needed):
        made: dict[str, Any] = {name: np.asarray(block[name]) for name in needed}
        for name in {"rewards", *FLAGS} & set(made):
            made[name] = one_number_a_row(made[name])
        if both:
            terminals = as_flags(made["terminals"], "terminals", raw.origin)
            made["timeouts"] = as_flags(made["timeouts"], "timeouts", raw.origin) & ~terminals
        if "actions" in made:
            made["actions"] = _flat(made["actions"])
        yield {name: made[name] for name in names}


def _flat(action: NumpyArray) -> NumpyArray:
    action = action.reshape(len(action), -1) if action.ndim > 2 else action
    return one_number_a_row(action) if action.dtype.kind in "iub" else action


def open_hdf5(path: Path) -> LogSource:
    """Its columns: every array with one row a transition.

    Raises:
        DataError: h5py is missing; damaged; nothing at its top that has rows; columns of different lengths.
    """
    with opened(path, KIND) as file:
        names = _columns(file, path.name, Declared(path.name, path.stat().st_size))

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with opened(path, KIND) as file:
            arrays = {name: _found(file, name, path.name) for name in wanted}
            count = check_lengths({name: len(array) for name, array in arrays.items()}, path.name)
            for start in range(0, count, BLOCK_ROWS):
                yield {name: array[start : start + BLOCK_ROWS] for name, array in arrays.items()}

    return transitions(LogSource(path.name, KIND, names, blocks), path.stem)


def _found(file: Any, name: str, origin: str) -> Any:
    *groups, last = name.split("/")
    for group in groups:
        file = member(file, group, origin)
    return array_in(file, last, origin)


def _columns(file: Any, origin: str, declared: Declared) -> tuple[str, ...]:
    """Names of the arrays with one row a transition, those of groups as "infos/qpos"."""
    import h5py

    found: dict[str, Any] = {}

    def walk(group: Any, before: str, depth: int) -> None:
        for name in group:
            if len(found) > MOST_COLUMNS:
                raise DataError(f"{origin} holds more than {MOST_COLUMNS:,} arrays; a log has one for each column.")
            link = group.get(name, getlink=True)
            item = group[name] if isinstance(link, h5py.HardLink) or not before else None
            if isinstance(item, h5py.Group) and depth < DEEPEST:
                walk(item, f"{before}{name}/", depth + 1)
            elif isinstance(item, h5py.Dataset) and (not before or (item.dtype.kind in "biuf" and item.shape)):
                found[before + name] = item

    walk(file, "", 0)
    top = {name: item for name, item in found.items() if "/" not in name and item.shape and item.dtype.kind in "biuf"}
    if not top:
        groups = ", ".join(sorted({name.split("/")[0] for name in found} or set(file))[:6])
        raise DataError(
            f"{origin} must hold arrays with one row a transition, such as observations, actions, rewards and "
            f"terminals; it holds {groups or 'nothing'}."
        )
    counts = {name: len(item) for name, item in top.items()}
    known = {name: len(array_in(file, name, origin)) for name in ROLES.values() if name in found}
    count = check_lengths(known or counts, origin)
    names = [name for name, item in found.items() if item.dtype.kind in "biuf" and item.shape and len(item) == count]
    for name in names:
        item = _found(file, name, origin)
        declared.add(name, item.shape, item.dtype.itemsize)
    return tuple(names)


FORMAT = Format("D4RL", (".hdf5", ".h5", ".hdf"), lambda path, head: head.startswith(MAGIC), open_hdf5)
