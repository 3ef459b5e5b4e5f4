"""The .npz files of OGBench, where `masks` and `terminals` mean different ends.

`terminals` marks where a trajectory ends, which is always by a time limit. Only `masks`, which the single-task variants
have, says where the task ended: 0 means do not bootstrap. A row with mask 0 ends an episode even inside a trajectory;
the rest of the trajectory is another episode. `ogbench.load_dataset` reads and makes three layouts:

    as downloaded     has neither next_observations nor valids: the last row of a trajectory is its final observation
    regular           has next_observations: every row is a transition
    compact           has valids: rows where it is 0 hold the final observation of their trajectory
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import action_count, as_flags, check_lengths, described, one_number_a_row
from stitchrl.reading.sources.npz_arrays import Header, headers_in, load_array, names_in_npz
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.types import NumpyArray

__all__ = ["FORMAT"]

KIND = "OGBench"
NEEDED = {"observations", "actions", "terminals"}
OTHERS = {"timeouts", "truncations", "truncated", "episode_terminals", "dones"}
"""Names by which other formats are told from OGBench, which does not use them."""
MADE = ("next_observations", "terminated", "truncated")
"""Columns that are made while reading."""
NO_REWARD = (
    "The log has no rewards (OGBench's are for goals): they are taken as 0, so only imitation makes sense. Relabel it "
    "for a task with ogbench first."
)


def open_ogbench(path: Path) -> LogSource:
    """The columns of a file, with one row for each transition, and their schema.

    Raises:
        DataError: the file is no .npz or is damaged, arrays are missing or differ in length, or flags are not 0 or 1.
    """
    headers = headers_in(path)
    if missing := sorted(NEEDED - set(headers)):
        raise DataError(f"{path.name} is not of OGBench: it has no {', '.join(missing)}.")
    stored = {name: header for name, header in headers.items() if header.shape}
    check_lengths({name: header.shape[0] for name, header in stored.items()}, path.name)
    rows, terminated, truncated = _ends(path, stored)
    if not len(rows):
        raise DataError(f"{path.name} has no transitions; a log needs at least one episode.")
    names = (*(name for name in stored if name not in ("terminals", "masks", "valids", *MADE)), *MADE)

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        arrays = {name: load_array(path, name) for name in _needed(wanted, stored)}
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            made = {"terminated": terminated[block], "truncated": truncated[block]}
            for name in wanted:
                if name == "next_observations" and name not in stored:
                    made[name] = arrays["observations"][rows[block] + 1]
                elif name not in made:
                    values = arrays[name][rows[block]]
                    made[name] = one_number_a_row(values) if name in ("actions", "rewards") else values
                    made[name] = _vector(values) if name == "actions" and values.dtype.kind == "f" else made[name]
            yield {name: made[name] for name in wanted}

    source = LogSource(path.name, KIND, names, blocks)
    return _with_schema(source, stored, path, _notes(stored, terminated))


def _with_schema(source: LogSource, stored: dict[str, Header], path: Path, notes: tuple[str, ...]) -> LogSource:
    """The source with the schema that its names mean."""
    columns = {
        "observation": "observations",
        "action": "actions",
        "next_observation": "next_observations",
        "terminated": "terminated",
        "truncated": "truncated",
    }
    rewarded = "rewards" in stored
    schema = described(
        path.name,
        columns | ({"reward": "rewards"} if rewarded else {}),
        num_actions=action_count(source, "actions"),
        reward_expression=None if rewarded else "0",
        name=path.stem,
        end="truncated",
    )
    return LogSource(source.origin, KIND, source.names, source.blocks, schema, notes)


def _needed(wanted: Sequence[str], stored: dict[str, Header]) -> list[str]:
    """The stored arrays that the wanted columns are made of."""
    names = ["observations" if n == "next_observations" and n not in stored else n for n in wanted]
    return [name for name in dict.fromkeys(names) if name in stored]


def _vector(values: NumpyArray) -> NumpyArray:
    """Each row as a flat vector."""
    return values.reshape(len(values), -1)


def _ends(
    path: Path, stored: dict[str, Header]
) -> tuple[Int[NumpyArray, " n"], Bool[NumpyArray, " n"], Bool[NumpyArray, " n"]]:
    """The numbers of the rows that are transitions, and whether each is terminated or truncated."""
    flags = {n: as_flags(load_array(path, n), n, path.name) for n in ("terminals", "masks", "valids") if n in stored}
    end = flags["terminals"]
    count = len(end)
    keep = np.ones(count, bool)
    if "valids" in flags:
        keep = flags["valids"].copy()
    elif "next_observations" not in stored:
        keep = ~end
    if "next_observations" not in stored:
        keep[-1:] = False  # the observation after the last row is not in the file
        end = ~np.append(keep[1:], False)
    rows = np.flatnonzero(keep)
    reached = ~flags["masks"][rows] if "masks" in flags else np.zeros(len(rows), bool)
    cut = end[rows] & ~reached
    if len(rows) and not reached[-1]:
        cut[-1] = True
    return rows, reached, cut


def _notes(stored: dict[str, Header], terminated: Bool[NumpyArray, " n"]) -> tuple[str, ...]:
    """What a user should know about ends and rewards."""
    notes = []
    if "masks" not in stored:
        notes.append("The log has no `masks`: every trajectory counts as cut by a time limit, none as terminated.")
    elif inside := int(terminated.sum()):
        notes.append(f"`masks` is 0 in {inside:,} rows: an episode ends at each, also inside a trajectory.")
    if "rewards" not in stored:
        notes.append(NO_REWARD)
    return tuple(notes)


def _recognises(path: Path, head: bytes) -> bool:
    """Whether the names of the arrays are those of OGBench."""
    names = names_in_npz(path, head)
    return names >= NEEDED and not names & OTHERS and ("masks" in names or "valids" in names or "rewards" not in names)


FORMAT = Format(KIND, (), _recognises, open_ogbench)
