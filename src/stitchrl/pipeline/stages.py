"""The stages of the main job, one function each: what it computes, the file it leaves, and the line it says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.auditing.history import HistoryCheck
from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.deployment.guard import Guard
from stitchrl.errors import DataError
from stitchrl.evaluation.action_shift import ActionShift
from stitchrl.evaluation.agreement import Agreement
from stitchrl.evaluation.clock import first_steps
from stitchrl.evaluation.confirmation import can_confirm
from stitchrl.evaluation.decisions import of_decisions, unit_noun
from stitchrl.evaluation.estimator import Estimator
from stitchrl.evaluation.evaluate import evaluate_all, evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.looks import look_at, notes_on
from stitchrl.evaluation.meaning import MEANINGS
from stitchrl.evaluation.ranking import Ranked, passed_over, rank
from stitchrl.evaluation.registry import chosen_estimators, default_estimators
from stitchrl.messages import first_steps_in_words, interval_in_words
from stitchrl.pipeline.advising import advised
from stitchrl.pipeline.candidates import Candidate
from stitchrl.pipeline.diagnosing import diagnosis_content, diagnosis_line
from stitchrl.pipeline.ladder import Step, climb
from stitchrl.pipeline.validation import RANKING_RESAMPLES, validation_fits
from stitchrl.pipeline.weight_profile import profile_of
from stitchrl.pipeline.workspace import Workspace
from stitchrl.progress import ProgressDisplay
from stitchrl.reporting.audit_page import render_audit
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report
from stitchrl.storage.files import write_text
from stitchrl.storage.looks import EarlierLooks
from stitchrl.storage.run_directory import load_json

__all__ = ["STAGES", "write_report"]

PARTS = ("train", "validation", "test")
OF_NETWORKS = ("fqe", "lstdq")
"""Primary estimators whose networks disagree over continuous actions, which validation, with one network, does not see."""
FORCED = (
    "The audit calls the log not usable, and the run went on because it was told to (`force`): numbers learned from "
    "such a log prove nothing."
)


def audit_stage(job: Workspace) -> None:
    """audit.json: what is in the log and what is wrong with it."""
    found = job.stage("audit.json", lambda: job.audited)
    numbers = found["numbers"]
    job.say(
        "audit",
        f"{found['verdict']}: {_counted(numbers)}, {len(found['findings'])} finding{'' if len(found['findings']) == 1 else 's'}",
    )
    if found["verdict"] != "not usable":
        job.say("audit", advised(job, found))


def split_stage(job: Workspace) -> None:
    """split.json: which episodes are in which part."""
    found = job.stage("split.json", lambda: _split(job))
    each = unit_noun(job.log, job.settings.horizon)
    job.say("split", ", ".join(f"{name} {found['parts'][name]['episodes']:,}" for name in PARTS) + f" {each}s")


def _counted(numbers: dict[str, Any]) -> str:
    """How large a log is: in decisions alone where each stands alone."""
    if numbers["episodes"] == numbers["transitions"]:
        return f"{numbers['transitions']:,} single decisions"
    return f"{numbers['episodes']:,} episodes, {numbers['transitions']:,} transitions"


def _split(job: Workspace) -> dict[str, Any]:
    by, seed, log = job.settings.split_by, job.settings.seed, job.log
    parts = log.split_episodes(job.settings.fractions, seed=seed, by=by)
    for name, part in zip(PARTS[1:], parts[1:], strict=True):
        if log.group is not None and len(np.unique(log.group[part])) < 2:
            raise DataError(
                f"The {name} part needs episodes of at least 2 groups, whose spread makes its intervals; it has "
                "1. Log more groups, or leave `group` (or `gap`, whose pieces are a group) out of the schema if "
                "episodes are independent."
            )
    lengths = log.episode_lengths
    return {
        "by": by or ("episode" if log.group is None else "group"),
        "seed": seed,
        "fractions": list(job.settings.fractions),
        "parts": {
            name: {"episodes": len(part), "transitions": int(lengths[part].sum()), "positions": part.tolist()}
            for name, part in zip(PARTS, parts, strict=True)
        },
    }


def train_stage(job: Workspace) -> None:
    """checkpoints/LABEL/: every seed of a candidate in one program, resumable."""
    trained = ", ".join(f"{label} x {len(run.seeds)}" for label, run in job.runs.items())
    job.say("train", ". ".join(filter(None, [f"{len(job.candidates)} candidates: {trained}", job.why_candidates])))


def select_stage(job: Workspace) -> None:
    """ranking.json: every candidate's estimates on validation, and their order."""
    found = job.stage("ranking.json", lambda: _rank(job))
    best = found["order"][0]
    candidate = found["candidates"][best["index"]]
    gain = candidate["evaluation"]["gain"].get(best["estimator"])
    text = "no estimate has an interval"
    if gain is not None:
        predicted = best.get("predicted_lower", gain["lower"])
        lower = f"a predicted lower end of {predicted:+.4f} on test{_of(job)}"
        text = f"validation gain{_over(job)} {gain['value']:+.4f}, with {lower}"
        if best["estimator"] in OF_NETWORKS and job.log.num_actions is None:
            text += ", not counting the error of the model"
    job.say("select", f"{candidate['title']}: {text}")


def _rank(job: Workspace) -> dict[str, Any]:
    valid, candidates, settings = job.parts["validation"], job.candidates, job.settings
    sizes = (job.units_of("validation"), job.units_of("test"))

    def evaluated(fits: Fits, estimators: Sequence[Estimator], **how: Any) -> list[Evaluation]:
        return evaluate_fits(
            fits, estimators, confidence=settings.confidence, margin=settings.margin,
            audit_verdict=job.load("audit.json")["verdict"], resamples=RANKING_RESAMPLES,
            over_last=job.baseline is not None, **how,
        )  # fmt: skip

    with ProgressDisplay(enabled=job.progress) as display:
        fits = validation_fits(
            [*(candidate.policy for candidate in candidates), *job.compared],
            valid,
            job.parts["train"],
            estimand=job.estimand,
            settings=job.fit_settings,
            display=display,
        )
        usual = default_estimators(fits.log, fits.estimand.horizon, densities=job.judges_densities)
        found = evaluated(fits, chosen_estimators(usual), confirm=False)
        evaluations = found[: len(candidates)]
        eligible = [not candidate.algorithm.caution for candidate in candidates]
        order = _in_order(job, evaluations, eligible)
        steps = climb(fits, candidates, order, job.behavior_model, sizes, evaluated) if settings.ladder else []
    shown = [job.describe(candidate, valid) for candidate in candidates]
    shown = [entry | {"evaluation": one.to_dict()} for entry, one in zip(shown, evaluations, strict=True)]
    labels: set[str] = set()
    for step in steps:  # the best rung of each label, ranked beside the candidates
        if step.candidate.label not in labels:
            labels.add(step.candidate.label)
            evaluations.append(step.evaluation)
            shown.append(job.describe(step.candidate, valid, step.of) | {"evaluation": step.evaluation.to_dict()})
    eligible += [True] * (len(evaluations) - len(eligible))
    order = _in_order(job, evaluations, eligible)
    return {
        "part": "validation",
        "behavior": evaluations[0].behavior.to_dict(),
        "behavior_exact": job.exact(None),
        **_baseline(job, found),
        "candidates": shown,
        "order": [
            dataclasses.asdict(row) | {"passed_over": row.eligible and passed_over(row, order[:place])}
            for place, row in enumerate(order)
        ],
        "ladder": [_step_shown(job, step) for step in steps],
    }


def _in_order(job: Workspace, evaluations: Sequence[Evaluation], eligible: Sequence[bool]) -> list[Ranked]:
    """The order of candidates, as `rank` gives it for the verdict of this run."""
    log = first_steps(job.log, job.settings.horizon)
    how = {
        "fitted": log.behavior_log_prob is None,
        "continuous": log.num_actions is None,
        "decisions": of_decisions(log, job.settings.horizon),
    }
    return rank(
        [one.gain for one in evaluations], eligible, size=job.units_of("validation"), test_size=job.units_of("test"),
        margin=job.settings.margin,
        confirms=lambda name, gain: name in job.estimators and can_confirm(name, gain, **how),
    )  # fmt: skip


def _step_shown(job: Workspace, step: Step) -> dict[str, Any]:
    """A rung for the picture of what a surer gain costs."""
    gain = None if step.ranked.estimator is None else step.evaluation.gain[step.ranked.estimator]
    assert step.candidate.rung is not None
    return {
        "title": step.candidate.title,
        "label": step.candidate.label,
        **dataclasses.asdict(step.candidate.rung),
        "gain": None if gain is None else gain.value,
        "standard_error": None if gain is None else gain.standard_error,
        "estimator": step.ranked.estimator,
        "healthy": step.ranked.healthy,
        "predicted_lower": step.ranked.predicted_lower,
        "exact": job.exact(step.candidate.policy),
    }


def evaluate_stage(job: Workspace) -> None:
    """estimates.json: the selected policy and the behaviour on test, and nothing else; just before it is written, looks.json:
    the other looks that there were at the test part."""
    found = job.stage("estimates.json", lambda: _estimates(job))
    evaluation = found["selected"]["evaluation"]
    primary = evaluation["verdict"]["primary"]
    gain = evaluation["gain"].get(primary)
    text = "no estimate has an interval" if gain is None else f"{primary} gain{_over(job)} {_span(gain)}{_of(job)}"
    job.say("evaluate", f"{found['selected']['title']} on test: {text}")


def _estimates(job: Workspace) -> dict[str, Any]:
    test, chosen = job.parts["test"], job.selected
    found = _evaluate(job, chosen)
    # Recorded when there are estimates, and before they can be seen: a run that is killed earlier took no look. It is kept in
    # the directory, so that a run that goes on after a kill says the same.
    looks = EarlierLooks.from_dict(job.stage("looks.json", lambda: _look(job, chosen, test).to_dict()))
    evaluation = found[0].noted(notes_on(looks, noun=unit_noun(test, job.settings.horizon)))
    agreement = evaluation.agreement
    assert agreement is not None  # a candidate can be asked about every action
    return {
        "part": "test",
        "selected": job.describe(chosen, test) | {"evaluation": evaluation.to_dict()},
        "behavior": evaluation.behavior.to_dict(),
        "behavior_exact": job.exact(None),
        **_baseline(job, found),
        "weights": _weights(job, chosen),
        "disagreement": {"label": chosen.title} | _differences(agreement, test),
    }


def _weights(job: Workspace, chosen: Candidate) -> dict[str, Any] | None:
    """How the weights of the selected policy are spread over the episodes of the test part."""
    fits = Fits(
        [chosen.policy],
        job.parts["test"],
        job.parts["train+validation"],
        estimand=job.estimand,
        settings=job.fit_settings,
    )
    profile = profile_of(fits)
    return None if profile is None else profile.to_dict()


def _differences(found: Agreement | ActionShift, log: Dataset) -> dict[str, Any]:
    """Where a policy differs from the log, for the report."""
    if isinstance(found, ActionShift):
        return {"shift": found.to_dict()}
    return {
        "agreement": found.policy,
        "agreement_behavior": found.behavior,
        "supported": found.supported,
        "support": found.support,
        "matrix": found.matrix.tolist(),
        "actions": found.actions.tolist(),
        "action_names": list(log.schema.action_names),
    }


def _look(job: Workspace, chosen: Candidate, test: Dataset) -> EarlierLooks:
    """Record a look of the selected policy at the test part."""
    settings = job.settings
    rule = (
        settings.margin,
        settings.confidence,
        settings.minimum_odds_ratio,
        *job.fit_settings.numbers(),
    )
    return look_at([chosen.policy, *job.compared], test, job.estimand, rule)


def _evaluate(job: Workspace, chosen: Candidate) -> list[Evaluation]:
    """Evaluate the selected policy, and behind it the baseline if there is one, on test, with Q and a fitted behaviour from
    the other parts."""
    audited = job.load("audit.json")
    history = audited["numbers"].get("history")
    with ProgressDisplay(enabled=job.progress) as display:
        return evaluate_all(
            [chosen.policy, *job.compared],
            job.parts["test"],
            estimators=job.estimators,
            fit_on=job.parts["train+validation"],
            settings=job.fit_settings,
            confidence=job.settings.confidence,
            margin=job.settings.margin,
            horizon=job.settings.horizon,
            audit_verdict=audited["verdict"],
            history=None if history is None else HistoryCheck.from_dict(history),
            minimum_odds_ratio=job.settings.minimum_odds_ratio,
            groups=job.settings.group,
            costs=job.settings.cost,
            tail=job.settings.tail if job.settings.distribution else None,
            over_last=job.baseline is not None,
            monitors=(display.track("FQE of the selected policy"),),
            force=job.baseline is not None and job.baseline.force,
        )


def _baseline(job: Workspace, found: Sequence[Evaluation]) -> dict[str, Any]:
    """What is known of the baseline on a part; nothing where gains are over the behaviour."""
    if job.baseline is None:
        return {}
    return {
        "baseline": {
            "title": job.baseline.title,
            "estimates": {name: estimate.to_dict() for name, estimate in found[-1].estimates.items()},
            "exact": job.exact(job.baseline.policy),
        }
    }


def diagnose_stage(job: Workspace) -> None:
    """diagnosis.json: what went wrong in training, and what the policies do that the log does not support."""

    def make() -> dict[str, Any]:
        with ProgressDisplay(enabled=job.progress):
            return diagnosis_content(job, job.load("estimates.json")["selected"]["evaluation"])

    job.say("diagnose", diagnosis_line(job.stage("diagnosis.json", make)))


def verdict_stage(job: Workspace) -> None:
    """verdict.json: the verdict on the selected policy, as its evaluation on test gave it."""

    def make() -> dict[str, Any]:
        verdict: dict[str, Any] = job.load("estimates.json")["selected"]["evaluation"]["verdict"]
        if job.load("audit.json")["verdict"] == "not usable":
            verdict["caveats"] = [FORCED, *verdict["caveats"]]
        return verdict

    job.say("verdict", job.stage("verdict.json", make)["decision"])


def report_stage(job: Workspace) -> None:
    """report.html: one file that opens offline."""
    file = job.out / "report.html"
    if not file.exists():
        write_report(job.out, file)
    job.say("report", str(file))


def write_report(folder: Path, file: Path) -> None:
    """Render the report of a run directory; of a run that stopped after its audit, the audit's own page.

    Raises:
        RunDirectoryError: a stage's file is missing.
    """
    if (folder / "audit.json").exists() and not (folder / "split.json").exists():
        found = load_json(folder / "audit.json")
        if found["verdict"] == "not usable":
            name = load_json(folder / "run.json")["name"]
            write_text(file, render_audit(found, title=f"{name}: not usable, so the run stopped after the audit"))
            return
    write_text(file, render(build_report(folder, MEANINGS)))


def bundle_stage(job: Workspace) -> None:
    """policy/: the selected policy, to be loaded with `st.load_policy`."""
    folder, verdict = job.out / "policy", job.load("verdict.json")
    if not (folder / "policy.json").exists():
        chosen = job.selected
        provenance = {
            "label": chosen.label,
            "algorithm": chosen.algorithm.name,
            "settings": json.loads(json.dumps(dataclasses.asdict(chosen.algorithm))),
            "seed": chosen.seed,
            "acts": chosen.acts if chosen.rung is None else "as trained",
            "rung": None if chosen.rung is None else dataclasses.asdict(chosen.rung),
            "log": {"name": job.log.schema.name, "content_hash": job.log.bare().content_hash},
            "versions": job.load("run.json")["versions"],
            **({} if job.baseline is None else {"baseline": job.load("run.json")["baseline"]}),
            "verdict": {key: verdict[key] for key in ("decision", "headline", "caveats")},
        }
        learned_from = EpisodeMemory.of(job.parts["train+validation"])
        guard = Guard.fit(job.parts["train"])
        # On a rung of the ladder the policy holds the behaviour itself; without a ladder none was fitted. Over continuous
        # actions a bundle holds it on a rung alone.
        fitted = job.settings.ladder and job.log.num_actions is not None and chosen.rung is None
        behavior = job.behavior_model if fitted else None
        save_bundle(folder, Bundle(chosen.policy, job.log.schema, guard, provenance, learned_from, behavior))
    job.say("bundle", f"{folder} ({verdict['decision']})")


STAGES: dict[str, Callable[[Workspace], None]] = {
    "audit": audit_stage,
    "split": split_stage,
    "train": train_stage,
    "select": select_stage,
    "evaluate": evaluate_stage,
    "diagnose": diagnose_stage,
    "verdict": verdict_stage,
    "report": report_stage,
    "bundle": bundle_stage,
}
"""Name -> stage, in the order in which they run."""


def _of(job: Workspace) -> str:
    """Which steps a printed value is of; "" where all of them count."""
    return "" if job.settings.horizon is None else f" in {first_steps_in_words(job.settings.horizon)}"


def _over(job: Workspace) -> str:
    """What a printed gain is over; "" where it is the behaviour."""
    return "" if job.baseline is None else " over the baseline"


def _span(estimate: dict[str, Any]) -> str:
    return interval_in_words(estimate["value"], estimate["lower"], estimate["upper"])
