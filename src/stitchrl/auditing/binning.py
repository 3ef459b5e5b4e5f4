"""Whether the rows of a log are bins of time, into which events were sorted, rather than decisions as they were taken.

Many logs are cut into bins of an hour or a day before anyone sees them: a row then holds what was measured by the start of
its bin, and what was done at any moment within it. Where an action reacted to what happened inside its own bin, the log
looks as if the action had come first and the event had followed from it, and estimates are too good (Schulam and Saria
2018). A log cannot show how it was made for certain; it shows traces:

    a grid                 times are whole multiples of one width
    bins without events    some steps of a grid are left out
    several events a bin   several rows stand at one point of a grid
    carried forward        columns whose numbers are nearly all different repeat the last one to the digit
    actions that add up    amounts are small multiples of one dose, as when several doses were summed

Steps on a grid alone are no trace, since a machine may well decide by the clock.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from stitchrl.auditing.draws import draws
from stitchrl.data.dataset import Dataset
from stitchrl.data.elapsed import SECONDS
from stitchrl.types import NumpyArray

__all__ = ["Binning", "binning_of", "time_steps"]

PAIRS = 2**15
"""Rows that are looked at together with the row that follows them."""
LEAST_PAIRS = 200
ON_GRID, AT_WIDTH = 0.999, 0.5
"""Shares of the steps that must be whole multiples of the width, and that must be of the width itself."""
SHARE = 0.01
"""Share of the steps from which on left-out bins, and rows at one time, are more than a slip."""
REPEATED, CONSTANT = 0.05, 0.98
"""Shares of the steps in which a column repeats its number: between these it looks carried forward; above, it is a constant
of its episode."""
DISTINCT = 0.5
"""Share of different numbers among those that a column changes to, and among those it repeats, for it to look measured."""
SUMMED, FEWEST_SUMS = 0.1, 3
"""Share of the given amounts that are several doses, and how many different sums there must be."""
MOST_SUMMED = 100
"""Doses in one amount, at most: any number is a whole multiple of something small."""


class Binning(NamedTuple):
    """How the steps of a log seem to have been binned.

    Attributes:
        width: of a bin, in words: "1 hour", "0.5 units of time", or "" where the log has no time.
        traces: what shows it, each the rest of a sentence.
        where: the columns that show it.
    """

    width: str
    traces: tuple[str, ...]
    where: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What was seen."""
        bins = f"rows look like bins of {self.width}" if self.width else "rows look like bins of time"
        return f"{bins}: {'; '.join(self.traces)}"

    @property
    def caveat(self) -> str:
        """What a verdict says of it."""
        return (
            f"Steps may be bins of time ({self.sentence}). Where an action reacted to what happened inside its own bin, the log "
            "takes the event for an effect of the action, and estimates are too good; no check here can see that. Log each "
            "decision at its own time, or compare with narrower bins."
        )


def binning_of(log: Dataset) -> Binning | None:
    """How steps were binned, where the log shows it; None where it does not."""
    rows = np.flatnonzero(log.continues)
    if len(rows) < LEAST_PAIRS:
        return None
    if len(rows) > PAIRS:
        rows = np.sort(draws(0).choice(rows, PAIRS, replace=False))
    columns = _carried_forward(log, rows)
    traces: list[str] = []
    where: list[str] = []
    if columns:
        worst = max(columns, key=lambda name: columns[name])
        traces.append(f"column {worst} repeats its last number to the digit in {columns[worst]:.0%} of the steps")
        where += list(columns)
    if log.time is None or log.time.dtype.kind not in "iufM":
        return Binning("", tuple(traces), tuple(where)) if traces else None
    steps, is_date = time_steps(log.time, rows), log.time.dtype.kind == "M"
    width = _width(steps)
    if width is None:
        return None
    left_out, together = float((steps > 1.5 * width).mean()), float((steps == 0).mean())
    if left_out >= SHARE and not (np.diff(log.step)[rows] > 1).mean() >= SHARE:
        traces.append(f"{left_out:.0%} of the steps leave out one bin or more")
        where.append("time")
    if together >= SHARE:
        traces.append(f"{together:.0%} of the rows stand at the time of the row before")
        where.append("time")
    if log.num_actions is None and (share := _summed(log.action[rows])) is not None:
        traces.append(
            f"{share:.0%} of the amounts given are several times the smallest one, as if doses had been summed"
        )
        where.append("action")
    return Binning(_in_words(width, is_date), tuple(traces), tuple(dict.fromkeys(where))) if traces else None


def time_steps(time: NumpyArray, rows: Int[NumpyArray, " n"]) -> Float[NumpyArray, " n"]:
    """Time from each row to the next: in seconds where times are dates."""
    if time.dtype.kind == "M":
        return (time[rows + 1] - time[rows]) / np.timedelta64(1, "s")
    return time[rows + 1].astype(np.float64) - time[rows].astype(np.float64)


def _width(steps: Float[NumpyArray, " n"]) -> float | None:
    """The width of the grid that times stand on; None where they stand on none."""
    ahead = steps[steps > 0]
    if len(ahead) < LEAST_PAIRS or not np.isfinite(steps).all():
        return None
    width = float(np.median(ahead))
    whole = steps / width
    # The digits of large times are few: steps are as exact as these.
    on_grid = np.abs(whole - np.round(whole)) < 1e-3
    same = np.abs(whole - 1.0) < 1e-3
    return width if on_grid.mean() >= ON_GRID and same.mean() >= AT_WIDTH and (steps >= 0).all() else None


def _in_words(width: float, is_date: bool) -> str:
    if not is_date:
        return f"{width:g} units of time"
    name = SECONDS.get(width)
    return f"1 {name}" if name else f"{width:g} seconds"


def _carried_forward(log: Dataset, rows: Int[NumpyArray, " n"]) -> dict[str, float]:
    """Column -> how often it repeats its last number, for columns that look measured and carried forward."""
    table = log.observation_table
    if table.ndim != 2:
        return {}
    here, after = table[log.observation_index[rows]], table[log.observation_index[rows + 1]]
    moved = (here != after).any(axis=1)  # where nothing changed, the state may simply have stayed what it was
    if moved.sum() < LEAST_PAIRS:
        return {}
    here, after, names = here[moved], after[moved], log.observation_names
    found = {}
    for j in range(table.shape[1]):
        same = here[:, j] == after[:, j]
        share = float(same.mean())
        if not REPEATED <= share <= CONSTANT:
            continue
        changed, kept = after[~same, j], here[same, j]
        # A number at a bound, or a count, repeats because there are few numbers to choose from.
        measured = len(np.unique(changed)) >= DISTINCT * len(changed)
        if measured and len(np.unique(kept)) >= DISTINCT * min(len(kept), len(changed)):
            found[names[j] if len(names) == table.shape[1] else f"observation[{j}]"] = share
    return found


def _summed(action: NumpyArray) -> float | None:
    """The share of amounts that are sums of several equal doses; None where amounts do not look like sums."""
    for amounts in action.T.astype(np.float64):
        given = amounts[amounts > 0]
        if (amounts < 0).any() or len(given) < LEAST_PAIRS / 2 or len(given) == len(amounts):
            continue
        doses = given / given.min()
        whole = np.abs(doses - np.round(doses)) < 1e-3
        several = np.round(doses) >= 2
        sums = len(np.unique(np.round(doses)))
        if whole.all() and several.mean() >= SUMMED and doses.max() <= MOST_SUMMED and sums >= FEWEST_SUMS:
            return float(several.mean())
    return None
