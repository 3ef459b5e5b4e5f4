"""How a policy over continuous actions differs from what was logged, number by number of the action."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["ActionShift", "action_shift"]

LOWEST, HIGHEST = 0.005, 0.995
"""Quantiles of the logged actions between which an action counts as inside their range."""


@dataclasses.dataclass(frozen=True, eq=False)
class ActionShift:
    """Differences between a policy and a log over N decisions, for each of the D numbers of an action.

    Attributes:
        distance: (D,) root mean squared distance between the policy's mean action and the logged one, in standard
            deviations of the logged ones; 0 where these do not vary.
        logged_mean, logged_std: (D,) mean and standard deviation of the logged actions, in logged units.
        policy_mean, policy_std: (D,) mean and standard deviation of the policy's actions at the same states.
        outside: (D,) share of the policy's actions that lie outside the middle 99% of the logged ones.
    """

    distance: Float[NumpyArray, " D"]
    logged_mean: Float[NumpyArray, " D"]
    logged_std: Float[NumpyArray, " D"]
    policy_mean: Float[NumpyArray, " D"]
    policy_std: Float[NumpyArray, " D"]
    outside: Float[NumpyArray, " D"]

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)}


def action_shift(log: Dataset, draws: Float[NumpyArray, "N K D"]) -> ActionShift:
    """Compare a policy's drawn actions with what was logged.

    Args:
        log: N decisions with continuous actions of D numbers.
        draws: (N, K, D) K actions of the policy at each logged state, in logged units.
    """
    logged = log.action.astype(np.float64)
    mean, std = logged.mean(0), logged.std(0)
    wide = np.where(std > 0, std, 1.0)
    apart = np.sqrt(((draws.mean(1, dtype=np.float64) - logged) ** 2).mean(0)) / wide
    low, high = np.quantile(logged, [LOWEST, HIGHEST], axis=0)
    slack = 1e-6 * wide
    outside = ((draws < low - slack) | (draws > high + slack)).mean((0, 1))
    return ActionShift(
        np.where(std > 0, apart, 0.0),
        mean,
        std,
        draws.mean((0, 1), dtype=np.float64),
        draws.std((0, 1), dtype=np.float64),
        outside,
    )
