"""Leaving named episodes out of a log: which of its episodes are kept, and a note that says which are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stitchrl.errors import ConfigurationError
from stitchrl.messages import listed
from stitchrl.types import Bool, NumpyArray, Shaped

__all__ = ["kept_episodes"]

LISTED = 10
"""Identifiers that a note or a message names."""


def kept_episodes(
    episode_id: Shaped[NumpyArray, " E"], unwanted: Iterable[Any]
) -> tuple[Bool[NumpyArray, " E"], tuple[str, ...]]:
    """Which episodes of a log are kept, and a note about the others; no note where none is left out.

    Args:
        episode_id: the identifiers of the log.
        unwanted: the identifiers of the episodes to leave out. They are compared as text, so that a list from a file of text
            fits a log whose identifiers are numbers.

    Raises:
        ConfigurationError: the log has no such episode, or no episode would be left.
    """
    if isinstance(unwanted, str | bytes):
        raise ConfigurationError(
            f"`without_episodes` takes a list of identifiers of episodes; got the text {unwanted!r}. `st.read_drop_list` reads "
            "such a list from a file."
        )
    names = [str(one) for one in unwanted]
    known = np.array([str(one) for one in episode_id.tolist()])
    missing = sorted(set(names) - set(known.tolist()))
    if missing:
        raise ConfigurationError(
            f"The log has no episode {listed(missing, LISTED)}: {len(missing):,} of the {len(set(names)):,} episodes to leave "
            "out are not in it. Take a drop list that was made from this log."
        )
    keep = ~np.isin(known, names) if names else np.ones(len(known), bool)
    if not keep.any():
        raise ConfigurationError(f"All {len(keep):,} episodes would be left out; a log needs at least one.")
    left_out = known[~keep].tolist()
    if not left_out:
        return keep, ()
    count = f"{len(left_out):,} episode{'s were' if len(left_out) > 1 else ' was'}"
    return keep, (f"{count} left out on request: {listed(left_out, LISTED)}",)
