"""The fixed random sample of rows that regressions, correlations and regions look at."""

from __future__ import annotations

import dataclasses

from stitchrl.types import NumpyArray

__all__ = ["Sample"]


SAMPLE_ROWS = 2**15
"""Rows in the sample: the standard error of a correlation is then 0.006, that of a share 0.3%."""


@dataclasses.dataclass
class Sample:
    """Some rows of a log, n of them, in ascending order.

    Attributes:
        rows: (n,) the numbers of the rows.
        episode, position, length: (n,) the episode of each row, its position in it (from 0), and the episode's length.
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
