"""What confirms a primary gain: propensities that were logged and are calibrated, or, with a fitted behaviour, three tests.

A fitted behaviour sees the observations only. Where something else decided the actions as well, its ratios are wrong, the
fitted Q is wrong in the same direction, and every interval can lie on the wrong side of the truth although every health check
passes. So a gain that rests on a fitted behaviour needs evidence that no such hidden cause was at work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.auditing.history import ENOUGH_DECISIONS, HistoryCheck
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.sensitivity import LARGEST, LARGEST_EVERY, Sensitivity
from stitchrl.evaluation.settings import MINIMUM_ODDS_RATIO

__all__ = [
    "COUNTED_WHERE",
    "COUNTED_WHERE_OF_DECISIONS",
    "NO_MEMORY",
    "RECORDED",
    "Confirmation",
    "can_confirm",
    "uncounted",
]

FITTED_COVERED = False
"""Whether a fitted behaviour may give GO. It may not: where a weak cause acted in every decision of long episodes, a policy
that is worse met all other conditions (benchmarks/results/weak_causes.md). Without a hidden cause its intervals do cover
(benchmarks/results/coverage.md)."""
NOT_COVERED = (
    "A fitted behaviour gives no GO: a weak cause that is hidden in every decision can make a worse policy pass every other "
    "condition (benchmarks/results/weak_causes.md), and no log shows it. Log the probability of each action that was taken."
)

COUNTED, COUNTED_OF_DECISIONS = "fqe", "reward-dr"
"""The estimators over continuous actions whose verdicts were counted against the truth; the second on single decisions."""
COUNTED_WHERE = (
    "How often GO is wrong over continuous actions was counted in one simulated system "
    "(benchmarks/results/false_go_continuous.md). Far from the behaviour an estimate may err by more than its interval says."
)
"""What a GO over continuous actions does not cover."""
COUNTED_WHERE_OF_DECISIONS = (
    "How often GO is wrong on single decisions with continuous actions was counted in two simulated worlds, for fixed policies "
    "and not for ones that were learned (benchmarks/results/false_go_doses.md)."
)
"""What a GO on a dose or a price does not cover."""
RECORDED = "Propensities that the acting policy itself recorded leave no room for a hidden cause."
"""Why a hidden cause matters less where propensities are logged."""
NO_MEMORY = "It is assumed to have no memory: it is drawn anew in every decision, so one that lasts can do more harm."
"""What the strength of a hidden cause assumes."""


def uncounted(name: str, *, continuous: bool, decisions: bool) -> str:
    """Why verdicts of this kind give no GO, since nobody has counted how often they are wrong; "" where somebody has.

    Args:
        name: of the estimator that the gain is of.
        continuous: whether the log's actions are continuous.
        decisions: whether every episode is a single decision.
    """
    counted = COUNTED_OF_DECISIONS if decisions else COUNTED
    if continuous and name != counted:
        where, page = ("single decisions with ", "doses") if decisions else ("", "continuous")
        return (
            f"Over {where}continuous actions verdicts of {counted} alone have been counted against the truth "
            f"(benchmarks/results/false_go_{page}.md), and this gain is of {name}, so it gives no GO."
        )
    return ""


def can_confirm(name: str, gain: Estimate, *, fitted: bool, continuous: bool, decisions: bool) -> bool:
    """Whether line (e) of a verdict could hold of a gain, whatever the log shows.

    Args:
        name: of its estimator.
        gain: the estimate of it.
        fitted: whether the behaviour's probabilities are a model's, and not the log's own.
        continuous: whether the log's actions are continuous.
        decisions: whether every episode is a single decision.
    """
    if uncounted(name, continuous=continuous, decisions=decisions):
        return False
    return FITTED_COVERED if fitted else gain.weighs_actions


@dataclasses.dataclass(frozen=True)
class Confirmation:
    """What is known about the behaviour that a primary gain rests on.

    Attributes:
        fitted: whether the behaviour's probabilities are a model's, and not the log's own.
        calibration: whether the ratios to them average 1 over the logged actions.
        history: whether the past predicts the logged actions beyond the observation; None where it was not looked at.
        sensitivity: the hidden causes, in one decision and in every one, that would overturn the gain; None where they
            were not computed.
        minimum_odds_ratio: the strength of a hidden cause in one decision, as an odds ratio, that a gain from a fitted
            behaviour must withstand.
        model: what was fitted as the behaviour, in words; "" where it was logged.
        covered: whether published results permit a GO from a fitted behaviour.
        continuous: whether the log's actions are continuous.
        decisions: whether every episode is a single decision.
    """

    fitted: bool
    calibration: Check
    history: HistoryCheck | None = None
    sensitivity: Sensitivity | None = None
    minimum_odds_ratio: float = MINIMUM_ODDS_RATIO
    model: str = ""
    covered: bool = FITTED_COVERED
    continuous: bool = False
    decisions: bool = False

    @property
    def counted_where(self) -> tuple[str, ...]:
        """What a GO does not cover, over continuous actions."""
        if not self.continuous:
            return ()
        return (COUNTED_WHERE_OF_DECISIONS if self.decisions else COUNTED_WHERE,)

    def parts(self, name: str, gains: Mapping[str, Estimate], margin: float) -> list[tuple[bool, str]]:
        """What must hold of the primary gain `name`, each with a sentence that says whether it does, and why."""
        reason = uncounted(name, continuous=self.continuous, decisions=self.decisions)
        not_counted = [(False, reason)] if reason else []
        if not self.fitted and not gains[name].weighs_actions:
            return [
                (
                    False,
                    f"{name} does not weigh actions by their propensities, so that logged propensities do not confirm it: a "
                    "cause that decided the actions and is not in the observations would go unnoticed.",
                )
            ]
        if not self.fitted:
            return [
                (self.calibration.passed, f"Propensities are logged. {self.calibration.sentence}"),
                *self._every_decision(),
                *not_counted,
            ]
        return [
            (self.calibration.passed, self.calibration.sentence),
            self._history(),
            self._sensitivity(),
            *self._every_decision(),
            _second(name, gains, margin),
            *([] if self.covered else [(False, NOT_COVERED)]),
            *not_counted,
        ]

    def rests_on(self, name: str, gains: Mapping[str, Estimate], margin: float) -> str:
        """What a GO rests on, for its headline."""
        if not self.fitted:
            return "logged propensities that fit the logged actions"
        assert self.sensitivity is not None
        return (
            f"a fitted behaviour to which the past adds nothing, {_and(_others(name, gains, margin))} on other assumptions, "
            f"and a gain that withstands {self._strength()} in any single decision{self._strength_in_every()}"
        )

    def _strength(self) -> str:
        assert self.sensitivity is not None
        more = "more than " if self.sensitivity.odds_ratio >= LARGEST else ""
        return f"a hidden cause with an odds ratio of {more}{self.sensitivity.odds_ratio:.2f}"

    def _strength_in_every(self) -> str:
        found = None if self.sensitivity is None else self.sensitivity.every_decision
        if found is None:
            return ""
        return f" and of {'more than ' if found >= LARGEST_EVERY else ''}{found:.2f} in every decision"

    def _every_decision(self) -> list[tuple[bool, str]]:
        """What is known about a hidden cause in every decision; it is told, and no strength is required."""
        strength = self._strength_in_every().removeprefix(" and of ")
        if not strength:
            return []
        none = "" if self.fitted else f" {RECORDED}"
        said = f"The gain withstands a hidden cause with an odds ratio of {strength}, if the cause has no memory."
        return [(True, f"{said}{none}")]

    def _history(self) -> tuple[bool, str]:
        if self.history is None:
            return False, "It was not checked whether the past predicts the logged actions beyond the observation."
        if self.history.passed is True and not self.history.enough:
            found = self.history.sentence
            return False, (
                f"In fewer than {ENOUGH_DECISIONS:,} decisions that have a past the history check would miss most hidden causes, "
                f"though it found none: {found[:1].lower()}{found[1:]}"
            )
        return self.history.passed is True, self.history.sentence

    def _sensitivity(self) -> tuple[bool, str]:
        needed = f"{self.minimum_odds_ratio:g} is needed"
        if self.sensitivity is None:
            return False, f"How strong a hidden cause the gain withstands is not known; an odds ratio of {needed}."
        passed = self.sensitivity.odds_ratio >= self.minimum_odds_ratio
        return passed, f"The gain withstands {self._strength()} in its worst single decision, and {needed}."

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "fitted": self.fitted,
            "calibration": dataclasses.asdict(self.calibration),
            "history": None if self.history is None else self.history.to_dict() | {"sentence": self._history()[1]},
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_dict(),
            "minimum_odds_ratio": self.minimum_odds_ratio,
            "hidden_cause": self._hidden_cause(),
        }

    def _hidden_cause(self) -> dict[str, Any] | None:
        """The strength that the gain withstands, for a picture and the sentence under it; None where it is not known."""
        if self.sensitivity is None:
            return None
        found = self.sensitivity.odds_ratio
        if found <= 1:
            sentence = "The gain is not above the margin, so there is nothing for a hidden cause to overturn."
        elif found >= LARGEST:
            sentence = (
                f"A hidden cause that changes the odds of the logged action by a factor of up to {LARGEST:g}, in any one "
                "decision, would not overturn the gain."
            )
        else:
            sentence = (
                f"A hidden cause that changes the odds of the logged action by a factor of {found:.2f}, in the decision at step "
                f"{self.sensitivity.step} alone, would overturn the gain. In any other single decision it would have to be "
                "stronger."
            )
        every = self.sensitivity.every_in_words()
        asked = (
            f"Since the behaviour is fitted, a gain must withstand a factor of {self.minimum_odds_ratio:g}"
            f"{' in its worst single decision' if every else ''}."
            if self.fitted
            else f"Since the propensities are logged, the verdict asks for no strength.{f' {RECORDED}' if every else ''}"
        )
        told = [sentence, f"{every} {NO_MEMORY}" if every else "", asked]
        return {
            "seen": found,
            "needed": self.minimum_odds_ratio if self.fitted else None,
            "none": 1.0,
            "largest": LARGEST,
            "step": self.sensitivity.step,
            "every": self.sensitivity.every_decision,
            "largest_every": LARGEST_EVERY,
            "sentence": " ".join(filter(None, told)),
        }


def _others(name: str, gains: Mapping[str, Estimate], margin: float) -> list[str]:
    """Healthy estimates on other assumptions than the primary's that show a gain too, one that agrees with the primary's."""
    return [
        other
        for other, gain in gains.items()
        if other != name
        and gain.healthy
        and gain.value is not None
        and gain.value > margin
        and _agree(gains[name], gain)
        and gain.weight_based != gains[name].weight_based
        and not gain.trusts_values  # it would repeat the error of the values that the primary has as well
    ]


def _agree(one: Estimate, other: Estimate) -> bool:
    """Whether two gains differ by no more than two standard errors of a difference of independent estimates.

    The two share episodes, so that their difference is expected to vary less than that.
    """
    if one.value is None or other.value is None or one.standard_error is None or other.standard_error is None:
        return False
    return abs(one.value - other.value) <= 2.0 * math.hypot(one.standard_error, other.standard_error)


def _second(name: str, gains: Mapping[str, Estimate], margin: float) -> tuple[bool, str]:
    found = _others(name, gains, margin)
    if found:
        several = len(found) > 1
        return (
            True,
            f"{_and(found)}, on other assumptions, {'are' if several else 'is'} healthy and {'show' if several else 'shows'} a "
            "gain too.",
        )
    return False, "No second estimate on other assumptions is healthy and shows a gain too: nothing confirms the first."


def _and(names: Sequence[str]) -> str:
    """Names as a sentence has them: "is, pdis and wis"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
