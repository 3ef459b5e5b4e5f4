"""`st.fit`, `st.fit_grid` and `st.load`: train an algorithm on a log, many seeds and settings at once, resumable."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sample import Feed, StreamSource, shuffled_source, transition_source
from stitchrl.data.transform import Scaling
from stitchrl.errors import CheckpointError, ConfigurationError
from stitchrl.training.checkpoint import load_checkpoint
from stitchrl.training.flags import FlagMonitor, RedFlag, red_flags
from stitchrl.training.logging import LoopMonitor, ProgressDisplay
from stitchrl.training.loop import StopRule, Trained, initial_state, train
from stitchrl.training.run import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    Grid,
    Run,
    claim,
    spec_of,
    unscaled_policy,
    upgraded,
    write_metrics,
)
from stitchrl.training.stopping import EarlyStop
from stitchrl.training.trackers import Tracker, guarded
from stitchrl.types import PyTree

__all__ = ["fit", "fit_grid", "load"]

SAMPLING = ("uniform", "shuffled")
Environment = str | Callable[[], Any]
"""Id of a Gymnasium environment, or a function that makes one."""


def fit(
    algorithm: Algorithm,
    log: Dataset,
    *,
    updates: int,
    seeds: int | Sequence[int] = 1,
    batch_size: int = 256,
    out: str | os.PathLike[str] | None = None,
    save_every_updates: int = 1000,
    log_every_updates: int = 100,
    callbacks: Sequence[LoopMonitor] = (),
    trackers: Sequence[Tracker] = (),
    standardize: bool = True,
    reward_scale: float = 1.0,
    sampling: str = "uniform",
    stream: bool = False,
    stop: StopRule | None = None,
    environment: Environment | None = None,
    evaluate_every_updates: int = 5000,
    evaluation_episodes: int = 10,
    progress: bool | None = None,
) -> Run:
    """Train an algorithm on a log.

    Args:
        algorithm: a settings dataclass such as `st.IQL(expectile=0.8)`.
        log: the training part.
        updates: gradient updates of each seed; 0 is legal.
        seeds: n means seeds 0 to n - 1; or the seeds. All train in one program; each draws the same as alone.
        batch_size: transitions a batch, at least 1.
        out: directory of the run; None writes nothing. A run found there continues if its configuration and log are
            the same, is returned if finished, and is refused with the difference named if not.
        save_every_updates, log_every_updates: in gradient updates, at least 1.
        callbacks: called after every logged chunk with (updates done, updates, metric -> one mean a seed).
        trackers: where metrics go besides `out`: `st.TensorBoardTracker(folder)`, `st.WandbTracker(project)`,
            `st.MLflowTracker(experiment)`, `st.TrackioTracker(project)`, or any object with their three methods. One
            that fails is left out with a warning; training goes on.
        standardize: scale observations by their mean and standard deviation over the log; saved with the policy.
        reward_scale: factor on rewards while learning, above 0; claimed values are divided by it again.
        sampling: "uniform" draws rows with replacement, for each seed its own; "shuffled" visits every row once a pass,
            in an order all seeds share.
        stream: read batches from the log's arrays while training, instead of holding them on the device; for logs
            larger than memory. Implies "shuffled", and gives the same numbers as that.
        stop: a rule such as `st.EarlyStop("loss/actor", patience_updates=5000)`.
        environment: OPTIONAL, and only where one exists: id of a Gymnasium environment, or a function that makes one.
            The mode of every seed's policy is played in it and logged as online/return. Nothing else uses it.
        evaluate_every_updates, evaluation_episodes: how often, at the first chunk end at or after each multiple, and
            over how many episodes.
        progress: show a bar; None does so when standard error is a terminal.

    Raises:
        ConfigurationError: a number outside its range, or an algorithm that does not fit the log.
        RunDirectoryError: `out` cannot be written or holds another run.
        CheckpointError: the checkpoint found there is damaged.
        DivergenceError: a loss is no longer finite; the last good checkpoint stays.
    """
    numbers = _seeds(seeds)
    job = _Job(
        log, updates, numbers, batch_size, out, save_every_updates, log_every_updates, callbacks, trackers, standardize,
        reward_scale, sampling, stream, stop, environment, evaluate_every_updates, evaluation_episodes, progress,
    )  # fmt: skip
    result = job.train(algorithm, [algorithm] * len(numbers), [{"seed": s} for s in numbers], {})
    return _run(algorithm, numbers, *result, range(len(numbers)))


def fit_grid(
    algorithm: Algorithm,
    log: Dataset,
    grid: Mapping[str, Sequence[Any]],
    *,
    updates: int,
    seeds: int | Sequence[int] = 1,
    **settings: Any,
) -> Grid:
    """Train every combination of some number settings, with every seed, in one program: nothing compiles twice.

    Args:
        algorithm: its other settings hold for all.
        log: the training part.
        grid: setting -> values, e.g. `{"expectile": [0.7, 0.9], "learning_rate": [3e-4, 1e-3]}`.
        updates, seeds: of each combination.
        settings: the other arguments of `fit`.

    Raises:
        ConfigurationError: a setting that is none, has no values, or changes the program (sizes, counts).
        Others as `fit`.
    """
    inputs = algorithm.input_settings()
    if not grid:
        raise ConfigurationError(f"A grid needs at least one setting; {algorithm.name} has {', '.join(inputs)}.")
    for name, values in grid.items():
        if name not in inputs:
            raise ConfigurationError(
                f"A grid of {algorithm.name} runs over its number settings {', '.join(inputs)}; got {name!r}. "
                "For anything else, call `fit` once for each."
            )
        if not len(values):
            raise ConfigurationError(f"`{name}` of the grid must have at least one value; got none.")
    points = _points(grid)
    algorithms = [_with_settings(algorithm, point) for point in points]
    numbers = _seeds(seeds)
    job = _Job(log, updates, numbers, **settings)
    result = job.train(
        algorithm,
        [a for a in algorithms for _ in numbers],
        [{"seed": s} | point for point in points for s in numbers],
        {"grid": [[name, list(map(float, values))] for name, values in grid.items()]},
    )
    return _grid(algorithms, points, numbers, *result)


def load(folder: str | os.PathLike[str], algorithms: Mapping[str, type[Algorithm]]) -> Run | Grid:
    """The run or grid saved in a directory by `fit` or `fit_grid` with `out=folder`, as far as its last checkpoint.

    Args:
        folder: the directory.
        algorithms: name -> class, to rebuild the settings from.

    Raises:
        CheckpointError: no run there, damaged, or of an unknown algorithm.
    """
    where = Path(folder)
    try:
        config = upgraded(json.loads((where / CONFIG).read_text(encoding="utf-8")))
        scaling = Scaling.from_dict(config["scaling"])
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in config["settings"].items()}
        kind: Any = algorithms[config["algorithm"]]
        algorithm = kind(**settings)
        seeds = tuple(config["seeds"])
        spec = Spec(config["observation_size"], config["num_actions"], config["action_size"])
        grid = dict(config.get("grid", []))
        points = _points(grid)
        chosen = [_with_settings(algorithm, point) for point in points]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"There is no run to load in {str(where)!r}: {error!r}.") from None
    members = [a for a in chosen for _ in seeds]
    like = initial_state(members, spec, seeds * len(points), shapes_only=True)
    state, history, meta = load_checkpoint(where / CHECKPOINT, like)
    trained = Trained(state, history, meta["update"], meta.get("stopped", ""))
    flags = red_flags(history, **meta["bounds"]) if "bounds" in meta else []
    if grid:
        return _grid(chosen, points, seeds, trained, scaling, flags)
    return _run(algorithm, seeds, trained, scaling, flags, range(len(seeds)))


@dataclasses.dataclass(frozen=True)
class _Job:
    """The arguments of `fit` but for the algorithm, checked."""

    log: Dataset
    updates: int
    seeds: tuple[int, ...]
    batch_size: int = 256
    out: str | os.PathLike[str] | None = None
    save_every_updates: int = 1000
    log_every_updates: int = 100
    callbacks: Sequence[LoopMonitor] = ()
    trackers: Sequence[Tracker] = ()
    standardize: bool = True
    reward_scale: float = 1.0
    sampling: str = "uniform"
    stream: bool = False
    stop: StopRule | None = None
    environment: Environment | None = None
    evaluate_every_updates: int = 5000
    evaluation_episodes: int = 10
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("updates", self.updates, 0),
            ("batch_size", self.batch_size, 1),
            ("save_every_updates", self.save_every_updates, 1),
            ("log_every_updates", self.log_every_updates, 1),
            ("evaluate_every_updates", self.evaluate_every_updates, 1),
            ("evaluation_episodes", self.evaluation_episodes, 1),
            ("seeds", len(self.seeds), 1),
        ):
            if value < least:
                raise ConfigurationError(f"`{name}` of fit must be at least {least}; got {value}.")
        if not 0 < self.reward_scale < float("inf"):
            raise ConfigurationError(f"`reward_scale` of fit must be above 0 and finite; got {self.reward_scale}.")
        if isinstance(self.stop, EarlyStop) and self.stop.metric.startswith("online/") and self.environment is None:
            raise ConfigurationError(
                f"EarlyStop watches {self.stop.metric!r}, which only `environment` of fit makes; got none."
            )
        if self.sampling not in SAMPLING:
            raise ConfigurationError(f"`sampling` of fit must be {' or '.join(SAMPLING)}; got {self.sampling!r}.")

    def train(
        self,
        algorithm: Algorithm,
        algorithms: list[Algorithm],
        labels: list[dict[str, Any]],
        extra: dict[str, Any],
    ) -> tuple[Trained, Scaling, list[RedFlag]]:
        """Train the members, one an entry of `algorithms` and `labels`."""
        log, spec = self.log, spec_of(self.log)
        kind = "continuous" if log.num_actions is None else "discrete"
        if kind not in algorithm.actions:
            raise ConfigurationError(
                f"{algorithm.name} learns from {' or '.join(algorithm.actions)} actions; this log's are {kind}."
            )
        scaling = Scaling.of(log, standardize=self.standardize, reward_scale=self.reward_scale)
        config = self._config(algorithm, spec) | extra
        saved: dict[str, Any] = {}
        if self.out is not None:
            folder = Path(self.out)
            claim(folder, config, scaling, dataclasses.asdict(type(algorithm)()))
            saved = {
                "checkpoint": folder / CHECKPOINT,
                "meta": {
                    "bounds": self._bounds(algorithm),
                    "config": config | {"scaling": scaling.to_dict()},
                    "schema": log.schema.to_dict(),
                },
                "on_save": lambda history: write_metrics(folder / METRICS, history, labels),
            }
        seeds = [label["seed"] for label in labels]
        names = [", ".join(f"{name} {value:g}" for name, value in label.items()) for label in labels]
        with ExitStack() as stack:
            shown = _on_terminal() if self.progress is None else self.progress
            display = stack.enter_context(ProgressDisplay(enabled=shown))
            monitors = [display.track(f"{algorithm.name} x {len(seeds)}", note_metric=("loss/critic", "loss/actor"))]
            flags = FlagMonitor(
                lambda flag: display.say(f"red flag, {names[flag.member]}, update {flag.update:,}: {flag.sentence}"),
                **self._bounds(algorithm),
            )
            monitors += [
                flags,
                *self.callbacks,
                *(stack.enter_context(_tracked(t, config, names)) for t in self.trackers),
            ]
            trained = train(
                algorithms,
                self._source(algorithm.prepare(log), scaling),
                spec,
                updates=self.updates,
                seeds=seeds,
                batch_size=self.batch_size,
                log_every_updates=self.log_every_updates,
                save_every_updates=self.save_every_updates,
                monitors=monitors,
                evaluate=self._online(algorithms, scaling),
                stop=self.stop,
                **saved,
            )
        # A resumed or finished run has a history that no monitor saw.
        return (
            trained,
            scaling,
            flags.flags + red_flags(trained.history, reported=flags.flags, **self._bounds(algorithm)),
        )

    def _config(self, algorithm: Algorithm, spec: Spec) -> dict[str, Any]:
        """What makes a run this run and no other."""
        content = {
            "algorithm": algorithm.name,
            "settings": dataclasses.asdict(algorithm),
            "updates": self.updates,
            "seeds": self.seeds,
            "batch_size": self.batch_size,
            "log_every_updates": self.log_every_updates,
            "standardize": self.standardize,
            "reward_scale": self.reward_scale,
            "sampling": "shuffled" if self.stream else self.sampling,
            "stop": None if self.stop is None else _named(self.stop),
            "log": self.log.content_hash if self.out is not None else "",
            "observation_size": spec.observation_size,
            "num_actions": spec.num_actions,
            "action_size": spec.action_size,
        }
        if self.environment is not None:
            content["environment"] = [
                self.environment if isinstance(self.environment, str) else _named(self.environment),
                self.evaluate_every_updates,
                self.evaluation_episodes,
            ]
        return dict(json.loads(json.dumps(content)))

    def _bounds(self, algorithm: Algorithm) -> dict[str, Any]:
        """What the log's rewards allow a value to be: by the discount, or by the longest episode if all are whole."""
        reward = float(np.abs(self.log.reward).max(initial=0.0)) * self.reward_scale
        gamma = getattr(algorithm, "gamma", 1.0)
        steps = float("inf") if self.log.truncated.any() else float(self.log.episode_lengths.max(initial=0))
        longest = min(1.0 / (1.0 - gamma) if gamma < 1.0 else float("inf"), steps)
        value = reward * longest if np.isfinite(longest) else None
        return {"gamma": gamma, "reward_bound": reward, "value_bound": value}

    def _source(self, log: Dataset, scaling: Scaling) -> Feed:
        if self.stream:
            return StreamSource.of(log, scaling)
        return transition_source(log, scaling) if self.sampling == "uniform" else shuffled_source(log, scaling)

    def _online(
        self, algorithms: list[Algorithm], scaling: Scaling
    ) -> Callable[[int, PyTree], dict[str, list[float]]] | None:
        """Play every member's policy in the environment when due: the same episodes' seeds each time."""
        if self.environment is None:
            return None
        from stitchrl.rollout import rollout  # Gymnasium is imported only where there is an environment

        environment, every, before = self.environment, self.evaluate_every_updates, self.log_every_updates

        def play(done: int, state: PyTree) -> dict[str, list[float]]:
            start = max(0, (done - 1) // before * before)  # of the chunk that ends at `done`
            if done // every == start // every and done != self.updates:
                return {}
            returns = []
            for k, algorithm in enumerate(algorithms):
                member = jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), state)
                inner = algorithm.policy(member.algorithm) if member.average is None else member.average
                found = rollout(unscaled_policy(inner, scaling), environment, episodes=self.evaluation_episodes, seed=0)
                returns.append(float(found.mean))
            return {"online/return": returns}

        return play


@contextmanager
def _tracked(tracker: Tracker, config: dict[str, Any], members: list[str]) -> Iterator[LoopMonitor]:
    """A monitor that feeds a tracker, opened and closed around a run."""
    safe = guarded(tracker)
    safe.start(config)
    try:
        yield lambda done, total, metrics: safe.log(done, metrics, members)
    finally:
        safe.finish()


def _named(function: Any) -> str:
    """How a stop rule or an environment is told from another: settings and all, or by where it is defined."""
    if dataclasses.is_dataclass(function) and not isinstance(function, type):
        return repr(function)
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, float]]:
    return [dict(zip(grid, map(float, point), strict=True)) for point in itertools.product(*grid.values())]


def _with_settings(algorithm: Algorithm, point: Mapping[str, Any]) -> Algorithm:
    return dataclasses.replace(algorithm, **point)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)


def _run(
    algorithm: Algorithm,
    seeds: tuple[int, ...],
    trained: Trained,
    scaling: Scaling,
    flags: list[RedFlag],
    members: Sequence[int],
) -> Run:
    history = [row | {"member": row["member"] - members[0]} for row in trained.history if row["member"] in members]
    states = [trained.member(k) for k in members]
    own = tuple(dataclasses.replace(f, member=f.member - members[0]) for f in flags if f.member in members)
    return Run(algorithm, seeds, states, scaling, history, trained.updates, trained.stopped, own)


def _grid(
    algorithms: list[Algorithm],
    points: list[dict[str, float]],
    seeds: tuple[int, ...],
    trained: Trained,
    scaling: Scaling,
    flags: list[RedFlag],
) -> Grid:
    n = len(seeds)
    runs = [_run(a, seeds, trained, scaling, flags, range(i * n, (i + 1) * n)) for i, a in enumerate(algorithms)]
    return Grid(points, runs)


def _on_terminal() -> bool:
    return sys.stderr.isatty()
