"""Telling episodes that two logs share from different episodes that happen to be alike."""

from __future__ import annotations

import numpy as np

from stitchrl.types import NumpyArray

__all__ = ["beyond_chance", "coincidence"]

BEYOND_CHANCE = 5.0
"""Shared contents count as shared episodes from so many standard deviations above what coincidence explains."""


def beyond_chance(seen: int, expected: float) -> bool:
    """Whether so many episodes with an equal elsewhere are more than coincidence explains, given how many it lets expect."""
    return bool(seen > expected + BEYOND_CHANCE * np.sqrt(expected))


def coincidence(times: NumpyArray, others: int) -> float:
    """The share of some episodes that has an equal among so many others of the same origin, at most: where there are few
    different episodes, as with one step and few observations, equal ones need not be the same.

    Among as many others it is the share that has an equal among these; among more, the extrapolation of Good and
    Toulmin (1956) to first order.

    Args:
        times: how often each different content occurs among these.
        others: how many others there are.
    """
    episodes = int(times.sum())
    more = max(0.0, others / episodes - 1)
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    return min(1.0, 1 - (once - 2 * twice * more) / episodes)
