"""The main job: a log file in, one directory out, a stage a file. A killed run continues with the same command.

Stages, in order: audit.json, split.json, checkpoints/, ranking.json, estimates.json (after looks.json: earlier looks at
the test part), verdict.json, report.html, policy/. Each is written whole or not at all; a stage whose file is there is not
done again. Nothing that depends on the clock is in these files, so an interrupted run ends with the same content as an
undisturbed one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.pipeline.baseline import Baseline
from stitchrl.pipeline.outcome import Outcome
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.pipeline.stages import STAGES, write_report
from stitchrl.pipeline.workspace import Truth, Workspace
from stitchrl.storage.files import write_json

__all__ = ["report", "run", "run_stages"]


def run_stages(job: Workspace, *, until: str = "bundle", force: bool = False) -> Outcome:
    """Do every stage up to and including `until` that is not done yet.

    After the audit the run stops where the log is not usable, unless `force` is given; the verdict then says so.

    Raises:
        ConfigurationError: `until` is no stage, or the log, the candidates or the baseline are not such as the main job can take.
        RunDirectoryError: the directory cannot be written, holds another run, or holds something else.
    """
    if until not in STAGES:
        raise ConfigurationError(f"`until` must be a stage: {', '.join(STAGES)}; got {until!r}.")
    job.claim()
    timings: dict[str, float] = {}
    names = list(STAGES)
    stopped = ""
    for stage in names[: names.index(until) + 1]:
        started = time.monotonic()
        STAGES[stage](job)
        timings[stage] = round(time.monotonic() - started, 3)
        if stage == "audit" and not force and (stopped := _why_stopped(job)):
            break
    # Beside the results and not among them: the only file that tells the time.
    write_json(job.out / "timings.json", timings)
    return Outcome.of(job.out, stopped)


def _why_stopped(job: Workspace) -> str:
    """Why a run must not go on after its audit; "" where it may. The report then shows the audit."""
    found = job.load("audit.json")
    if found["verdict"] != "not usable":
        return ""
    if not (job.out / "split.json").exists():
        write_report(job.out, job.out / "report.html")
    errors = ", ".join(dict.fromkeys(entry["code"] for entry in found["findings"] if entry["severity"] == "error"))
    return (
        f"The audit calls the log not usable ({errors}), so the run stopped there. Correct what it found, or go on all "
        "the same with --force (in Python `force=True`)."
    )


def run(
    log: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    schema: Schema | str | os.PathLike[str] | None = None,
    format: str | None = None,
    algorithms: Sequence[Algorithm] | Mapping[str, Algorithm] | None = None,
    updates: int = PipelineSettings.updates,
    evaluation_updates: int = PipelineSettings.evaluation_updates,
    seeds: int = PipelineSettings.seeds,
    batch_size: int = PipelineSettings.batch_size,
    seed: int = PipelineSettings.seed,
    fractions: tuple[float, float, float] = PipelineSettings.fractions,
    split_by: str | None = PipelineSettings.split_by,
    confidence: float = PipelineSettings.confidence,
    margin: float = PipelineSettings.margin,
    minimum_odds_ratio: float = PipelineSettings.minimum_odds_ratio,
    ladder: bool = PipelineSettings.ladder,
    horizon: int | None = PipelineSettings.horizon,
    group: str | Sequence[str] = PipelineSettings.group,
    cost: str | Sequence[str] = PipelineSettings.cost,
    distribution: bool = PipelineSettings.distribution,
    tail: float = PipelineSettings.tail,
    gamma: float | None = PipelineSettings.gamma,
    estimators: Sequence[str] | None = PipelineSettings.estimators,
    until: str = "bundle",
    force: bool = False,
    truth: Truth | None = None,
    baseline: PolicyLike | None = None,
    progress: bool = False,
) -> Outcome:
    """The main job on a log: audit, split, train, select, evaluate, diagnose, verdict, report, bundle, all in `out`.

    Args:
        log: path of the log, in any format that `st.read` knows.
        out: the run directory; a run found there continues if its log, candidates and settings are the same.
        schema, format: of the log, as `st.read` takes them.
        algorithms: the candidates. A sequence such as `[st.IQL(), st.IQL(expectile=0.9)]` is labelled "IQL", "IQL-2";
            a mapping gives labels of your own: `{"IQL cautious": st.IQL(inverse_temperature=1.0)}`. None is the main
            job's own choice.
        updates, evaluation_updates, seeds, batch_size, seed, fractions, split_by, confidence: as in `PipelineSettings`.
        margin, minimum_odds_ratio, ladder, horizon, group, cost, distribution, tail, gamma, estimators: likewise.
        until: the last stage to do.
        force: go on where the audit calls the log not usable, and where the log seems to have other units than the baseline's;
            the verdict then says so, and cannot be GO in the first case.
        truth: exact values, where the world behind the log is known.
        baseline: the policy that every gain is over, such as `st.load_policy` gives; None is the behaviour.
        progress: show bars.

    Raises:
        DataError, ConfigurationError, EvaluationError: the log or a setting is not such as the main job can take.
        RunDirectoryError: `out` cannot be written, or holds another run or something else.
    """
    settings = PipelineSettings(
        updates=updates,
        evaluation_updates=evaluation_updates,
        seeds=seeds,
        batch_size=batch_size,
        seed=seed,
        fractions=fractions,
        split_by=split_by,
        confidence=confidence,
        margin=margin,
        minimum_odds_ratio=minimum_odds_ratio,
        ladder=ladder,
        horizon=horizon,
        group=(group,) if isinstance(group, str) else tuple(group),
        cost=(cost,) if isinstance(cost, str) else tuple(cost),
        distribution=distribution,
        tail=tail,
        gamma=gamma,
        estimators=None if estimators is None else tuple(estimators),
    )
    job = Workspace(
        log, Path(out), schema=schema, format=format, algorithms=algorithms, settings=settings, truth=truth,
        baseline=None if baseline is None else Baseline(baseline, force=force), progress=progress,
    )  # fmt: skip
    return run_stages(job, until=until, force=force)


def report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run directory again.

    Args:
        folder: a finished run of the main job, or one that stopped after its audit; or the `policy` folder in it.
        out: file to write; `report.html` in the run's folder by default.

    Returns:
        The path written.

    Raises:
        RunDirectoryError: there is no run, it is not finished, or the file cannot be written.
    """
    where = Path(folder)
    if (where / "policy.json").is_file() and (where.parent / "run.json").is_file():
        where = where.parent
    if not (where / "run.json").is_file():
        raise RunDirectoryError(
            f"There is no run to report on in {str(where)!r}, for it has no run.json. {_what_it_looks_like(where)}"
        )
    target = where / "report.html" if out is None else Path(out)
    write_report(where, target)
    return target


def _what_it_looks_like(where: Path) -> str:
    """A sentence on a folder that holds no run: what it seems to be."""
    if not where.exists():
        return "There is no such folder."
    if (where / "config.json").is_file() or (where / "policy.json").is_file():
        return (
            "It looks like one policy or its training, of which no report is made: `stitchrl evaluate` says how good it is, and "
            "the run directory of `stitchrl run` has a report."
        )
    return "Give the run directory that `stitchrl run` made with --out."
