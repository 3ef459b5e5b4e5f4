"""What one pass over the rows of a log gives."""

from __future__ import annotations

import dataclasses

from stitchrl.auditing.moments import Moments
from stitchrl.types import NumpyArray

__all__ = ["Scan"]


@dataclasses.dataclass
class Scan:
    """What one pass over the rows gives.

    Attributes:
        observation, action, reward: `Moments`; observation is None for images, action for discrete actions.
        returns: (E,) undiscounted; sums of finite rewards only.
        action_counts: (PARTS, A) of discrete actions inside their space; (PARTS, 0) otherwise.
        actions_outside: discrete actions outside 0 to A - 1.
        gaps: rows inside episodes not followed by what they say follows; first_gap the first of them, -1 for none.
        cut: rows without a TD target.
        episode_hash: (E,) uint64 of the observations, actions and rewards of each episode, in order.
        row_hash, row_number: of kept rows: content of the whole row, its time included where it has one.
        moment_hash: of kept rows: content of the observation, and the time where there is one.
        every: one row in so many is kept.
        part_rows: (PARTS,) rows in each part of the log.
    """

    observation: Moments | None
    action: Moments | None
    reward: Moments
    returns: NumpyArray
    action_counts: NumpyArray
    actions_outside: int
    gaps: int
    first_gap: int
    cut: int
    episode_hash: NumpyArray
    row_hash: NumpyArray
    row_number: NumpyArray
    moment_hash: NumpyArray
    every: int
    part_rows: NumpyArray
