"""The result of training: the run, its directory, and its policies and values in the log's own units."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import Guard
from stitchrl.nn.networks import Network
from stitchrl.nn.origin import remember_origin
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.units import (
    RescaledMemoryPolicy,
    RescaledPolicy,
    unscaled_policy,
    unscaled_value,
)
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.printing import Shown
from stitchrl.storage.files import forget_abandoned
from stitchrl.storage.run_directory import claim as claim_directory
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.flags import RedFlag
from stitchrl.training.history import History, Rows
from stitchrl.training.metrics_file import METRICS_FILE
from stitchrl.training.program import MemberState
from stitchrl.training.value_limits import ValueLimits
from stitchrl.types import PyTree

__all__ = ["CHECKPOINT", "CONFIG", "GIVEN", "METRICS", "Grid", "Run", "claim", "upgraded"]

CONFIG, CHECKPOINT, METRICS, GIVEN = "config.json", "checkpoint.safetensors", "metrics.parquet", "given.safetensors"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(Shown):
    """The result of `fit`.

    Attributes:
        algorithm: with its settings.
        seeds: one member each.
        members: final states, one per seed, on scaled observations, actions and rewards.
        scaling: of observations, actions and rewards, fitted on the training log.
        metrics: of every logged chunk and seed, in columns.
        updates: gradient updates of each seed, as done.
        stopped: why it ended before the updates asked for; "" where it did not.
        red_flags: what looked wrong in the metrics, each once; `member` counts the seeds.
        diverged: seed -> a sentence that says where its numbers ceased to be finite. Such seeds of a grid are in none of the
            lists above.
        given: what the algorithm's `prepare` made of the log, beside its columns.
        schema: of the log. Its policies keep it, so that they are not judged on a log whose columns mean something else. None
            where it is not known, as in folders of older versions.
        guard: the range of the log's observations, which reveals observations in other units; None for images, or where it is
            not known.
        limits: what the rewards of the log allow values to be; None where it is not known, as in folders of older versions and
            in grids over gamma.
    """

    algorithm: Algorithm
    seeds: tuple[int, ...]
    members: list[MemberState]
    scaling: Scaling
    metrics: History
    updates: int
    stopped: str = ""
    red_flags: tuple[RedFlag, ...] = ()
    diverged: dict[int, str] = dataclasses.field(default_factory=dict)
    given: PyTree = None
    schema: Schema | None = None
    guard: Guard | None = None
    limits: ValueLimits | None = None

    @cached_property
    def history(self) -> Rows:
        """Metrics, one row for each logged chunk and seed: "update", "member" (which of the seeds), and each metric's mean."""
        return self.metrics.rows()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know of the preparation of the log before training, one sentence each."""
        return self.algorithm.remarks(self.given)

    @property
    def states(self) -> list[PyTree]:
        """The algorithm's own state, one per seed."""
        return [member.algorithm for member in self.members]

    @cached_property
    def policies(self) -> list[DiscretePolicy | RescaledPolicy | RescaledMemoryPolicy]:
        """One policy for each seed, on raw observations and in logged units of action.

        They are as trained, or, with the algorithm's `average_rate`, the running average of what was trained.
        """
        inner = [
            self.algorithm.policy(member.algorithm, self.given) if member.average is None else member.average
            for member in self.members
        ]
        found = [unscaled_policy(policy, self.scaling) for policy in inner]
        for policy in found:
            remember_origin(policy, self.schema, self.guard)
        return found

    @property
    def policy(self) -> DiscretePolicy | RescaledPolicy | RescaledMemoryPolicy:
        """The policy of the first seed. Raises DivergenceError where every seed diverged."""
        if not self.members:
            raise DivergenceError(next(iter(self.diverged.values())))
        return self.policies[0]

    @cached_property
    def values(self) -> list[DiscreteValue | ContinuousValue | None]:
        """One value function for each seed, on raw observations and in the log's reward units.

        It is None where the algorithm has no critic, and after a reward shift: what a shift adds to a value depends on how long
        an episode goes on, which no critic knows. It is that of the policy as trained, even where `average_rate` lets the running
        average act.
        """
        return [unscaled_value(self.algorithm.value(state, self.given), self.scaling) for state in self.states]

    def __str__(self) -> str:
        count = len(self.seeds)
        lines = [
            f"{self.algorithm.name}: {count} seed{'' if count == 1 else 's'}, {self.updates:,} updates; {self._last()}"
        ]
        lines += [f"  stopped: {self.stopped}"] * bool(self.stopped)
        lines += [f"  seed {seed} diverged: {why}" for seed, why in self.diverged.items()]
        lines += [f"  {flag.code}, seed {self.seeds[flag.member]}: {flag.sentence}" for flag in self.red_flags]
        return "\n".join(lines)

    def _last(self) -> str:
        """The means of the last losses over the seeds."""
        rows = [row for row in self.history if row["update"] == self.history[-1]["update"]]
        names = [name for name in (rows[0] if rows else ()) if name.startswith("loss/")]
        last = ", ".join(f"{name} {np.mean([row[name] for row in rows]):.4g}" for name in names if name in rows[-1])
        return last or "no losses were logged"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grid(Shown):
    """The result of `fit_grid`; iterating gives (point, run). Where every seed of a point diverged, its run has no seeds.

    Attributes:
        points: settings of each run, in the order of the grid, the last setting fastest.
        runs: one for each point, each with all the seeds.
    """

    points: list[dict[str, float]]
    runs: list[Run]

    def __iter__(self) -> Iterator[tuple[dict[str, float], Run]]:
        return iter(zip(self.points, self.runs, strict=True))

    def __len__(self) -> int:
        return len(self.points)

    def __str__(self) -> str:
        lines = [f"grid of {len(self)} points over {', '.join(self.points[0])}"] if self.points else ["empty grid"]
        for point, run in self:
            settings = ", ".join(f"{name}={value:g}" for name, value in point.items())
            lines += [f"  {settings}: {run}".replace("\n", "\n  ")]
        return "\n".join(lines)


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as this version writes it, from one an older version wrote."""
    full: dict[str, Any] = {"sampling": "uniform", "stop": None, **config}
    full.pop("updates", None)  # how far a run goes is no part of what it is
    if "spec" not in full:
        size, actions = full.pop("observation_size"), full.pop("num_actions")
        full["spec"] = Spec.vectors(size, actions, full.pop("action_size", 0)).to_dict()
        full["spec_guessed"] = True  # parts of a multi-discrete action, and bounds, were not kept
    settings = dict(full["settings"])
    if "hidden_sizes" in settings:
        settings["network"] = dataclasses.asdict(Network(tuple(settings.pop("hidden_sizes"))))
    full["settings"] = settings
    full["scaling"] = {"reward_scale": full["reward_scale"], **full["scaling"]}
    return full


def claim(folder: Path, config: dict[str, Any], scaling: Scaling, defaults: dict[str, Any]) -> Scaling:
    """Make the run directory, or check that the run in it is this one. `defaults` are the algorithm's default settings.

    Returns:
        The scaling that the run began with, even where this version would fit another one.

    Raises:
        RunDirectoryError: it cannot be made, is damaged, holds another run (says which setting differs), or holds other files.
    """

    def brought_up_to_date(found: dict[str, Any]) -> dict[str, Any]:
        found = upgraded(found)
        # Settings that came after the run was made have their defaults.
        found["settings"] = json.loads(json.dumps({**defaults, **found["settings"]}))
        found.setdefault("meaning", config["meaning"])  # older runs did not say
        if found.pop("spec_guessed", False):
            found["spec"] = config["spec"]
        Scaling.from_dict(found["scaling"])  # raises where it is damaged
        return found

    identity = config | {"scaling": scaling.to_dict()}
    begun = (folder / CHECKPOINT).exists()
    content = claim_directory(
        folder / CONFIG, identity, free=("scaling",), upgrade=brought_up_to_date, begun=begun, alone=True
    )
    for name in (CHECKPOINT, METRICS_FILE, METRICS, GIVEN):
        forget_abandoned(folder / name)
    return Scaling.from_dict(content["scaling"])
