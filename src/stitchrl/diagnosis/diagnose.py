"""`st.diagnose`: what went wrong in a run, and what its policies do that the log does not support."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from stitchrl.auditing.finding import SEVERITIES, Finding
from stitchrl.auditing.own_checks import findings_of, name_of
from stitchrl.data.dataset import Dataset
from stitchrl.deployment.bundle import Bundle
from stitchrl.deployment.guard import REFUSE
from stitchrl.diagnosis.all_checks import CHECKS, NUMBERS, RUN_CHECKS, RUN_NUMBERS
from stitchrl.diagnosis.diagnosis import Diagnosis
from stitchrl.diagnosis.subject import Member, NotLookedAtError, Shared, Subject
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.log_of_policy import check_meaning
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.storage.plain import plain
from stitchrl.training.flags import RedFlag
from stitchrl.training.run import Run
from stitchrl.types import NumpyArray

__all__ = ["diagnose", "diagnose_members", "findings_of_training", "title_of"]

T = TypeVar("T")


def diagnose(
    run: Run | Any,
    log: Dataset | None = None,
    *,
    newer: Dataset | None = None,
    evaluations: Sequence[Evaluation | None] = (),
    deployed: Sequence[float] | NumpyArray | Dataset | None = None,
    settings: FitSettings | None = None,
    checks: Sequence[Callable[[Subject], Iterable[Finding]]] = (),
) -> Diagnosis:
    """Name what is wrong with a run or a policy, each failure with its number, the healthy range, the reason and the remedy.

    Args:
        run: the result of `st.fit`; or a policy alone, of which only the actions and values can be examined.
        log: the episodes on which the policies are examined, preferably ones that they did not learn from; with None only the
            metrics of the run are read.
        newer: data logged later, which is compared with `log`.
        evaluations: of the policies of the run, one per seed, or of the policy; none by default.
        deployed: the return of each episode in which the policy acted after it was deployed, or the log of them; they are
            compared with its evaluation. Of several policies, the deployed one is the one whose evaluation is given.
        settings: for fitting the behaviour where the log has no propensities.
        checks: checks of your own, which run after the built-in ones: each takes a `Subject`, one policy on the log, and gives
            findings; one that cannot look raises `NotLookedAtError` with the reason.

    Raises:
        EvaluationError: a log with other columns, categories or actions than the policy learned from.
        ConfigurationError: another number of evaluations than of policies, a policy alone without a log, or deployed returns
            without exactly one evaluation.
    """
    _check_kinds(run, log, newer)
    for one in (log, newer):
        if one is not None and (schema := getattr(run, "schema", None)) is not None:
            check_meaning(one, schema, getattr(run, "guard", None), force=True)  # another unit is a finding
    if isinstance(run, Run):
        title = title_of(run)
        policies = run.policies if log is not None else []
        values = run.values if log is not None else []
        members = [
            Member(f"seed {seed}", policy, value, run.algorithm, run=run)
            for seed, policy, value in zip(run.seeds, policies, values, strict=False)
        ]
        flags = findings_of_training(run)
    else:
        title, flags = type(run).__name__, []
        members = [Member("the policy", _without_refusals(run))]
        if log is None:
            raise ConfigurationError("A policy alone has no metrics: `diagnose` needs a `log` to look at it on.")
    if evaluations:
        if len(evaluations) != len(members):
            raise ConfigurationError(
                f"`evaluations` of diagnose must be one for each policy, {len(members)}; got {len(evaluations)}."
            )
        members = [dataclasses.replace(m, estimate=_primary(e)) for m, e in zip(members, evaluations, strict=True)]
    if deployed is not None:
        members = _with_deployed(members, deployed)
    return diagnose_members(title, members, log, flags, newer=newer, settings=settings, checks=checks)


def _check_kinds(run: Run | Any, log: Any, newer: Any) -> None:
    """Raise ConfigurationError for a path in place of the run or log that is read from it."""
    if isinstance(run, str | os.PathLike):
        raise ConfigurationError(
            f"`run` of diagnose must be a run or a policy; got the path {os.fspath(run)!r}. `st.load` reads the run of a folder, "
            "and `st.load_policy` a policy."
        )
    for name, one in (("log", log), ("newer", newer)):
        if one is not None and not isinstance(one, Dataset):
            raise ConfigurationError(f"`{name}` of diagnose must be a log, as `st.read` gives it; got {one!r:.60}.")


def _without_refusals(policy: Any) -> Any:
    """A bundle without a guard that refuses, since checks report the rows outside the range of its log; others unchanged."""
    return policy.unguarded() if isinstance(policy, Bundle) and policy.guard.on_outside == REFUSE else policy


def title_of(run: Run) -> str:
    """A run in a few words."""
    return f"{run.algorithm.name}, {_count(len(run.seeds), 'seed')}, {run.updates:,} updates"


def findings_of_training(run: Run) -> list[Finding]:
    """The findings in the metrics of a run: its red flags, and the seeds that diverged."""
    return [
        *(_of_divergence(seed, message) for seed, message in run.diverged.items()),
        *(_of_flag(flag, f"seed {run.seeds[flag.member]}") for flag in run.red_flags),
    ]


def diagnose_members(
    title: str,
    members: Sequence[Member],
    log: Dataset | Shared | None,
    flags: Iterable[Finding] = (),
    *,
    newer: Dataset | None = None,
    settings: FitSettings | None = None,
    checks: Sequence[Callable[[Subject], Iterable[Finding]]] = (),
) -> Diagnosis:
    """The diagnosis of some policies on a log; of the metrics of their run alone where there is no log.

    Args:
        title: of the diagnosis.
        members: the policies.
        log: the episodes on which they are examined; as `Shared` where other policies are examined on it too, so that its
            behaviour is fitted once.
        flags: findings about the metrics of their run.
        newer, settings, checks: as for `diagnose`.
    """
    found = list(flags)
    skipped: dict[str, str] = {}
    numbers: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    looked = ["red_flags"]
    if log is None:
        skipped["log"] = (
            "No log was given, so the policies themselves were not looked at: only the metrics of the run were."
        )
    elif members:
        shared = log if isinstance(log, Shared) else Shared(log, settings, newer)
        subjects = [Subject(member, shared) for member in members]
        notes = tuple(note for note in shared.log.notes if "policy" in note)
        for check in (*CHECKS, *checks):
            not_of: dict[str, str] = {}
            for subject in subjects:
                try:
                    own = findings_of(check, subject)
                except NotLookedAtError as why:
                    not_of[subject.member.heading] = str(why)
                    continue
                found += [dataclasses.replace(one, where=f"{subject.member.name}: {one.where}") for one in own]
            looked_at = len(not_of) < len(subjects)
            if looked_at:
                looked.append(name_of(check))
            if not_of:
                name, why_not = next(iter(not_of.items()))
                skipped[name_of(check)] = (
                    f"{name}: {why_not}" if looked_at and not why_not.startswith(name) else why_not
                )
        for run_check in RUN_CHECKS:
            try:
                found += run_check(subjects)
                looked.append(run_check.__name__)
            except NotLookedAtError as why:
                skipped[run_check.__name__] = str(why)
        for subject in subjects:
            numbers[subject.member.name] = _numbers(NUMBERS, subject)
        numbers |= _numbers(RUN_NUMBERS, subjects)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    merged = _merged(found)
    return Diagnosis(title, tuple(merged), tuple(looked), skipped, numbers, notes)


def _primary(evaluation: Evaluation | None) -> Estimate | None:
    """The estimate that the verdict of an evaluation rests on; None where there is none."""
    if evaluation is None or evaluation.verdict.primary is None:
        return None
    return evaluation.estimates[evaluation.verdict.primary]


def _with_deployed(members: Sequence[Member], deployed: Sequence[float] | NumpyArray | Dataset) -> list[Member]:
    """The members, of which the one that was evaluated has the deployed returns."""
    evaluated = sum(member.estimate is not None for member in members)
    if evaluated != 1:
        raise ConfigurationError(
            "`deployed` of diagnose is compared with the estimate of the policy that was deployed: `evaluations` must hold its "
            f"evaluation, with a healthy estimate, and None for other policies; got {evaluated} such evaluations."
        )
    return [m if m.estimate is None else dataclasses.replace(m, deployed=deployed) for m in members]


def _numbers(registry: Mapping[str, Callable[[T], dict[str, Any]]], of: T) -> dict[str, Any]:
    """The measurements of a subject, or of all; those that cannot be made are left out, and what is not finite is None."""
    found = {}
    for name, compute in registry.items():
        try:
            found[name] = plain(compute(of))
        except NotLookedAtError:
            continue
    return found


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for each code: the first, whose place also names the other members with the same finding."""
    found = []
    for code in dict.fromkeys(finding.code for finding in findings):
        alike = [finding for finding in findings if finding.code == code]
        first, *others = (finding.where.split(":")[0] for finding in alike)
        more = [name for name in dict.fromkeys(others) if name != first]
        where = alike[0].where + (f" (and {', '.join(more)})" if more else "")
        found.append(dataclasses.replace(alike[0], where=where))
    return found


def _of_flag(flag: RedFlag, member: str) -> Finding:
    return Finding(flag.code, "warning", f"{member}: update {flag.update:,}", flag.seen, flag.expected, flag.action)


def _of_divergence(seed: int, message: str) -> Finding:
    return Finding(
        "diverged",
        "error",
        f"seed {seed}: training",
        message.rstrip("."),
        "numbers that stay finite",
        "Lower the learning rate, shorten gradients with `max_gradient_norm`, or scale rewards down.",
    )


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
