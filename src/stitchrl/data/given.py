"""A log where one is asked for, said in a sentence where something else was given."""

from __future__ import annotations

import os

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.messages import shown

__all__ = ["check_is_log"]


def check_is_log(given: object, function: str) -> None:
    """Raise ConfigurationError where `function`, as users call it, was given something else than a log, such as a path."""
    if isinstance(given, Dataset):
        return
    if isinstance(given, str | os.PathLike):
        raise ConfigurationError(
            f"`{function}` takes a log that has been read, not its path; got {shown(os.fspath(given))}. "
            f"Give `st.read({shown(os.fspath(given))})`."
        )
    raise ConfigurationError(
        f"`{function}` takes a log, which is a Dataset as `st.read` gives it; got an object of the class {type(given).__name__}. "
        "`st.read` makes a log of a path, a pandas or Polars frame, an Arrow table or a dict of arrays."
    )
