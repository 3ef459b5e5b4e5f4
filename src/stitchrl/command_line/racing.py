"""`stitchrl race`: which algorithm, and which setting of it, under a budget of gradient updates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import stitchrl
from stitchrl.command_line.main_job import NOT_USABLE, candidates, print_json, shares
from stitchrl.command_line.options import (
    FRACTIONS,
    Algorithms,
    AsJson,
    Assignments,
    BatchSize,
    Confidence,
    Config,
    Context,
    EvaluationUpdates,
    Force,
    Format,
    Fractions,
    Horizon,
    Ladder,
    Log,
    Out,
    Quiet,
    SchemaFile,
    Seed,
    Seeds,
    SplitBy,
    Version,
)
from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.race_settings import RaceSettings
from stitchrl.pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from stitchrl.data.dataset import Dataset
    from stitchrl.pipeline.race_result import Race, Round

__all__ = ["race"]


# JAX and NumPy are imported inside the command: `stitchrl --help` must not wait for them.
def race(
    context: Context,
    log: Log,
    out: Out,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    budget: Annotated[
        int, typer.Option("--budget", help="Gradient updates of all candidates together; no more than these are made.")
    ] = RaceSettings.budget,
    eta: Annotated[
        int, typer.Option("--eta", help="One candidate in this many goes on to the next round.")
    ] = RaceSettings.eta,
    algorithms: Algorithms = None,
    assignments: Assignments = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="LABEL.SETTING=VALUES",
            help="Try these values of this setting in place of the usual ones: IQL.expectile=0.6,0.9. May be repeated.",
        ),
    ] = None,
    seeds: Seeds = 1,
    evaluation_updates: EvaluationUpdates = PipelineSettings.evaluation_updates,
    batch_size: BatchSize = PipelineSettings.batch_size,
    seed: Seed = PipelineSettings.seed,
    fractions: Fractions = FRACTIONS,
    split_by: SplitBy = None,
    confidence: Confidence = PipelineSettings.confidence,
    horizon: Horizon = None,
    ladder: Ladder = PipelineSettings.ladder,
    force: Force = False,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Find an algorithm and its main setting within a budget.

    All candidates learn a little, one in --eta of them goes on, and so on until one wins; the budget is of gradient updates.
    Candidates are ranked on the validation part. The test part is not looked at: the command that is printed at the end judges
    the winner, OUT/policy, on it. The exit status is 5 where the audit calls the log not usable.
    """
    wanted = _grid(grid or ())
    data = stitchrl.read(log, schema, format=format)
    continuous = data.num_actions is None
    named = candidates(
        context, algorithms, assignments, data.schema.gamma, continuous=continuous, episodes=data.num_episodes
    )
    if named is not None and algorithms is None and context.obj is None:  # `--set` alone: the usual candidates
        named = {label: one for label, one in named.items() if not one.caution}
    from stitchrl.pipeline.race import race_entrants

    race_entrants(data, named, wanted)  # refused before the audit, which may take long
    audited = stitchrl.audit(data)
    if audited.verdict == "not usable" and not force:
        print(
            "The audit calls the log not usable, so no race was run: `stitchrl audit` says why. Correct what it found, or go on "
            "all the same with --force."
        )
        raise typer.Exit(NOT_USABLE)
    from stitchrl.reporting.race_table import round_table, winner_in_words

    shown = not quiet and not json

    def say(found: Round) -> None:
        if shown:
            print(f"{round_table(found.to_dict())}\n", flush=True)

    found = stitchrl.race(
        data,
        algorithms=named,
        grid=wanted,
        budget=budget,
        eta=eta,
        evaluation_updates=evaluation_updates,
        seeds=seeds,
        batch_size=batch_size,
        seed=seed,
        fractions=shares(fractions),
        split_by=split_by,
        confidence=confidence,
        horizon=horizon,
        ladder=ladder,
        out=out,
        on_round=say,
        progress=shown,
    )
    command = shlex.join(_evaluation(found, data, log, out, schema, format, horizon))
    content = found.to_dict()
    if json:
        print_json(content | {"audit": audited.verdict, "policy": str(out / "policy"), "evaluate": command})
        return
    if quiet:
        won = content["winner"]
        print(f"{won['title']}: {out / 'policy'}")
        return
    print(
        f"{winner_in_words(content)}\n\nThe winner is a bundle: {out / 'policy'}. To judge it on the test part:\n  {command}"
    )


def _grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each LABEL.setting, from texts LABEL.setting=values."""
    found: dict[str, list[str]] = {}
    for text in texts:
        target, equals, values = text.partition("=")
        if not equals or "." not in target or not values.strip():
            from stitchrl.messages import printable

            raise ConfigurationError(
                "`--grid` must be LABEL.setting=values, with the values separated by commas, such as IQL.expectile=0.6,0.9; got "
                f"{printable(repr(text))}."
            )
        found[target.strip()] = [value.strip() for value in values.split(",")]
    return found


def _evaluation(
    found: Race, log: Dataset, path: Path, out: Path, schema: Path | None, format: str | None, horizon: int | None
) -> list[str]:
    """The command that judges the winner on the episodes that the race did not look at."""
    from stitchrl.evaluation.seen_episodes import overlap_of

    words = ["stitchrl", "evaluate", str(out)]
    far = [] if horizon is None else ["--horizon", str(horizon)]
    learned_from = getattr(stitchrl.load_policy(out / "policy"), "learned_from", None)
    if learned_from is not None and overlap_of(learned_from, log).removable:
        given = {"--schema": schema, "--format": format}
        options = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
        return [*words, str(path), *options, "--leave-out-known", *far, "--gate"]
    # Here episodes are equal by coincidence, so that those of the test part cannot be told from others: they are written.
    file = out / "test.parquet"
    if not file.exists():
        stitchrl.convert(found.test, file)
    return [*words, str(file), *far, "--gate"]
