"""Regions of the state space: a random-projection tree over standardised observations.

Each node is cut at the median along one random direction (Dasgupta and Freund 2008, "Random projection trees and low
dimensional manifolds"). Regions therefore hold about equally many rows whatever the shape of the data, and the region of a
row costs a few products. A region is a coarse group of similar states.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.types import NumpyArray

__all__ = ["Regions"]

MOST_LEVELS = 4
"""Four levels make 16 regions, as many as a person can read in a picture."""
ROWS_A_REGION = 200
"""Rows of the sample that a region should hold: a 95% interval of a share then reaches 7 points to either side."""
DIRECTIONS_TRIED = 8
"""A node is cut along that of so many random directions in which its rows spread most."""


@dataclasses.dataclass(frozen=True)
class Regions:
    """A tree of cuts.

    Attributes:
        direction: (nodes, D) the direction of each inner node, breadth first.
        threshold: (nodes,) rows whose projection is above it go right; infinity sends all rows left.
        levels: number of cuts on the way to a region.
    """

    direction: NumpyArray
    threshold: NumpyArray
    levels: int

    @classmethod
    def fit(cls, observation: NumpyArray) -> Regions:
        """The tree for standardised (n, D) observations."""
        rng = draws(4)
        count, size = observation.shape
        levels = int(np.clip(np.log2(max(count / ROWS_A_REGION, 1)), 0, MOST_LEVELS)) if size else 0
        nodes = 2**levels - 1
        direction, threshold = np.zeros((nodes, size)), np.full(nodes, np.inf)
        at = np.zeros(count, np.int64)
        for node in range(nodes):
            rows = np.flatnonzero(at == node)
            if len(rows):
                tried = rng.normal(size=(DIRECTIONS_TRIED, size))
                tried /= np.linalg.norm(tried, axis=1, keepdims=True)
                projected = observation[rows] @ tried.T
                best = int(projected.std(0).argmax())
                direction[node], along = tried[best], projected[:, best]
                middle = np.median(along)
                above = along[along > middle]
                threshold[node] = (middle + above.min()) / 2 if len(above) else np.inf
                at[rows] = 2 * node + 1 + (along > threshold[node])
        return cls(direction, threshold, levels)

    @property
    def count(self) -> int:
        """The number of regions, including empty ones."""
        return int(2**self.levels)

    def of(self, observation: NumpyArray) -> NumpyArray:
        """(n,) the region of each standardised observation, 0 to count - 1."""
        at = np.zeros(len(observation), np.int64)
        for _ in range(self.levels):
            along = np.einsum("ij,ij->i", observation, self.direction[at])
            at = 2 * at + 1 + (along > self.threshold[at])
        return at - (self.count - 1)
