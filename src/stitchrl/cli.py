"""The command line: each command is one call of the library. Bad input: one sentence, exit status 2."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import stitchrl
from stitchrl.errors import ConfigurationError, StitchRLError

if TYPE_CHECKING:
    from stitchrl.algorithms.base import Algorithm

# JAX is imported inside the commands: `stitchrl --help` must not wait for it.

app = typer.Typer(
    help="From a log file to a policy you can defend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Log = Annotated[
    Path,
    typer.Argument(
        help="A log: a file, a folder or a pattern of files, in any known format, or a store. Its schema is the TOML of "
        "the same name beside it."
    ),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="Of the log, by name. [default: found from its content]")
]
SchemaOption = Annotated[Path | None, typer.Option("--schema", help="Schema TOML, if not beside the log.")]
Out = Annotated[Path, typer.Option("--out", help="Run directory; a run found there continues.")]
Algorithms = Annotated[
    str | None,
    typer.Option("--algorithms", help=f"Comma-separated, from {', '.join(stitchrl.ALGORITHMS)}. [default: all]"),
]
Seeds = Annotated[int, typer.Option("--seeds", help="Candidates of each algorithm.")]
Updates = Annotated[int, typer.Option("--updates", help="Gradient updates of each candidate.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the split, the evaluation fits and the bootstrap.")]
Margin = Annotated[float, typer.Option("--margin", help="The least gain worth having, in return units.")]
SplitBy = Annotated[
    str | None,
    typer.Option("--split-by", help="episode, group, time or return. [default: group where the log has groups]"),
]
Until = Annotated[
    str,
    typer.Option(
        "--until",
        help="Stop after this stage: audit, split, train, select, evaluate, verdict, report, bundle.",
    ),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory for the log and the run.")] = Path("stitchrl-demo"),
    algorithms: Algorithms = None,
    seeds: Seeds = 3,
    updates: Updates = 2000,
    seed: Seed = 0,
    propensities: Annotated[bool, typer.Option(help="Keep the clinicians' probabilities in the log.")] = True,
) -> None:
    """Write the embedded hospital log as stays.parquet and run the main job on it, with exact values beside every number."""
    from stitchrl.mdp.icu_sepsis import ExactValues
    from stitchrl.pipeline.demo import write_demo_log

    _algorithms(algorithms, 1.0)  # before anything is written
    log = write_demo_log(out, propensities=propensities)
    print(f"log: {log} (schema: {log.with_suffix('.toml').name})")
    _run(log, out / "run", None, algorithms, seeds, updates, seed, 0.0, "bundle", ExactValues())


@app.command()
def run(
    log: Log,
    out: Out,
    schema: SchemaOption = None,
    algorithms: Algorithms = None,
    seeds: Seeds = 3,
    updates: Updates = 2000,
    seed: Seed = 0,
    margin: Margin = 0.0,
    split_by: SplitBy = None,
    until: Until = "bundle",
) -> None:
    """From a log to a verdict: audit, split, train, select, evaluate, verdict, report, bundle."""
    _run(log, out, schema, algorithms, seeds, updates, seed, margin, until, None, split_by)


@app.command()
def audit(
    log: Log,
    schema: SchemaOption = None,
    format: FormatOption = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another part of the log, which must share no episode with it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the audit page: one file, with pictures.")] = None,
) -> None:
    """Say what is in a log and what is wrong with it; exit status 1 where it is not usable."""
    from stitchrl.reporting.audit_terminal import print_audit

    other = None if against is None else stitchrl.read(against, schema, format=format)
    found = stitchrl.audit(stitchrl.read(log, schema, format=format), against=other)
    if html is not None:
        from stitchrl.reporting.audit_page import render_audit
        from stitchrl.storage.files import write_text

        write_text(html, render_audit(found.to_dict(), title=log.name))
    if json:
        import json as plain

        print(plain.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        print_audit(found.to_dict())
    if found.verdict == "not usable":
        raise typer.Exit(1)


@app.command()
def schema(log: Log, format: FormatOption = None) -> None:
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
    schema: SchemaOption = None,
    format: FormatOption = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="store, parquet or minari. [default: Parquet where OUT ends so, else a store]"),
    ] = None,
) -> None:
    """Write a log in another format: a store opens in milliseconds, however large, and trains without being loaded."""
    print(stitchrl.convert(log, out, schema=schema, format=format, to=to))


@app.command()
def train(
    log: Log,
    out: Out,
    algorithm: Annotated[str, typer.Option("--algorithm", help=f"One of {', '.join(stitchrl.ALGORITHMS)}.")] = "IQL",
    schema: SchemaOption = None,
    seeds: Seeds = 1,
    updates: Updates = 2000,
) -> None:
    """Train one algorithm on a whole log; `st.load(OUT)` gives the run."""
    data = stitchrl.read(log, schema)
    found = _algorithms(algorithm, data.schema.gamma) or ()
    if len(found) != 1:
        raise ConfigurationError(f"`train` takes one algorithm; got {algorithm!r}.")
    (chosen,) = found
    stitchrl.fit(chosen, data, updates=updates, seeds=seeds, out=out, progress=True)
    print(f"{chosen.name}: {out}")


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(help="Policy directory, as `stitchrl run` writes it.")],
    log: Log,
    schema: SchemaOption = None,
    margin: Margin = 0.0,
    seed: Seed = 0,
) -> None:
    """Estimate a saved policy on a log it did not learn from, and give the verdict."""
    bundle, data = stitchrl.load_policy(policy), stitchrl.read(log, schema)
    if bundle.provenance.get("log", {}).get("content_hash") == data.content_hash:
        raise ConfigurationError(
            f"The policy in {str(policy)!r} was learned from this very log, so estimates on it would be too good. "
            "Give episodes it never saw."
        )
    audited = stitchrl.audit(data).verdict
    print(stitchrl.evaluate(bundle, data, margin=margin, seed=seed, audit_verdict=audited).verdict)


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


def _run(
    log: Path,
    out: Path,
    schema: Path | None,
    algorithms: str | None,
    seeds: int,
    updates: int,
    seed: int,
    margin: float,
    until: str,
    truth: object,
    split_by: str | None = None,
) -> None:
    from stitchrl.pipeline.pipeline import STAGES, Pipeline
    from stitchrl.pipeline.settings import PipelineSettings

    def say(stage: str, text: str) -> None:
        print(f"{STAGES.index(stage) + 1}/{len(STAGES)} {stage:<9} {text}", flush=True)

    job = Pipeline(
        log,
        out,
        schema=schema,
        settings=PipelineSettings(updates=updates, seeds=seeds, seed=seed, margin=margin, split_by=split_by),
        truth=truth,  # type: ignore[arg-type]
        command=shlex.join(["stitchrl", *sys.argv[1:]]),
        say=say,
    )
    job.algorithms = _algorithms(algorithms, job.log.schema.gamma)
    job.run(until)
    if until == STAGES[-1]:
        from stitchrl.pipeline.pipeline import stored_verdict

        print(f"\n{stored_verdict(out)}\n\nreport: {out / 'report.html'}")


def _algorithms(names: str | None, gamma: float) -> tuple[Algorithm, ...] | None:
    """The main job's settings of the named algorithms, or their own defaults where it has none; None for all."""
    if names is None:
        return None
    from stitchrl.pipeline.candidates import default_algorithms

    known = {algorithm.name.lower(): algorithm for algorithm in default_algorithms(gamma)}
    for name in stitchrl.ALGORITHMS:
        if name.lower() not in known:
            kind = getattr(stitchrl, name)
            known[name.lower()] = kind(**({"gamma": gamma} if hasattr(kind, "gamma") else {}))
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name.lower() not in known:
            raise ConfigurationError(f"There is no algorithm {name!r}; there are {', '.join(stitchrl.ALGORITHMS)}.")
    return tuple(known[name.lower()] for name in chosen)


def main() -> None:
    """Entry point: errors of ours become one sentence and exit status 2."""
    try:
        app()
    except StitchRLError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; the same command continues where it was", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
