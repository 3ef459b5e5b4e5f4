"""Safetensors files with JSON in their header, in which states and policies are kept. Reading them runs no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stitchrl.storage.files import write_atomic, write_bytes
from stitchrl.types import NumpyArray

__all__ = ["UnreadableError", "read_tensors", "write_tensors"]


class UnreadableError(ValueError):
    """The file is missing, incomplete or no safetensors file; the message says which."""


def write_tensors(path: Path, arrays: dict[str, NumpyArray], header: dict[str, Any]) -> None:
    """Write arrays, and a header that JSON can hold, with `write_atomic`."""
    content = save(arrays, metadata={"stitchrl": json.dumps(header)})
    write_atomic(path, lambda beside: write_bytes(beside, content))


def read_tensors(path: Path) -> tuple[dict[str, NumpyArray], Any]:
    """The arrays and the header of a file. The header is None if stitchrl did not write the file.

    Raises:
        UnreadableError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get("stitchrl", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UnreadableError(str(error)) from None
