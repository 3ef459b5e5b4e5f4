"""d3rlpy's `ReplayBuffer.dump` (version 2) and `MDPDataset.dump` (version 1).

Version 2 keeps each episode in arrays of its own, `observations_0`, `actions_0`, ..., with as many observations as
actions and one flag `terminated`. An episode that did not terminate was cut, and the observation after its last action
was never stored: that row stays for imitation and statistics and has no target. Version 1 is flat, with
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
)
from stitchrl.reading.sources.hdf5 import MAGIC, array_in, member, names_in, opened
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.types import NumpyArray

__all__ = ["FORMAT"]

KIND = "d3rlpy buffer"
FIRST = {"observations", "actions", "rewards", "terminals"}
"""What version 1 always has."""


def open_buffer(path: Path) -> LogSource:
    """Its columns.

    Raises:
        DataError: h5py is missing; not made by d3rlpy; incomplete or damaged.
    """
    with opened(path, KIND) as file:
        keys = set(file.keys())
        if "num_episodes" not in keys:
            return _open_first(path, keys)
        episodes, parts = _episodes(file, path.name), _observation_parts(file, path.name)

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        declared = Declared(path.name, path.stat().st_size)
        with opened(path, KIND) as file:
            pieces = (p for i in range(episodes) for p in _pieces(file, i, names, path.name, declared))
            yield from in_blocks(pieces, path.name)

    columns = (*parts, "actions", "rewards", "terminated", "truncated", "episode")
    return _with_schema(LogSource(path.name, KIND, columns, blocks), parts, path)


def _with_schema(source: LogSource, parts: tuple[str, ...], path: Path) -> LogSource:
    columns: dict[str, str | tuple[str, ...]] = {
        "observation": parts[0] if len(parts) == 1 else parts,
        "action": "actions",
        "reward": "rewards",
        "terminated": "terminated",
        "truncated": "truncated",
    }
    schema = described(path.name, columns, num_actions=action_count(source, "actions"), name=path.stem, end="truncated")
    return dataclasses.replace(source, schema=schema)


def _episodes(file: Any, origin: str) -> int:
    number = member(file, "num_episodes", origin)
    count = int(number[()])
    if count < 1:
        raise DataError(f"{origin} has no episodes; a log needs at least one.")
    if count > len(file.keys()):
        raise DataError(f"{origin} says it has {count:,} episodes, for which it has too few arrays; it is incomplete.")
    return count


def _observation_parts(file: Any, origin: str) -> tuple[str, ...]:
    """`observations`, or `observations/0`, ... where an observation has several arrays."""
    if "observations_0" in file:
        return ("observations",)
    found = sorted(int(m.group(1)) for m in (re.fullmatch(r"observations_0_(\d+)", key) for key in file) if m)
    if not found or found != list(range(len(found))):
        raise DataError(f"{origin} has no observations of episode 0; it is incomplete.")
    return tuple(f"observations/{i}" for i in found)


def _pieces(
    file: Any, number: int, names: Sequence[str], origin: str, declared: Declared
) -> Iterator[dict[str, NumpyArray]]:
    """One episode, up to BLOCK_ROWS rows at a time."""
    rewards = array_in(file, f"rewards_{number}", origin)
    ended = np.asarray(array_in(file, f"terminated_{number}", origin)[()]).reshape(-1)
    terminated = bool(as_flags(ended, f"terminated_{number}", origin)[-1]) if len(ended) else False
    arrays = {}
    for name in names:
        if name == "actions" or name == "rewards" or name.startswith("observations"):
            base, _, part = name.partition("/")
            arrays[name] = array_in(file, f"{base}_{number}" + (f"_{part}" if part else ""), origin, declared)
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
    if name == "rewards" or (name == "actions" and values.dtype.kind in "iub"):
        return one_number_a_row(values)
    return values


# --- version 1 --------------------------------------------------------------------------------------------------


def _open_first(path: Path, keys: set[str]) -> LogSource:
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
    if not head.startswith(MAGIC):
        return False
    names = names_in(path)
    return {"num_episodes", "version"} <= names or {"episode_terminals", "discrete_action"} <= names


FORMAT = Format(KIND, (), _recognises, open_buffer)
