"""Which episodes a policy learned from: one hash an episode, in a file beside the policy; no data of the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stitchrl.errors import CheckpointError
from stitchrl.storage.tensors import UnreadableError, read_tensors, write_tensors
from stitchrl.types import NumpyArray, UInt64

__all__ = ["EPISODES", "read_learned_from", "write_learned_from"]

EPISODES = "episodes.safetensors"
"""The name of that file."""


def write_learned_from(folder: Path, contents: UInt64[NumpyArray, " E"]) -> None:
    """Write the hashes of the episodes that a policy learned from (`Dataset.episode_contents`)."""
    write_tensors(folder / EPISODES, {"contents": np.sort(contents)}, {})


def read_learned_from(folder: Path) -> UInt64[NumpyArray, " E"] | None:
    """The hashes that `write_learned_from` wrote; None where there is no such file, as an older version wrote none.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / EPISODES
    if not file.is_file():
        return None
    try:
        contents: NumpyArray = read_tensors(file)[0]["contents"]
    except (UnreadableError, KeyError) as error:
        raise CheckpointError(
            f"The episodes that the policy in {str(folder)!r} learned from cannot be read, for {EPISODES} is damaged: {error}. "
            "Delete the folder, and let the command that made it make it anew."
        ) from None
    return contents
