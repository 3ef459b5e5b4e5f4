"""The options that commands of `stitchrl` share, and the TOML file that may give them.

It is imported before a command is known: neither JAX nor NumPy is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stitchrl
from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from typer import Context
else:  # Typer annotates contexts as its own class, and hands over objects of the class below it
    (Context,) = typer.Context.__bases__

__all__ = [
    "FRACTIONS",
    "STAGES",
    "Algorithms",
    "AsJson",
    "Assignments",
    "Baseline",
    "BatchSize",
    "Confidence",
    "Config",
    "Context",
    "Cost",
    "Distribution",
    "Estimators",
    "EvaluationUpdates",
    "Force",
    "Format",
    "Fractions",
    "Gamma",
    "Gate",
    "Group",
    "Horizon",
    "Ladder",
    "Log",
    "Margin",
    "MinimumOddsRatio",
    "Out",
    "Quiet",
    "SchemaFile",
    "Seed",
    "Seeds",
    "SplitBy",
    "Tail",
    "Until",
    "Updates",
    "Version",
    "names_in",
    "print_version",
    "take_config",
]

ALL_NAMES = ", ".join(sorted(stitchrl.ALGORITHMS, key=str.lower))
STAGES = ("audit", "split", "train", "select", "evaluate", "diagnose", "verdict", "report", "bundle")


def print_version(wanted: bool) -> bool:
    """Print the version and end the command, where that is wanted."""
    if wanted:
        print(stitchrl.__version__)
        raise typer.Exit
    return wanted


def take_config(context: Context, file: Path | None) -> Path | None:
    """Take what a TOML file says as the defaults of this command's options."""
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
        if flag.startswith("--") and flag not in ("--config", "--help", "--version")
    }
    tables = content.pop("candidate", None)
    if tables is not None and {"algorithm", "algorithms"} & set(options):
        context.obj = tables
        options["candidate"] = "candidate"
    elif tables is not None:
        content["candidate"] = tables
    given = {name.replace("-", "_"): value for name, value in content.items()}
    for name in given:
        if name not in options:
            raise ConfigurationError(
                f"`{name}` in {str(file)!r} is not an option of this command; its options are {', '.join(options)}."
            )
    # As text, so that 2000.5 updates are refused as they are on the command line.
    several = {option.name for option in context.command.params if getattr(option, "multiple", False)}
    context.default_map = {
        options[name]: _several(name, value, file)
        if options[name] in several
        else value
        if isinstance(value, bool | str)
        else str(value)
        for name, value in given.items()
    }
    return file


def names_in(text: str | None) -> tuple[str, ...] | None:
    """The names in a text that separates them by commas; None where there is no text."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _several(name: str, value: Any, file: Path) -> list[str]:
    """The values of an option that may be repeated: a list of strings, or one string."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ConfigurationError(f"`{name}` in {str(file)!r} must be a string or a list of strings; got {value!r}.")
    return values


Log = Annotated[
    Path,
    typer.Argument(
        help="A log: a file, a folder of files, a pattern such as 'logs/*.parquet', or a store. Its schema is the TOML file of "
        "the same name beside it."
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="Format of the log, such as CSV, Parquet or Minari. [default: told from its content]"
    ),
]
SchemaFile = Annotated[
    Path | None,
    typer.Option("--schema", help="Schema of the log: a TOML file. [default: the one of the log's name, beside it]"),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=take_config,
        help="A TOML file with options of this command, such as `quiet = true`; where a command trains, also with candidates, "
        "each under [[candidate]]. An option on the command line wins over the file.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Run directory. A run of the same log and settings that is found there continues.")
]
Algorithms = Annotated[
    str | None,
    typer.Option(
        "--algorithms",
        help=f"Candidates, separated by commas, from {ALL_NAMES}. A name given twice makes two "
        "candidates: IQL,IQL are labelled IQL and IQL-2. mine.py:Mine is the class Mine of your own file. "
        "The word advised stands for those that `stitchrl advise` names. "
        "[default: the main job's own]",
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
Seeds = Annotated[int, typer.Option("--seeds", help="How many times each candidate is trained: with seeds 0, 1, ...")]
Updates = Annotated[int, typer.Option("--updates", help="Gradient updates of each seed of each candidate.")]
EvaluationUpdates = Annotated[
    int,
    typer.Option(
        "--evaluation-updates",
        help="Gradient updates of each model that the evaluation fits. Networks of values over continuous actions get ten times "
        "as many, and networks of the behaviour five times as many, which may stop early.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Transitions in a batch.")]
Seed = Annotated[
    int,
    typer.Option("--seed", help="Seed of the split, of the models that the evaluation fits, and of its resampling."),
]
Fractions = Annotated[
    str, typer.Option("--fractions", help="Shares of the episodes for training, validation and test.")
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        "--split-by", help="Split by episode, group, time or return. [default: group where the log has groups]"
    ),
]
Confidence = Annotated[float, typer.Option("--confidence", help="Confidence level of the two-sided intervals.")]
Gamma = Annotated[
    float | None, typer.Option("--gamma", help="Discount, in [0, 1]. [default: the one of the log's schema]")
]
Estimators = Annotated[
    str | None,
    typer.Option("--estimators", help="Names of estimators, separated by commas. [default: those that suit the log]"),
]
Margin = Annotated[
    float,
    typer.Option(
        "--margin",
        help="The smallest gain worth having, in units of the return: GO needs an interval that lies above it.",
    ),
]
Horizon = Annotated[
    int | None,
    typer.Option(
        "--horizon", help="Count only this many first steps of each episode. [default: all, until it terminates]"
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        help="A policy that gains are measured against: a policy directory, a run directory, a folder of `st.fit`, or an ONNX "
        "file. [default: the policy that made the log]",
    ),
]
Group = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="COLUMN",
        help="Judge the gain in each group of episodes that this column tells apart at their first step, such as sex: GO "
        "is ruled out where a group is shown to lose. May be repeated.",
    ),
]
Cost = Annotated[
    list[str] | None,
    typer.Option(
        "--cost",
        metavar="COLUMN<=LIMIT",
        help="Compare the policy's expected sum of this column over an episode with a limit: GO is ruled out where the limit is "
        "shown to be broken. May be repeated.",
    ),
]
Distribution = Annotated[
    bool,
    typer.Option(
        "--distribution",
        help="Also estimate how the returns are distributed, and what happens in the worst episodes. The verdict does not depend "
        "on it; it takes the fit of one more network.",
    ),
]
Tail = Annotated[
    float, typer.Option("--tail", help="With --distribution: the share of episodes that count as the worst.")
]
MinimumOddsRatio = Annotated[
    float,
    typer.Option(
        "--minimum-odds-ratio",
        help="Without logged propensities, GO needs a gain that would withstand a hidden cause of this strength in any single "
        "decision: the factor by which it changes the odds of an action. 1 asks for nothing.",
    ),
]
Ladder = Annotated[
    bool,
    typer.Option(
        "--ladder/--no-ladder",
        help="Also try policies between each candidate and the behaviour, which gain less and more surely.",
    ),
]
Until = Annotated[str, typer.Option("--until", help=f"Stop after this stage: {', '.join(STAGES)}.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Go on although the audit calls the log not usable, or the log seems to have other units than the baseline's. The "
        "verdict then says so.",
    ),
]
Gate = Annotated[
    bool, typer.Option("--gate", help="Let the exit status tell the verdict: 0 GO, 3 NO-GO, 4 CANNOT TELL.")
]
Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result only: no stages, no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]

FRACTIONS = ",".join(map(str, PipelineSettings.fractions))
