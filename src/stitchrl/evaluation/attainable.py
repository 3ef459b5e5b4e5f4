"""The range that a value can have by the rewards of the log alone, and what cuts and untried actions leave unknown of it."""

from __future__ import annotations

import numpy as np

from stitchrl.data.attainable import attainable_returns
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.health import MAXIMUM_LOST

__all__ = ["attainable_range", "what_follows", "what_untried_actions_may_do"]


def attainable_range(log: Dataset, estimand: Estimand) -> tuple[float, float]:
    """The least and the largest return that steps with logged rewards can add up to (`data.attainable`)."""
    return attainable_returns(
        log, _of_one_step(log, estimand), horizon=estimand.horizon, by_time=estimand.time_unit is not None
    )


def _of_one_step(log: Dataset, estimand: Estimand) -> float:
    """The discount of one step: gamma, or the largest that it becomes for any logged time between two decisions."""
    return estimand.gamma if estimand.time_unit is None else log.largest_discount(estimand.gamma)


def what_follows(log: Dataset, estimand: Estimand, lost: float, longest: int) -> tuple[float, float]:
    """The least and the largest value, over all episodes, of what may follow the cuts that no other episode runs past.

    Each is lost * gamma^longest * reward / (1 - gamma), with the least, or the largest, logged reward, or 0 where that is
    further out; with a horizon the sum of gamma^t ends there. Where the log has a `time_unit`, gamma is the largest discount
    of any logged step. Without a horizon and at a discount of 1 nothing bounds it: it is infinite, or 0 where no more than
    `MAXIMUM_LOST` of the weight is lost, which the health check lets pass.

    Args:
        log: the episodes.
        estimand: which quantity is estimated.
        lost: share of the episodes' weight that ends in such cuts.
        longest: steps of the longest episode.
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
    """By how much a value may lie below and above its estimate for the actions that the behaviour never takes.

    An episode with such an action may return anything attainable.

    Args:
        decisions: how many such actions the policy takes in an episode, on average.
        attainable: the least and the largest return.
    """
    if decisions <= 0:
        return 0.0, 0.0
    reach = min(decisions, 1.0) * (attainable[1] - attainable[0])
    return -reach, reach
