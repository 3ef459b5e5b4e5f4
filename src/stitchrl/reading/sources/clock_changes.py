"""The hour that clocks show twice when summer time ends: which of its two readings a row means."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Shaped

from stitchrl.types import NumpyArray

__all__ = ["names_zones", "second_readings"]

ZONE = r"(?:Z|UTC|[+-]\d{2}:?\d{2})\s*$"
SHORTEST_SHIFT = np.timedelta64(10, "m")
"""No clocks are put back by less."""


def names_zones(text: pa.Array) -> bool:
    """Whether some of the times, which are text, name their time zone."""
    return bool(pc.any(pc.match_substring_regex(text, ZONE), min_count=0).as_py())


def second_readings(
    time: Shaped[NumpyArray, " N"],
    timezone: str,
    episode: Int[NumpyArray, " N"],
    step: Int[NumpyArray, " N"] | None,
) -> tuple[Shaped[NumpyArray, " N"], str | None]:
    """The times, with the second reading of an hour that comes twice where the first would turn the rows of an episode round.

    Within an episode, from the row on at which the clock goes back, the rows of that hour are taken for the second reading. An
    episode whose rows would not be in order of time even then stays as it is.

    Args:
        time: in UTC, by the first reading.
        timezone: of the clocks.
        episode: of each row.
        step: which says the order of the rows of an episode; None where they stand in order.

    Returns:
        The times, and a sentence if any was changed.
    """
    order = np.lexsort((episode,) if step is None else (step, episode))
    first, same = time[order], episode[order][1:] == episode[order][:-1]
    local = pa.array(first.astype("M8[us]"), pa.timestamp("us", "UTC")).cast(pa.timestamp("us", timezone))
    last = pc.assume_timezone(pc.local_timestamp(local), timezone, ambiguous="latest", nonexistent="latest")
    second = last.cast(pa.timestamp("us")).to_numpy().astype(time.dtype)
    twice = second - first > SHORTEST_SHIFT
    back = np.concatenate([[False], same & twice[1:] & (first[1:] < first[:-1])])
    if not back.any():
        return time, None
    within = np.concatenate([[False], same & twice[1:] & twice[:-1]])  # the hour of one night goes on
    start = np.maximum.accumulate(np.where(within, 0, np.arange(len(first))))
    times_back = np.cumsum(back)
    chosen = np.where(twice & (times_back > times_back[start] - back[start]), second, first)
    unordered = np.flatnonzero(same & (chosen[1:] < chosen[:-1]))
    chosen = np.where(np.isin(episode[order], episode[order][unordered]), first, chosen)
    count = int((chosen != first).sum())
    changed = time.copy()
    changed[order] = chosen
    said = f"{count:,} times in the hour that clocks show twice stand after a later one: for these the second is taken."
    return changed, said if count else None
