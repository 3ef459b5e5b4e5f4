"""How well one column alone tells something, whatever the form of the relation: by nearest neighbours, held out."""

from __future__ import annotations

import numpy as np

from stitchrl.types import NumpyArray

__all__ = ["told_by_column"]


def told_by_column(columns: NumpyArray, target: NumpyArray, half: NumpyArray, discrete: bool) -> NumpyArray:
    """How well each column alone tells a target, by the row of the other half whose number in the column is nearest.

    Args:
        columns: (n, D).
        target: (n, k); where k is above 1 the number that is told best counts.
        half: (n,) True in one half of the groups; each half is told by the other.
        discrete: whether the target is names, of which some are hit and others missed, and not numbers.

    Returns:
        (D,) the share of the errors of a constant guess (or of the variance) that is avoided; below 0 where it is worse.
    """
    best = np.full(columns.shape[1], -np.inf)
    for j, column in enumerate(columns.T):
        wrong, base = np.zeros(target.shape[1]), np.zeros(target.shape[1])
        for train in (half, ~half):
            seen, taken = column[train], target[train]
            order = np.argsort(seen, kind="stable")
            seen, taken = seen[order], taken[order]
            place = np.searchsorted(seen, column[~train]).clip(1, len(seen) - 1)
            nearer = column[~train] - seen[place - 1] < seen[place] - column[~train]
            guess, truth = taken[place - nearer], target[~train]
            if discrete:
                values, counts = np.unique(taken[:, 0], return_counts=True)
                wrong += (guess != truth).sum(0)
                base += (truth != values[counts.argmax()]).sum(0)
            else:
                wrong += ((guess - truth) ** 2).sum(0) / 2  # the neighbour's own noise doubles the error
                base += ((truth - taken.mean(0)) ** 2).sum(0)
        best[j] = (1 - wrong / np.maximum(base, 1e-12))[base > 0].max(initial=-np.inf)
    return best
