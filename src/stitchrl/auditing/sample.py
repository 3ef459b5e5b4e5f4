"""The fixed random sample of rows that regressions, correlations and regions look at."""

from __future__ import annotations

import dataclasses

from stitchrl.types import NumpyArray

__all__ = ["Sample"]


SAMPLE_ROWS = 2**15
"""Rows of the sample: correlations are known to 0.006, shares to 0.3%."""


@dataclasses.dataclass
class Sample:
    """Rows drawn at random, ascending; n of them.

    Attributes:
        rows: (n,) their numbers.
        episode, position, length: (n,) which episode, where in it (from 0), and how long it is.
        observation: (n, D) float64, 0 where not finite; (n, 0) for images.
        action: (n,) int64, or (n, k) float64.
        reward: (n,) float64.
    """

    rows: NumpyArray
    episode: NumpyArray
    position: NumpyArray
    length: NumpyArray
    observation: NumpyArray
    action: NumpyArray
    reward: NumpyArray

    def __len__(self) -> int:
        return len(self.rows)
