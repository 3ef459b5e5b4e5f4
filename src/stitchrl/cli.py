"""The command line: each command is one call of the library.

Exit status: 0 done, and GO with `--gate`; 2 bad input, in one sentence; 3 NO-GO and 4 CANNOT TELL, with `--gate`; 5 the
audit calls the log not usable; 130 stopped from the keyboard.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

import stitchrl
from stitchrl.command_line.advising import advise
from stitchrl.command_line.audit_command import audit
from stitchrl.command_line.collecting import collect
from stitchrl.command_line.diagnosing import diagnose
from stitchrl.command_line.lessons import lab
from stitchrl.command_line.main_job import ADVISED, candidates, main_job, print_json
from stitchrl.command_line.options import (
    FRACTIONS,
    STAGES,
    Algorithms,
    AsJson,
    Assignments,
    Baseline,
    BatchSize,
    Confidence,
    Config,
    Context,
    Cost,
    Distribution,
    Estimators,
    EvaluationUpdates,
    Force,
    Format,
    Fractions,
    Gamma,
    Gate,
    Group,
    Horizon,
    Ladder,
    Log,
    Margin,
    MinimumOddsRatio,
    Out,
    Quiet,
    SchemaFile,
    Seed,
    Seeds,
    SplitBy,
    Tail,
    Until,
    Updates,
    Version,
)
from stitchrl.command_line.policy_commands import evaluate, predict
from stitchrl.command_line.racing import race
from stitchrl.command_line.training import train
from stitchrl.command_line.usage import UsageError, sentence_of
from stitchrl.errors import StitchRLError, StitchRLWarning
from stitchrl.pipeline.settings import PipelineSettings

# JAX and NumPy are imported inside the commands: `stitchrl --help` must not wait for them.

STOPPED = 130
RESUMED = ("demo", "run", "train", "race")
"""The commands that keep what they have done, and go on from there."""

app = typer.Typer(
    help="From a log file to a policy you can defend.",
    epilog="Exit status: 0 done (with --gate: GO); 2 bad input; 3 NO-GO and 4 CANNOT TELL, with --gate; 5 the audit calls the "
    "log not usable; 130 stopped from the keyboard. Example: stitchrl run stays.parquet --out runs/stays",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    version: Version = False,
) -> None:
    """From a log file to a policy you can defend."""


@app.command(epilog="Example: stitchrl demo --out demo")
def demo(
    context: Context,
    out: Annotated[Path, typer.Option("--out", help="Directory for the log and the run.")] = Path("stitchrl-demo"),
    algorithms: Algorithms = None,
    assignments: Assignments = None,
    seeds: Seeds = PipelineSettings.seeds,
    updates: Updates = PipelineSettings.updates,
    evaluation_updates: EvaluationUpdates = PipelineSettings.evaluation_updates,
    seed: Seed = PipelineSettings.seed,
    confidence: Confidence = PipelineSettings.confidence,
    baseline: Baseline = None,
    horizon: Horizon = PipelineSettings.horizon,
    estimators: Estimators = None,
    propensities: Annotated[
        bool,
        typer.Option("--propensities/--no-propensities", help="Keep the clinicians' probabilities in the log."),
    ] = True,
    quiet: Quiet = False,
    json: AsJson = False,
    config: Config = None,
    version: Version = False,
) -> None:
    """Run the main job on the embedded hospital log.

    The log is written as OUT/stays.parquet, and the run as OUT/run. Its world is known, so that the exact value stands beside
    every estimate.
    """
    from stitchrl.mdp.icu_sepsis import ExactValues
    from stitchrl.pipeline.demo import write_demo_log

    if algorithms != ADVISED:
        candidates(context, algorithms, assignments, 1.0, numbered_states=True)  # before anything is written
    log = write_demo_log(out, propensities=propensities)
    if not quiet and not json:
        print(f"log: {log} (schema: {log.with_suffix('.toml').name})")
    main_job(context, log, out / "run", truth=ExactValues())


@app.command(epilog="Example: stitchrl run stays.parquet --out runs/stays --gate")
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
    minimum_odds_ratio: MinimumOddsRatio = PipelineSettings.minimum_odds_ratio,
    baseline: Baseline = None,
    group: Group = None,
    cost: Cost = None,
    distribution: Distribution = PipelineSettings.distribution,
    tail: Tail = PipelineSettings.tail,
    ladder: Ladder = PipelineSettings.ladder,
    gamma: Gamma = None,
    horizon: Horizon = PipelineSettings.horizon,
    estimators: Estimators = None,
    until: Until = STAGES[-1],
    force: Force = False,
    gate: Gate = False,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Run the main job: from a log to a verdict on a new policy.

    The stages are audit, split, train, select, evaluate, diagnose, verdict, report and bundle. The exit status is 5 where the
    audit calls the log not usable and the run stopped there.
    """
    main_job(context, log, out)


app.command(epilog="Example: stitchrl audit stays.parquet --html audit.html")(audit)


app.command(epilog="Example: stitchrl advise stays.parquet --collect-more no --dangerous yes --width 0.02")(advise)


@app.command(epilog="Example: stitchrl schema stays.csv --out stays.toml")
def schema(
    log: Log,
    format: Format = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--check", help="A schema: print what it makes of the first rows of the log, and everything that is wrong."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A new file to write, such as the log's name with .toml. [default: print it]"),
    ] = None,
    config: Config = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print the schema without remarks, and of --check the answer alone.")
    ] = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Print a first schema for a log, as TOML with remarks.

    Save it beside the log, under the log's name with .toml, and correct it: it is guessed from names and first rows.
    """
    from stitchrl.command_line.schemas import check, propose

    if against is not None:
        check(log, against, format=format, quiet=quiet, json=json)
    else:
        propose(log, out, format=format, quiet=quiet, json=json)


@app.command(epilog="Example: stitchrl convert stays.csv stays.store")
def convert(
    log: Log,
    out: Annotated[Path, typer.Argument(help="What to write: name.parquet, or a folder for a store.")],
    schema: SchemaFile = None,
    format: Format = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="store, parquet or minari. [default: Parquet where OUT ends so, else a store]"),
    ] = None,
    without: Annotated[
        Path | None,
        typer.Option(
            "--without", help="A drop list (name.json or name.csv), whose episodes are left out of what is written."
        ),
    ] = None,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Write a log in another format.

    A store opens in milliseconds, however large it is, and policies learn from it without loading it into memory.
    """
    unwanted = None if without is None else stitchrl.read_drop_list(without)
    written = stitchrl.convert(log, out, schema=schema, format=format, to=to, without=unwanted)
    if json:
        print_json({"out": str(written)} | ({} if unwanted is None else {"left_out": unwanted}))
    else:
        if unwanted and not quiet:
            print(f"Left out {len(unwanted):,} episodes that {without} lists.")
        print(written)


app.command(epilog="Example: stitchrl collect --env CartPole-v1 --recipe medium --episodes 500 --out cartpole.parquet")(
    collect
)
app.command(epilog="Example: stitchrl train stays.parquet --out iql --algorithm IQL --set expectile=0.9")(train)
app.command(epilog="Example: stitchrl race stays.parquet --out race --budget 60000")(race)
app.command(epilog="Example: stitchrl evaluate runs/stays new_stays.parquet --gate")(evaluate)
app.command(epilog="Example: stitchrl diagnose runs/stays --log new_stays.parquet")(diagnose)
app.command(epilog="Example: stitchrl predict stitchrl-run/policy today.csv --out actions.csv --on-outside clip")(
    predict
)


@app.command(epilog="Example: stitchrl report runs/stays --out report.html")
def report(
    folder: Annotated[Path, typer.Argument(help="A finished run directory.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write. [default: report.html in the run directory]")
    ] = None,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Write the report of a run directory again."""
    written = stitchrl.report(folder, out)
    if json:
        print_json({"out": str(written)})
    else:
        print(written)


app.command(epilog="Example: stitchrl lab stitching")(lab)


@app.command(name="version", epilog="Example: stitchrl version")
def print_the_version(json: AsJson = False, version: Version = False) -> None:
    """Print the version."""
    if json:
        print_json({"version": stitchrl.__version__})
    else:
        print(stitchrl.__version__)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Print a warning of ours as the sentence that it is, and another one as Python does."""
    ours = issubclass(category, StitchRLWarning)
    print(f"warning: {message}" if ours else warnings.formatwarning(message, category, *where[:2]), file=sys.stderr)


def main() -> None:
    """Entry point: our errors, and what cannot be understood of a command line, become one sentence and exit status 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
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
        goes_on = sys.argv[1:2] and sys.argv[1] in RESUMED
        print(f"stopped{'; the same command continues where it was' if goes_on else ''}", file=sys.stderr)
    raise SystemExit(status or 0)


if __name__ == "__main__":
    main()
