"""The command line: each command is one call of the library.

Exit status: 0 done, and GO with `--gate`; 2 bad input, in one sentence; 3 NO-GO and 4 CANNOT TELL, with `--gate`; 5 the
audit calls the log not usable; 130 stopped from the keyboard.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import stitchrl
from stitchrl.command_line.advising import advise
from stitchrl.command_line.audit_command import audit
from stitchrl.command_line.diagnosing import diagnose
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
from stitchrl.command_line.usage import UsageError, sentence_of
from stitchrl.errors import ConfigurationError, StitchRLError
from stitchrl.pipeline.settings import PipelineSettings

# JAX and NumPy are imported inside the commands: `stitchrl --help` must not wait for them.

STOPPED = 130

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
    """Write the embedded hospital log as stays.parquet and run the main job on it, with exact values beside every number."""
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
    """From a log to a verdict: audit, split, train, select, evaluate, diagnose, verdict, report, bundle.

    Exit status 5 where the audit calls the log not usable and the run stopped there.
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
        typer.Option("--check", help="A schema: print what it makes of the first rows, and all that is wrong."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A new file to write, such as the log's name with .toml. [default: print it]"),
    ] = None,
    config: Config = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no remarks, and of a check the answer alone.")] = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Print a first schema for a log, as TOML with remarks: save it beside the log, and correct it."""
    from stitchrl.command_line.schemas import check, propose

    if against is not None:
        check(log, against, format=format, quiet=quiet, json=json)
    else:
        propose(log, out, format=format, quiet=quiet, json=json)


@app.command(epilog="Example: stitchrl convert stays.csv stays.store")
def convert(
    log: Log,
    out: Annotated[Path, typer.Argument(help="What to make: name.parquet, or a folder.")],
    schema: SchemaFile = None,
    format: Format = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="store, parquet or minari. [default: Parquet where OUT ends so, else a store]"),
    ] = None,
    without: Annotated[
        Path | None,
        typer.Option(
            "--without", help="A drop list, name.json or name.csv: its episodes are left out of what is written."
        ),
    ] = None,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Write a log in another format: a store opens in milliseconds, however large, and trains without being loaded."""
    unwanted = None if without is None else stitchrl.read_drop_list(without)
    written = stitchrl.convert(log, out, schema=schema, format=format, to=to, without=unwanted)
    if json:
        print_json({"out": str(written)} | ({} if unwanted is None else {"left_out": unwanted}))
    else:
        if unwanted and not quiet:
            print(f"Left out {len(unwanted):,} episodes that {without} lists.")
        print(written)


@app.command(epilog="Example: stitchrl collect --env CartPole-v1 --recipe medium --episodes 500 --out cartpole.parquet")
def collect(
    env: Annotated[str, typer.Option("--env", help="The id of a registered Gymnasium environment.")],
    out: Annotated[Path, typer.Option("--out", help="What to write: name.parquet, or the folder of a store.")],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="random, medium, medium-replay, expert or mixed, as in D4RL. [default: medium]"),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A model that Stable-Baselines3 saved, which acts in place of a learner."),
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Episodes of the log.")] = 200,
    steps: Annotated[
        int, typer.Option("--steps", min=2000, help="Steps of the environment on which the learner is trained.")
    ] = 20_000,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--epsilon",
            help="Share of uniform actions in the log, where actions are numbered. [default: 0.1, or the model's own]",
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            help="Standard deviation of normal noise on the actions of a TD3 or DDPG model, as a share of half of their range.",
        ),
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load the model although that runs the code pickled into its file.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is random.")] = 0,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Collect a log from an environment, with the exact probability of every action.

    The policy that acts is a DQN (numbered actions) or an SAC (vectors), trained in the environment: stopped early for
    `medium`, at the end for `expert`; `medium-replay` is all that it did until then. Or, with `--policy`, a model of
    Stable-Baselines3.
    """
    import numpy as np

    from stitchrl.errors import RunDirectoryError
    from stitchrl.reading.convert import target_kind

    if out.exists():
        raise RunDirectoryError(f"{str(out)!r} exists; nothing is overwritten. Choose another place or remove it.")
    target_kind(out)  # refused before anything is played
    log = stitchrl.collect(
        env,
        recipe=recipe,
        policy=policy,
        episodes=episodes,
        steps=steps,
        seed=seed,
        epsilon=epsilon,
        noise=noise,
        trust_pickle=trust_pickle,
        progress=not quiet and not json,
    )
    written = stitchrl.convert(log, out)
    returns = np.add.reduceat(log.reward.astype(np.float64), log.episode_start[:-1])
    if json:
        print_json(
            {
                "out": str(written),
                "episodes": log.num_episodes,
                "transitions": log.num_transitions,
                "mean_return": float(returns.mean()),
            }
        )
    elif quiet:
        print(written)
    else:
        print(
            f"{written}: {log.num_episodes:,} episodes, {log.num_transitions:,} transitions, mean return {returns.mean():.4g}"
        )


@app.command(epilog="Example: stitchrl train stays.parquet --out iql --algorithm IQL --set expectile=0.9")
def train(
    context: Context,
    log: Log,
    out: Out,
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm", help=f"One of {', '.join(sorted(stitchrl.ALGORITHMS, key=str.lower))}. [default: IQL]"
        ),
    ] = None,
    assignments: Assignments = None,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    seeds: Seeds = 1,
    updates: Updates = PipelineSettings.updates,
    batch_size: BatchSize = PipelineSettings.batch_size,
    seed: Annotated[int, typer.Option("--seed", help="The first seed; further ones follow it.")] = 0,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Train one algorithm on a whole log, with the main job's settings and units; `st.load(OUT)` gives the run.

    OUT/policy is the first seed's policy as a bundle, for `evaluate` and `st.load_policy`. Nothing is known yet of its worth.
    """
    from stitchrl.data.scaling import unit_return_scale
    from stitchrl.pipeline.bundling import check_free, in_words, save_trained
    from stitchrl.pipeline.outputs import check_run_folder

    check_free(out)
    check_run_folder(out, log)
    data = stitchrl.read(log, schema, format=format)
    named = algorithm or ("IQL" if context.obj is None else None)
    found = candidates(context, named, assignments, data.schema.gamma, continuous=data.num_actions is None) or {}
    if len(found) != 1:
        raise ConfigurationError(f"`train` takes one algorithm; got {', '.join(found)}.")
    ((label, chosen),) = found.items()
    scale = unit_return_scale(data)
    trained = stitchrl.fit(
        chosen,
        data,
        updates=updates,
        seeds=range(seed, seed + seeds),
        batch_size=batch_size,
        out=out,
        reward_scale=scale,
        progress=not quiet and not json,
    )
    if not quiet and not json:  # after the checks that `fit` makes, so that a refusal stands alone
        print(
            f"Rewards were multiplied by {scale:.4g} while learning, so that returns had a standard deviation of 1, as in the "
            "main job: settings that depend on the size of rewards are in those units."
        )
    where = save_trained(trained, data, out, label=label)
    if json:
        policy = None if where is None else str(where)
        print_json(
            {
                "label": label,
                "out": str(out),
                "policy": policy,
                "seeds": list(trained.seeds),
                "updates": trained.updates,
            }
        )
    else:
        if not quiet:
            print(in_words(trained, out, where))
        print(f"{label}: {out}")


app.command(epilog="Example: stitchrl race stays.parquet --out race --budget 60000")(race)
app.command(epilog="Example: stitchrl evaluate runs/stays new_stays.parquet --gate")(evaluate)
app.command(epilog="Example: stitchrl diagnose runs/stays --log new_stays.parquet")(diagnose)
app.command(epilog="Example: stitchrl predict stitchrl-run/policy today.csv --out actions.csv --on-outside clip")(
    predict
)


@app.command(epilog="Example: stitchrl report runs/stays --out report.html")
def report(
    folder: Annotated[Path, typer.Argument(help="A finished run directory.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write. [default: report.html in it]")] = None,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Render the report of a run directory anew."""
    written = stitchrl.report(folder, out)
    if json:
        print_json({"out": str(written)})
    else:
        print(written)


@app.command(name="version", epilog="Example: stitchrl version")
def print_the_version(json: AsJson = False, version: Version = False) -> None:
    """Print the version."""
    if json:
        print_json({"version": stitchrl.__version__})
    else:
        print(stitchrl.__version__)


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
