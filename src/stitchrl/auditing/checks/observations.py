"""Checks of the observation columns: constant, duplicated or frozen columns, placeholders, and scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import blocks
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = [
    "observation_constant",
    "observation_placeholder",
    "observation_scale",
    "observation_stuck",
    "observation_twins",
]

LEAST_VARIED = 10
"""Two columns are compared only where the first differs from its median in at least this many rows."""
FAR_OUT = 5.0
"""A value is far out when it lies this many ranges from the 10th to the 90th percentile beyond the nearer of the two."""
PLACEHOLDER_SHARE = 0.002
"""Share of rows from which on a repeated far value looks like a placeholder."""
MORE_OFTEN = 10
"""A placeholder occurs at least this many times as often as a single value usually does."""
UNEVEN = 1e5
"""Ratio of the largest to the smallest spread above which float32 products lose digits."""
HUGE_MEAN = 1e4
"""Mean in units of the spread above which float32, which keeps 7 digits, has fewer than 3 left for what changes."""
STUCK_SHARE = 0.01
"""Share of places in which a column must repeat its number before it looks frozen."""
MOST_STUCK = 0.5
"""A column that repeats its number in more places than this does so by its nature, as a set-point does."""
LEAST_ROWS = 500


def observation_constant(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Observation columns that never change."""
    moments = facts.scan.observation
    if moments is None or log.num_transitions < 2:
        return
    constant = np.flatnonzero(moments.high == moments.low)
    for block in blocks(len(log.observation_table) if len(constant) else 0):
        # A column may change only in observations after the last row, as the flag of a terminal state does.
        seen = log.observation_table[block][:, constant]
        constant = constant[((seen == moments.low[constant]) | ~np.isfinite(seen)).all(0)]
    if len(constant):
        yield Finding(
            "observation-constant",
            "warning",
            f"observation: {facts.columns(constant)}",
            f"{len(constant)} of {log.observation_size} columns never {'changes' if len(constant) == 1 else 'change'}",
            "columns that tell states apart",
            "Drop them, or find out why they never change.",
        )


def observation_twins(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Pairs of columns that are equal, or the same in another unit."""
    seen = facts.sample.observation
    if len(seen) < 20 or seen.shape[1] < 2:
        return
    spread = seen.std(0)
    live = np.flatnonzero(spread > 1e-12 * np.maximum(np.abs(seen).max(0), 1e-30))
    standard = (seen[:, live] - seen[:, live].mean(0)) / spread[live]
    product = np.triu(standard.T @ standard / len(seen), 1)
    first, second = np.nonzero(np.abs(product) > 1 - 1e-9)
    equal: list[tuple[int, int]] = []
    scaled: list[tuple[int, int]] = []
    for a, b in zip(live[first], live[second], strict=True):
        if (seen[:, a] != np.median(seen[:, a])).sum() < LEAST_VARIED:
            continue  # two rare flags may agree by chance
        if facts.label(int(a)).partition("=")[:2] == (facts.label(int(b)).partition("=")[0], "="):
            continue  # two categories of one column always complete each other
        (equal if (seen[:, a] == seen[:, b]).all() else scaled).append((int(a), int(b)))
    for pairs, severity, text in ((equal, "warning", "equal"), (scaled, "info", "equal up to unit and offset")):
        if pairs:
            shown = ", ".join(f"{facts.label(a)} = {facts.label(b)}" for a, b in pairs[:5])
            yield Finding(
                "observation-duplicate",
                severity,
                f"observation: {shown}{' ...' if len(pairs) > 5 else ''}",
                f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} of columns {'are' if len(pairs) > 1 else 'is'} {text}",
                "columns that hold different information",
                "Drop one of each pair, or find out which column was meant.",
            )


def observation_placeholder(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A value far from all others that occurs again and again, such as -999: a missing value in disguise."""
    seen = facts.sample.observation
    if len(seen) < LEAST_ROWS:
        return
    lower, upper = np.quantile(seen, [0.1, 0.9], axis=0)
    reach = FAR_OUT * np.maximum(upper - lower, 1e-12)
    for j in range(seen.shape[1]):
        if upper[j] == lower[j]:
            continue
        column = seen[:, j]
        for value in (column.min(), column.max()):
            if lower[j] - reach[j] <= value <= upper[j] + reach[j]:
                continue
            share = float((column == value).mean())
            if share >= PLACEHOLDER_SHARE and _like_a_code(column, value):
                yield Finding(
                    "observation-placeholder",
                    "warning",
                    f"observation: column {facts.label(j)}",
                    f"the column is exactly {value:g} in {share:.1%} of rows, while 80% of rows lie from {lower[j]:.4g} to "
                    f"{upper[j]:.4g}",
                    "measurements only",
                    "If this value stands for a missing one, fill it in and add a column that says where.",
                )
                break


def _like_a_code(column: NumpyArray, value: float) -> bool:
    """Whether a far value looks like a code: a whole number among others that are not, only nines, or far more frequent than
    single values usually are. A state that is merely rare and far out is as frequent as other states."""
    rest = column[column != value]
    whole = value == round(value) and (rest != np.round(rest)).mean() > 0.5
    nines = value == round(value) and set(str(abs(int(value)))) == {"9"}
    usual = np.median(np.unique(rest, return_counts=True)[1])
    return bool(whole or nines or (column == value).sum() >= MORE_OFTEN * usual)


def observation_scale(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Columns whose spreads differ greatly, or whose mean is very large compared with their spread."""
    moments = facts.scan.observation
    if moments is None:
        return
    spread = moments.spread
    live = np.flatnonzero(spread > 0)
    if not len(live):
        return
    far = live[np.abs(moments.mean[live]) > HUGE_MEAN * spread[live]]
    smallest, largest = live[spread[live].argmin()], live[spread[live].argmax()]
    if len(far):
        j = far[0]
        yield Finding(
            "observation-scale",
            "warning",
            f"observation: {facts.columns(far)}",
            f"column {facts.label(int(j))} has a standard deviation of {spread[j]:.3g} about a mean of {moments.mean[j]:.6g}",
            f"a mean within {HUGE_MEAN:g} standard deviations of 0",
            "Subtract the offset before the values become float32 (dates, identifiers, counters), or drop the column.",
        )
    elif spread[largest] > UNEVEN * spread[smallest]:
        yield Finding(
            "observation-scale",
            "info",
            f"observation: columns {facts.label(int(smallest))}, {facts.label(int(largest))}",
            f"the standard deviations of the columns range from {spread[smallest]:.3g} to {spread[largest]:.3g}",
            f"standard deviations within a factor of {UNEVEN:g}",
            "Check the units. Training standardises the columns, so nothing else needs to be done.",
        )


def observation_stuck(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that now and then repeats its number for some steps while the others change: a sensor that froze."""
    sample = facts.sample
    inner = np.flatnonzero((sample.position > 0) & (sample.position + 1 < sample.length))
    if len(inner) < 1000 or sample.observation.shape[1] < 2:
        return
    here = sample.observation[inner]
    before = facts.observation_at(log.observation_index[sample.rows[inner] - 1])
    after = facts.observation_at(log.observation_index[sample.rows[inner] + 1])
    # A number at its bound, such as a clipped velocity, may rightly stay there.
    free = (here > sample.observation.min(0)) & (here < sample.observation.max(0))
    held = (here == before) & (here == after) & free
    moving = ((here != before) & (here != after)).mean(1) >= 0.5
    distinct = np.array([len(np.unique(c)) for c in here.T])
    share = held[moving].mean(0) if moving.any() else np.zeros(here.shape[1])
    # Where nearly every row has a new number, only freezing repeats one; columns with few different numbers repeat anyway.
    found = np.flatnonzero((share > STUCK_SHARE) & (share < MOST_STUCK) & (distinct > 0.5 * (1 - share) * len(here)))
    if len(found):
        worst = int(found[share[found].argmax()])
        yield Finding(
            "observation-stuck",
            "warning",
            f"observation: {facts.columns(found)}",
            f"column {facts.label(worst)} repeats its exact number for three steps in {share[worst]:.1%} of places, while "
            "other columns change",
            "a new measurement in every step",
            "Look for a sensor that froze, or for values carried forward, and mark those rows.",
        )
