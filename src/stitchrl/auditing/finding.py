"""What an audit says: its findings, and a verdict on the log that follows from the most harmful of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stitchrl.printing import Shown

__all__ = ["SEVERITIES", "Audit", "Finding", "summary_of"]

SEVERITIES = ("error", "warning", "info")
"""The severities of a finding, the most harmful first."""
COUNTED = {"error": ("error", "errors"), "warning": ("warning", "warnings"), "info": ("note", "notes")}
"""The words for one finding of a severity and for several."""
MEANINGS = {
    "not usable": "An error below can make every number computed from this log wrong: correct it first.",
    "usable with care": "No finding forbids the use of this log, but each warning below names something that it can spoil.",
    "usable": "No check found anything that harms learning or evaluation from this log.",
}
"""The verdicts on a log, each with its meaning."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check found. Printed, it reads "seen; expected X. Action".

    Attributes:
        code: short and stable, e.g. "action-outside-mask".
        severity: one of `SEVERITIES`.
        where: the column, rows or episodes concerned.
        seen: what the log holds.
        expected: what a sound log would hold.
        action: what to do about it, in whole sentences.
    """

    code: str
    severity: str
    where: str
    seen: str
    expected: str
    action: str


def summary_of(findings: Sequence[Finding], checks: Sequence[str]) -> str:
    """How many checks found how many errors, warnings and notes, in one sentence."""
    counts = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    found = [f"{count:,} {COUNTED[severity][count != 1]}" for severity, count in counts.items() if count]
    listed = " and ".join(text for text in (", ".join(found[:-1]), *found[-1:]) if text)
    return f"{len(checks):,} check{'' if len(checks) == 1 else 's'} found {listed or 'nothing to report'}."


@dataclasses.dataclass(frozen=True, repr=False)
class Audit(Shown):
    """All findings, the most harmful first, and the numbers that later stages and pictures use.

    Attributes:
        findings: in the order of their severity.
        checks: names of the checks that ran.
        numbers: sizes, distributions and estimates, as JSON holds them; estimates carry a sentence that says what they mean.
    """

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    numbers: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each severity, the most harmful severity first."""
        return {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}

    @property
    def worst(self) -> str | None:
        """The severity of the most harmful finding; None without findings."""
        return next((severity for severity, count in self.counts.items() if count), None)

    @property
    def verdict(self) -> str:
        """Is "not usable" with an error, "usable with care" with a warning, otherwise "usable"."""
        return {"error": "not usable", "warning": "usable with care"}.get(self.worst or "", "usable")

    @property
    def summary(self) -> str:
        """How many checks found how many errors, warnings and notes, in one sentence."""
        return summary_of(self.findings, self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON, with everything that a reader needs who knows nothing of the checks."""
        return {
            "verdict": self.verdict,
            "meaning": MEANINGS[self.verdict],
            "worst": self.worst,
            "counts": self.counts,
            "summary": self.summary,
            "checks": list(self.checks),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "numbers": self.numbers,
        }

    def __str__(self) -> str:
        count = len(self.findings)
        lines = [f"log: {self.verdict} ({len(self.checks)} checks, {count} finding{'' if count == 1 else 's'})"]
        lines += [
            f"  {f.severity:<7} {f.code}: {f.where}: {f.seen}; expected {f.expected}. {f.action}" for f in self.findings
        ]
        return "\n".join(lines)
