"""What `fit` and `fit_grid` share: their arguments, checked, and the one way from these to trained members."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import Sampling, UniformSampling
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import Feed, StreamSource, shuffled_source, transition_source
from stitchrl.nn.units import unscaled_policy
from stitchrl.progress import LoopMonitor, ProgressDisplay
from stitchrl.training.flags import FlagMonitor, RedFlag, red_flags
from stitchrl.training.loop import StopRule, Trained, train
from stitchrl.training.program import MemberState
from stitchrl.training.run import CHECKPOINT, METRICS, claim, spec_of, write_metrics
from stitchrl.training.stopping import EarlyStop
from stitchrl.training.trackers.base import Tracker, guarded

__all__ = ["Environment", "Job"]

SAMPLING = ("uniform", "shuffled")
"""Names for `UniformSampling` with replacement, and without."""
Environment = str | Callable[[], Any]
"""Id of a Gymnasium environment, or a function that makes one."""


@dataclasses.dataclass(frozen=True)
class Job:
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
    ) -> tuple[Trained, Scaling, list[RedFlag]]:
        """Train the members, one an entry of `algorithms` and `labels`; `spare` as of `train`."""
        log = self.log
        if log.observation_table.ndim != 2:
            raise ConfigurationError(
                f"{algorithm.name} learns from vectors; this log's observations are images of shape "
                f"{log.observation_table.shape[1:]}. Encode them first: no image encoder is built yet."
            )
        spec = spec_of(log)
        kind = "continuous" if log.num_actions is None else "discrete"
        if kind not in algorithm.actions:
            raise ConfigurationError(
                f"{algorithm.name} learns from {' or '.join(algorithm.actions)} actions; this log's are {kind}."
            )
        scaling = Scaling.of(log, standardize=self.standardize, reward_scale=self.reward_scale)
        scaling = dataclasses.replace(scaling, reward_shift=float(self.reward_shift))
        config = self._config(algorithm, spec) | extra
        if self.out is not None:
            scaling = claim(Path(self.out), config, scaling, dataclasses.asdict(type(algorithm)()))
        bounds = self._bounds(algorithms)
        with ExitStack() as stack:
            monitors, flags = self._watching(stack, algorithm, config, labels, bounds)
            trained = train(
                algorithms,
                self._source(algorithm.prepare(log), scaling),
                spec,
                updates=self.updates,
                seeds=[label["seed"] for label in labels],
                batch_size=self.batch_size,
                log_every_updates=self.log_every_updates,
                save_every_updates=self.save_every_updates,
                monitors=monitors,
                evaluate=self._online(algorithms, scaling),
                stop=self.stop,
                spare=spare,
                labels=_names(labels),
                **self._saving(algorithm, config, scaling, labels, bounds),
            )
        # A resumed or finished run has a history that no monitor saw.
        return trained, scaling, flags.flags + red_flags(trained.history, reported=flags.flags, **bounds)

    def _saving(
        self,
        algorithm: Algorithm,
        config: dict[str, Any],
        scaling: Scaling,
        labels: list[dict[str, Any]],
        bounds: dict[str, Any],
    ) -> dict[str, Any]:
        """The arguments of `train` that write to the run directory."""
        if self.out is None:
            return {}
        folder = Path(self.out)
        about = {
            "bounds": bounds,
            "config": config | {"scaling": scaling.to_dict()},
            "schema": self.log.schema.to_dict(),
        }
        return {
            "checkpoint": folder / CHECKPOINT,
            "meta": about,
            "on_save": lambda history: write_metrics(folder / METRICS, history, labels),
        }

    def _watching(
        self,
        stack: ExitStack,
        algorithm: Algorithm,
        config: dict[str, Any],
        labels: list[dict[str, Any]],
        bounds: dict[str, Any],
    ) -> tuple[list[LoopMonitor], FlagMonitor]:
        """What looks on between chunks, and the one that gathers red flags. The stack closes bars and trackers."""
        names = _names(labels)
        shown = sys.stderr.isatty() if self.progress is None else self.progress
        display = stack.enter_context(ProgressDisplay(enabled=shown))
        flags = FlagMonitor(
            lambda flag: display.say(f"red flag, {names[flag.member]}, update {flag.update:,}: {flag.sentence}"),
            **bounds,
        )
        bar = display.track(f"{algorithm.name} x {len(labels)}", note_metric=("loss/critic", "loss/actor"))
        tracked = [stack.enter_context(_tracked(tracker, config, names)) for tracker in self.trackers]
        return [bar, flags, *self.callbacks, *tracked], flags

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
            "sampling": self._sampling_name,
            "stop": None if self.stop is None else _named(self.stop),
            "log": self.log.content_hash if self.out is not None else "",
            "meaning": self.log.schema.meaning(),
            "observation_size": spec.observation_size,
            "num_actions": spec.num_actions,
            "action_size": spec.action_size,
        }
        # What came later is named only where it is used: older runs did not say.
        if self.n_steps > 1:
            content["n_steps"] = self.n_steps
        if self.reward_shift:
            content["reward_shift"] = self.reward_shift
        if self.environment is not None:
            content["environment"] = [
                self.environment if isinstance(self.environment, str) else _named(self.environment),
                self.evaluate_every_updates,
                self.evaluation_episodes,
            ]
        return dict(json.loads(json.dumps(content)))

    def _bounds(self, algorithms: list[Algorithm]) -> dict[str, Any]:
        """What the log's rewards allow a value to be: by the largest discount, or by the longest of whole episodes."""
        ends = (float(self.log.reward.min()), float(self.log.reward.max()))
        reward = max(abs(end + self.reward_shift) for end in ends) * self.reward_scale
        gamma = max(getattr(algorithm, "gamma", 1.0) for algorithm in algorithms)
        steps = float("inf") if self.log.truncated.any() else float(self.log.episode_lengths.max(initial=0))
        longest = min(1.0 / (1.0 - gamma) if gamma < 1.0 else float("inf"), steps)
        value = reward * longest if np.isfinite(longest) else None
        return {"gamma": gamma, "reward_bound": reward, "value_bound": value}

    @property
    def _sampling_name(self) -> str:
        """What tells one way of drawing from another; a streamed log and one in memory fed the same rows are alike."""
        if isinstance(self.sampling, str):
            return "shuffled" if self.stream else self.sampling
        return f"shuffled {self.sampling!r}" if self.stream else repr(self.sampling)

    def _source(self, log: Dataset, scaling: Scaling) -> Feed:
        rule = self.sampling if isinstance(self.sampling, Sampling) else UniformSampling()
        make = StreamSource.of if self.stream else shuffled_source if self.sampling == "shuffled" else transition_source
        return make(log, scaling, sampling=rule, n_steps=self.n_steps)

    def _online(
        self, algorithms: list[Algorithm], scaling: Scaling
    ) -> Callable[[int, Callable[[int], MemberState], Collection[int]], dict[str, list[float]]] | None:
        """Play every member's policy in the environment when due: the same episodes' seeds each time."""
        if self.environment is None:
            return None
        from stitchrl.rollout import rollout  # Gymnasium is imported only where there is an environment

        environment, every, before = self.environment, self.evaluate_every_updates, self.log_every_updates

        def play(done: int, state: Callable[[int], MemberState], left_out: Collection[int]) -> dict[str, list[float]]:
            start = max(0, (done - 1) // before * before)  # of the chunk that ends at `done`
            if done // every == start // every and done != self.updates:
                return {}
            returns = []
            for k, algorithm in enumerate(algorithms):
                if k in left_out:
                    returns.append(float("nan"))
                    continue
                member = jax.tree.map(np.array, state(k))
                inner = algorithm.policy(member.algorithm) if member.average is None else member.average
                found = rollout(unscaled_policy(inner, scaling), environment, episodes=self.evaluation_episodes, seed=0)
                returns.append(float(found.mean))
            return {"online/return": returns}

        return play


def _names(labels: list[dict[str, Any]]) -> list[str]:
    """What messages call the members."""
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
    """How a stop rule or an environment is told from another: settings and all, or by where it is defined."""
    if dataclasses.is_dataclass(function) and not isinstance(function, type):
        return repr(function)
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
