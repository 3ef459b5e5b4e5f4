"""The HDF5 files of d3rlpy: `ReplayBuffer.dump` (version 2) and `MDPDataset.dump` (version 1).

Version 2 keeps each episode in arrays of its own, `observations_0`, `actions_0` and so on, with as many observations as
actions and one flag `terminated`. An episode that did not terminate was cut, and the observation after its last action
was never stored: that row has no TD target, but serves imitation and statistics. Version 1 has flat arrays, with
`episode_terminals` at the end of each episode and `terminals` where it truly ended.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import (
    Declared,
    action_count,
    as_flags,
    check_lengths,
    described,
    in_blocks,
    one_number_a_row,
    one_or_several,
)
from stitchrl.reading.sources.hdf5 import MAGIC, array_in, member, names_in, opened
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.types import NumpyArray

__all__ = ["FORMAT"]

KIND = "d3rlpy buffer"
FIRST = {"observations", "actions", "rewards", "terminals"}
"""The arrays that every file of version 1 has."""


def open_buffer(path: Path) -> LogSource:
    """The columns of a file, with their schema.

    Raises:
        DataError: h5py is not installed, or the file was not made by d3rlpy, is incomplete or is damaged.
    """
    with opened(path, KIND) as file:
        keys = set(file.keys())
        if "num_episodes" not in keys:
            return _open_first(path, keys)
        episodes, observed = _episodes(file, path.name), _observation_columns(file, path.name)

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        declared = Declared(path.name, path.stat().st_size)
        with opened(path, KIND) as file:
            pieces = (p for i in range(episodes) for p in _pieces(file, i, names, path.name, declared))
            yield from in_blocks(pieces, path.name)

    columns = (*observed, "actions", "rewards", "terminated", "truncated", "episode")
    return _with_schema(LogSource(path.name, KIND, columns, blocks), observed, path)


def _with_schema(source: LogSource, observed: tuple[str, ...], path: Path) -> LogSource:
    """The source with the schema that its names mean; `observed` are the columns of the observation."""
    columns: dict[str, str | tuple[str, ...]] = {
        "observation": one_or_several(observed),
        "action": "actions",
        "reward": "rewards",
        "terminated": "terminated",
        "truncated": "truncated",
    }
    schema = described(path.name, columns, num_actions=action_count(source, "actions"), name=path.stem, end="truncated")
    return dataclasses.replace(source, schema=schema)


def _episodes(file: Any, origin: str) -> int:
    """How many episodes a file says it has, checked against the number of its arrays."""
    number = member(file, "num_episodes", origin)
    count = int(number[()])
    if count < 1:
        raise DataError(f"{origin} has no episodes; a log needs at least one.")
    if count > len(file.keys()):
        raise DataError(f"{origin} says it has {count:,} episodes, for which it has too few arrays; it is incomplete.")
    return count


def _observation_columns(file: Any, origin: str) -> tuple[str, ...]:
    """The columns of the observation: `observations`, or `observations/0` and so on where it has several arrays."""
    if "observations_0" in file:
        return ("observations",)
    numbers = sorted(int(m.group(1)) for m in (re.fullmatch(r"observations_0_(\d+)", key) for key in file) if m)
    if not numbers or numbers != list(range(len(numbers))):
        raise DataError(f"{origin} has no observations of episode 0; it is incomplete.")
    return tuple(f"observations/{i}" for i in numbers)


def _pieces(
    file: Any, number: int, names: Sequence[str], origin: str, declared: Declared
) -> Iterator[dict[str, NumpyArray]]:
    """The wanted columns of an episode, up to BLOCK_ROWS rows at a time."""
    rewards = array_in(file, f"rewards_{number}", origin)
    ended = np.asarray(array_in(file, f"terminated_{number}", origin)[()]).reshape(-1)
    terminated = bool(as_flags(ended, f"terminated_{number}", origin)[-1]) if len(ended) else False
    arrays = {}
    for name in names:
        if name == "actions" or name == "rewards" or name.startswith("observations"):
            base, _, component = name.partition("/")
            stored = f"{base}_{number}_{component}" if component else f"{base}_{number}"
            arrays[name] = array_in(file, stored, origin, declared)
    count = check_lengths(
        {f"rewards_{number}": len(rewards), **{f"{n} of episode {number}": len(a) for n, a in arrays.items()}}, origin
    )
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        last = np.arange(start, stop) == count - 1
        made = {name: _plain(name, np.asarray(array[start:stop])) for name, array in arrays.items()}
        made |= {
            "terminated": last & terminated,
            "truncated": last & (not terminated),
            "episode": np.full(stop - start, number, np.int64),
        }
        yield {name: made[name] for name in names}


def _plain(name: str, values: NumpyArray) -> NumpyArray:
    """The values of a column; rewards and discrete actions of shape (n, 1) become (n,)."""
    if name == "rewards" or (name == "actions" and values.dtype.kind in "iub"):
        return one_number_a_row(values)
    return values


# --- version 1 --------------------------------------------------------------------------------------------------


def _open_first(path: Path, keys: set[str]) -> LogSource:
    """The columns of a file of version 1, given the names of its arrays."""
    if not keys >= FIRST:
        raise DataError(
            f"{path.name} is not of d3rlpy's ReplayBuffer.dump: it has no num_episodes, and no {', '.join(sorted(FIRST - keys))}."
        )
    stored: list[str] = [
        key for key in ("observations", "actions", "rewards", "terminals", "episode_terminals") if key in keys
    ]

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        declared = Declared(path.name, path.stat().st_size)
        flags = [key for key in ("terminals", "episode_terminals") if key in stored]
        with opened(path, KIND) as file:
            wanted = {n: array_in(file, n, path.name, declared) for n in dict.fromkeys((*names, *flags)) if n in stored}
            count = check_lengths({name: len(array) for name, array in wanted.items()}, path.name)
            for start in range(0, count, BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                made: dict[str, NumpyArray] = {n: _plain(n, np.asarray(a[rows])) for n, a in wanted.items()}
                ended = [as_flags(one_number_a_row(made[flag]), flag, path.name) for flag in flags]
                made |= {"terminated": ended[0], "truncated": ended[-1] & ~ended[0]}
                yield {name: made[name] for name in names}

    columns = ("observations", "actions", "rewards", "terminated", "truncated")
    return _with_schema(LogSource(path.name, KIND, columns, blocks), ("observations",), path)


def _recognises(path: Path, head: bytes) -> bool:
    """Whether the names of the arrays are those of d3rlpy."""
    if not head.startswith(MAGIC):
        return False
    names = names_in(path)
    return {"num_episodes", "version"} <= names or {"episode_terminals", "discrete_action"} <= names


FORMAT = Format(KIND, (), _recognises, open_buffer)
