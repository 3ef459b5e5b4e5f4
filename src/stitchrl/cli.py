"""The command line: each command is one call of the library.

Exit status: 0 done, and GO with `--gate`; 2 bad input, in one sentence; 3 NO-GO and 4 CANNOT TELL, with `--gate`; 5 the
audit calls the log not usable; 130 stopped from the keyboard.
"""

from __future__ import annotations

import dataclasses
import json as plain_json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stitchrl
from stitchrl.command_line.usage import UsageError, sentence_of
from stitchrl.errors import ConfigurationError, StitchRLError
from stitchrl.pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from typer import Context

    from stitchrl.algorithms.base import Algorithm
    from stitchrl.pipeline.workspace import Truth
else:  # Typer annotates contexts as its own class, and hands over objects of the class below it
    (Context,) = typer.Context.__bases__

# JAX and NumPy are imported inside the commands: `stitchrl --help` must not wait for them.

EXIT_BY_DECISION = {"GO": 0, "NO-GO": 3, "CANNOT TELL": 4}
NOT_USABLE, STOPPED = 5, 130
STAGES = ("audit", "split", "train", "select", "evaluate", "verdict", "report", "bundle")

app = typer.Typer(
    help="From a log file to a policy you can defend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(stitchrl.__version__)
        raise typer.Exit
    return wanted


def _take_config(context: Context, file: Path | None) -> Path | None:
    """Make the options that a TOML file gives the defaults of this command's."""
    if file is None:
        return None
    import tomllib

    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"The configuration {str(file)!r} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigurationError(f"The configuration {str(file)!r} is not TOML: {error}.") from None
    options = {
        flag[2:].replace("-", "_"): option.name
        for option in context.command.params
        for flag in option.opts
        if flag.startswith("--") and flag not in ("--config", "--help")
    }
    tables = content.pop("candidate", None)
    if tables is not None and "set" in options:
        context.obj = tables
        options["candidate"] = "candidate"
    elif tables is not None:
        content["candidate"] = tables
    given = {name.replace("-", "_"): value for name, value in content.items()}
    for name in given:
        if name not in options:
            raise ConfigurationError(
                f"`{name}` in {str(file)!r} is no option of this command; the options are {', '.join(options)}."
            )
    # As text, so that 2000.5 updates are refused as they are on the command line.
    several = {option.name for option in context.command.params if getattr(option, "multiple", False)}
    context.default_map = {
        options[name]: value if isinstance(value, bool | str) or options[name] in several else str(value)
        for name, value in given.items()
    }
    return file


Log = Annotated[
    Path,
    typer.Argument(
        help="A log: a file, a folder or a pattern of files, in any known format, or a store. Its schema is the TOML of "
        "the same name beside it."
    ),
]
Format = Annotated[
    str | None, typer.Option("--format", help="Format of the log, by name. [default: found from its content]")
]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="Schema of the log, a TOML file not beside it.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=_take_config,
        help="A TOML file of options, such as `updates = 5000`, and of candidates, each under [[candidate]]. What the "
        "command line says wins.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Run directory; a run found there continues.")]
Algorithms = Annotated[
    str | None,
    typer.Option(
        "--algorithms",
        help=f"Candidates, separated by commas, from {', '.join(stitchrl.ALGORITHMS)}. A name given twice makes two "
        "candidates: IQL,IQL are labelled IQL and IQL-2. [default: the main job's own]",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="LABEL.SETTING=VALUE",
        help="Change a setting of a candidate: IQL.expectile=0.9, IQL-2.hidden_sizes=256x256. May be repeated.",
    ),
]
Seeds = Annotated[int, typer.Option("--seeds", help="How many times each candidate is trained, from seeds 0, 1, ...")]
Updates = Annotated[int, typer.Option("--updates", help="Gradient updates of each seed of each candidate.")]
EvaluationUpdates = Annotated[
    int, typer.Option("--evaluation-updates", help="Gradient updates of each model that the evaluation fits.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Transitions in a batch.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the split, of the evaluation's fits and of its resampling.")]
Fractions = Annotated[str, typer.Option("--fractions", help="Shares of train, validation and test.")]
SplitBy = Annotated[
    str | None,
    typer.Option(
        "--split-by", help="Split by episode, group, time or return. [default: group where the log has groups]"
    ),
]
Confidence = Annotated[float, typer.Option("--confidence", help="Coverage that the two-sided intervals aim at.")]
Margin = Annotated[float, typer.Option("--margin", help="The least gain worth having, in return units.")]
Until = Annotated[str, typer.Option("--until", help=f"Stop after this stage: {', '.join(STAGES)}.")]
Force = Annotated[
    bool, typer.Option("--force", help="Go on where the audit calls the log not usable; the verdict then says so.")
]
Gate = Annotated[
    bool, typer.Option("--gate", help="Let the exit status tell the verdict: 0 GO, 3 NO-GO, 4 CANNOT TELL.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result only: no stages, no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]

FRACTIONS = ",".join(map(str, PipelineSettings.fractions))


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """From a log file to a policy you can defend."""


@app.command()
def demo(
    context: Context,
    out: Annotated[Path, typer.Option("--out", help="Directory for the log and the run.")] = Path("stitchrl-demo"),
    algorithms: Algorithms = None,
    assignments: Assignments = None,
    seeds: Seeds = PipelineSettings.seeds,
    updates: Updates = PipelineSettings.updates,
    evaluation_updates: EvaluationUpdates = PipelineSettings.evaluation_updates,
    seed: Seed = PipelineSettings.seed,
    propensities: Annotated[
        bool,
        typer.Option("--propensities/--no-propensities", help="Keep the clinicians' probabilities in the log."),
    ] = True,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the embedded hospital log as stays.parquet and run the main job on it, with exact values beside every number."""
    from stitchrl.mdp.icu_sepsis import ExactValues
    from stitchrl.pipeline.demo import write_demo_log

    _candidates(context, algorithms, assignments, 1.0, numbered_states=True)  # before anything is written
    log = write_demo_log(out, propensities=propensities)
    if not quiet:
        print(f"log: {log} (schema: {log.with_suffix('.toml').name})")
    _main_job(context, log, out / "run", truth=ExactValues())


@app.command()
def run(
    context: Context,
    log: Log,
    out: Out,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    algorithms: Algorithms = None,
    assignments: Assignments = None,
    seeds: Seeds = PipelineSettings.seeds,
    updates: Updates = PipelineSettings.updates,
    evaluation_updates: EvaluationUpdates = PipelineSettings.evaluation_updates,
    batch_size: BatchSize = PipelineSettings.batch_size,
    seed: Seed = PipelineSettings.seed,
    fractions: Fractions = FRACTIONS,
    split_by: SplitBy = None,
    confidence: Confidence = PipelineSettings.confidence,
    margin: Margin = PipelineSettings.margin,
    until: Until = STAGES[-1],
    force: Force = False,
    gate: Gate = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """From a log to a verdict: audit, split, train, select, evaluate, verdict, report, bundle.

    Exit status 5 where the audit calls the log not usable and the run stopped there.
    """
    _main_job(context, log, out)


@app.command()
def audit(
    log: Log,
    schema: SchemaFile = None,
    format: Format = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another part of the log, which must share no episode with it.")
    ] = None,
    json: AsJson = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the audit page: one file, with pictures.")] = None,
) -> None:
    """Say what is in a log and what is wrong with it; exit status 5 where it is not usable."""
    from stitchrl.reporting.audit_terminal import print_audit

    other = None if against is None else stitchrl.read(against, schema, format=format)
    found = stitchrl.audit(stitchrl.read(log, schema, format=format), against=other)
    if html is not None:
        from stitchrl.reporting.audit_page import render_audit
        from stitchrl.storage.files import write_text

        write_text(html, render_audit(found.to_dict(), title=log.name))
    if json:
        _print_json(found.to_dict())
    else:
        print_audit(found.to_dict())
    if found.verdict == "not usable":
        raise typer.Exit(NOT_USABLE)


@app.command()
def schema(log: Log, format: Format = None) -> None:
    """Print a first schema for a log, as TOML with remarks: save it beside the log, and correct it."""
    from stitchrl.reading.propose import propose
    from stitchrl.reading.read import open_log
    from stitchrl.reading.store import is_store, open_store

    if is_store(log):
        print(open_store(log).schema.to_toml(), end="")
    else:
        print(propose(open_log(log, format=format), log.stem), end="")


@app.command()
def convert(
    log: Log,
    out: Annotated[Path, typer.Argument(help="What to make: name.parquet, or a folder.")],
    schema: SchemaFile = None,
    format: Format = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="store, parquet or minari. [default: Parquet where OUT ends so, else a store]"),
    ] = None,
) -> None:
    """Write a log in another format: a store opens in milliseconds, however large, and trains without being loaded."""
    print(stitchrl.convert(log, out, schema=schema, format=format, to=to))


@app.command()
def train(
    context: Context,
    log: Log,
    out: Out,
    algorithm: Annotated[
        str | None, typer.Option("--algorithm", help=f"One of {', '.join(stitchrl.ALGORITHMS)}. [default: IQL]")
    ] = None,
    assignments: Assignments = None,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    seeds: Seeds = 1,
    updates: Updates = PipelineSettings.updates,
    batch_size: BatchSize = PipelineSettings.batch_size,
    quiet: Quiet = False,
) -> None:
    """Train one algorithm on a whole log, with the main job's settings and units; `st.load(OUT)` gives the run."""
    from stitchrl.data.scaling import unit_return_scale

    data = stitchrl.read(log, schema, format=format)
    named = algorithm or ("IQL" if context.obj is None else None)
    found = _candidates(context, named, assignments, data.schema.gamma) or {}
    if len(found) != 1:
        raise ConfigurationError(f"`train` takes one algorithm; got {', '.join(found)}.")
    ((label, chosen),) = found.items()
    scale = unit_return_scale(data)
    if not quiet:
        print(
            f"Rewards are multiplied by {scale:.4g} while learning, so that returns have a standard deviation of 1, as in "
            "the main job: settings such as IQL's inverse_temperature and CQL's cql_weight are in those units."
        )
    stitchrl.fit(
        chosen,
        data,
        updates=updates,
        seeds=seeds,
        batch_size=batch_size,
        out=out,
        reward_scale=scale,
        progress=not quiet,
    )
    print(f"{label}: {out}")


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(help="A policy directory, or the run directory it is in.")],
    log: Log,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    estimators: Annotated[
        str | None, typer.Option("--estimators", help="Names separated by commas. [default: wis,pdwis,wdr,fqe]")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Another policy, over which gains are taken. [default: the log's]"),
    ] = None,
    gamma: Annotated[float | None, typer.Option("--gamma", help="Discount. [default: the log's]")] = None,
    horizon: Annotated[
        int | None, typer.Option("--horizon", help="Count only so many first steps. [default: until terminated]")
    ] = None,
    confidence: Confidence = PipelineSettings.confidence,
    margin: Margin = PipelineSettings.margin,
    evaluation_updates: EvaluationUpdates = PipelineSettings.evaluation_updates,
    seed: Seed = PipelineSettings.seed,
    gate: Gate = False,
    json: AsJson = False,
) -> None:
    """Estimate a saved policy on a log it did not learn from, and give the verdict."""
    bundle, data = stitchrl.load_policy(_policy_of(policy)), stitchrl.read(log, schema, format=format)
    if bundle.provenance.get("log", {}).get("content_hash") == data.content_hash:
        raise ConfigurationError(
            f"The policy in {str(policy)!r} was learned from this very log, so estimates on it would be too good. "
            "Give episodes it never saw."
        )
    chosen: dict[str, Any] = (
        {} if estimators is None else {"estimators": [name.strip() for name in estimators.split(",")]}
    )
    found = stitchrl.evaluate(
        bundle,
        data,
        gamma=gamma,
        horizon=horizon,
        baseline=None if baseline is None else stitchrl.load_policy(_policy_of(baseline)),
        settings=stitchrl.FitSettings(updates=evaluation_updates, seed=seed),
        confidence=confidence,
        margin=margin,
        audit_verdict=stitchrl.audit(data).verdict,
        **chosen,
    )
    if json:
        _print_json(found.to_dict())
    else:
        print(found.verdict)
    if gate:
        raise typer.Exit(EXIT_BY_DECISION[found.verdict.decision])


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A finished run directory.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write. [default: report.html in it]")] = None,
) -> None:
    """Render the report of a run directory anew."""
    print(stitchrl.report(folder, out))


@app.command()
def version() -> None:
    """Print the version."""
    print(stitchrl.__version__)


def _policy_of(folder: Path) -> Path:
    """The policy directory: the folder itself, or the one inside a run directory."""
    return folder / "policy" if (folder / "policy" / "policy.json").exists() else folder


def _main_job(context: Context, log: Path, out: Path, *, truth: Truth | None = None) -> None:
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
    settings = {name: given[name] for name in names} | {"fractions": _shares(given.get("fractions", FRACTIONS))}

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

    counted = numbers_states(job.log)
    job.algorithms = _candidates(
        context, given["algorithms"], given["assignments"], job.log.schema.gamma, numbered_states=counted
    )
    found = run_stages(job, until=until or STAGES[-1], force=given.get("force", False))
    if json:
        _print_json(found.to_dict())
    elif until in (None, STAGES[-1]) or found.stopped:
        print(found if quiet else f"\n{found}")
    if found.stopped:
        raise typer.Exit(NOT_USABLE)
    if gate and found.verdict is not None:
        raise typer.Exit(EXIT_BY_DECISION[found.verdict.decision])


def _candidates(
    context: Context,
    names: str | None,
    assignments: Sequence[str] | None,
    gamma: float,
    *,
    numbered_states: bool = False,
) -> dict[str, Algorithm] | None:
    """The candidates that a command was given, label -> algorithm; None where it says nothing about them."""
    tables = context.obj
    if names is None and tables is None and not assignments:
        return None
    from stitchrl.pipeline.assignments import candidates_of, candidates_of_tables, with_assignments
    from stitchrl.pipeline.candidates import default_algorithms, labelled

    classes: dict[str, Any] = {name: getattr(stitchrl, name) for name in stitchrl.ALGORITHMS}
    if names is not None and tables is not None:
        raise ConfigurationError("Candidates stand in the configuration file and on the command line; give them once.")
    if tables is not None:
        found = candidates_of_tables(tables, classes, gamma)
    elif names is not None:
        found = candidates_of(names, classes, gamma)
    else:
        found = labelled(default_algorithms(gamma, numbered_states=numbered_states))
    return with_assignments(found, assignments or ())


def _shares(text: str) -> tuple[float, float, float]:
    """Three numbers separated by commas."""
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError:
        raise ConfigurationError(f"`--fractions` must be three numbers such as {FRACTIONS}; got {text!r}.") from None
    return train, validation, test


def _print_json(content: Any) -> None:
    print(plain_json.dumps(content, indent=1, allow_nan=False))


def main() -> None:
    """Entry point: our errors, and what cannot be understood of a command line, become one sentence and exit status 2."""
    try:
        status = app(prog_name="stitchrl", standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `stitchrl` alone
            print(error.ctx.get_help(), file=sys.stderr)
        else:
            print(f"error: {sentence_of(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except StitchRLError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, typer.Abort):
        status = STOPPED
    if status == STOPPED:
        print("stopped; the same command continues where it was", file=sys.stderr)
    raise SystemExit(status or 0)


if __name__ == "__main__":
    main()
