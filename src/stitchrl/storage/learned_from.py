"""The file beside a policy that says by hashes which episodes it learned from; it holds no data of the log."""

from __future__ import annotations

from pathlib import Path

from stitchrl.errors import CheckpointError
from stitchrl.storage.tensors import UnreadableError, read_tensors, write_tensors
from stitchrl.types import NumpyArray

__all__ = ["EPISODES", "read_learned_from", "write_learned_from"]

EPISODES = "episodes.safetensors"
"""The name of that file."""


def write_learned_from(folder: Path, arrays: dict[str, NumpyArray]) -> None:
    """Write the hashes of the episodes that a policy learned from (`EpisodeMemory.arrays`)."""
    write_tensors(folder / EPISODES, arrays, {})


def read_learned_from(folder: Path) -> dict[str, NumpyArray] | None:
    """The arrays that `write_learned_from` wrote; None where there is no such file, as an older version wrote none.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / EPISODES
    if not file.is_file():
        return None
    try:
        arrays = read_tensors(file)[0]
        for name in ("contents", *(("chosen", "runs", "shares") if "limits" in arrays else ())):
            if name not in arrays:
                raise UnreadableError(f"it has no array `{name}`")
    except UnreadableError as error:
        raise CheckpointError(
            f"The episodes that the policy in {str(folder)!r} learned from cannot be read, for {EPISODES} is damaged: {error}. "
            "Delete the folder, and run the command that made it again."
        ) from None
    return arrays
