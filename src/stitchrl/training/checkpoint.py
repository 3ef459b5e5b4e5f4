"""Checkpoints: one safetensors file holds the arrays of a state and, as JSON in its header, all else. Never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stitchrl.errors import CheckpointError
from stitchrl.files import write_atomic, write_bytes
from stitchrl.types import PyTree

__all__ = ["FORMAT_VERSION", "load_checkpoint", "save_checkpoint"]

FORMAT_VERSION = 1


def save_checkpoint(path: Path, state: PyTree, meta: dict[str, Any]) -> None:
    """Write a pytree of arrays and a JSON-able dict, atomically."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    arrays = {jax.tree_util.keystr(where): np.asarray(jax.device_get(leaf), order="C") for where, leaf in leaves}
    header = {"stitchrl": json.dumps({"format": FORMAT_VERSION, **meta})}
    write_atomic(path, lambda beside: write_bytes(beside, save(arrays, metadata=header)))


def load_checkpoint(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Args:
        path: the file.
        like: a pytree of the same structure, whose leaves have the shapes and dtypes to expect.

    Raises:
        CheckpointError: damaged, of another format, or not of this structure.
    """
    try:
        with safe_open(path, framework="np") as file:
            meta = json.loads((file.metadata() or {}).get("stitchrl", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error}. Delete it to start over.") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT_VERSION:
        seen = meta.get("format") if isinstance(meta, dict) else None
        raise CheckpointError(
            f"The checkpoint {path} must have format {FORMAT_VERSION}; got {seen}. Delete it to start over."
        )
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    loaded = []
    for where, leaf in leaves:
        name = jax.tree_util.keystr(where)
        found = arrays.pop(name, None)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            got = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise CheckpointError(f"{name} of the checkpoint {path} must be {leaf.dtype}{list(leaf.shape)}; got {got}.")
        loaded.append(jnp.asarray(found))
    if arrays:
        raise CheckpointError(f"The checkpoint {path} holds {sorted(arrays)[0]}, which this algorithm does not have.")
    return jax.tree_util.tree_unflatten(structure, loaded), meta
