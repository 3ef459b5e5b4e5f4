"""The native store: a folder of Arrow IPC files, memory-mapped, with the schema and the content hash of the log.

    meta.json             format version, schema, hash, counts, notes; written last: without it there is no store
    observations.arrow    the observation table, one row an observation
    transitions.arrow     one row a transition: indices, action, reward, ends, step, scalars
    choices.arrow         one row a transition: probabilities and masks, one number an action (where the log has them)
    episodes.arrow        one row an episode: first row, identifier, group

Every file is one record batch, so each column is one piece of memory: opening a store maps it and reads nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stitchrl.data.assemble import New
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, RunDirectoryError
from stitchrl.files import make_directory, write_json
from stitchrl.types import NumpyArray

__all__ = ["is_store", "on_disk", "open_store", "write_store"]

FORMAT_VERSION = 1
META = "meta.json"
KIND = "stitchrl log"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "observations": ("observation_table",),
    "transitions": (
        "observation_index",
        "next_observation_index",
        "action",
        "reward",
        "terminated",
        "truncated",
        "step",
        "behavior_log_prob",
        "source",
        "weight",
        "time",
        "observation_id",
    ),
    "choices": ("behavior_probs", "action_mask"),
    "episodes": ("episode_start", "episode_id", "group"),
}
"""File -> the columns it holds; those that a log lacks are left out."""


def is_store(path: Path) -> bool:
    """Whether a path is a store that was written to its end."""
    try:
        with open(path / META, encoding="utf-8") as file:
            return f'"{KIND}"' in file.read(200)
    except (OSError, UnicodeDecodeError):
        return False


def write_store(log: Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a log as a store; beside its place first, renamed when whole.

    Raises:
        RunDirectoryError: something is there already, the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise RunDirectoryError(f"{str(path)!r} exists; nothing is overwritten. Choose another place or remove it.")
    log = log.compact()
    make_directory(path.parent)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        columns: dict[str, Any] = {}
        for group, names in GROUPS.items():
            held = {name: getattr(log, name) for name in names if getattr(log, name) is not None}
            if held:
                columns[group] = _write_group(beside / f"{group}.arrow", held)
        meta = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "transitions": log.num_transitions,
            "episodes": log.num_episodes,
            "columns": columns,
            "schema": log.schema.to_dict(),
            "observation_names": list(log.observation_names),
            "notes": list(log.notes),
            "content_hash": log.content_hash,
        }
        write_json(beside / META, meta)
        os.chmod(beside, 0o755)
        os.rename(beside, path)
    except OSError as error:
        raise RunDirectoryError(
            f"The store {str(path)!r} cannot be written: {error.strerror or error}. Free space or choose another place."
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path


def open_store(path: Path) -> Dataset:
    """The log of a store, its arrays mapped and not read.

    Raises:
        DataError: the store is damaged, or of a newer format.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        version = meta["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"The store {str(path)!r} is of format {version}; this stitchrl reads {FORMAT_VERSION}. "
                "Convert the original log again."
            )
        arrays: dict[str, NumpyArray] = {}
        for group, columns in meta["columns"].items():
            if group not in GROUPS or not set(columns) <= set(GROUPS[group]):
                raise DataError(f"The store {str(path)!r} is damaged: it holds unknown columns in {group!r}.")
            arrays |= _read_group(path / f"{group}.arrow", columns)
        start = np.append(arrays.pop("episode_start"), np.int64(meta["transitions"]))
        log = Dataset(
            **arrays,
            episode_start=start,
            schema=Schema.from_dict(meta["schema"]),
            observation_names=tuple(meta["observation_names"]),
            notes=tuple(meta["notes"]),
        )
        _check(log, meta)
        vars(log)["content_hash"] = str(meta["content_hash"])  # made at conversion: not read through again
    except DataError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(
            f"The store {str(path)!r} is damaged: {lines[0][:200]}. Convert the original log again."
        ) from None
    return log


def _check(log: Dataset, meta: Mapping[str, Any]) -> None:
    """What can be seen without reading the arrays through."""
    rows = {
        name: len(getattr(log, name))
        for name in GROUPS["transitions"] + GROUPS["choices"]
        if getattr(log, name) is not None
    }
    wrong = [name for name, count in rows.items() if count != meta["transitions"]]
    episodes = meta["episodes"]
    if wrong or len(log.episode_start) != episodes + 1 or len(log.episode_id) != episodes:
        raise ValueError(f"{', '.join(wrong) or 'episodes'} of another length than {META} says")
    if int(log.episode_start[0]) != 0 or (np.diff(log.episode_start) < 1).any():
        raise ValueError("episodes that do not cover the transitions")


@contextmanager
def on_disk(folder: Path) -> Iterator[New]:
    """Makes arrays in files of a folder, for logs larger than memory; the files go with the context."""
    make_directory(folder)
    with tempfile.TemporaryDirectory(prefix=".spool.", suffix=".part", dir=folder) as spool:

        def new(name: str, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
            try:
                return np.memmap(Path(spool) / name, dtype, "w+", shape=shape)
            except OSError as error:
                raise RunDirectoryError(
                    f"{str(folder)!r} has no room for {name} while converting: {error.strerror}. Free space."
                ) from None

        yield new


def _write_group(path: Path, columns: Mapping[str, NumpyArray]) -> dict[str, Any]:
    """One file of one record batch; gives each column's shape and type. Memory maps are written from their pages."""
    described: dict[str, Any] = {}
    arrays = []
    for name, column in columns.items():
        column = column[:-1] if name == "episode_start" else column  # the last is the number of transitions
        column = column.astype(str) if column.dtype.kind in "SO" else column
        described[name] = {"shape": list(column.shape[1:]), "dtype": column.dtype.str}
        arrays.append(_as_arrow(np.ascontiguousarray(column)))
    batch = pa.RecordBatch.from_arrays(arrays, list(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return described


def _as_arrow(column: NumpyArray) -> pa.Array:
    """The column's own memory as Arrow has a name for it: numbers as they are, times as integers, true and false and
    text as bytes (Arrow packs the ones into bits and lets the others differ in length; neither maps to an array)."""
    raw = _raw(column.dtype)
    flat = column.reshape(-1).view(raw)
    width = flat.size // len(column) if len(column) else 1
    values = pa.array(flat)
    return values if width == 1 and column.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, width)


def _raw(kind: np.dtype[Any]) -> np.dtype[Any]:
    return kind if kind.kind in "iuf" else np.dtype(np.int64) if kind.kind in "mM" else np.dtype(np.uint8)


def _read_group(path: Path, columns: Mapping[str, Any]) -> dict[str, NumpyArray]:
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    batch.validate()
    found: dict[str, NumpyArray] = {}
    for name, described in columns.items():
        array, kind = batch.column(name), np.dtype(described["dtype"])
        flat = (array.flatten() if pa.types.is_fixed_size_list(array.type) else array).to_numpy(zero_copy_only=True)
        if flat.dtype != _raw(kind) or kind.kind not in "biufmMU":
            raise ValueError(f"{name} is {flat.dtype}, not {kind}")
        found[name] = flat.view(kind).reshape(len(array), *described["shape"])
    return found
