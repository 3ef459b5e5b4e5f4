"""Scaling of observations and rewards: fitted on the training log only, undone at the edge, saved with the model."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["Scaling", "unit_return_scale"]

MINIMUM_STD = 1e-3
"""Added to every standard deviation, so that a constant column stays finite."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """(obs - mean) / std, and reward * reward_scale.

    Attributes:
        mean: (D,) float32.
        std: (D,) float32, above 0.
        reward_scale: factor on rewards, above 0; learned values are divided by it again.
    """

    mean: Float[NumpyArray, " D"]
    std: Float[NumpyArray, " D"]
    reward_scale: float = 1.0

    @classmethod
    def identity(cls, observation_size: int, *, reward_scale: float = 1.0) -> Scaling:
        """Leaves observations as they are."""
        return cls(np.zeros(observation_size, np.float32), np.ones(observation_size, np.float32), reward_scale)

    @classmethod
    def fit(cls, log: Dataset, *, reward_scale: float = 1.0) -> Scaling:
        """Standardise by the mean and standard deviation of the log's observations, one weight a transition."""
        rows = np.bincount(log.observation_index, minlength=len(log.observation_table)).astype(np.float64)
        share = rows / rows.sum()
        mean = share @ log.observation_table.astype(np.float64)
        variance = share @ (log.observation_table.astype(np.float64) - mean) ** 2
        std = np.sqrt(variance) + MINIMUM_STD
        return cls(mean.astype(np.float32), std.astype(np.float32), reward_scale)

    def observations(self, raw: Float[NumpyArray, "M D"]) -> Float[NumpyArray, "M D"]:
        """Standardised observations."""
        return (raw - self.mean) / self.std


def unit_return_scale(log: Dataset, *, gamma: float = 1.0) -> float:
    """The factor that gives episode returns a standard deviation of 1; 1 where all returns are equal."""
    spread = float(log.episode_returns(gamma).std())
    return 1.0 / spread if spread > 0 else 1.0
