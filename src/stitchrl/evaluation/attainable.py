"""What a value can be by the rewards of the log alone: its range, and what cuts and untried actions leave unknown of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.health import MAXIMUM_LOST
from stitchrl.types import NumpyArray

__all__ = ["attainable_range", "what_follows", "what_untried_actions_may_do"]


def attainable_range(log: Dataset, estimand: Estimand) -> tuple[float, float]:
    """The least and the largest return that steps with logged rewards can add up to.

    Steps that end an episode and steps that do not are told apart, since an episode has at most one of the former. Its
    length is bounded by the horizon; without one, by the discount; and where that is 1, by the longest logged episode if
    none was cut.
    """
    ends, on = log.reward[log.terminated].astype(np.float64), log.reward[~log.terminated].astype(np.float64)
    steps = int(log.episode_lengths.max())
    gamma = _of_one_step(log, estimand)
    if estimand.horizon is None and gamma == 1 and not log.terminated[log.episode_start[1:] - 1].all():
        # Where episodes were cut, nobody knows how long they are.
        low, high = (-np.inf if log.reward.min() < 0 else 0.0), (np.inf if log.reward.max() > 0 else 0.0)
        return low, high
    if estimand.horizon is not None:
        steps = min(steps, estimand.horizon) if log.terminated.all() else estimand.horizon
    least, most = (-ends, -on), (ends, on)
    if estimand.time_unit is not None:  # the longer the time, the nearer a loss comes to 0
        least, most = (np.maximum(-ends, 0.0), np.maximum(-on, 0.0)), (np.maximum(ends, 0.0), np.maximum(on, 0.0))
    return -_largest_return(*least, steps, gamma, estimand.horizon), _largest_return(
        *most, steps, gamma, estimand.horizon
    )


def _of_one_step(log: Dataset, estimand: Estimand) -> float:
    """The discount of one step: gamma, or the largest that it becomes for any logged time between two decisions."""
    return estimand.gamma if estimand.time_unit is None else log.largest_discount(estimand.gamma)


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


def what_follows(log: Dataset, estimand: Estimand, lost: float, longest: int) -> tuple[float, float]:
    """The least and the largest value that may follow the cuts which no other episode runs past; infinite without a discount.

    Bounded by the rewards of the log: lost * gamma^longest * reward / (1 - gamma), with the largest discount of any logged
    step where the log has a `time_unit`.
    """
    if lost == 0 or (estimand.horizon is not None and longest >= estimand.horizon):
        return 0.0, 0.0
    low, high = min(float(log.reward.min()), 0.0), max(float(log.reward.max()), 0.0)
    gamma = _of_one_step(log, estimand)
    if estimand.horizon is not None:
        steps = np.arange(longest, estimand.horizon)
        factor = float(np.power(float(gamma), steps).sum())
    elif gamma < 1:
        factor = gamma**longest / (1.0 - gamma)
    elif lost <= MAXIMUM_LOST:
        return 0.0, 0.0
    else:
        return -np.inf, np.inf
    return lost * factor * low, lost * factor * high


def what_untried_actions_may_do(decisions: float, attainable: tuple[float, float]) -> tuple[float, float]:
    """By how much a value may lie below and above its estimate, since so many decisions an episode are on unknown actions."""
    if decisions <= 0:
        return 0.0, 0.0
    reach = min(decisions, 1.0) * (attainable[1] - attainable[0])
    return -reach, reach
