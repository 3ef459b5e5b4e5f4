"""The commands about a policy that is there: `stitchrl evaluate` and `stitchrl predict`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

import stitchrl
from stitchrl.command_line.fit_settings import FitAssignments, fit_settings
from stitchrl.command_line.main_job import EXIT_BY_DECISION, print_json, write_json
from stitchrl.command_line.options import (
    AsJson,
    Baseline,
    Confidence,
    Config,
    Cost,
    Distribution,
    Estimators,
    EvaluationUpdates,
    Format,
    Gamma,
    Gate,
    Group,
    Horizon,
    Margin,
    MinimumOddsRatio,
    Quiet,
    SchemaFile,
    Seed,
    Tail,
    Version,
    names_in,
)
from stitchrl.command_line.output_files import check_output_file
from stitchrl.command_line.policies import (
    bundle_folder,
    columns_of_the_policy,
    learned_meaning,
    policy_and_log,
    policy_of,
    unseen_part,
)
from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.settings import PipelineSettings, check_tail

__all__ = ["evaluate", "predict"]

# JAX and NumPy are imported inside the commands: `stitchrl --help` must not wait for them.


def evaluate(
    policy: Annotated[
        Path,
        typer.Argument(
            help="A policy directory, the run directory it is in, a folder of `st.fit`, or an ONNX file. Leave it out where the "
            "policy stands in columns of the log (--policy-columns, --policy-log-prob)."
        ),
    ],
    log: Annotated[
        Path | None,
        typer.Argument(help="A log that the policy did not learn from: a file, a folder, a pattern, or a store."),
    ] = None,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    policy_columns: Annotated[
        str | None,
        typer.Option(
            "--policy-columns",
            "--policy-column",
            help="Columns of the log with the policy's probability of each action, in order; or one column, with a list of them "
            "or with the action that the policy takes.",
        ),
    ] = None,
    policy_log_prob: Annotated[
        str | None,
        typer.Option(
            "--policy-log-prob", help="Column with the policy's log-probability, or log-density, of the logged action."
        ),
    ] = None,
    policy_output: Annotated[
        str | None,
        typer.Option(
            "--policy-output",
            help="What the output of an ONNX file is: probs, logits or action. Of several outputs, NAME:probs names the one.",
        ),
    ] = None,
    estimators: Estimators = None,
    baseline: Baseline = None,
    gamma: Gamma = None,
    horizon: Horizon = None,
    confidence: Confidence = PipelineSettings.confidence,
    margin: Margin = PipelineSettings.margin,
    minimum_odds_ratio: MinimumOddsRatio = PipelineSettings.minimum_odds_ratio,
    group: Group = None,
    cost: Cost = None,
    distribution: Distribution = PipelineSettings.distribution,
    tail: Tail = PipelineSettings.tail,
    evaluation_updates: EvaluationUpdates = PipelineSettings.evaluation_updates,
    assignments: FitAssignments = None,
    seed: Seed = PipelineSettings.seed,
    leave_out_known: Annotated[
        bool,
        typer.Option(
            "--leave-out-known", help="Judge the policy on the episodes of the log that it did not learn from."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Go on although the observations seem to be in other units than those that the policy learned from.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the evaluation as JSON to this file as well.")
    ] = None,
    gate: Gate = False,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Estimate a policy on a log that it did not learn from.

    The verdict is given at the end: GO, NO-GO or CANNOT TELL.
    """
    columns = columns_of_the_policy(policy_columns, policy_log_prob)
    if columns and policy_output is not None:
        raise ConfigurationError(
            "`--policy-output` is for ONNX files, and here the policy stands in columns of the log. Leave it out."
        )
    where, log = policy_and_log(policy, log, columns)
    check_output_file("--out", out, ".json", log, schema)
    if where is not None and not where.exists():
        stitchrl.load_policy(where)  # says so before a long log is read
    from stitchrl.evaluation.costs import limits_of
    from stitchrl.progress import ProgressDisplay

    check_tail(distribution, tail)
    settings = fit_settings(evaluation_updates, seed, assignments)
    beside = {"subgroup": group or (), "cost": [limit.column for limit in limits_of(cost or ())], **columns}
    data = stitchrl.read(log, schema, format=format, beside=beside, policy=learned_meaning(where or baseline))
    judged = stitchrl.LoggedPolicy() if where is None else policy_of(where, data, output=policy_output)
    data = data if where is None else unseen_part(where, judged, data, leave_out=leave_out_known)
    audited = stitchrl.audit(data)
    with ProgressDisplay(enabled=not quiet and not json):
        found = stitchrl.evaluate(
            judged,
            data,
            gamma=gamma,
            horizon=horizon,
            baseline=None if baseline is None else policy_of(baseline, data),
            settings=settings,
            confidence=confidence,
            margin=margin,
            minimum_odds_ratio=minimum_odds_ratio,
            groups=group or (),
            costs=cost or (),
            distribution=distribution,
            tail=tail,
            audit_verdict=audited.verdict,
            record_look=True,
            force=force,
            estimators=names_in(estimators),
        )
    if out is not None:
        write_json(out, found.to_dict())
    if json:
        print_json(found.to_dict())
    else:
        print(f"{found.verdict.decision}: {found.verdict.headline}" if quiet else found)
    if gate:
        raise typer.Exit(EXIT_BY_DECISION[found.verdict.decision])


def predict(
    policy: Annotated[Path, typer.Argument(help="A policy directory, or the run directory it is in.")],
    log: Annotated[
        Path, typer.Argument(help="A file, a folder or a pattern; the columns that the policy observes are enough.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The table to write: a file that ends in .parquet or .csv.")],
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    on_outside: Annotated[
        str | None,
        typer.Option(
            "--on-outside",
            help="What to do in rows outside the range that the policy learned from: refuse (give no action), clip (bring the "
            "row into the range), behavior (act as the fitted behaviour), or one action for all of them, given by its number, "
            "its name, or its numbers separated by commas. [default: what the policy was saved with, usually refuse]",
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of every action.")
    ] = False,
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Draw the actions by their probabilities, in place of the preferred action."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    without_mask: Annotated[
        bool,
        typer.Option(
            "--without-mask",
            help="Count every action as allowed where the log lacks the action mask that the policy's log had.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the file of --out if it exists. A file of the log is never replaced."
        ),
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Write what a policy does in every row of a log.

    The table has the action of each row, its probability, and what the guard says of the row. A row that the guard refuses has
    no action; its columns guard_outside, guard_columns and acted say so and why.
    """
    from stitchrl.command_line.predicting import guard_of
    from stitchrl.deployment.numpy_policy import load_policy
    from stitchrl.pipeline.predicting import predict_log

    bundle = load_policy(bundle_folder(policy))
    found = predict_log(
        bundle if on_outside is None else bundle.guarded(guard_of(on_outside, bundle)),
        log,
        out,
        schema=schema,
        format=format,
        every_probability=probabilities,
        seed=seed if sample else None,
        progress=not quiet and not json,
        overwrite=overwrite,
        without_mask=without_mask,
    )
    if json:
        print_json(dataclasses.asdict(found))
    else:
        print(found)
