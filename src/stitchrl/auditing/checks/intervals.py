"""Checks of how long a log waits from one decision to the next: irregular times that the discount ignores, and long breaks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from stitchrl.auditing.binning import time_steps
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.wording import rows_from, share_of
from stitchrl.data.dataset import Dataset
from stitchrl.data.elapsed import SECONDS
from stitchrl.types import NumpyArray

__all__ = ["time_broken_off", "time_irregular"]

PAIRS = 2**17
"""At most so many steps are looked at, evenly spaced in the log."""
LEAST_PAIRS = 200
IRREGULAR = 2.0
"""Steps are irregular where the long ones (the 90th percentile) last at least this many times as long as the short ones (the
10th)."""
JUMP, BEYOND, FEWEST, MOST = 5.0, 10.0, 3, 0.02
"""Breaks stand apart from all other waits: the shortest break lasts at least `JUMP` times as long as the longest other wait and
`BEYOND` times as long as the median, and there are at least `FEWEST` of them and at most a share `MOST`."""


def time_irregular(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Steps that last very different times, in a log whose discount counts steps and not time."""
    waits = facts.once(_waits)
    if waits is None or log.schema.time_unit is not None:
        return
    ahead = waits[1][waits[1] > 0]
    if len(ahead) < LEAST_PAIRS:
        return
    short, middle, long = np.quantile(ahead, [0.1, 0.5, 0.9])
    if long < IRREGULAR * short:
        return
    gamma, dates = log.schema.gamma, _is_date(log)
    counts = ""
    if 0 < gamma < 1:
        ends = [gamma ** (middle / wait) for wait in (short, long)]
        counts = (
            f": with gamma {gamma:g} a step, a reward {_in_words(middle, dates)} later counts {ends[0]:.3f} where steps are "
            f"short and {ends[1]:.3f} where they are long"
        )
    yield Finding(
        "time-irregular",
        "warning" if counts else "info",
        "time",
        f"steps last between {_in_words(short, dates)} and {_in_words(long, dates)} (10th and 90th percentile), and the discount "
        f"counts each step alike{counts}",
        "steps of about equal length, or a `time_unit` in the schema",
        "Set `time_unit` under [task] in the schema (an hour, say) and give `gamma` for one unit: learning and estimates then "
        "count time."
        if counts
        else "With this gamma no value changes. See whether the observation says how much time has passed or will pass "
        "until the next decision, since what follows depends on it.",
    )


def time_broken_off(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Some waits inside episodes that are far longer than all others, as between two stays under one identifier."""
    waits = facts.once(_waits)
    if waits is None:
        return
    rows, lasted = waits
    order = np.argsort(-lasted, kind="stable")
    longest = lasted[order]
    most = int(MOST * len(lasted))
    middle = float(np.median(lasted[lasted > 0])) if (lasted > 0).any() else 0.0
    if middle <= 0 or most < FEWEST:
        return
    # The place of the widest jump among the longest waits, if one is wide enough.
    ratio = longest[FEWEST - 1 : most] / np.maximum(longest[FEWEST : most + 1], middle)
    place = int(ratio.argmax())
    count, shortest = place + FEWEST, float(longest[place + FEWEST - 1])
    if ratio[place] < JUMP or shortest < BEYOND * middle:
        return
    dates = _is_date(log)
    first = int(rows[order[:count]].min()) + 1
    other = float(longest[count])
    yield Finding(
        "time-broken-off",
        "warning",
        f"time: {rows_from(first, count)}",
        f"{count:,} waits inside episodes ({share_of(count, len(lasted))}) last {_in_words(shortest, dates)} or longer, while no "
        f"other lasts more than {_in_words(other, dates)}",
        "episodes without long breaks, since what was observed before one says little about what is found after it",
        "If a break separates two stays (a discharge, a machine switched off), let the schema cut episodes there: `gap` under "
        "[episodes]. If rows were lost, find them: the row before the break now seems to have led to the row after it.",
    )


def _waits(facts: Facts) -> tuple[Int[NumpyArray, " n"], Float[NumpyArray, " n"]] | None:
    """Rows that another of their episode follows, and the time until it, in seconds for dates; None where there is no time, or
    where times go backwards, which is another check's finding."""
    log = facts.log
    if log.time is None or log.time.dtype.kind not in "iufM":
        return None
    rows = np.flatnonzero(log.continues)
    rows = rows[:: max(1, -(-len(rows) // PAIRS))]
    if len(rows) < LEAST_PAIRS:
        return None
    lasted = time_steps(log.time, rows)
    lasted = np.where(np.isfinite(lasted), lasted, -1.0)
    return None if (lasted < 0).mean() > MOST else (rows[lasted >= 0], lasted[lasted >= 0])


def _is_date(log: Dataset) -> bool:
    return log.time is not None and log.time.dtype.kind == "M"


def _in_words(wait: float, dates: bool) -> str:
    """A time as people say it: "40 minutes", "2.5 hours", "3 units of time"."""
    if not dates:
        return f"{wait:.3g} unit{'' if wait == 1 else 's'} of time"
    unit = max((seconds for seconds in SECONDS if seconds <= max(wait, 1.0)), default=1.0)
    number = f"{wait / unit:.3g}"
    return f"{number} {SECONDS[unit]}{'' if number == '1' else 's'}"
