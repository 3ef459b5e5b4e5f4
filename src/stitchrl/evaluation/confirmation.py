"""What confirms a primary gain: propensities that were logged and are calibrated, or, with a fitted behaviour, three tests.

A fitted behaviour sees the observations only. Where something else decided the actions as well, its ratios are wrong, the
fitted Q is wrong in the same direction, and every interval can lie on the wrong side of the truth with all its health
checks held. So a gain that rests on a fitted behaviour needs evidence that nothing of the kind went on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stitchrl.auditing.history import ENOUGH_DECISIONS, HistoryCheck
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.sensitivity import LARGEST, Sensitivity
from stitchrl.evaluation.settings import MINIMUM_ODDS_RATIO

__all__ = ["Confirmation"]


@dataclasses.dataclass(frozen=True)
class Confirmation:
    """What is known about the behaviour that a primary gain rests on.

    Attributes:
        fitted: whether the behaviour's probabilities are a model's, and not the log's own.
        calibration: whether the ratios to them average 1 over the logged actions.
        history: whether the past predicts the logged actions beyond the observation; None where it was not looked at.
        sensitivity: the hidden cause in one decision that would overturn the gain; None where it was not computed.
        minimum_odds_ratio: the least such cause that a gain from a fitted behaviour must withstand.
    """

    fitted: bool
    calibration: Check
    history: HistoryCheck | None = None
    sensitivity: Sensitivity | None = None
    minimum_odds_ratio: float = MINIMUM_ODDS_RATIO

    def parts(self, name: str, gains: Mapping[str, Estimate], margin: float) -> list[tuple[bool, str]]:
        """What must hold of the primary gain `name`, each with a sentence that says whether it does, and why."""
        if not self.fitted:
            return [(self.calibration.passed, f"propensities are logged. {self.calibration.sentence}")]
        return [
            (self.calibration.passed, self.calibration.sentence),
            self._history(),
            self._sensitivity(),
            _second(name, gains, margin),
        ]

    def rests_on(self, name: str, gains: Mapping[str, Estimate], margin: float) -> str:
        """What a GO rests on, for its headline."""
        if not self.fitted:
            return "logged propensities that fit the logged actions"
        assert self.sensitivity is not None
        others = " and ".join(_others(name, gains, margin))
        return (
            f"a fitted behaviour to which the past adds nothing, {others}, and a gain that withstands "
            f"{self._strength()} in any single decision"
        )

    def _strength(self) -> str:
        assert self.sensitivity is not None
        more = "more than " if self.sensitivity.odds_ratio >= LARGEST else ""
        return f"hidden odds of {more}{self.sensitivity.odds_ratio:.2f}"

    def _history(self) -> tuple[bool, str]:
        if self.history is None:
            return False, "Nobody looked whether the past predicts the logged actions beyond the observation."
        if self.history.passed is True and not self.history.enough:
            return False, (
                f"{self.history.sentence} In fewer than {ENOUGH_DECISIONS:,} decisions that have a past it would miss most "
                "hidden causes."
            )
        return self.history.passed is True, self.history.sentence

    def _sensitivity(self) -> tuple[bool, str]:
        needed = f"{self.minimum_odds_ratio:g} is needed"
        if self.sensitivity is None:
            return False, f"How strong a hidden cause the gain withstands is not known; an odds ratio of {needed}."
        passed = self.sensitivity.odds_ratio >= self.minimum_odds_ratio
        return passed, f"The gain withstands {self._strength()} in its worst single decision; {needed}."

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "fitted": self.fitted,
            "calibration": dataclasses.asdict(self.calibration),
            "history": None if self.history is None else self.history.to_dict(),
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_dict(),
            "minimum_odds_ratio": self.minimum_odds_ratio,
        }


def _others(name: str, gains: Mapping[str, Estimate], margin: float) -> list[str]:
    """Healthy estimates on assumptions unlike the primary's whose intervals do not lie wholly below the margin."""
    return [
        other
        for other, gain in gains.items()
        if other != name
        and gain.healthy
        and gain.upper is not None
        and gain.upper >= margin
        and gain.weight_based != gains[name].weight_based
    ]


def _second(name: str, gains: Mapping[str, Estimate], margin: float) -> tuple[bool, str]:
    found = _others(name, gains, margin)
    if found:
        several = len(found) > 1
        return (
            True,
            f"{' and '.join(found)}, on other assumptions, {'are' if several else 'is'} healthy and not against it.",
        )
    return False, "No second estimate on other assumptions is healthy and not against it: nothing confirms the first."
