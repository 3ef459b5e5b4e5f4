"""The command that trains one algorithm on a whole log: `stitchrl train`."""

from __future__ import annotations

from typing import Annotated

import typer

import stitchrl
from stitchrl.command_line.main_job import candidates, print_json
from stitchrl.command_line.options import (
    AsJson,
    Assignments,
    BatchSize,
    Config,
    Context,
    Format,
    Log,
    Out,
    Quiet,
    SchemaFile,
    Seeds,
    Updates,
    Version,
)
from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.settings import PipelineSettings

__all__ = ["train"]

# JAX and NumPy are imported inside the commands: `stitchrl --help` must not wait for them.


def train(
    context: Context,
    log: Log,
    out: Out,
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm",
            help=f"One of {', '.join(sorted(stitchrl.ALGORITHMS, key=str.lower))}, or mine.py:Mine, the class Mine of your own "
            "file. [default: IQL]",
        ),
    ] = None,
    assignments: Assignments = None,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    seeds: Seeds = 1,
    updates: Updates = PipelineSettings.updates,
    batch_size: BatchSize = PipelineSettings.batch_size,
    seed: Annotated[int, typer.Option("--seed", help="The first seed; with --seeds the next numbers follow it.")] = 0,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Train one algorithm on a whole log.

    It has the settings and the units of the main job; `st.load(OUT)` gives the run. OUT/policy is the policy of the first seed as
    a bundle, for `stitchrl evaluate` and `st.load_policy`. Nothing is known yet of how good it is.
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
        print_json(
            {
                "label": label,
                "out": str(out),
                "policy": None if where is None else str(where),
                "seeds": list(trained.seeds),
                "updates": trained.updates,
            }
        )
    else:
        if not quiet:
            print(in_words(trained, out, where))
        print(f"{label}: {out}")
