"""The main job as commands run it: from the options of a command to its stages, what is printed, and the exit status.

JAX and NumPy are imported inside the functions: `stitchrl --help` must not wait for them.
"""

from __future__ import annotations

import dataclasses
import json as plain_json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import stitchrl
from stitchrl.command_line.options import FRACTIONS, STAGES, Context, names_in
from stitchrl.command_line.policies import policy_of
from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from stitchrl.algorithms.base import Algorithm
    from stitchrl.pipeline.workspace import Truth, Workspace

__all__ = ["ADVISED", "EXIT_BY_DECISION", "NOT_USABLE", "candidates", "main_job", "print_json", "write_json"]

EXIT_BY_DECISION = {"GO": 0, "NO-GO": 3, "CANNOT TELL": 4}
NOT_USABLE = 5
ADVISED = "advised"
"""In place of the names of candidates: those that `stitchrl advise` names for the log."""


def main_job(context: Context, log: Path, out: Path, *, truth: Truth | None = None) -> None:
    """`run` and `demo`: the options of the command are the settings of the main job."""
    from stitchrl.pipeline.pipeline import run_stages
    from stitchrl.pipeline.workspace import Workspace

    given = context.params
    quiet, json, gate, until = given["quiet"], given.get("json", False), given.get("gate", False), given.get("until")
    if gate and until in STAGES[: STAGES.index("verdict")]:
        raise ConfigurationError(
            f"`--gate` needs a verdict, and a run until {until!r} has none. Leave one of them out."
        )
    names = {field.name for field in dataclasses.fields(PipelineSettings)} & set(given)
    settings = {name: given[name] for name in names} | {
        "fractions": shares(given.get("fractions", FRACTIONS)),
        "estimators": names_in(given.get("estimators")),
    }
    settings |= {name: tuple(given.get(name) or ()) for name in ("group", "cost")}

    def say(stage: str, text: str) -> None:
        if not quiet and not json:
            print(f"{STAGES.index(stage) + 1}/{len(STAGES)} {stage:<9} {text}", flush=True)

    job = Workspace(
        log,
        out,
        schema=given.get("schema"),
        format=given.get("format"),
        settings=PipelineSettings(**settings),
        truth=truth,
        command=shlex.join(["stitchrl", *sys.argv[1:]]),
        say=say,
        progress=not quiet and not json,
    )
    from stitchrl.algorithms.tabular_model import numbers_states

    continuous = job.log.num_actions is None
    if given["algorithms"] == ADVISED:
        job.algorithms = _advised(context, job, given["assignments"])
    else:
        job.algorithms = candidates(
            context,
            given["algorithms"],
            given["assignments"],
            job.log.schema.gamma,
            numbered_states=not continuous and numbers_states(job.log),
            continuous=continuous,
            episodes=job.log.num_episodes,
        )
    if (baseline := given.get("baseline")) is not None:
        from stitchrl.pipeline.baseline import Baseline

        job.baseline = Baseline(policy_of(baseline, job.log), str(baseline), force=given.get("force", False))
    found = run_stages(job, until=until or STAGES[-1], force=given.get("force", False))
    if json:
        print_json(found.to_dict())
    elif until in (None, STAGES[-1]) or found.stopped:
        print(found if quiet else f"\n{found}")
    if found.stopped:
        raise typer.Exit(NOT_USABLE)
    if gate and found.verdict is not None:
        raise typer.Exit(EXIT_BY_DECISION[found.verdict.decision])


def _advised(context: Context, job: Workspace, assignments: Sequence[str] | None) -> dict[str, Algorithm] | None:
    """The candidates that are advised for the log of a run, with settings changed as `--set` says."""
    from stitchrl.pipeline.advising import advised_algorithms
    from stitchrl.pipeline.assignments import with_assignments

    if context.obj is not None:
        raise ConfigurationError("Candidates stand in the configuration file and on the command line; give them once.")
    found = advised_algorithms(job)
    return found if found is None else with_assignments(found, assignments or ())


def candidates(
    context: Context,
    names: str | None,
    assignments: Sequence[str] | None,
    gamma: float,
    *,
    numbered_states: bool = False,
    continuous: bool = False,
    episodes: int = 1_000,
) -> dict[str, Algorithm] | None:
    """The candidates that a command was given, label -> algorithm; None where it says nothing about them."""
    tables = context.obj
    if names is None and tables is None and not assignments:
        return None
    from stitchrl.pipeline.assignments import candidates_of, candidates_of_tables, with_assignments
    from stitchrl.pipeline.candidates import default_algorithms, labelled

    classes: dict[str, Any] = {name: getattr(stitchrl, name) for name in sorted(stitchrl.ALGORITHMS, key=str.lower)}
    if names is not None and tables is not None:
        raise ConfigurationError("Candidates stand in the configuration file and on the command line; give them once.")
    if tables is not None:
        found = candidates_of_tables(tables, classes, gamma, continuous=continuous)
    elif names is not None:
        found = candidates_of(names, classes, gamma, continuous=continuous)
    else:
        found = labelled(
            default_algorithms(gamma, numbered_states=numbered_states, continuous=continuous, episodes=episodes)
        )
    return with_assignments(found, assignments or ())


def shares(text: str) -> tuple[float, float, float]:
    """Three numbers separated by commas."""
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError:
        raise ConfigurationError(f"`--fractions` must be three numbers such as {FRACTIONS}; got {text!r}.") from None
    return train, validation, test


def write_json(file: Path, content: Any) -> None:
    """Write a result as JSON: the whole file, or nothing."""
    from stitchrl.storage.files import write_text

    write_text(file, plain_json.dumps(content, indent=1, allow_nan=False) + "\n")


def print_json(content: Any) -> None:
    """Print a result as JSON."""
    print(plain_json.dumps(content, indent=1, allow_nan=False))
