"""Places of the state space that checks look at one by one: the regions, and the ends of each column."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.sample import Sample
from stitchrl.types import NumpyArray

__all__ = ["examined_places", "region_names"]

LEAST_ROWS_OF_PLACE = 100
"""Smaller places are not examined."""
MOST_COLUMNS = 100
"""The ends of at most this many observation columns are examined."""
MOST_OF_LOG = 0.6
"""A place with a larger share of the log is nearly everything, and is not examined."""


def examined_places(facts: Facts, sample: Sample | None = None) -> tuple[list[str], NumpyArray]:
    """The places to examine: the regions, and the lowest and highest tenth of the rows by each column.

    Returns:
        Their names, and (places, n) 1.0 where a row of the sample lies in the place. Places with few rows, or with nearly
        all of them, are left out.
    """
    region = facts.sample_region if sample is None else facts.regions.of(facts.standardised(sample.observation))
    sample = facts.sample if sample is None else sample
    named = region_names(facts)
    rows = [region == r for r in range(facts.regions.count)]
    low, high = np.quantile(sample.observation, [0.1, 0.9], axis=0)
    for j in range(min(sample.observation.shape[1], MOST_COLUMNS)):
        column = sample.observation[:, j]
        named += [
            f"{facts.observation_names[j]} at most {low[j]:.4g}",
            f"{facts.observation_names[j]} at least {high[j]:.4g}",
        ]
        rows += [column <= low[j], column >= high[j]]
    inside = np.stack(rows)
    share = inside.mean(1)
    keep = (inside.sum(1) >= LEAST_ROWS_OF_PLACE) & (share <= MOST_OF_LOG)
    return [name for name, kept in zip(named, keep, strict=True) if kept], inside[keep].astype(np.float64)


def region_names(facts: Facts) -> list[str]:
    """The names of the regions, each by the column in which it lies furthest from the rest, and by a second one where that
    is also the name of another region."""
    ends = [_ends_of(facts, region) for region in range(facts.regions.count)]
    first = Counter(of[0] for of in ends if of)
    return [
        f"region {r} ({', '.join(of[: 2 if first[of[0]] > 1 else 1])})" if of else f"region {r}"
        for r, of in enumerate(ends)
    ]


def _ends_of(facts: Facts, region: int) -> list[str]:
    """Where a region lies by each column, such as "high age" or "sex=f", from the column in which it lies furthest from the
    rest on; of the categories of a column one is named. Empty if the region holds nothing or everything."""
    inside: NumpyArray = facts.sample_region == region
    if not inside.any() or inside.all():
        return []
    centre = facts.standardised(facts.sample.observation[inside]).mean(0)
    named: dict[str, str] = {}
    for column in np.argsort(-np.abs(centre), kind="stable"):
        name, high = facts.observation_names[int(column)], bool(centre[column] > 0)
        whole, sign, _ = name.partition("=")
        text = (name if high else f"not {name}") if sign else f"{'high' if high else 'low'} {name}"
        named.setdefault(whole, text)
    return list(named.values())
