"""`st.fit`, `st.fit_grid` and `st.load`: train an algorithm on a log, many seeds and settings at once, resumable."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.settings import revived_settings
from stitchrl.data.dataset import Dataset
from stitchrl.data.preferences import Preferences
from stitchrl.data.sampling import Sampling
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import Guard
from stitchrl.errors import CheckpointError, ConfigurationError, StitchRLError
from stitchrl.messages import printable
from stitchrl.nn.saving import load_tree_file
from stitchrl.progress import LoopMonitor
from stitchrl.training.checkpoint import load_checkpoint, read_meta
from stitchrl.training.comparing import learned_from
from stitchrl.training.flags import red_flags
from stitchrl.training.job import Environment, Job, TrainedMembers
from stitchrl.training.loop import Trained
from stitchrl.training.probe import AnyProbe
from stitchrl.training.program import initial_state
from stitchrl.training.run import CHECKPOINT, CONFIG, GIVEN, Grid, Run, upgraded
from stitchrl.training.stopping import StopRule
from stitchrl.training.trackers.base import Tracker
from stitchrl.training.value_limits import ValueLimits

__all__ = ["fit", "fit_grid", "fit_members", "load", "run_of"]


def fit(
    algorithm: Algorithm,
    log: Dataset | Preferences,
    *,
    updates: int,
    seeds: int | Sequence[int] = 1,
    batch_size: int = 256,
    out: str | os.PathLike[str] | None = None,
    save_every_updates: int = 1000,
    log_every_updates: int = 100,
    callbacks: Sequence[LoopMonitor] = (),
    trackers: Sequence[Tracker] = (),
    standardize: bool | str = True,
    reward_scale: float = 1.0,
    reward_shift: float = 0.0,
    sampling: str | Sampling = "uniform",
    n_steps: int = 1,
    stream: bool = False,
    stop: StopRule | None = None,
    environment: Environment | None = None,
    evaluate_every_updates: int = 5000,
    evaluation_episodes: int = 10,
    progress: bool | None = None,
    probe: AnyProbe | None = None,
) -> Run:
    """Train an algorithm on a log.

    Args:
        algorithm: a settings dataclass such as `st.IQL(expectile=0.8)`.
        log: the training part; for `st.DPO`, preferences.
        updates: gradient updates of each seed; 0 is legal, and algorithms in closed form make none. If `out` holds a run of
            fewer updates, it is trained further, with exactly the result of one long run (on an accelerator up to rounding,
            where the shorter run ended between two multiples of `log_every_updates`).
        seeds: n means seeds 0 to n - 1; or the seeds. All train in one program; each draws the same rows as it would alone.
        batch_size: transitions in a batch, or pairs of preferences; at least 1.
        out: directory of the run; None writes nothing. A run found there continues if its configuration and log are
            the same, is returned if it has as many updates, and is refused with the difference named if not.
        save_every_updates, log_every_updates: in gradient updates, at least 1.
        callbacks: called after every logged chunk with (updates done, updates, metric -> one mean per member; NaN for a
            member of a grid that diverged).
        trackers: where metrics go besides `out`: `st.TensorBoardTracker(folder)`, `st.WandbTracker(project)`,
            `st.MLflowTracker(experiment)`, `st.TrackioTracker(project)`, or any object with their three methods. One
            that fails is left out with a warning; training goes on.
        standardize: scale observations by their mean and standard deviation over the log, or, "min-max", from their
            range in it to [-1, 1]; saved with the policy.
        reward_scale: factor on rewards while learning, above 0; claimed values are divided by it again.
        reward_shift: added to every reward while learning, before that factor, in the log's units. Where episodes end it
            changes which policy is best, since each further step then costs or pays this much. `Run.values` are None then.
            Rules that rank episodes (`FilteredBC`, sampling by return) use the log's own rewards.
        sampling: "uniform" draws rows with replacement, separately for each seed; "shuffled" visits every row once per pass,
            in an order that all seeds share; or a rule: `st.EpisodeSampling()`, `st.StratifiedSampling("source")`,
            `st.WeightedSampling("weight")`, `st.TopFractionSampling(0.1)`.
        n_steps: rewards summed before the bootstrap, at least 1; within an episode only. Above 1 the target follows the
            logged actions in between, which is biased for a policy that differs from them.
        stream: read batches from the log's arrays while training, instead of holding them on the device; for logs
            larger than memory. It implies "shuffled", and gives the same numbers.
        stop: a rule such as `st.EarlyStop("loss/actor", patience_updates=5000)`.
        environment: OPTIONAL, and only where one exists: id of a Gymnasium environment, or a function that makes one.
            The mode of every seed's policy is played in it and logged as online/return. Nothing else uses it.
        evaluate_every_updates, evaluation_episodes: of playing in `environment`: how often (at the end of the first logged
            chunk that reaches each multiple), and for how many episodes.
        progress: show a bar; None does so when standard error is a terminal.
        probe: measures the state on fixed rows, in the compiled program, at the end of each logged chunk: `st.Probe(held_out)`
            gives the metrics probe/... and held_out/... that red flags and `st.diagnose` read. It does not change what is
            learned.

    Raises:
        ConfigurationError: a number outside its range, or an algorithm that does not fit the log.
        RunDirectoryError: `out` cannot be written or holds another run.
        CheckpointError: the checkpoint found there is damaged.
        DivergenceError: a loss is no longer finite; the last good checkpoint stays.
    """
    learned = _learned_from(algorithm, log, "st.fit")
    numbers = _seeds(seeds)
    job = Job(
        **learned,
        updates=updates,
        seeds=numbers,
        batch_size=batch_size,
        out=out,
        save_every_updates=save_every_updates,
        log_every_updates=log_every_updates,
        callbacks=callbacks,
        trackers=trackers,
        standardize=standardize,
        reward_scale=reward_scale,
        reward_shift=reward_shift,
        sampling=sampling,
        n_steps=n_steps,
        stream=stream,
        stop=stop,
        environment=environment,
        evaluate_every_updates=evaluate_every_updates,
        evaluation_episodes=evaluation_episodes,
        progress=progress,
        probe=probe,
    )
    result = job.train(algorithm, [algorithm] * len(numbers), [{"seed": s} for s in numbers], {})
    return _run(algorithm, numbers, result, range(len(numbers)))


def fit_grid(
    algorithm: Algorithm,
    log: Dataset | Preferences,
    grid: Mapping[str, Sequence[Any]],
    *,
    updates: int,
    seeds: int | Sequence[int] = 1,
    **settings: Any,
) -> Grid:
    """Train every combination of some number settings, with every seed, in one program: nothing compiles twice.

    A member that diverges is left out with a StitchRLWarning, and named in its run's `diverged`; the others go on.

    Args:
        algorithm: its other settings hold for all.
        log: the training part.
        grid: setting -> values, e.g. `{"expectile": [0.7, 0.9], "learning_rate": [3e-4, 1e-3]}`.
        updates, seeds: of each combination.
        settings: the other arguments of `fit`.

    Raises:
        ConfigurationError: a setting that is none, has no values, or changes the program (sizes, counts).
        DivergenceError: every member diverged.
        Others as `fit`.
    """
    learned = _learned_from(algorithm, log, "st.fit_grid")
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
    job = Job(**learned, updates=updates, seeds=numbers, **settings)
    result = job.train(
        algorithm,
        [a for a in algorithms for _ in numbers],
        [{"seed": s} | point for point in points for s in numbers],
        {"grid": [[name, list(map(float, values))] for name, values in grid.items()]},
        spare=True,
    )
    return _grid(algorithms, points, numbers, result)


def fit_members(
    algorithms: Sequence[Algorithm],
    log: Dataset,
    *,
    updates: int,
    seeds: Sequence[int],
    named_by: Sequence[str] = (),
    begin: TrainedMembers | None = None,
    **settings: Any,
) -> TrainedMembers:
    """Train members that may differ in their number settings, in one program; `begin` lets them go on from where they were.

    A member that diverges is left out as by `fit_grid`. `run_of` gives the run of one of them.

    Args:
        algorithms: one per member, equal but for their number settings.
        log: the training part.
        updates: of each member in all, those already made by `begin` included.
        seeds: one per member.
        named_by: settings by which messages and tables tell the members apart.
        begin: what the very same members learned before on this log (`TrainedMembers.of_members`); None begins anew. A
            checkpoint in the directory `out` takes its place.
        settings: the other arguments of `fit`.

    Raises:
        DivergenceError: every member diverged.
        Others as `fit`.
    """
    labels = [
        {"seed": seed} | {name: getattr(algorithm, name) for name in named_by}
        for algorithm, seed in zip(algorithms, seeds, strict=True)
    ]
    job = Job(log, updates, tuple(seeds), **settings)
    return job.train(algorithms[0], list(algorithms), labels, {"members": labels}, spare=True, begin=begin)


def run_of(algorithm: Algorithm, seed: int, trained: TrainedMembers, member: int) -> Run:
    """The run of one of several members. One that diverged has no policy, and `Run.diverged` says at which update."""
    return _run(algorithm, (seed,), trained, [member])


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
        if "members" in config:
            raise CheckpointError(
                f"The folder {str(where)!r} holds candidates of a race while they learn, which is not a run. The policy that won "
                "is in the folder `policy` of the race: load it with `st.load_policy`."
            )
        if config["algorithm"] not in algorithms:
            raise CheckpointError(
                f"The run in {str(where)!r} is of the algorithm {config['algorithm']!r}, which is not known here. If it is your "
                f"own, give its class: `st.load({str(where)!r}, algorithms=[{config['algorithm']}])`."
            )
        scaling = Scaling.from_dict(config["scaling"])
        kind: Any = algorithms[config["algorithm"]]
        algorithm = kind(**revived_settings(config["settings"], kind))
        seeds = tuple(config["seeds"])
        spec = Spec.from_dict(config["spec"])
        grid = dict(config.get("grid", []))
        points = _points(grid)
        chosen = [_with_settings(algorithm, point) for point in points]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"There is no run to load in {str(where)!r}: {error!r}.") from None
    members = [a for a in chosen for _ in seeds]
    if read_meta(where / CHECKPOINT).get("given") and not (where / GIVEN).exists():
        raise CheckpointError(
            f"The run in {str(where)!r} lacks the file {GIVEN}, which its policy needs. Train it again in another directory."
        )
    given = load_tree_file(where / GIVEN) if (where / GIVEN).exists() else None
    like = initial_state(members, spec, seeds * len(points), given, shapes_only=True)
    state, history, meta = load_checkpoint(where / CHECKPOINT, like)
    trained = Trained(state, history, meta["update"], meta.get("stopped", ""), meta["diverged"])
    limits = ValueLimits.from_dict(meta["bounds"]) if "bounds" in meta else None
    flags = [] if limits is None else red_flags(history, limits)
    kept = None if limits is None or "scale" not in meta["bounds"] else limits  # older versions kept less
    found = TrainedMembers(trained, scaling, flags, given, *_origin(where / CHECKPOINT, meta), kept)
    if grid:
        return _grid(chosen, points, seeds, found)
    return _run(algorithm, seeds, found, range(len(seeds)))


def _origin(path: Path, meta: Mapping[str, Any]) -> tuple[Schema | None, Guard | None]:
    """The schema and the observation range of the log, from a checkpoint; None where an older version did not store them."""
    schema, guard = meta.get("schema"), meta.get("guard")
    try:
        return None if schema is None else Schema.from_dict(schema), None if guard is None else Guard.from_dict(guard)
    except (StitchRLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The schema or the range of observations in the checkpoint {path} is damaged: {error!r}. Delete it to start over."
        ) from None


def _learned_from(algorithm: object, log: object, function: str) -> dict[str, Any]:
    """The result of `learned_from`. Raises ConfigurationError as it does, and where `algorithm` is not an Algorithm."""
    if not isinstance(algorithm, Algorithm):
        raise ConfigurationError(
            f"`{function}` takes an algorithm with its settings, such as st.IQL(); got {printable(repr(algorithm))}."
        )
    return learned_from(algorithm, log, function)


def _points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, float]]:
    return [dict(zip(grid, map(float, point), strict=True)) for point in itertools.product(*grid.values())]


def _with_settings(algorithm: Algorithm, point: Mapping[str, Any]) -> Algorithm:
    return dataclasses.replace(algorithm, **point)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)


def _run(algorithm: Algorithm, seeds: tuple[int, ...], outcome: TrainedMembers, members: Sequence[int]) -> Run:
    trained = outcome.trained
    left = [k for k in members if k not in trained.diverged]
    place = {member: i for i, member in enumerate(left)}
    own = tuple(dataclasses.replace(flag, member=place[flag.member]) for flag in outcome.flags if flag.member in place)
    return Run(
        algorithm,
        tuple(seeds[k - members[0]] for k in left),
        [trained.member(k) for k in left],
        outcome.scaling,
        trained.history.of_members(left),
        trained.updates,
        trained.stopped,
        own,
        {seeds[k - members[0]]: trained.diverged[k] for k in members if k in trained.diverged},
        outcome.given,
        outcome.schema,
        outcome.guard,
        outcome.limits,
    )


def _grid(
    algorithms: list[Algorithm], points: list[dict[str, float]], seeds: tuple[int, ...], outcome: TrainedMembers
) -> Grid:
    n = len(seeds)
    if len({getattr(one, "gamma", None) for one in algorithms}) > 1:
        outcome = outcome._replace(limits=None)  # they are those of the largest gamma
    return Grid(points, [_run(a, seeds, outcome, range(i * n, (i + 1) * n)) for i, a in enumerate(algorithms)])
