"""What an audit says: findings, and one verdict on the log."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["SEVERITIES", "Audit", "Finding"]

SEVERITIES = ("error", "warning", "info")
"""Most harmful first."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing an audit saw.

    Attributes:
        code: short and stable, e.g. "action-outside-mask".
        severity: one of `SEVERITIES`.
        where: column, rows or episode.
        seen: what is there.
        expected: what should be.
        action: what to do.
    """

    code: str
    severity: str
    where: str
    seen: str
    expected: str
    action: str


@dataclasses.dataclass(frozen=True)
class Audit:
    """All findings, most harmful first, and the numbers later stages use.

    Attributes:
        findings: ordered by severity.
        checks: names of the checks that ran.
        numbers: plain facts about the log.
    """

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    numbers: dict[str, Any]

    @property
    def verdict(self) -> str:
        """usable, usable with care (a warning), or not usable (an error)."""
        worst = {finding.severity for finding in self.findings}
        return "not usable" if "error" in worst else "usable with care" if "warning" in worst else "usable"

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "verdict": self.verdict,
            "checks": list(self.checks),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "numbers": self.numbers,
        }

    def __str__(self) -> str:
        lines = [f"log: {self.verdict} ({len(self.checks)} checks, {len(self.findings)} findings)"]
        lines += [
            f"  {f.severity:<7} {f.code}: {f.where}: {f.seen}; expected {f.expected}. {f.action}" for f in self.findings
        ]
        return "\n".join(lines)
