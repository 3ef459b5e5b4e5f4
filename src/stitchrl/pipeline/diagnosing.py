"""The diagnosis of the main job: every candidate on the validation part, the selected policy with its evaluation."""

from __future__ import annotations

from typing import Any

from stitchrl.diagnosis.diagnose import diagnose, diagnose_members
from stitchrl.diagnosis.subject import Member
from stitchrl.evaluation.results import Estimate
from stitchrl.pipeline.candidates import Candidate
from stitchrl.pipeline.workspace import Workspace

__all__ = ["diagnosis_content", "diagnosis_line"]


def diagnosis_content(job: Workspace, estimate: Estimate | None) -> dict[str, Any]:
    """The content of diagnosis.json.

    Args:
        job: whose candidates are trained and whose policy is selected.
        estimate: of the value of that policy on the test part, which nothing else here looks at; None where there is none.
    """
    valid = job.parts["validation"]
    chosen = job.selected
    found = {label: diagnose(run, valid, settings=job.fit_settings) for label, run in job.runs.items()}
    member = Member(chosen.title, chosen.policy, _claims(chosen), chosen.algorithm, estimate)
    whole = diagnose_members(chosen.title, [member], valid, settings=job.fit_settings)
    return {
        "on": "the validation part, which no candidate learned from",
        "selected": whole.to_dict(),
        "candidates": {
            label: one.to_dict() | {"caution": bool(job.labelled[label].caution)} for label, one in found.items()
        },
    }


def diagnosis_line(content: dict[str, Any]) -> str:
    """The line that the stage says."""
    parts = [f"{content['selected']['title']}: {_codes(content['selected'])}"]
    parts += [
        f"{label}: {_codes(one)}"
        for label, one in content["candidates"].items()
        if one["worst"] in ("error", "warning")
    ]
    return "; ".join(parts)


def _codes(diagnosis: dict[str, Any]) -> str:
    found = [finding["code"] for finding in diagnosis["findings"] if finding["severity"] != "info"]
    return ", ".join(found) or "no failure found"


def _claims(chosen: Candidate) -> Any:
    """The value functions of the selected policy; None on a rung, whose critics speak about another policy."""
    return chosen.value if chosen.rung is None else None
