"""The result of a diagnosis of a run: its findings, and the numbers behind them."""

from __future__ import annotations

import dataclasses
from typing import Any

from stitchrl.auditing.finding import SEVERITIES, Finding, summary_of
from stitchrl.printing import Shown

__all__ = ["Diagnosis"]

MEANINGS = {
    "error": "An error below means that what was learned must not be used: remove its cause and train again.",
    "warning": "Each warning below names something that may be wrong with what was learned. None of them is a proof.",
    "info": "No check found a failure; the notes below are worth knowing.",
    None: "No check found a failure. That is no proof that the policy is good: an evaluation says how good it is.",
}
"""What a diagnosis means, by the severity of its most harmful finding."""


@dataclasses.dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """All findings about a run and its policies, the most harmful first.

    Attributes:
        title: what was diagnosed, such as "IQL, 4 seeds, 20,000 updates".
        findings: in the order of their severity; `where` begins with the seed that a finding is about.
        checks: names of the checks that ran.
        skipped: check -> why it could not run, in a sentence.
        numbers: measurements by check, as JSON holds them.
        notes: how the log was read for the policy where their columns differ, one sentence each.
    """

    title: str
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    skipped: dict[str, str]
    numbers: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def codes(self) -> frozenset[str]:
        """The codes of all findings."""
        return frozenset(finding.code for finding in self.findings)

    @property
    def worst(self) -> str | None:
        """The severity of the most harmful finding; None without findings."""
        return min((f.severity for f in self.findings), key=SEVERITIES.index, default=None)

    @property
    def summary(self) -> str:
        """How many checks found how many errors, warnings and notes, in one sentence."""
        return summary_of(self.findings, self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "title": self.title,
            "worst": self.worst,
            "meaning": MEANINGS[self.worst],
            "summary": self.summary,
            "checks": list(self.checks),
            "skipped": self.skipped,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "numbers": self.numbers,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"{self.title}: {self.summary}"]
        lines += [
            f"  {f.severity:<7} {f.code}: {f.where}: {f.seen}; expected {f.expected}. {f.action}" for f in self.findings
        ]
        return "\n".join([*lines, *(f"  not looked at: {why}" for why in dict.fromkeys(self.skipped.values()))])
