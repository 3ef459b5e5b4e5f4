"""What the main job hands back: where everything is, and what it decided."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stitchrl.evaluation.verdict import Verdict
from stitchrl.printing import Shown
from stitchrl.storage.run_directory import load_json

__all__ = ["Outcome"]


@dataclasses.dataclass(frozen=True, repr=False)
class Outcome(Shown):
    """What a run of the main job came to.

    Attributes:
        folder: the run directory.
        audit: what the audit calls the log: usable, usable with care, or not usable.
        verdict: GO, NO-GO or CANNOT TELL with its checklist; None where the run ended before it.
        selected: the selected candidate, such as "IQL seed 1, greedy"; "" where none was selected yet.
        stopped: why the run ended before the stage it was asked for; "" where it did not.
    """

    folder: Path
    audit: str
    verdict: Verdict | None = None
    selected: str = ""
    stopped: str = ""

    @classmethod
    def of(cls, folder: Path, stopped: str = "") -> Outcome:
        """What stands in a run directory. Raises RunDirectoryError where there is no audit yet, or a file is damaged."""
        audit = load_json(folder / "audit.json")["verdict"]
        if stopped or not (folder / "verdict.json").exists():
            return cls(folder, audit, stopped=stopped)
        verdict = Verdict.from_dict(load_json(folder / "verdict.json"))
        return cls(folder, audit, verdict, load_json(folder / "estimates.json")["selected"]["title"])

    @property
    def report(self) -> Path | None:
        """The report, one HTML file; None where it is not written yet."""
        return self._made("report.html")

    @property
    def policy(self) -> Path | None:
        """The folder of the selected policy, for `st.load_policy`; None where it is not written yet."""
        return None if self.stopped or self._made("policy/policy.json") is None else self.folder / "policy"

    def _made(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).exists() else None

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "folder": str(self.folder),
            "audit": self.audit,
            "selected": self.selected,
            "stopped": self.stopped,
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "report": None if self.report is None else str(self.report),
            "policy": None if self.policy is None else str(self.policy),
        }

    def __str__(self) -> str:
        lines = [self.stopped or (f"audit: {self.audit}" if self.verdict is None else str(self.verdict))]
        if self.report is not None:
            lines += ["", f"report: {self.report}"]
        return "\n".join(lines)
