"""Whether a command may write where it is told to: never over the files of the log that it reads, nor over those of others."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.messages import listed

__all__ = ["check_new_table", "check_run_folder"]

OF_A_RUN = "config.json"
"""The file by which a folder of `st.fit` is known."""


def check_new_table(out: Path, source: str | Path, *, overwrite: bool) -> None:
    """Check that a table can be written without a loss.

    Args:
        out: the table.
        source: the log that it is made of: a file, a folder or a pattern.
        overwrite: whether another file of that name may be replaced. A file of the log never is.

    Raises:
        ConfigurationError: `out` is a file of the log, or would be read as one next time; it exists; there is no such folder.
    """
    if _is_of_log(out, Path(source)):
        raise ConfigurationError(
            f"`--out` {str(out)!r} is the log itself, or lies among the files that {str(source)!r} names, which stay as they "
            "are. Name a file elsewhere."
        )
    if not out.parent.is_dir():
        raise ConfigurationError(f"`--out` cannot be written: there is no folder {str(out.parent)!r}. Make it first.")
    if out.exists() and not overwrite:
        raise ConfigurationError(
            f"`--out` {str(out)!r} exists; nothing is overwritten unless `--overwrite` is given. Give it, or name another file."
        )


def check_run_folder(out: Path, source: str | Path) -> None:
    """Check that a run can be written to a folder without files of other things in between.

    Args:
        out: the folder of the run.
        source: the log that it learns from: a file, a folder or a pattern.

    Raises:
        RunDirectoryError: `out` is the folder of a log or lies inside it, or it holds files that are no run.
    """
    if _is_of_log(out, Path(source)):
        raise RunDirectoryError(
            f"`--out` {str(out)!r} lies among the files of the log {str(source)!r}, which would no longer be read as they are. "
            "Choose a folder elsewhere."
        )
    if not out.is_dir() or (out / OF_A_RUN).exists():
        return
    there = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
    if there:
        raise RunDirectoryError(
            f"`--out` {str(out)!r} must be new, empty or the folder of a training; it holds {listed(there, 3)}. Choose another "
            "folder."
        )


def _is_of_log(out: Path, source: Path) -> bool:
    """Whether a path is a log, lies in the folder of a log, or has a name that the pattern of a log finds."""
    if source.is_dir():
        return out.resolve().is_relative_to(source.resolve())
    if source.exists():
        return _same(out, source)
    found = (Path(one) for one in glob.glob(str(source), recursive=True))
    return Path(os.path.abspath(out)).match(os.path.abspath(source)) or any(_same(out, one) for one in found)


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, by whatever names."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
