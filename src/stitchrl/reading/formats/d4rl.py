"""The HDF5 files of D4RL: flat arrays of transitions, with `terminals` kept apart from `timeouts`.

A row where `timeouts` is 1 is the last one of an episode that a time limit cut. The observation after it is in
`next_observations` or not in the log at all; it is never in the next row. Where `terminals` is 1 as well, the episode
truly ended: D4RL's own `qlearning_dataset` looks at `terminals` alone for its targets. Arrays under `infos` become
columns without a role.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import (
    Declared,
    check_lengths,
)
from stitchrl.reading.sources.hdf5 import MAGIC, array_in, member, opened
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.reading.sources.transitions import ROLES, transitions

__all__ = ["FORMAT"]

KIND = "HDF5"
DEEPEST, MOST_COLUMNS = 4, 10_000
"""The deepest nesting of groups that is looked into, and the most arrays that a file may hold."""


def open_hdf5(path: Path) -> LogSource:
    """The columns of a file: every array that has one row for each transition.

    Raises:
        DataError: h5py is not installed, the file is damaged, no array at its top level has rows, or columns differ in
            length.
    """
    with opened(path, KIND) as file:
        names = _columns(file, path.name, Declared(path.name, path.stat().st_size))

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with opened(path, KIND) as file:
            arrays = {name: _dataset(file, name, path.name) for name in wanted}
            count = check_lengths({name: len(array) for name, array in arrays.items()}, path.name)
            for start in range(0, count, BLOCK_ROWS):
                yield {name: array[start : start + BLOCK_ROWS] for name, array in arrays.items()}

    return transitions(LogSource(path.name, KIND, names, blocks), path.stem)


def _dataset(file: Any, name: str, origin: str) -> Any:
    """The dataset of a column, such as "infos/qpos"."""
    *groups, last = name.split("/")
    for group in groups:
        file = member(file, group, origin)
    return array_in(file, last, origin)


def _columns(file: Any, origin: str, declared: Declared) -> tuple[str, ...]:
    """The names of the arrays with one row for each transition; those in groups are named like "infos/qpos"."""
    import h5py

    arrays: dict[str, Any] = {}

    def walk(group: Any, before: str, depth: int) -> None:
        for name in group:
            if len(arrays) > MOST_COLUMNS:
                raise DataError(f"{origin} holds more than {MOST_COLUMNS:,} arrays; a log has one for each column.")
            link = group.get(name, getlink=True)
            item = group[name] if isinstance(link, h5py.HardLink) or not before else None
            if isinstance(item, h5py.Group) and depth < DEEPEST:
                walk(item, f"{before}{name}/", depth + 1)
            elif isinstance(item, h5py.Dataset) and (not before or (item.dtype.kind in "biuf" and item.shape)):
                arrays[before + name] = item

    walk(file, "", 0)
    top = {name: item for name, item in arrays.items() if "/" not in name and item.shape and item.dtype.kind in "biuf"}
    if not top:
        groups = ", ".join(sorted({name.split("/")[0] for name in arrays} or set(file))[:6])
        raise DataError(
            f"{origin} must hold arrays with one row a transition, such as observations, actions, rewards and "
            f"terminals; it holds {groups or 'nothing'}."
        )
    counts = {name: len(item) for name, item in top.items()}
    known = {name: len(array_in(file, name, origin)) for name in ROLES.values() if name in arrays}
    count = check_lengths(known or counts, origin)
    names = [name for name, item in arrays.items() if item.dtype.kind in "biuf" and item.shape and len(item) == count]
    for name in names:
        item = _dataset(file, name, origin)
        declared.add(name, item.shape, item.dtype.itemsize)
    return tuple(names)


FORMAT = Format("D4RL", (".hdf5", ".h5", ".hdf"), lambda path, head: head.startswith(MAGIC), open_hdf5)
