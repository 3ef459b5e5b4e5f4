"""The native store: a folder of Arrow IPC files, memory-mapped, with the schema and the content hash of the log.

    meta.json             format version, schema, hash, counts, notes; written last, so without it there is no store
    observations.arrow    the observation table, one row for each observation
    transitions.arrow     one row for each transition: indices, action, reward, ends, step, single numbers
    choices.arrow         one row for each transition: probabilities and masks, with a number for each action
    episodes.arrow        one row for each episode: identifier, group
    starts.arrow          the first row of each episode, then the number of transitions

Every file holds a single record batch, so that each column is one block of memory: opening a store maps the columns and
reads nothing.
"""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stitchrl.data.columns import PER_TRANSITION
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, RunDirectoryError
from stitchrl.messages import printable, shown
from stitchrl.reading.allocation import New
from stitchrl.storage.files import make_directory, write_json
from stitchrl.types import NumpyArray

__all__ = ["is_store", "on_disk", "open_store", "write_store"]

FORMAT_VERSION = 1
META = "meta.json"
KIND = "stitchrl log"
CHOICES = ("behavior_probs", "action_mask", "policy_probs")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "observations": ("observation_table",),
    "transitions": tuple(name for name in PER_TRANSITION if name not in CHOICES),
    "choices": CHOICES,
    "episodes": ("episode_id", "group"),
    "starts": ("episode_start",),
}
"""File -> the columns that it holds; those that a log lacks are left out."""
ANY = "biufmMU"
KINDS: Mapping[str, tuple[str, int]] = {
    "observation_index": ("i", 1),
    "next_observation_index": ("i", 1),
    "reward": ("f", 1),
    "terminated": ("b", 1),
    "truncated": ("b", 1),
    "step": ("i", 1),
    "behavior_log_prob": ("f", 1),
    "source": (ANY, 1),
    "weight": ("f", 1),
    "time": (ANY, 1),
    "observation_id": (ANY, 1),
    "cost": ("f", 2),
    "subgroup": ("U", 2),
    "behavior_probs": ("f", 2),
    "policy_probs": ("f", 2),
    "policy_log_prob": ("f", 1),
    "action_mask": ("b", 2),
    "episode_start": ("i", 1),
    "episode_id": (ANY, 1),
    "group": (ANY, 1),
}
"""Column -> the kinds of NumPy type that it may have, and its number of axes. Those of `observation_table` and `action`
depend on the log."""
SAMPLES, SAMPLE_ROWS = 64, 1024
"""How many samples of a column are checked when a store is opened, and how many rows each has."""


def is_store(path: Path) -> bool:
    """Whether a path is a store that was written completely."""
    try:
        with open(path / META, encoding="utf-8") as file:
            return f'"{KIND}"' in file.read(200)
    except (OSError, ValueError):
        return False


def write_store(log: Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a log as a store. It is written to a hidden folder beside `path`, which is renamed when complete.

    Raises:
        RunDirectoryError: `path` exists, the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise RunDirectoryError(f"{str(path)!r} exists; nothing is overwritten. Choose another place or remove it.")
    log = log.compact()
    make_directory(path.parent)
    beside = _beside(path.parent, path.name)
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
        _flush(beside)
        os.rename(beside, path)
        _flush(path.parent)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunDirectoryError(
            f"The store {str(path)!r} cannot be written: {printable(reason)}. Free space or choose another place."
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path


def open_store(path: Path) -> Dataset:
    """The log of a store. Its arrays are memory-mapped, not read.

    Raises:
        DataError: the store is damaged, or was written in another version of the format.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        version = meta["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"The store {str(path)!r} is of format {shown(version)}; this stitchrl reads {FORMAT_VERSION}. Use the "
                "stitchrl that wrote it, or convert the original log again."
            )
        arrays: dict[str, NumpyArray] = {}
        for group, columns in meta["columns"].items():
            if group not in GROUPS or not set(columns) <= set(GROUPS[group]):
                raise ValueError(f"it holds unknown columns in {shown(group)}")
            arrays |= _read_group(path / f"{group}.arrow", columns)
        schema = Schema.from_dict(meta["schema"])
        _check(arrays, schema, meta["transitions"], meta["episodes"])
        log = Dataset(
            **arrays,
            schema=schema,
            observation_names=tuple(str(name) for name in meta["observation_names"]),
            notes=tuple(str(note) for note in meta["notes"]),
        )
        # The hash was computed when the store was written, so that the log need not be read for it.
        vars(log)["content_hash"] = str(meta["content_hash"])
    except (DataError, KeyboardInterrupt):
        raise
    except Exception as error:  # damaged files make JSON, Arrow and NumPy raise nearly anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(
            f"The store {str(path)!r} is damaged: {printable(lines[0].rstrip('.'))}. Convert the original log again."
        ) from None
    return log


def _check(arrays: Mapping[str, NumpyArray], schema: Schema, transitions: int, episodes: int) -> None:
    """Check everything that can be checked without reading whole arrays. Raises ValueError where something is wrong.

    Numbers that changed on the disk are not noticed: that would take reading the whole log, as computing `content_hash`
    does. Row numbers that point outside the table they belong to would be used silently, because JAX clips them. So
    samples spread over each array are checked, which shows a file that was cut, zeroed or exchanged at the cost of a
    few hundred pages, whatever its size. A short array is checked completely.
    """
    table = arrays["observation_table"]
    discrete = schema.num_actions is not None
    image = table.dtype == np.uint8 and table.ndim > 2
    kinds = {
        **KINDS,
        "observation_table": ("u", table.ndim) if image else ("f", 2),
        "action": ("i", 1) if discrete else ("f", 2),
    }
    for name, array in arrays.items():
        kind, axes = kinds[name]
        if array.dtype.kind not in kind or array.ndim != axes:
            raise ValueError(f"{name} has {array.ndim} axes of {array.dtype}")
        counts = {"observation_table": len(table), "episode_start": episodes + 1}
        counts |= dict.fromkeys(GROUPS["episodes"], episodes)
        count = counts.get(name, transitions)
        if len(array) != count or (name in GROUPS["choices"] and discrete and array.shape[1] != schema.num_actions):
            raise ValueError(f"{name} has shape {array.shape}, not that which {META} says")
    start = arrays["episode_start"]
    covered = len(start) > 1 and start[0] == 0 and start[-1] == transitions
    if not covered or any((np.diff(sample) < 1).any() for sample in _samples(start)):
        raise ValueError("its episodes do not cover the transitions")
    ranges = {"observation_index": (0, len(table)), "next_observation_index": (-1, len(table))}
    ranges["episode_start"] = (0, transitions + 1)
    if discrete:
        ranges["action"] = (0, schema.num_actions or 0)
    for name, array in arrays.items():
        for sample in _samples(array):
            if name in ranges and not (sample.min() >= ranges[name][0] and sample.max() < ranges[name][1]):
                raise ValueError(f"{name} points outside of what it counts")
            if sample.dtype.kind == "b" and sample.view(np.uint8).max() > 1:
                raise ValueError(f"{name} holds neither true nor false")
            if sample.dtype.kind == "U" and sample.view(np.uint32).max() > sys.maxunicode:
                raise ValueError(f"{name} holds no text")


def _samples(array: NumpyArray) -> Iterator[NumpyArray]:
    """The first rows, the last rows, and blocks spread between them; together all rows of a short array."""
    places = np.unique(np.linspace(0, max(len(array) - SAMPLE_ROWS, 0), SAMPLES).astype(np.int64))
    return (array[place : place + SAMPLE_ROWS] for place in places)


@contextmanager
def on_disk(folder: Path) -> Iterator[New]:
    """Gives a function that makes arrays in files of a folder, for logs larger than memory; they are
    removed at the end."""
    make_directory(folder)
    spool = _beside(folder, "spool")

    def new(name: str, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
        try:
            with open(spool / name, "wb+") as file:
                # Disk space is reserved now, because writing to a page without space would crash the interpreter.
                size = math.prod(shape) * np.dtype(dtype).itemsize
                (os.posix_fallocate if hasattr(os, "posix_fallocate") else _extend)(file.fileno(), 0, size)
                return np.memmap(file, dtype, "r+", shape=shape)
        except (OSError, OverflowError) as error:
            raise RunDirectoryError(
                f"{str(folder)!r} has no room for {name} while converting: {getattr(error, 'strerror', error)}. Free "
                "space."
            ) from None

    try:
        yield new
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _beside(folder: Path, name: str) -> Path:
    """A new hidden folder of this process. Those that killed processes left behind under the same name are removed.

    Raises:
        RunDirectoryError: the folder cannot be made.
    """
    for left in folder.glob(f".{glob.escape(name)}.*.part"):
        pid = left.name.split(".")[-3]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    try:
        return Path(tempfile.mkdtemp(prefix=f".{name}.{os.getpid()}.", suffix=".part", dir=folder))
    except OSError as error:
        raise RunDirectoryError(f"{str(folder)!r} cannot be written: {error.strerror}. Choose another place.") from None


def _extend(descriptor: int, start: int, size: int) -> None:
    """Extend a file to its size, on systems that cannot reserve disk space."""
    os.truncate(descriptor, start + size)


def _alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _flush(path: Path) -> None:
    """Flush a file or folder to the disk, so that a power cut after renaming cannot leave an empty
    file in the store."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_group(path: Path, columns: Mapping[str, NumpyArray]) -> dict[str, Any]:
    """Write columns as one record batch in a file. Columns that are memory maps are written without being copied.

    Returns:
        Column -> its shape and type, for `meta.json`.
    """
    described: dict[str, Any] = {}
    arrays = []
    for name, column in columns.items():
        column = column.astype(str) if column.dtype.kind in "SO" else column
        described[name] = {"shape": list(column.shape[1:]), "dtype": column.dtype.str}
        arrays.append(_as_arrow(np.ascontiguousarray(column)))
    batch = pa.RecordBatch.from_arrays(arrays, list(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    _flush(path)
    return described


def _as_arrow(column: NumpyArray) -> pa.Array:
    """The memory of a column as an Arrow array that can be mapped back to it.

    Numbers stay as they are, times become integers. Bools and text become bytes, because Arrow would pack bools into
    bits and give each text its own length.
    """
    raw = _raw(column.dtype)
    flat = column.reshape(-1).view(raw)
    width = flat.size // len(column) if len(column) else 1
    values = pa.array(flat)
    return values if width == 1 and column.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, width)


def _raw(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The type as which values of a type are stored."""
    return kind if kind.kind in "iuf" else np.dtype(np.int64) if kind.kind in "mM" else np.dtype(np.uint8)


def _read_group(path: Path, columns: Mapping[str, Any]) -> dict[str, NumpyArray]:
    """The columns of a file, memory-mapped, given what `meta.json` says of each.

    Raises ValueError where that is wrong.
    """
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    batch.validate()  # checks that every buffer lies in the file and is as long as its column needs
    arrays: dict[str, NumpyArray] = {}
    for name, described in columns.items():
        array, kind, shape = batch.column(name), np.dtype(described["dtype"]), tuple(described["shape"])
        flat = (array.flatten() if pa.types.is_fixed_size_list(array.type) else array).to_numpy(zero_copy_only=True)
        if kind.kind not in ANY or flat.dtype != _raw(kind) or any(size < 1 for size in shape):
            raise ValueError(f"{name} is {flat.dtype}, not {shape} of {kind}")
        arrays[name] = flat.view(kind).reshape(len(array), *shape)
    return arrays
