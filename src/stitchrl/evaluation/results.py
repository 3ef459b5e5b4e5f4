"""What an estimate is, and the arrays every estimator works on."""

from __future__ import annotations

import dataclasses
from typing import Any

from stitchrl.evaluation.contributions import Estimand

__all__ = ["Estimate"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One number with what it is worth.

    Attributes:
        name: the estimator.
        value: in return units; None where the estimator cannot be applied (see `reasons`).
        lower, upper: two-sided interval at `confidence`; None where there is no honest one.
        standard_error: in return units; None where there is no interval.
        confidence: coverage aimed at, e.g. 0.95.
        estimand: which quantity.
        ess: effective sample size in episodes; None where no weights are involved.
        max_weight_share: largest share of one episode, or group of episodes, in all weight; None likewise.
        healthy: False means: do not lean on it.
        reasons: why it is not healthy, or not applicable, one sentence each.
        assumptions: what must hold for the interval to mean what it says.
        weight_based: uses products of probability ratios over whole episodes.
    """

    name: str
    value: float | None
    lower: float | None
    upper: float | None
    standard_error: float | None
    confidence: float
    estimand: Estimand
    ess: float | None = None
    max_weight_share: float | None = None
    healthy: bool = True
    reasons: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    weight_based: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        content = dataclasses.asdict(self)
        return content | {"estimand": dataclasses.asdict(self.estimand)}
