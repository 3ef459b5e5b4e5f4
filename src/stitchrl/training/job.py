"""What `fit` and `fit_grid` share: their arguments, checked, and the training of members by them."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Prepared, Spec
from stitchrl.algorithms.settings import default_settings
from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.data.preferences import Preferences
from stitchrl.data.sampling import Sampling, drawing_rule, drawn_part
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import ANSWER, Guard
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import Feed, StreamSource, sequence_source, shuffled_source, transition_source
from stitchrl.feeds.pairs import pair_source, shuffled_pairs
from stitchrl.nn.saving import load_tree_file, save_tree_file
from stitchrl.progress import LoopMonitor, ProgressDisplay, shown_display
from stitchrl.storage.learned_from import EPISODES, write_learned_from
from stitchrl.training.flags import FlagMonitor, RedFlag, red_flags
from stitchrl.training.loop import Play, Trained, train
from stitchrl.training.metrics_table import MetricsTable
from stitchrl.training.probe import AnyProbe
from stitchrl.training.run import CHECKPOINT, GIVEN, METRICS, claim
from stitchrl.training.stopping import EarlyStop, StopRule
from stitchrl.training.suitable import ASKED, check_suits
from stitchrl.training.trackers.base import Tracker, guarded
from stitchrl.training.value_limits import ValueLimits
from stitchrl.types import PyTree

__all__ = ["Environment", "Job", "TrainedMembers"]

SAMPLING = ("uniform", "shuffled")
"""Names for `UniformSampling` with replacement, and without."""
ROWS_OF_A_RANGE = 100_000
"""The most rows of a log that are read for the range of its observations, so that a fit need not wait for it."""
Environment = str | Callable[[], Any]
"""Id of a Gymnasium environment, or a function that makes one."""


class TrainedMembers(NamedTuple):
    """The result of `Job.train`: trained members, their scaling, red flags, what `prepare` gave, and of the log the schema, the
    range of observations and the limits of values."""

    trained: Trained
    scaling: Scaling
    flags: list[RedFlag]
    given: PyTree
    schema: Schema | None = None
    guard: Guard | None = None
    limits: ValueLimits | None = None

    def of_members(self, members: Sequence[int]) -> TrainedMembers:
        """The result for some members alone, none of which diverged, for training these further."""
        place = {member: i for i, member in enumerate(members)}
        flags = [dataclasses.replace(f, member=place[f.member]) for f in self.flags if f.member in place]
        return self._replace(trained=self.trained.of_members(members), flags=flags)


@dataclasses.dataclass(frozen=True)
class Job:
    """The arguments of `fit` but for the algorithm, checked.

    With `preferences`, `log` is their segments.
    """

    log: Dataset
    updates: int
    seeds: tuple[int, ...]
    batch_size: int = 256
    out: str | os.PathLike[str] | None = None
    save_every_updates: int = 1000
    log_every_updates: int = 100
    callbacks: Sequence[LoopMonitor] = ()
    trackers: Sequence[Tracker] = ()
    standardize: bool | str = True
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    sampling: str | Sampling = "uniform"
    n_steps: int = 1
    stream: bool = False
    stop: StopRule | None = None
    environment: Environment | None = None
    evaluate_every_updates: int = 5000
    evaluation_episodes: int = 10
    progress: bool | None = None
    probe: AnyProbe | None = None
    preferences: Preferences | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("updates", self.updates, 0),
            ("batch_size", self.batch_size, 1),
            ("n_steps", self.n_steps, 1),
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
        if not isinstance(self.reward_shift, int | float) or not np.isfinite(self.reward_shift):
            raise ConfigurationError(f"`reward_shift` of fit must be a finite number; got {self.reward_shift!r}.")
        if isinstance(self.stop, EarlyStop) and self.stop.metric.startswith("online/") and self.environment is None:
            raise ConfigurationError(
                f"EarlyStop watches {self.stop.metric!r}, which only `environment` of fit makes; got none."
            )
        if self.standardize not in (True, False, "min-max"):
            raise ConfigurationError(
                f'`standardize` of fit must be True, False or "min-max"; got {self.standardize!r}.'
            )
        if self.probe is not None and not (hasattr(self.probe, "measure") and hasattr(self.probe, "arrays")):
            raise ConfigurationError(
                f"`probe` of fit must be a probe, such as st.Probe(valid) of held-out episodes; got {self.probe!r:.60}."
            )
        if self.sampling not in SAMPLING and not isinstance(self.sampling, Sampling):
            raise ConfigurationError(
                f"`sampling` of fit must be {', '.join(map(repr, SAMPLING))} or a rule such as st.EpisodeSampling(); got "
                f"{self.sampling!r}."
            )

    def train(
        self,
        algorithm: Algorithm,
        algorithms: list[Algorithm],
        labels: list[dict[str, Any]],
        extra: dict[str, Any],
        *,
        spare: bool = False,
        begin: TrainedMembers | None = None,
    ) -> TrainedMembers:
        """Train the members, one for each entry of `algorithms` and `labels`; `spare` is as in `loop.train`.

        They go on from `begin`, the result of the same members on the same log, if it is given and `out` holds no checkpoint.
        """
        log = self.log
        spec = Spec.of(log)
        asked = {name: getattr(self, name) for name in ASKED} | {"seeds": len(self.seeds)}
        check_suits(algorithm, log, self.preferences, asked)
        rule = drawing_rule(algorithm.sampling, self.sampling)
        # The scaling is fitted to the rows that are learned from.
        seen = drawn_part(log, rule)
        scaling = Scaling.of(seen, standardize=self.standardize, reward_scale=self.reward_scale)
        scaling = dataclasses.replace(scaling, reward_shift=float(self.reward_shift))
        config = self._config(algorithm, spec) | extra
        if self.out is not None:
            scaling = claim(Path(self.out), config, scaling, default_settings(type(algorithm)))
            # Before the first checkpoint, the files there may come from an attempt on another log.
            if not all((Path(self.out) / name).exists() for name in (EPISODES, CHECKPOINT)):
                write_learned_from(Path(self.out), EpisodeMemory.of(log).arrays())
        with ProgressDisplay(enabled=self._shown):
            prepared = self._prepared(algorithm, scaling, None if begin is None else begin.given)
            given = prepared.given
            for remark in algorithm.remarks(given):
                shown_display().say(f"{algorithm.name}: {remark}", style="")
        limits = ValueLimits.of_algorithms(self.log, algorithms, scale=self.reward_scale, shift=self.reward_shift)
        guard = range_of(log)
        with ExitStack() as stack:
            table = None if self.out is None else stack.enter_context(MetricsTable(Path(self.out) / METRICS, labels))
            monitors, flags = self._watching(stack, algorithm, config, labels, limits)
            trained = train(
                algorithms,
                self._source(algorithm, prepared, scaling, rule),
                spec,
                updates=self.updates,
                seeds=[label["seed"] for label in labels],
                given=given,
                batch_size=self.batch_size,
                log_every_updates=self.log_every_updates,
                save_every_updates=self.save_every_updates,
                monitors=monitors,
                evaluate=self._online(algorithms, scaling, given),
                evaluate_every_updates=self.evaluate_every_updates,
                stop=self.stop,
                spare=spare,
                labels=_names(labels),
                measure=None if self.probe is None else self.probe.measure,
                probed=self._probed(prepared, scaling),
                begin=None if begin is None else begin.trained,
                **self._saving(config, scaling, limits, table, given is not None, guard),
            )
            if table is not None:
                table.complete(trained.history)
        # A resumed or finished run has a history that no monitor saw.
        found = flags.flags + red_flags(trained.history, limits, reported=flags.flags)
        return TrainedMembers(trained, scaling, found, given, self._schema, guard, limits)

    @property
    def _schema(self) -> Schema:
        """The schema that policies keep: without the role of a mask where the log no longer has the one that its schema names."""
        schema = self.log.schema
        if self.log.action_mask is not None or "action_mask" not in schema.columns:
            return schema
        return dataclasses.replace(
            schema, columns={role: column for role, column in schema.columns.items() if role != "action_mask"}
        )

    def _prepared(self, algorithm: Algorithm, scaling: Scaling, known: PyTree = None) -> Prepared:
        """The result of `prepare`, its `given` on the device and saved in the run directory. A run that goes on uses the `given`
        that it began with: from its directory, or `known` where it began elsewhere."""
        key = jax.random.key(0)
        file = None if self.out is None else Path(self.out) / GIVEN
        # Before the first checkpoint, the file there comes from an attempt that may have had other settings.
        if file is not None and file.exists() and (file.parent / CHECKPOINT).exists():
            return algorithm.prepare_again(self.log, scaling, load_tree_file(file), key=key)
        if known is None:
            prepared = algorithm.prepare(self.log, scaling, key=key)
        else:
            prepared = algorithm.prepare_again(self.log, scaling, known, key=key)
        given = jax.tree.map(jnp.asarray, prepared.given)
        if file is not None and given is not None:
            save_tree_file(file, given)
        return prepared._replace(given=given)

    def _probed(self, prepared: Prepared, scaling: Scaling) -> PyTree:
        """The arrays of the probe, on the device; None without one."""
        if self.probe is None:
            return None
        return jax.tree.map(jnp.asarray, self.probe.arrays(prepared.log, scaling))

    def _saving(
        self,
        config: dict[str, Any],
        scaling: Scaling,
        limits: ValueLimits,
        table: MetricsTable | None,
        has_given: bool,
        guard: Guard | None,
    ) -> dict[str, Any]:
        """The arguments of `train` that write to the run directory."""
        if self.out is None or table is None:
            return {}
        folder = Path(self.out)
        about = {
            "given": has_given,
            "bounds": limits.to_dict(),
            "config": config | {"scaling": scaling.to_dict()},
            "schema": self._schema.to_dict(),
            "guard": None if guard is None else guard.to_dict(),
        }
        return {
            "checkpoint": folder / CHECKPOINT,
            "meta": about,
            "on_save": table.save,
        }

    def _watching(
        self,
        stack: ExitStack,
        algorithm: Algorithm,
        config: dict[str, Any],
        labels: list[dict[str, Any]],
        limits: ValueLimits,
    ) -> tuple[list[LoopMonitor], FlagMonitor]:
        """The monitors that are called between chunks, and the one of them that gathers red flags. The stack closes them."""
        names = _names(labels)
        display = stack.enter_context(ProgressDisplay(enabled=self._shown))
        flags = FlagMonitor(
            lambda flag: shown_display().say(
                f"red flag of {algorithm.name}, {names[flag.member]}, update {flag.update:,}: {flag.sentence}"
            ),
            limits,
        )
        bar = display.track(f"{algorithm.name} x {len(labels)}", note_metric=("loss/critic", "loss/actor"))
        tracked = [stack.enter_context(_tracked(tracker, config, names)) for tracker in self.trackers]
        return [bar, flags, *self.callbacks, *tracked], flags

    @property
    def _shown(self) -> bool:
        """Whether progress is shown: as asked, else where standard error is a terminal."""
        return sys.stderr.isatty() if self.progress is None else bool(self.progress)

    def _config(self, algorithm: Algorithm, spec: Spec) -> dict[str, Any]:
        """The configuration that identifies a run."""
        content = {
            "algorithm": algorithm.name,
            "settings": dataclasses.asdict(algorithm),
            "seeds": self.seeds,
            "batch_size": self.batch_size,
            "log_every_updates": self.log_every_updates,
            "standardize": self.standardize,
            "reward_scale": self.reward_scale,
            "sampling": self._sampling_name,
            "stop": None if self.stop is None else _named(self.stop),
            "log": self._content_hash if self.out is not None else "",
            "meaning": self.log.schema.meaning(),
            "spec": spec.to_dict(),
        }
        # Newer keys are left out at their defaults, so that older runs still match.
        if self.n_steps > 1:
            content["n_steps"] = self.n_steps
        if self.log.schema.time_unit is not None:
            content["time_unit"] = self.log.schema.time_unit
        if self.reward_shift:
            content["reward_shift"] = self.reward_shift
        if self.environment is not None:
            content["environment"] = [
                self.environment if isinstance(self.environment, str) else _named(self.environment),
                self.evaluate_every_updates,
                self.evaluation_episodes,
            ]
        return dict(json.loads(json.dumps(content)))

    @property
    def _content_hash(self) -> str:
        """Content hash of the log or of the preferences that are learned from."""
        return (self.log.bare() if self.preferences is None else self.preferences).content_hash

    @property
    def _sampling_name(self) -> str:
        """A name for the way of drawing rows; it is the same for a streamed log and one in memory that give the same rows."""
        if isinstance(self.sampling, str):
            return "shuffled" if self.stream else self.sampling
        return f"shuffled {self.sampling!r}" if self.stream else repr(self.sampling)

    def _source(self, algorithm: Algorithm, prepared: Prepared, scaling: Scaling, rule: Sampling) -> Feed:
        log, columns, length = prepared.log, prepared.columns, algorithm.sequence_length
        if self.preferences is not None:
            make_pairs = shuffled_pairs if self.sampling == "shuffled" else pair_source
            return make_pairs(self.preferences, scaling, columns)
        steps = algorithm.target_steps or self.n_steps
        if self.stream or self.sampling == "shuffled":
            make = StreamSource.of if self.stream else shuffled_source
            return make(log, scaling, columns=columns, sampling=rule, n_steps=steps, length=length or None)
        if length:
            return sequence_source(log, scaling, length, columns=columns, sampling=rule)
        return transition_source(log, scaling, columns=columns, sampling=rule, n_steps=steps)

    def _online(self, algorithms: list[Algorithm], scaling: Scaling, given: PyTree) -> Play | None:
        """The function that plays every member's policy in the environment; None without an environment."""
        if self.environment is None:
            return None
        from stitchrl.training.playing import playing  # Gymnasium is imported only where there is an environment

        return playing(algorithms, self.environment, scaling, given, episodes=self.evaluation_episodes)


def range_of(log: Dataset) -> Guard | None:
    """The range of a log's observations, which reveals observations in other units; None for images. It forbids nothing."""
    if log.observation_table.ndim != 2:
        return None
    return dataclasses.replace(Guard.fit(log, most_rows=ROWS_OF_A_RANGE), on_outside=ANSWER)


def _names(labels: list[dict[str, Any]]) -> list[str]:
    """The names of the members in messages."""
    return [", ".join(f"{name} {value:g}" for name, value in label.items()) for label in labels]


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
    """A text that identifies a stop rule or an environment: its settings, or else where it is defined."""
    if dataclasses.is_dataclass(function) and not isinstance(function, type):
        return repr(function)
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
