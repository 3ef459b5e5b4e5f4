"""The command that plays in an environment: `stitchrl collect`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

import stitchrl
from stitchrl.command_line.main_job import print_json
from stitchrl.command_line.options import AsJson, Config, Quiet, Version

__all__ = ["collect"]

# JAX and NumPy are imported inside the commands: `stitchrl --help` must not wait for them.


def collect(
    env: Annotated[str, typer.Option("--env", help="The id of a registered Gymnasium environment.")],
    out: Annotated[Path, typer.Option("--out", help="What to write: name.parquet, or a folder for a store.")],
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
        int, typer.Option("--steps", min=2000, help="Steps of the environment that the learner is trained for.")
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
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is random.")] = 0,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Collect a log in a Gymnasium environment.

    Every action is logged with its exact probability. The policy that acts is a DQN (numbered actions) or an SAC (vectors),
    trained in the environment: stopped early for `medium`, at the end of its training for `expert`; `medium-replay` is all
    that it did until the medium policy. With `--policy` a model of Stable-Baselines3 acts instead.
    """
    import numpy as np

    from stitchrl.errors import RunDirectoryError
    from stitchrl.reading.convert import target_kind

    if out.exists():
        raise RunDirectoryError(f"{str(out)!r} exists; nothing is overwritten. Choose another place or remove it.")
    target_kind(out)  # refused before anything is played
    if not os.path.isdir(out.absolute().parent):
        raise RunDirectoryError(
            f"The folder {str(out.absolute().parent)!r} is not there, and {out.name!r} would be written into it. Make it, or "
            "choose another --out."
        )
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
