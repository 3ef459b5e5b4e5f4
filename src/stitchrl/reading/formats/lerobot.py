"""LeRobot datasets of version 2 and 3: Parquet files and `meta/info.json`. Only numbers are read, no videos.

`next.reward` of a frame is the reward after its action. An episode ends with its last frame. It terminated there if
`next.success` is true, or if the log has `next.truncated` and it is false while `next.done` is true; otherwise it was
cut. No frame follows the last action, so the last row of an episode has no next observation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import Declared, action_count, as_flags, described, one_or_several
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, concatenated, reading_errors
from stitchrl.types import NumpyArray

__all__ = ["FORMAT"]

KIND = "LeRobot"
INFO = Path("meta") / "info.json"
MOST_INFO_BYTES = 2**26
OBSERVATION, ACTION, EPISODE, STEP = "observation.", "action", "episode_index", "frame_index"
REWARD, DONE, SUCCESS, TRUNCATED = "next.reward", "next.done", "next.success", "next.truncated"
NUMBERS = ("float", "int", "uint", "bool")
"""How the names of numeric types begin."""
FLAGS = ("terminated", "truncated")
"""Columns that are made from the others while reading."""


def open_lerobot(path: Path) -> LogSource:
    """The columns of a dataset: those of its Parquet files and `FLAGS`, with their schema.

    Raises:
        DataError: it is no LeRobot dataset of version 2 or 3, a file is missing or damaged, or its observation holds no
            numbers.
    """
    origin = path.name
    info = _info(path)
    files = _files(path, info)
    features: dict[str, Any] = info["features"]
    names = _column_names(files, origin)
    observed = _observed(features, names)
    if not observed or ACTION not in names:
        raise DataError(
            f"{origin} must have numbers in `observation.state` and `action`; it has {', '.join(names[:12])}."
        )
    ends: list[Bool[NumpyArray, "flags n"]] = []

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        made = [name for name in wanted if name in FLAGS]
        if made and not ends:
            ends.append(_ends(files, names, origin))
        row = 0
        for block in _blocks(files, [name for name in wanted if name not in made] or [EPISODE], origin):
            count = len(next(iter(block.values())))
            flags = {name: ends[0][FLAGS.index(name), row : row + count] for name in made}
            row += count
            yield {name: flags[name] if name in flags else block[name] for name in wanted}

    rewarded = REWARD in names
    columns: dict[str, str | tuple[str, ...]] = {
        "episode": EPISODE,
        "step": STEP,
        "observation": one_or_several(observed),
        "action": ACTION,
        "terminated": "terminated",
        "truncated": "truncated",
    }
    source = LogSource(origin, KIND, (*names, *FLAGS), blocks)
    schema = described(
        origin,
        columns | ({"reward": REWARD} if rewarded else {}),
        num_actions=action_count(source, ACTION) if _is_integer(features.get(ACTION)) else None,
        reward_expression=None if rewarded else "0",
        name=origin,
    )
    return LogSource(origin, KIND, source.names, blocks, schema, _notes(info, names, observed))


def _info(path: Path) -> dict[str, Any]:
    """What `meta/info.json` says. Raises DataError if it is no description of such a dataset."""
    with reading_errors(f"{INFO.as_posix()} of {path.name}", "JSON"):
        file = path / INFO
        if file.stat().st_size > MOST_INFO_BYTES:
            raise DataError(
                f"{INFO.as_posix()} of {path.name} has {file.stat().st_size:,} bytes; it describes a dataset."
            )
        info = json.loads(file.read_text(encoding="utf-8"))
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if not str(version).startswith(("v3.", "v2.")) or not isinstance(info.get("features"), dict):
        raise DataError(
            f"{path.name} must be a LeRobot dataset of version 2 or 3; {INFO.as_posix()} says {version!r}. "
            "Convert it with lerobot first."
        )
    return dict(info)


def _files(path: Path, info: dict[str, Any]) -> list[Path]:
    """The data files in order, checked to hold as many frames as the metadata say."""
    files = sorted((path / "data").glob("chunk-*/*.parquet"))
    if not files:
        raise DataError(f"{path.name} has no data/chunk-*/*.parquet; it is incomplete.")
    rows = 0
    for file in files:
        with reading_errors(f"{file.name} of {path.name}", "Parquet"):
            metadata = pq.read_metadata(file)
            declared = Declared(f"{file.name} of {path.name}", file.stat().st_size)
            declared.add("columns", (metadata.num_rows, metadata.num_columns), 4)
            rows += metadata.num_rows
    said = info.get("total_frames")
    if rows == 0:
        raise DataError(f"{path.name} has no rows; a log needs at least one episode.")
    if isinstance(said, int) and said != rows:
        raise DataError(
            f"{path.name} must have the {said:,} frames that {INFO.as_posix()} counts; its {len(files)} data files have "
            f"{rows:,}. A file is missing, or left from another version."
        )
    return files


def _column_names(files: list[Path], origin: str) -> tuple[str, ...]:
    """The columns of the data files, checked to be the same in all of them."""
    with reading_errors(origin, KIND):
        schemas = [pq.read_schema(file) for file in files]
    names = tuple(schemas[0].names)
    missing = [name for name in (EPISODE, STEP) if name not in names]
    if missing or any(set(schema.names) != set(names) for schema in schemas):
        raise DataError(
            f"Every data file of {origin} must have the same columns, with {EPISODE} and {STEP}; "
            f"{files[0].name} has {', '.join(names[:12])}."
        )
    return names


def _observed(features: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """The columns of the observation: numbers and vectors, the robot's state first."""
    observed = [
        name
        for name, feature in features.items()
        if name in names and name.startswith(OBSERVATION) and _is_vector(feature)
    ]
    return tuple(sorted(observed, key=lambda name: name != "observation.state"))


def _is_vector(feature: Any) -> bool:
    """Whether a feature is a number or a vector of numbers."""
    return (
        isinstance(feature, dict)
        and str(feature.get("dtype")).startswith(NUMBERS)
        and len(feature.get("shape") or ()) <= 1
    )


def _is_integer(feature: Any) -> bool:
    """Whether a feature holds integers or bools."""
    return isinstance(feature, dict) and str(feature.get("dtype")).startswith(("int", "uint", "bool"))


def _blocks(files: list[Path], names: Sequence[str], origin: str) -> Iterator[Block]:
    """The named columns of all files, in blocks of rows."""
    for path in files:
        with reading_errors(f"{path.name} of {origin}", "Parquet"), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BLOCK_ROWS, columns=list(names)):
                block = dict(zip(batch.schema.names, batch.columns, strict=True))
                yield {name: _single(block[name]) if name == ACTION else block[name] for name in names}


def _single(column: pa.Array) -> pa.Array:
    """A column of lists with one integer each as a column of integers; any other column as it is."""
    if pa.types.is_fixed_size_list(column.type) and column.type.list_size == 1 and not column.null_count:
        return column.flatten() if pa.types.is_integer(column.type.value_type) else column
    return column


def _ends(files: list[Path], names: Sequence[str], origin: str) -> Bool[NumpyArray, "flags n"]:
    """`terminated` and `truncated` as (2, n) bools: exactly one of them in the last row of every
    episode, none elsewhere."""
    wanted = [EPISODE, *(name for name in (DONE, SUCCESS, TRUNCATED) if name in names)]
    held: dict[str, list[Any]] = {name: [] for name in wanted}
    for block in _blocks(files, wanted, origin):
        for name in wanted:
            held[name].append(block[name])
    columns = {name: _numbers(concatenated(blocks), name, origin) for name, blocks in held.items()}
    episode = columns[EPISODE]
    last = np.append(episode[1:] != episode[:-1], True)
    flags = {name: as_flags(values, name, origin) for name, values in columns.items() if name != EPISODE}
    if SUCCESS in flags:
        reached = flags[SUCCESS]
    elif TRUNCATED in flags and DONE in flags:
        reached = flags[DONE] & ~flags[TRUNCATED]
    else:
        reached = np.zeros(len(last), bool)
    return np.stack([last & reached, last & ~reached])


def _numbers(column: Any, name: str, origin: str) -> NumpyArray:
    """A column as an array. Raises DataError if it has missing values."""
    if isinstance(column, pa.Array):
        if column.null_count:
            raise DataError(f"{name} of {origin} must have no missing values; it has {column.null_count}.")
        column = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        column = column.to_numpy(zero_copy_only=False)
    return np.asarray(column)


def _notes(info: dict[str, Any], names: Sequence[str], observed: Sequence[str]) -> tuple[str, ...]:
    """What a user should know: what was left out, and what the log does not say."""
    notes = []
    others = [n for n in info["features"] if n.startswith(OBSERVATION) and n not in observed]
    if others:
        notes.append(f"{', '.join(others)} (videos, images) were left out: the observation is {', '.join(observed)}.")
    if REWARD not in names:
        notes.append("The log has no next.reward: rewards are taken as 0, so only imitation makes sense.")
    if SUCCESS not in names and not {DONE, TRUNCATED} <= set(names):
        notes.append(
            "The log does not say how episodes end (no next.success): each counts as cut after its last frame."
        )
    tasks = info.get("total_tasks")
    if isinstance(tasks, int) and tasks > 1:
        notes.append(f"The log is of {tasks} tasks; the observation does not say which (task_index does).")
    return tuple(notes)


FORMAT = Format(KIND, (), lambda path, head: path.is_dir() and (path / INFO).is_file(), open_lerobot)
