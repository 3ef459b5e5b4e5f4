"""The diagnosis of the main job: every candidate on the validation part, the selected policy with its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.diagnosis.diagnose import diagnose_members, findings_of_training, title_of
from stitchrl.diagnosis.subject import Member, Shared
from stitchrl.evaluation.results import Estimate
from stitchrl.pipeline.workspace import Workspace
from stitchrl.progress import LateProgress

__all__ = ["diagnosis_content", "diagnosis_line"]


def diagnosis_content(job: Workspace, selected: Mapping[str, Any]) -> dict[str, Any]:
    """The content of diagnosis.json.

    Args:
        job: whose candidates are trained, ranked, and whose policy is selected.
        selected: the evaluation of that policy on the test part, at which nothing else here looks.
    """
    valid = Shared(job.parts["validation"], job.fit_settings)
    ranked = {one["title"]: one["evaluation"] for one in job.load("ranking.json")["candidates"]}
    masked, found = job.log.action_mask is not None, {}
    bar = LateProgress("diagnosis of the candidates", len(job.runs) + 1, "runs/s")
    for done, (label, run) in enumerate(job.runs.items(), 1):
        members = [
            Member(
                one.title.removeprefix(f"{label} "),
                one.policy,
                one.value,
                one.algorithm,
                _estimate(ranked[one.title]),
                with_mask=masked,
                run=run,
                acts=one.acts,
            )
            for one in job.candidates
            if one.label == label
        ]
        found[label] = diagnose_members(title_of(run), members, valid, findings_of_training(run))
        bar(done)
    chosen = job.selected
    # The critics were learned for the candidate itself, and a rung of its ladder is another policy.
    claims = chosen.value if chosen.rung is None else None
    member = Member(
        chosen.title,
        chosen.policy,
        claims,
        chosen.algorithm,
        _estimate(selected),
        with_mask=masked,
        learned_in=job.runs.get(chosen.label),
    )
    whole = diagnose_members(chosen.title, [member], valid)
    bar(len(job.runs) + 1)
    return {
        "on": "the validation part, from which no candidate learned",
        "selected": whole.to_dict(),
        "candidates": {
            label: one.to_dict() | {"caution": bool(job.labelled[label].caution)} for label, one in found.items()
        },
    }


def diagnosis_line(content: Mapping[str, Any]) -> str:
    """The line that the stage says."""
    parts = [f"{content['selected']['title']}: {_codes(content['selected'])}"]
    wrong = {label: one for label, one in content["candidates"].items() if one["worst"] in ("error", "warning")}
    parts += [f"{label}: {_codes(one)}" for label, one in wrong.items()]
    return "; ".join(parts)


def _codes(diagnosis: Mapping[str, Any]) -> str:
    found = [finding["code"] for finding in diagnosis["findings"] if finding["severity"] != "info"]
    return ", ".join(found) or "no failure found"


def _estimate(evaluation: Mapping[str, Any]) -> Estimate | None:
    """The estimate of the value that an evaluation rests on; None where there is none."""
    name = evaluation["verdict"]["primary"]
    return None if name is None else Estimate.from_dict(evaluation["estimates"][name])
