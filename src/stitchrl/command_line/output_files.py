"""The files that a command writes beside what it prints: refused where they would take the place of something else."""

from __future__ import annotations

from pathlib import Path

from stitchrl.errors import ConfigurationError

__all__ = ["check_output_file"]


def check_output_file(option: str, file: Path | None, ending: str, *inputs: Path | None) -> None:
    """Refuse to write over a log, or over anything that no such command wrote, before a long log is read.

    Args:
        option: what the command line calls the file, such as "--out".
        file: what is to be written; None where nothing is.
        ending: of the names of such files. An existing file of this ending is replaced, and no other.
        inputs: what the command reads; None where it reads nothing.

    Raises:
        ConfigurationError: the file is a folder, an input, or an existing file of another kind.
    """
    if file is None or not file.exists():
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
