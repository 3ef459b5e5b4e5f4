"""The files that a command writes beside what it prints: refused where they would take the place of something else."""

from __future__ import annotations

import os
from pathlib import Path

from stitchrl.errors import ConfigurationError

__all__ = ["check_output_file"]


def check_output_file(option: str, file: Path | None, ending: str, *inputs: Path | None) -> None:
    """Refuse, before a long log is read, what cannot be written and what would replace a log or another kind of file.

    Args:
        option: what the command line calls the file, such as "--out".
        file: what is to be written; None where nothing is.
        ending: of the names of such files. An existing file with this ending is replaced; any other is refused.
        inputs: what the command reads; None where it reads nothing.

    Raises:
        ConfigurationError: the file is a folder, lies in no folder, is an input, or exists and is of another kind.
    """
    if file is None:
        return
    if not os.path.isdir(file.absolute().parent):  # also False where it cannot be entered
        raise ConfigurationError(
            f"`{option}` must be a file in a folder that exists; there is no folder {str(file.parent)!r}. Make it first, or "
            "choose another place."
        )
    if not file.exists():
        return
    if file.is_dir():
        raise ConfigurationError(
            f"`{option}` must be a file; {str(file)!r} is a folder. Name a file in it, ending in {ending}."
        )
    read = [path for path in inputs if path is not None and path.exists()]
    if any(file.samefile(path) or path.resolve() in file.resolve().parents for path in read):
        raise ConfigurationError(
            f"`{option}` must not be what the command reads, or lie in it; got {str(file)!r}. Nothing was overwritten: choose "
            "another name."
        )
    if file.suffix.lower() != ending:
        raise ConfigurationError(
            f"{str(file)!r} exists, and `{option}` replaces no file whose name does not end in {ending}. Choose another name."
        )
