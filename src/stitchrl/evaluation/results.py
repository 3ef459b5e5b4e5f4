"""What an estimate is, as users and stored files see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.registry import ESTIMATORS

__all__ = ["Estimate"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One estimate: its value, its interval, and how far it can be trusted.

    Attributes:
        name: the estimator.
        value: in return units; None where the estimator cannot be applied (see `reasons`).
        lower, upper: two-sided interval at `confidence`; None where no interval can be justified.
        standard_error: in return units; None where there is no interval.
        confidence: coverage aimed at, e.g. 0.95.
        estimand: which quantity it estimates.
        ess: effective sample size in episodes; None where no weights are involved.
        max_weight_share: largest share of all weight that one episode, or one group of episodes, has; None where no weights
            are involved.
        healthy: whether every health check holds; do not rely on an estimate for which this is False.
        reasons: why it is not healthy, or not applicable, one sentence each.
        assumptions: what must hold for the interval to mean what it says.
        weight_based: whether it uses products of probability ratios over whole episodes.
        title: the estimator in words.
        primary_rank: place among the estimates that a verdict may rest on, the least first; None where no verdict may.
        checks: every health check, with what was seen and the limit.
        predictable_error: standard error to be expected from the ratios alone; None where it is not known. The interval
            uses the larger of it and the one that the sample shows.
        behavior_error: standard error that the fit of the behaviour brings, part of `standard_error`; None where the log
            has propensities, or where it is not known.
        model_error: standard error from what several networks disagree by, part of `standard_error`; None where there is but
            one.
        trace_shift: by how much the traces of `evaluation/joint_correction.py` move the value, part of `standard_error`; None
            where no traces are used.
        weighs_actions: whether it weighs logged actions by their propensities.
        trusts_values: whether it is wrong wherever the fitted values are, even with the right ratios.
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
    title: str = ""
    primary_rank: int | None = None
    checks: tuple[Check, ...] = ()
    predictable_error: float | None = None
    behavior_error: float | None = None
    model_error: float | None = None
    trace_shift: float | None = None
    weighs_actions: bool = True
    trusts_values: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON; the estimand names a unit of time only where it has one."""
        content = dataclasses.asdict(self)
        content["estimand"] = {
            key: value for key, value in content["estimand"].items() if key != "time_unit" or value is not None
        }
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Estimate:
        """The estimate of a `to_dict`; files written before estimates had titles and ranks get them by name."""
        known = ESTIMATORS.get(content["name"])
        filled = {} if known is None else {"title": known.title, "primary_rank": known.primary_rank}
        return cls(
            **filled
            | dict(content)
            | {
                "estimand": Estimand(**content["estimand"]),
                "reasons": tuple(content["reasons"]),
                "assumptions": tuple(content["assumptions"]),
                "checks": tuple(Check.from_dict(check) for check in content.get("checks", ())),
            }
        )
