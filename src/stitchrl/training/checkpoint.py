"""Checkpoints: one safetensors file holds the arrays of a state and, as JSON in its header, all else but the metrics.

A checkpoint is written to another file and then renamed, so that a reader sees the old file or the whole new one. Pickle is
never used: reading runs no code. The header says how many rows of the metrics file beside it belong to the checkpoint.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import re
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.errors import CheckpointError, StitchRLWarning
from stitchrl.storage.tensors import UnreadableError, read_tensors, write_tensors
from stitchrl.training.history import History
from stitchrl.training.metrics_file import METRICS_FILE, read_metrics
from stitchrl.types import NumpyArray, PyTree

__all__ = ["FORMAT_VERSION", "load_checkpoint", "read_meta", "save_checkpoint", "versions"]

FORMAT_VERSION = 3
HISTORY = "history/"
"""Prefix of the columns of the history in formats 1 and 2, which had it among their arrays."""

Arrays = dict[str, NumpyArray]


@cache
def versions() -> dict[str, str]:
    """The versions that results depend on: of this package, of the packages it computes with, and of Python."""
    packages = ("stitchrl", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}


def save_checkpoint(path: Path, state: PyTree, meta: dict[str, Any], *, rows: int = 0) -> None:
    """Write a pytree of arrays and a JSON-able dict, atomically; versions are added.

    Args:
        path: of the file.
        state: the pytree.
        meta: the dict, with "update", the number of updates done.
        rows: of the metrics beside the checkpoint that belong to it.

    Raises:
        RunDirectoryError: the disk is full or the directory cannot be written; the file that was there is unchanged.
    """
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    arrays = {jax.tree_util.keystr(where): np.asarray(leaf, order="C") for where, leaf in leaves}
    write_tensors(path, arrays, {"format": FORMAT_VERSION, "versions": versions(), "rows": rows, **meta})


def load_checkpoint(path: Path, like: PyTree) -> tuple[PyTree, History, dict[str, Any]]:
    """Read what `save_checkpoint` wrote, in this format or an older one, and the metrics that belong to it.

    Args:
        path: the file.
        like: a pytree of the same structure, whose leaves have the shapes and dtypes to expect.

    Returns:
        (state, history, meta). Written under other versions, it is read with a warning that says what differs.

    Raises:
        CheckpointError: damaged, of a format this version does not know, or not of this structure.
    """
    arrays, meta = _read(path)
    try:
        return _restored(path, arrays, meta, like)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged: {error!r}. Delete it to start over.") from None


def _restored(path: Path, arrays: Arrays, meta: dict[str, Any], like: PyTree) -> tuple[PyTree, History, dict[str, Any]]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(where) for where, _ in leaves]
    for version in range(meta["format"], FORMAT_VERSION):
        arrays, meta = MIGRATIONS[version](arrays, meta, names)
    _say_what_differs(path, meta.get("versions", {}))
    loaded = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        found = arrays.pop(name, None)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            got = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise CheckpointError(f"{name} of the checkpoint {path} must be {leaf.dtype}{list(leaf.shape)}; got {got}.")
        loaded.append(jnp.asarray(found))
    history = _history(arrays)  # of an older format
    if arrays:
        raise CheckpointError(f"The checkpoint {path} holds {sorted(arrays)[0]}, which this algorithm does not have.")
    if not isinstance(meta["update"], int):
        raise TypeError("its `update` is not a whole number")
    if history is None:
        if not isinstance(meta["rows"], int) or meta["rows"] < 0:
            raise TypeError("its `rows` is not a whole number of at least 0")
        history = read_metrics(path.with_name(METRICS_FILE), meta["rows"])
    meta["diverged"] = _diverged(meta.get("diverged", {}), leaves[0][1].shape[0] if leaves else 0)
    return jax.tree_util.tree_unflatten(structure, loaded), history, meta


def _diverged(content: Any, members: int) -> dict[int, str]:
    """Member -> sentence; JSON has text for keys. Raises as `_restored` catches."""
    found = {int(member): what for member, what in content.items()}
    if not all(0 <= member < members and isinstance(what, str) for member, what in found.items()):
        raise ValueError("it names a diverged member that it does not have")
    if found and len(found) == members:
        raise ValueError("all its members diverged")
    return found


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint alone. Raises CheckpointError as `load_checkpoint` does."""
    return _read(path)[1]


def _read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    try:
        arrays, meta = read_tensors(path)
    except UnreadableError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error}. Delete it to start over.") from None
    seen = meta.get("format") if isinstance(meta, dict) else None
    if not isinstance(seen, int) or isinstance(seen, bool) or not 1 <= seen <= FORMAT_VERSION:
        newer = isinstance(seen, int) and seen > FORMAT_VERSION
        way_out = "Update stitchrl to read it." if newer else "Delete it to start over."
        raise CheckpointError(
            f"The checkpoint {path} must have a format from 1 to {FORMAT_VERSION}; got {seen}. {way_out}"
        )
    return arrays, meta


def _say_what_differs(path: Path, written: dict[str, str]) -> None:
    now = versions()
    other = [f"{name} {written[name]} (now {now[name]})" for name in now if written.get(name, now[name]) != now[name]]
    if other:
        warnings.warn(
            f"The checkpoint {path} was written with {', '.join(other)}: it continues, but the last digits may differ "
            "from an undisturbed run.",
            StitchRLWarning,
            stacklevel=4,
        )


# --- older formats ---------------------------------------------------------------------------------------------------


def _history(arrays: Arrays) -> History | None:
    """The history among the arrays of an older format, taken out of them; None where there is none."""
    columns = {name.removeprefix(HISTORY): arrays.pop(name) for name in sorted(arrays) if name.startswith(HISTORY)}
    return History.of(columns.pop("update"), columns.pop("member"), columns) if columns else None


def _history_arrays(rows: list[dict[str, Any]]) -> Arrays:
    """Columns of a history that is rows; NaN where a row lacks a metric."""
    if not rows:
        return {}
    names = sorted({name for row in rows for name in row} - {"update", "member"})
    columns: Arrays = {
        HISTORY + name: np.asarray([row.get(name, math.nan) for row in rows], np.float64) for name in names
    }
    for name in ("update", "member"):
        columns[HISTORY + name] = np.asarray([row[name] for row in rows], np.int64)
    return columns


Migration = Callable[[Arrays, dict[str, Any], Iterable[str]], tuple[Arrays, dict[str, Any]]]


def _from_format_1(arrays: Arrays, meta: dict[str, Any], names: Iterable[str]) -> tuple[Arrays, dict[str, Any]]:
    """Format 1 had its history in the JSON, no running average, and bare networks where policies and critics are now."""
    known = {old for name in names for old in _names_in_format_2(name)}
    moved: Arrays = {}
    for old, array in arrays.items():
        name = f".algorithm{old}"
        choices = (
            name,
            re.sub(r"(\.actor|\.mu|\.nu)\.(weights|biases)", r"\1.network.\2", name),
            name.replace(".members.", ".ensemble.members."),
        )
        moved[next((choice for choice in choices if choice in known), name)] = array
    history = meta.pop("history", [])
    return moved | _history_arrays(history), meta | {"format": 2}


def _from_format_2(arrays: Arrays, meta: dict[str, Any], names: Iterable[str]) -> tuple[Arrays, dict[str, Any]]:
    """In format 2 a model and its optimiser's state were two fields of the algorithm's state, where they are now a pair, and
    the history was among the arrays, where it is now in a file of its own. `_history` takes it out of the arrays."""
    moved = dict(arrays)
    for name in names:
        old = next((choice for choice in _names_in_format_2(name) if choice in moved), name)
        if old != name and name not in moved:
            moved[name] = moved.pop(old)
    return moved, meta | {"format": 3, "rows": 0}


PAIRS = {
    ".critics": (".critics", ".critic_optimizer"),
    ".value": (".value", ".value_optimizer"),
    ".actor": (".actor", ".actor_optimizer"),
    ".actor.policy": (".actor", ".actor_optimizer"),
    ".actor.log_temperature": (".log_temperature", ".temperature_optimizer"),
    ".log_multiplier": (".log_multiplier", ".multiplier_optimizer"),
}
"""Where a pair is -> where its model and its optimiser's state were in format 2."""


def _names_in_format_2(name: str) -> list[str]:
    """The names that an array may have had in format 2, itself included."""
    choices = [name]
    for now, (model, optimizer) in PAIRS.items():
        for part, before in ((".model", model), (".optimizer_state", optimizer)):
            start = f".algorithm{now}{part}"
            if name.startswith(start):
                choices.append(f".algorithm{before}{name.removeprefix(start)}")
    return choices


MIGRATIONS: dict[int, Migration] = {1: _from_format_1, 2: _from_format_2}
"""Format -> how to bring it to the next one."""
