"""The check for single values far away from all others of their column: a unit, a decimal point, a mistyped number.

    d_1 >= d_2 >= ...   distances of the values of a column from its median, on one side of it
    far:  the first k values, for the largest k (at most 1% of the rows) with  d_k >= 8 max(d_{k+1}, R)

R is the range from the 10th to the 90th percentile. The next value stands in the place of a fixed distance because heavy tails
are sound: of skewed columns the largest value may lie a hundred ranges away, with others close behind it.

The 8 was chosen by simulation, before any log was looked at: with 500, 3,000 or 30,000 rows, columns of normal, exponential,
gamma, Weibull, Poisson, negative binomial and log-normal values (standard deviation of the logarithm up to 1.5, also among half
zeros) had such a value in none of 200 draws, Student's t with 3 degrees of freedom in up to 0.5%, log-normal values of 2 and
Pareto tails of 2 in up to 4.5%.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import blocks
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["observation_far_out"]

TIMES_FARTHER = 8.0
"""How many times as far out as the next value, and as the range of most, single values must lie."""
MOST_SHARE = 0.01
"""Share of the rows up to which values are single ones."""
MANY = 10
"""So many far values in one column are no slip of a key."""
LEAST_ROWS = 100


def observation_far_out(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Single values of an observation column far away from all others."""
    moments, seen = facts.scan.observation, facts.sample.observation
    if moments is None or len(seen) < LEAST_ROWS:
        return
    median = np.median(seen, axis=0)
    reach = np.ptp(np.quantile(seen, [0.1, 0.9], axis=0), axis=0)
    # The extremes are of all rows, and the sample may have missed them.
    beyond = (np.maximum(moments.high - median, median - moments.low) >= TIMES_FARTHER * reach) & (reach > 0)
    found = []
    for column in np.flatnonzero(beyond & np.isfinite(moments.high) & np.isfinite(moments.low)):
        j = int(column)
        rows = _far_rows(log, j, float(median[j]), float(reach[j]))
        values = log.observation_table[log.observation_index[rows], j]
        if len(rows) and not (len(rows) >= MANY and len(np.unique(values)) == 1):  # a repeated one is a placeholder
            found.append((j, rows, values))
    if not found:
        return
    total, most = sum(len(rows) for _, rows, _ in found), max(len(rows) for _, rows, _ in found)
    j, rows, values = max(found, key=lambda one: len(one[1]))
    farthest = int(np.abs(values - median[j]).argmax())
    episode = log.episode_id[log.episode_of_transition[rows[farthest]]]
    low, high = np.quantile(seen[:, j], [0.1, 0.9])
    yield Finding(
        "observation-far-out",
        "warning" if most >= MANY else "info",
        f"observation: {facts.columns(np.asarray([one for one, _, _ in found]))}",
        f"{total:,} single value{'s' if total > 1 else ''} lie{'' if total > 1 else 's'} far away from all others of the column: "
        f"column {facts.label(j)} is {values[farthest]:.4g} in row {rows[farthest]:,} (episode {episode}), where 80% of rows lie "
        f"from {low:.4g} to {high:.4g}",
        f"values less than {TIMES_FARTHER:g} times as far from the median as the next one",
        "Look these rows up: a unit, a decimal point or a mistyped number. Correct them or leave their episodes out, for one "
        "such value can decide a fit; where they are real, nothing is wrong.",
    )


def _far_rows(log: Dataset, j: int, median: float, reach: float) -> NumpyArray:
    """The rows whose value in a column lies far away from all others, ascending."""
    rows = np.concatenate([_beyond(log, block, j, median, reach) for block in blocks(log.num_transitions)])
    distance = log.observation_table[log.observation_index[rows], j].astype(np.float64) - median
    far = [rows[side] for side in (_single(distance, reach, log), _single(-distance, reach, log))]
    return np.sort(np.concatenate(far))


def _beyond(log: Dataset, block: slice, j: int, median: float, reach: float) -> NumpyArray:
    """The rows of a block that lie farther from the median than most."""
    values = log.observation_table[log.observation_index[block], j]
    with np.errstate(invalid="ignore"):
        return block.start + np.flatnonzero(np.abs(values - median) > reach)


def _single(distance: NumpyArray, reach: float, log: Dataset) -> NumpyArray:
    """Indices of the distances that are far; those of the other side are negative."""
    order = np.argsort(-distance, kind="stable")
    most = max(int(MOST_SHARE * log.num_transitions), 1)
    outer = distance[order][: most + 1]
    following = np.append(outer[1:], 0.0)[: min(most, len(outer))]
    far = np.flatnonzero(outer[:most] >= TIMES_FARTHER * np.maximum(following, reach))
    return order[: far[-1] + 1] if len(far) else order[:0]
