"""How the variance of an estimate is shared out among the independent units that it rests on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.health import MAXIMUM_INFLUENCE
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["LISTED", "VarianceShares", "variance_shares"]

LISTED = 20
"""Units with the largest shares that are listed one by one."""


@dataclasses.dataclass(frozen=True)
class VarianceShares:
    """Which units carry the variance of an estimate.

    Attributes:
        noun: what one unit is called, "episode", "decision" or "group".
        count: how many units there are.
        largest: the largest shares of one unit, the largest first; at most `LISTED`.
        half: how many of the units with the largest shares carry half of what all units carry together.
        limit: the largest share that one unit may carry in a healthy estimate.
        models: the share that fitted models have in the variance, which no unit carries; in [0, 1).
    """

    noun: str
    count: int
    largest: tuple[float, ...]
    half: int
    limit: float = MAXIMUM_INFLUENCE
    models: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


def variance_shares(
    influence: Float[NumpyArray, " n"], units: Units, model_variance: float = 0.0
) -> VarianceShares | None:
    """The shares of each unit in the variance of an estimate, as `check_influence` counts them; None where nothing varies.

    Args:
        influence: (n,) influence value of each episode.
        units: which episodes are independent.
        model_variance: what fitted models add to the variance; no unit carries it.
    """
    squares = np.sort(units.sums(influence) ** 2)[::-1]
    total = float(squares.sum())
    if not total > 0:
        return None
    half = int(np.searchsorted(np.cumsum(squares / total), 0.5 - 1e-12)) + 1
    whole = float(total + model_variance * len(influence) ** 2)
    largest = tuple(float(share) for share in squares[:LISTED] / whole)
    return VarianceShares(units.noun, units.count, largest, half, models=1.0 - total / whole)
