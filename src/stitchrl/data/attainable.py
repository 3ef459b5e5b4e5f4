"""The range of returns that the rewards of a log allow."""

from __future__ import annotations

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.types import Float, NumpyArray

__all__ = ["attainable_returns"]


def attainable_returns(
    log: Dataset, gamma: float, *, horizon: int | None = None, by_time: bool = False
) -> tuple[float, float]:
    """The least and the largest return that steps with logged rewards can add up to; infinite where nobody knows.

    Steps that end an episode and steps that do not are told apart, since an episode has at most one of the former. Its
    length is bounded by the horizon; without one, by the discount; and where that is 1, by the longest logged episode if
    none was cut.

    Args:
        log: whose rewards are taken, as they are.
        gamma: the discount of one step; the largest of any step where these take different times.
        horizon: only the first so many steps count; None is all of them.
        by_time: whether the discount of a step depends on the time that it takes.
    """
    ends, on = log.reward[log.terminated].astype(np.float64), log.reward[~log.terminated].astype(np.float64)
    steps = int(log.episode_lengths.max())
    if horizon is None and gamma == 1 and not log.terminated[log.episode_start[1:] - 1].all():
        # Where episodes were cut, nobody knows how long they are.
        low, high = (-np.inf if log.reward.min() < 0 else 0.0), (np.inf if log.reward.max() > 0 else 0.0)
        return low, high
    if horizon is not None:
        steps = min(steps, horizon) if log.terminated.all() else horizon
    least, most = (-ends, -on), (ends, on)
    if by_time:  # the longer the time, the nearer a loss comes to 0
        least, most = (np.maximum(-ends, 0.0), np.maximum(-on, 0.0)), (np.maximum(ends, 0.0), np.maximum(on, 0.0))
    return -_largest_return(*least, steps, gamma, horizon), _largest_return(*most, steps, gamma, horizon)


def _largest_return(
    ends: Float[NumpyArray, " _"], on: Float[NumpyArray, " _"], steps: int, gamma: float, horizon: int | None
) -> float:
    """The largest discounted sum of at most `steps` rewards of which only the last may be among `ends`."""
    if not len(on):
        return float(ends.max())
    powers = np.power(float(gamma), np.arange(steps))
    before = np.concatenate([[0.0], np.cumsum(powers)[:-1]])
    found = []
    if len(ends):
        found.append(float((on.max() * before + powers * ends.max()).max()))
    if horizon is None and gamma < 1:
        found.append(float(on.max() / (1.0 - gamma)))
    elif horizon is not None or not len(ends):
        found.append(float(on.max() * powers.sum()))
    return max(found)
