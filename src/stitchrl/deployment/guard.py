"""The guard: which observations a deployed policy must not be asked about."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.dataset import Dataset
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["Guard"]


@dataclasses.dataclass(frozen=True, eq=False)
class Guard:
    """Refuses observations that are not finite, or lie outside the range of the training log by more than a margin.

    Attributes:
        low, high: (D,) smallest and largest value of each observation column in the training log.
        margin: the share of that range by which a value may lie outside of it.
    """

    low: Float[NumpyArray, " D"]
    high: Float[NumpyArray, " D"]
    margin: float = 0.1

    @classmethod
    def fit(cls, log: Dataset, *, margin: float = 0.1) -> Guard:
        """The guard of a policy that was trained on this log."""
        seen = log.observation_table[np.unique(log.observation_index)]
        return cls(seen.min(0), seen.max(0), margin)

    def admits(self, obs: Float[NumpyArray, "B D"]) -> Bool[NumpyArray, " B"]:
        """(B,) True where the policy may be asked.

        Raises:
            DataError: the rows have another width than those of the training log.
        """
        if obs.ndim != 2 or obs.shape[1] != len(self.low):
            raise DataError(f"Observations must be rows of {len(self.low)} numbers; got shape {obs.shape}.")
        slack = self.margin * (self.high - self.low)
        with np.errstate(invalid="ignore"):
            inside = (obs >= self.low - slack) & (obs <= self.high + slack)
        return (inside & np.isfinite(obs)).all(1)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {"low": self.low.tolist(), "high": self.high.tolist(), "margin": self.margin}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Guard:
        """The guard that `to_dict` described."""
        return cls(np.asarray(content["low"], np.float32), np.asarray(content["high"], np.float32), content["margin"])
