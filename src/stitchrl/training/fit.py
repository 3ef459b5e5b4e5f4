"""`st.fit` and `st.load`: train an algorithm on a log, several seeds at once, resumable."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pyarrow as pa
import pyarrow.parquet as pq

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sample import transition_source
from stitchrl.data.transform import Scaling
from stitchrl.errors import CheckpointError, ConfigurationError, RunDirectoryError
from stitchrl.files import make_directory, write_atomic, write_json
from stitchrl.nn.continuous_policy import ContinuousPolicy, RescaledPolicy
from stitchrl.nn.policy import DiscretePolicy, Policy, StandardizedPolicy
from stitchrl.nn.value import ContinuousValue, DiscreteValue, RescaledValue, StandardizedValue
from stitchrl.training.checkpoint import load_checkpoint
from stitchrl.training.logging import LoopMonitor, ProgressDisplay
from stitchrl.training.loop import History, initial_state, train
from stitchrl.types import PyTree

__all__ = ["Run", "fit", "load"]

CONFIG, CHECKPOINT, METRICS = "config.json", "checkpoint.safetensors", "metrics.parquet"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What `fit` gives back.

    Attributes:
        algorithm: with its settings.
        seeds: one member each.
        states: list of final states, one a seed, on scaled observations and rewards.
        scaling: of observations and rewards, fitted on the training log.
        history: metrics, one row a logged chunk and seed.
        updates: gradient updates of each seed.
    """

    algorithm: Algorithm
    seeds: tuple[int, ...]
    states: list[PyTree]
    scaling: Scaling
    history: History
    updates: int

    @cached_property
    def policies(self) -> list[DiscretePolicy | RescaledPolicy]:
        """One a seed, as trained, on raw observations and in logged units of action."""
        return [unscaled_policy(self.algorithm.policy(state), self.scaling) for state in self.states]

    @property
    def policy(self) -> DiscretePolicy | RescaledPolicy:
        """The first seed's."""
        return self.policies[0]

    @cached_property
    def values(self) -> list[DiscreteValue | ContinuousValue | None]:
        """One a seed, on raw observations and in the log's reward units; None where the algorithm has no critic."""
        return [unscaled_value(self.algorithm.value(state), self.scaling) for state in self.states]


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
    standardize: bool = True,
    reward_scale: float = 1.0,
    progress: bool | None = None,
) -> Run:
    """Train an algorithm on a log.

    Args:
        algorithm: a settings dataclass such as `st.IQL(expectile=0.8)`.
        log: the training part.
        updates: gradient updates of each seed; 0 is legal.
        seeds: n means seeds 0 to n - 1; or the seeds. All train in one program; each the same as alone.
        batch_size: transitions a batch, at least 1.
        out: directory of the run; None writes nothing. A run found there continues if its configuration and log are
            the same, is returned if finished, and is refused with the difference named if not.
        save_every_updates, log_every_updates: in gradient updates, at least 1.
        callbacks: called after every logged chunk with (updates done, updates, metric -> one mean a seed).
        standardize: scale observations by their mean and standard deviation over the log; saved with the policy.
        reward_scale: factor on rewards while learning, above 0; claimed values are divided by it again.
        progress: show a bar; None does so when standard error is a terminal.

    Raises:
        ConfigurationError: a number outside its range, or an algorithm that does not fit the log.
        RunDirectoryError: `out` cannot be written or holds another run.
    """
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    for name, value, least in (
        ("updates", updates, 0),
        ("batch_size", batch_size, 1),
        ("save_every_updates", save_every_updates, 1),
        ("log_every_updates", log_every_updates, 1),
        ("seeds", len(numbers), 1),
    ):
        if value < least:
            raise ConfigurationError(f"`{name}` of fit must be at least {least}; got {value}.")
    if not reward_scale > 0:
        raise ConfigurationError(f"`reward_scale` of fit must be above 0; got {reward_scale}.")
    kind = "continuous" if log.num_actions is None else "discrete"
    if kind not in algorithm.actions:
        raise ConfigurationError(
            f"{algorithm.name} learns from {' or '.join(algorithm.actions)} actions; this log's are {kind}."
        )
    scaling = Scaling.of(log, standardize=standardize, reward_scale=reward_scale)
    spec = spec_of(log)
    checkpoint, metrics_file = None, None
    if out is not None:
        folder = Path(out)
        config = {
            "algorithm": algorithm.name,
            "settings": json.loads(json.dumps(dataclasses.asdict(algorithm))),
            "updates": updates,
            "seeds": list(numbers),
            "batch_size": batch_size,
            "log_every_updates": log_every_updates,
            "standardize": standardize,
            "reward_scale": reward_scale,
            "log": log.content_hash,
            "observation_size": log.observation_size,
            "num_actions": log.num_actions,
            "action_size": spec.action_size,
        }
        _claim(folder, config, scaling)
        checkpoint, metrics_file = folder / CHECKPOINT, folder / METRICS
    with ProgressDisplay(enabled=_on_terminal() if progress is None else progress) as display:
        trained = train(
            algorithm,
            transition_source(algorithm.prepare(log), scaling),
            spec,
            updates=updates,
            seeds=numbers,
            batch_size=batch_size,
            log_every_updates=log_every_updates,
            save_every_updates=save_every_updates,
            checkpoint=checkpoint,
            monitors=(display.track(f"{algorithm.name} x {len(numbers)}"), *callbacks),
        )
    if metrics_file is not None:
        write_metrics(metrics_file, trained.history, numbers)
    states = [trained.member(k) for k in range(len(numbers))]
    return Run(algorithm, numbers, states, scaling, trained.history, updates)


def load(folder: str | os.PathLike[str], algorithms: Mapping[str, type[Algorithm]]) -> Run:
    """The run saved in a directory by `fit(..., out=folder)`, as far as its last checkpoint.

    Args:
        folder: the directory.
        algorithms: name -> class, to rebuild the settings from.

    Raises:
        CheckpointError: no run there, damaged, or of an unknown algorithm.
    """
    where = Path(folder)
    try:
        config = json.loads((where / CONFIG).read_text(encoding="utf-8"))
        scaling = Scaling.from_dict(config["scaling"])
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in config["settings"].items()}
        algorithm = algorithms[config["algorithm"]](**settings)
        seeds, spec = tuple(config["seeds"]), Spec(config["observation_size"], config["num_actions"], config["action_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"There is no run to load in {str(where)!r}: {error!r}.") from None
    state, meta = load_checkpoint(where / CHECKPOINT, initial_state(algorithm, spec, seeds, shapes_only=True))
    states = [jax.tree.map(lambda leaf, k=k: leaf[k], state) for k in range(len(seeds))]
    return Run(algorithm, seeds, states, scaling, meta["history"], meta["update"])


def spec_of(log: Dataset) -> Spec:
    """The sizes of a log."""
    return Spec(log.observation_size, log.num_actions, 0 if log.num_actions is not None else log.action.shape[1])


def unscaled_policy(policy: Policy, scaling: Scaling) -> DiscretePolicy | RescaledPolicy:
    """A policy trained on scaled arrays, put before raw observations."""
    mean, std = jnp.asarray(scaling.mean), jnp.asarray(scaling.std)
    if isinstance(policy, DiscretePolicy):
        return StandardizedPolicy(mean, std, policy)
    assert isinstance(policy, ContinuousPolicy)
    center, half_width = jnp.asarray(scaling.action_center), jnp.asarray(scaling.action_half_width)
    return RescaledPolicy(mean, std, center, half_width, policy)


def unscaled_value(
    value: DiscreteValue | ContinuousValue | None, scaling: Scaling
) -> DiscreteValue | ContinuousValue | None:
    """A value function trained on scaled arrays, put back into raw units."""
    if value is None:
        return None
    mean, std = jnp.asarray(scaling.mean), jnp.asarray(scaling.std)
    scale = jnp.asarray(scaling.reward_scale, jnp.float32)
    if isinstance(value, DiscreteValue):
        return StandardizedValue(mean, std, scale, value)
    center, half_width = jnp.asarray(scaling.action_center), jnp.asarray(scaling.action_half_width)
    return RescaledValue(mean, std, center, half_width, scale, value)


def write_metrics(path: Path, history: History, seeds: Sequence[int]) -> None:
    """Metrics as Parquet: update, seed, then one column a metric."""
    rows = [{"update": row["update"], "seed": seeds[row["member"]]} | _metrics(row) for row in history]
    write_atomic(path, lambda beside: pq.write_table(pa.Table.from_pylist(rows), beside))


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("update", "member")}


def _claim(folder: Path, config: dict[str, Any], scaling: Scaling) -> None:
    """Make the run directory, or see that the run in it is this one."""
    make_directory(folder)
    file = folder / CONFIG
    if not file.exists():
        write_json(file, config | {"scaling": scaling.to_dict()})
        return
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise RunDirectoryError(f"{file} is damaged. Choose another directory or delete it.") from None
    for key, value in config.items():
        if found.get(key) != value:
            raise RunDirectoryError(
                f"{str(folder)!r} holds another run: its {key} is {found.get(key)!r}, yours {value!r}. "
                "Choose another directory, or delete that one."
            )


def _on_terminal() -> bool:
    return sys.stderr.isatty()
