"""Sums of the rewards that follow each row of a log."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling

__all__ = ["returns_to_go"]


def returns_to_go(log: Dataset, scaling: Scaling, gamma: float) -> Float[np.ndarray, " N"]:
    """(N,) float32 discounted sum of the scaled rewards from each row to the end of its logged run."""
    returns = scaling.rewards(log.reward).astype(np.float64)
    discount = None if log.elapsed is None else log.discount(gamma)
    # From the last row of every run to the first, all runs at once.
    left = log.run_end - np.arange(log.num_transitions)
    order = np.argsort(left, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(left))[:-1])[1:]:
        returns[rows] += (gamma if discount is None else discount[rows]) * returns[rows + 1]
    return returns.astype(np.float32)
