"""Whether actions that a mixture takes for random are about as even as uniform ones, or only look so on the whole."""

from __future__ import annotations

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.sample import Sample
from stitchrl.types import NumpyArray

__all__ = ["even_where_seen_often", "looks_uniform"]

UNEVEN = 0.1
"""Total variation distance from a uniform distribution up to which continuous actions look uniform."""
EVEN = 0.25
"""Up to this sum over discrete actions of (share - uniform share)^2 / uniform share they look uniform: five actions, one taken
in 40% of cases and each other in 15%, have .25."""
LEAST_SEEN = 1
"""How often each action of an observation must be expected for its shares to count."""


def even_where_seen_often(facts: Facts, part: Sample, taken: NumpyArray, used: NumpyArray, weight: NumpyArray) -> bool:
    """Whether at single observations too the weighted actions are about as even as uniform ones; True where none came often.

    For counts c of the actions at an observation, and the counts e that uniform actions would have, sum (c - e)^2 / e is on
    average the number of actions less one if they are uniform. What goes beyond that, divided by the rows, is how far their
    shares are from uniform ones.
    """
    group = np.unique(part.observation, axis=0, return_inverse=True)[1].ravel()
    share = weight / np.maximum(facts.allowed_count(part.rows), 1)
    often = np.bincount(group, share) >= LEAST_SEEN
    rows = np.flatnonzero(often[group])
    if not len(rows):
        return True
    place = (np.cumsum(often) - 1)[group[rows]]
    shape = int(often.sum()), len(used)
    found = np.bincount(place * len(used) + taken[rows], weight[rows], shape[0] * len(used)).reshape(shape)
    expected = np.zeros(shape)
    np.add.at(expected, place, share[rows, None] * facts.allowed(part.rows[rows], used))
    cells = expected > 0
    excess = ((found - expected)[cells] ** 2 / expected[cells]).sum() - (cells.sum() - shape[0])
    return bool(excess <= EVEN * weight[rows].sum())


def looks_uniform(action: NumpyArray, low: NumpyArray, high: NumpyArray, weight: NumpyArray) -> bool:
    """Whether every number of the weighted actions fills ten equal bins evenly, up to `UNEVEN` in total variation."""
    bins = np.clip((action - low) / (high - low) * 10, 0, 9.999).astype(np.int64)
    for column in bins.T:
        share = np.bincount(column, weight, 10) / weight.sum()
        if 0.5 * np.abs(share - 0.1).sum() > UNEVEN:
            return False
    return True
