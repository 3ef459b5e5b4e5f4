"""The guard: which observations a deployed policy must not be asked about."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.dataset import Dataset
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["ANSWER", "BEHAVIOR", "CLIP", "REFUSE", "Guard", "OnOutside"]

QUANTILES = (0.01, 0.25, 0.75, 0.99)
REFUSE, CLIP, BEHAVIOR, ANSWER = "refuse", "clip", "behavior", "answer"
OnOutside: TypeAlias = str | int | tuple[float, ...]
"""What a guard is told to do outside: one of the words above, or an action."""
FEWEST_ROWS = 20
"""Of fewer rows the middle half says little."""


@dataclasses.dataclass(frozen=True, eq=False)
class Guard:
    """Knows which observations are not finite, or lie outside the range of the training log by more than a margin.

    Attributes:
        low, high: (D,) smallest and largest value of each observation column in the training log.
        margin: the share of that range by which a value may lie outside of it.
        quantiles: (4, D) the values below which 1, 25, 75 and 99% of the rows of each column lie, by which another unit is
            noticed; None where they are not known, as in bundles of older versions.
        on_outside: what a bundle does with such observations: "refuse" them; "clip" them to what is admitted; act as the
            "behavior" does; take an action, a number or a tuple of numbers; or "answer" as if there were no guard.
    """

    low: Float[NumpyArray, " D"]
    high: Float[NumpyArray, " D"]
    margin: float = 0.1
    quantiles: Float[NumpyArray, "4 D"] | None = None
    on_outside: OnOutside = REFUSE

    @cached_property
    def least(self) -> Float[NumpyArray, " D"]:
        """(D,) the smallest values that are admitted."""
        return np.asarray(self.low - self.margin * (self.high - self.low))

    @cached_property
    def most(self) -> Float[NumpyArray, " D"]:
        """(D,) the largest values that are admitted."""
        return np.asarray(self.high + self.margin * (self.high - self.low))

    @classmethod
    def fit(cls, log: Dataset, *, margin: float = 0.1) -> Guard:
        """The guard of a policy that was trained on this log."""
        seen = log.observation_table[np.unique(log.observation_index)]
        quantiles = np.quantile(seen, QUANTILES, axis=0) if seen.ndim == 2 else None
        return cls(seen.min(0), seen.max(0), margin, quantiles)

    def admits(self, obs: Float[NumpyArray, "B D"]) -> Bool[NumpyArray, " B"]:
        """(B,) True where the policy may be asked.

        Raises:
            DataError: the rows have another width than those of the training log.
        """
        if obs.ndim != 2 or obs.shape[1] != len(self.low):
            raise DataError(f"Observations must be rows of {len(self.low)} numbers; got shape {obs.shape}.")
        return np.asarray(self.inside(obs).all(1))

    def inside(self, obs: Float[NumpyArray, "B D"]) -> Bool[NumpyArray, "B D"]:
        """(B, D) which numbers are finite and not outside; NaN compares as outside."""
        return np.logical_and((obs >= self.least) & (obs <= self.most), np.isfinite(obs))

    def clipped(self, obs: Float[NumpyArray, "B D"]) -> Float[NumpyArray, "B D"]:
        """(B, D) the nearest numbers that are admitted."""
        return np.clip(obs, self.least, self.most).astype(obs.dtype)

    def other_ranges(
        self, rows: Float[NumpyArray, "B D"]
    ) -> list[tuple[int, tuple[float, float], tuple[float, float]]]:
        """The columns of some rows that look like another unit: the middle half of their values lies apart from the middle 98%
        of the training log's.

        Args:
            rows: observations of another log, as many as it has.

        Returns:
            For each such column its number, its middle half, and the middle half that the policy learned from.
        """
        if self.quantiles is None or len(rows) < FEWEST_ROWS:
            return []
        least, first, third, most = self.quantiles
        low, high = np.quantile(rows, (0.25, 0.75), axis=0)
        # A column that hardly varies, as of a rare category, has no unit to mistake.
        apart = np.flatnonzero(((low > most) | (high < least)) & (third > first))
        return [(int(j), (float(low[j]), float(high[j])), (float(first[j]), float(third[j]))) for j in apart]

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        content = {"low": self.low.tolist(), "high": self.high.tolist(), "margin": self.margin}
        if self.on_outside != REFUSE:
            content["on_outside"] = list(self.on_outside) if isinstance(self.on_outside, tuple) else self.on_outside
        return content if self.quantiles is None else content | {"quantiles": self.quantiles.tolist()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Guard:
        """The guard that `to_dict` described."""
        quantiles = None if "quantiles" not in content else np.asarray(content["quantiles"], np.float64)
        low, high = (np.asarray(content[name], np.float32) for name in ("low", "high"))
        on_outside = content.get("on_outside", REFUSE)
        return cls(
            low, high, content["margin"], quantiles, tuple(on_outside) if isinstance(on_outside, list) else on_outside
        )
