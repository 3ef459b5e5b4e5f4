"""Irregular time: how long a log waits from each decision to the next one, and the discounts that follow from it.

With steps of equal length a reward k steps ahead counts gamma^k. Where decisions come at irregular times and the schema
states a `time_unit`, a reward counts gamma^{t - t_0}, with t the time of the decision that it follows and t_0 that of the
first decision of its episode, both in these units (a semi-Markov decision process, Bradtke and Duff 1994).
"""

from __future__ import annotations

import numpy as np

from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import Bool, Float, Int, NumpyArray, Shaped

__all__ = ["SECONDS", "elapsed_between", "elapsed_since_start", "name_of_unit"]

SECONDS = {1.0: "second", 60.0: "minute", 3600.0: "hour", 86400.0: "day", 604800.0: "week"}
"""Units of time that have a name, by their length in seconds."""


def _in_units(time: Shaped[NumpyArray, " n"], unit: float) -> Float[NumpyArray, " n"]:
    """Differences of times in units of so many seconds, or of so many units of a numeric time."""
    if time.dtype.kind in "mM":
        time = time / np.timedelta64(1, "s")
    return time.astype(np.float64) / unit


def elapsed_between(
    time: Shaped[NumpyArray, " N"], continues: Bool[NumpyArray, " N"], unit: float
) -> Float[NumpyArray, " N"]:
    """(N,) time from each decision to the next one of its episode, in units; NaN where the log does not have the next one.

    Args:
        time: (N,) of each decision, numbers or dates.
        continues: (N,) whether the next row is the next step of the same episode.
        unit: length of one unit, in seconds for dates, else in the units of `time`.

    Raises:
        DataError: a decision is earlier than the one before it.
    """
    found = np.full(len(time), np.nan)
    rows = np.flatnonzero(continues)
    found[rows] = _in_units(_differences(time[rows], time[rows + 1]), unit)
    back = rows[found[rows] < 0]
    if len(back):
        first = int(back[0])
        raise DataError(
            f"With a `time_unit` the times of an episode must not fall; row {first + 1} is at {shown(time[first + 1])}, "
            f"before row {first} at {shown(time[first])}. Correct the times, or leave `time_unit` out of the schema."
        )
    return found


def elapsed_since_start(
    time: Shaped[NumpyArray, " N"], episode_start: Int[NumpyArray, " E_plus_1"], unit: float
) -> Float[NumpyArray, " N"]:
    """(N,) time from the first decision of each row's episode to that of the row, in units."""
    begun = np.repeat(time[episode_start[:-1]], np.diff(episode_start))
    return _in_units(_differences(begun, time), unit)


def _differences(earlier: Shaped[NumpyArray, " n"], later: Shaped[NumpyArray, " n"]) -> Shaped[NumpyArray, " n"]:
    """later - earlier, where unsigned numbers would wrap around."""
    if earlier.dtype.kind in "mM":
        return later - earlier
    return later.astype(np.float64) - earlier.astype(np.float64)


def name_of_unit(unit: float, time: Shaped[NumpyArray, " N"], column: str) -> str:
    """What a unit of time is called: "hour", "90 seconds", "2 units of `charted_at`"."""
    if time.dtype.kind in "mM":
        return SECONDS.get(unit, f"{unit:g} seconds")
    return f"unit of `{column}`" if unit == 1 else f"{unit:g} units of `{column}`"
