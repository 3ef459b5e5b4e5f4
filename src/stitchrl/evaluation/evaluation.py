"""What an evaluation found: the estimates of a policy, its gain, and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stitchrl.evaluation.action_shift import ActionShift
from stitchrl.evaluation.agreement import Agreement
from stitchrl.evaluation.behavior_summary import BehaviorSummary
from stitchrl.evaluation.confirmation import Confirmation
from stitchrl.evaluation.consistency import Consistency
from stitchrl.evaluation.costs import CostLimits
from stitchrl.evaluation.estimates_table import estimates_table
from stitchrl.evaluation.group_gains import GroupGains
from stitchrl.evaluation.influence import VarianceShares
from stitchrl.evaluation.lower_bounds import LowerBound
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.return_distribution import ReturnDistribution
from stitchrl.evaluation.verdict import Verdict
from stitchrl.messages import interval_in_words
from stitchrl.printing import Shown

__all__ = ["Evaluation"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Shown):
    """What `evaluate` found.

    Attributes:
        estimates: estimator -> value of the policy.
        gain: estimator -> gain over the behaviour (or the baseline) on the same episodes, paired.
        behavior: the behaviour's own value: the mean logged return.
        verdict: GO, NO-GO or CANNOT TELL, with its checklist.
        behavior_fitted: True where the behaviour's probabilities come from a model.
        agreement: how the policy's decisions differ from the logged ones; `ActionShift` where actions are continuous, None where
            the log has the policy's probability of the logged action alone.
        confirmation: what is known about the behaviour that the primary gain rests on.
        influence: which episodes carry the variance of the primary gain; None where there is no such gain.
        behavior_model: the fitted behaviour; None where the log has propensities.
        groups: the primary gain in each group that was asked for; None where no group was, or there is no such gain.
        costs: each cost that was asked for, against its limit; None where no cost was.
        lower_bounds: bounds of the value, and of the gain over the behaviour, that rest on no model of the value; empty where
            none can be given. The verdict does not use them.
        distribution: how the returns are distributed, by "weights" and by "fqe"; empty where it was not asked for. The verdict
            does not use it.
        consistency: whether the healthy estimates agree, and an interval of the gain that holds if one of them is right. The
            verdict does not use it.
        described: what was done to the policy, such as "smoothed by normal noise of 0.2"; "" where nothing was.

    `evaluate_all(..., confirm=False)` does not compute `confirmation`, `influence`, `behavior_model`, `lower_bounds` and
    `consistency`: they are None, or empty, then.
    """

    estimates: dict[str, Estimate]
    gain: dict[str, Estimate]
    behavior: Estimate
    verdict: Verdict
    behavior_fitted: bool
    agreement: Agreement | ActionShift | None
    confirmation: Confirmation | None = None
    influence: VarianceShares | None = None
    behavior_model: BehaviorSummary | None = None
    groups: GroupGains | None = None
    costs: CostLimits | None = None
    lower_bounds: tuple[LowerBound, ...] = ()
    distribution: dict[str, ReturnDistribution] = dataclasses.field(default_factory=dict)
    consistency: Consistency | None = None
    described: str = ""

    def __str__(self) -> str:
        name = self.verdict.primary
        policy = "the policy" if not self.described else f"the policy, {self.described}"
        # Where the verdict rests on none of several, the table shows them all.
        shown = [name] if name is not None else list(self.estimates) if len(self.estimates) < 2 else []
        values = [(f"{policy}, by {one}", self.estimates[one]) for one in shown]
        lines = [
            f"value of {whose}: {interval_in_words(one.value, one.lower, one.upper, sign=False)}"
            for whose, one in (
                *values,
                (f"the behaviour, {self.behavior.title.removesuffix(' of the behaviour')}", self.behavior),
            )
            if one.value is not None and one.lower is not None and one.upper is not None
        ]
        stated = [one.sentence for one in self.lower_bounds if one.chosen and (one.says_something or one.of == "value")]
        worst = [one.sentence for one in self.distribution.values()]
        together = () if self.consistency is None else self.consistency.sentences
        table = estimates_table(self.estimates, self.gain, name)
        return "\n".join([*lines, *table, *together, *stated, *worst, str(self.verdict)])

    def noted(self, notes: Sequence[str]) -> Evaluation:
        """The same evaluation with further caveats at the end of its verdict."""
        verdict = dataclasses.replace(self.verdict, caveats=(*self.verdict.caveats, *notes))
        return dataclasses.replace(self, verdict=verdict)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "policy": self.described,
            "estimates": {name: estimate.to_dict() for name, estimate in self.estimates.items()},
            "gain": {name: estimate.to_dict() for name, estimate in self.gain.items()},
            "behavior": self.behavior.to_dict(),
            "verdict": self.verdict.to_dict(),
            "behavior_fitted": self.behavior_fitted,
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "influence": None if self.influence is None else self.influence.to_dict(),
            "behavior_model": None if self.behavior_model is None else self.behavior_model.to_dict(),
            "groups": None if self.groups is None else self.groups.to_dict(),
            "costs": None if self.costs is None else self.costs.to_dict(),
            "lower_bounds": [one.to_dict() for one in self.lower_bounds],
            "consistency": None if self.consistency is None else self.consistency.to_dict(),
            "distribution": {name: one.to_dict() for name, one in self.distribution.items()},
        }
