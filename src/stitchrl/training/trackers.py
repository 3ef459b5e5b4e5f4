"""Training metrics sent to experiment trackers, each an optional package that is imported when its tracker is made.

A tracker is given plain numbers between chunks of updates. Wrapped by `guarded`, none can stop a training run.

A run resumed after a crash may log updates that it had logged before, with the same values, for resuming is exact.
What becomes of them differs:

    TensorBoard   same folder, same curve: the new points replace the old ones
    W&B           a new run, unless `id=...` and `resume="allow"` are given; updates below the run's last are dropped,
                  so the old points stay (offline, each start is a file of its own)
    MLflow        a new run, starting where training was resumed
    Trackio       a new run, starting where training was resumed
"""

from __future__ import annotations

import contextvars
import importlib
import json
import math
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from stitchrl.errors import ConfigurationError, StitchRLWarning

__all__ = [
    "MLflowTracker",
    "SafeTracker",
    "TensorBoardTracker",
    "Tracker",
    "TrackioTracker",
    "WandbTracker",
    "guarded",
]

MOST_FAILURES = 3
"""Failures in a row after which a guarded tracker is given nothing more: each may have cost a network timeout."""
LONGEST_PARAMETER = 500
"""Characters of a setting's value in MLflow, which refuses longer ones (how much longer depends on the store)."""
MOST_PARAMETERS = 100
"""Settings that MLflow takes in one request."""


@runtime_checkable
class Tracker(Protocol):
    """Where training metrics go. Any object with these three methods is one."""

    def start(self, config: dict[str, Any]) -> None:
        """Open a run; `config` describes it and holds plain values, lists and dicts. Called once, before `log`."""

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        """Take the metrics of one chunk.

        Args:
            update: updates done; larger at every call.
            metrics: name -> one number a member.
            members: a label each, such as "seed 3"; the same at every call.
        """

    def finish(self) -> None:
        """Close the run. Nothing is logged afterwards."""


class TensorBoardTracker:
    """TensorBoard event files: one sub-folder a member, so that seeds are curves of one chart.

    Args:
        folder: where to write them; made if absent. A run found there is continued.
    """

    # Written without the package's SummaryWriter: its thread dies on a full disk, and what waits for it then hangs.

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._package = _package(self, "tensorboardX", "RecordWriter", extra="tensorboard")
        self._summary = importlib.import_module("tensorboardX.summary")
        self._proto = importlib.import_module("tensorboardX.proto.event_pb2")
        self._folder = Path(folder)
        self._config: dict[str, Any] = {}
        self._files: dict[str, Any] = {}

    def start(self, config: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._config = config

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        for member, values in _by_member(metrics, members):
            if member not in self._files:
                self._files[member] = self._open(member, update)
            try:
                for name, value in values.items():
                    self._write(self._files[member], update, summary=self._summary.scalar(name, value))
                self._files[member].flush()
            except Exception:
                del self._files[member]  # it may end in half a record: the next call opens a new one
                raise

    def finish(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _open(self, member: str, update: int) -> Any:
        """A new file, which says that what older files of the member have from this update on is void."""
        folder = self._folder / member
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()  # files are read in the order of their names
        file = self._package.RecordWriter(
            str(folder / f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}")
        )
        self._write(file, update, file_version="brain.Event:2")
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._write(file, update, session_log=start)
        text = f"```json\n{json.dumps(self._config, indent=2, default=str)}\n```"
        self._write(file, update, summary=self._summary.text("config", text))
        return file

    def _write(self, file: Any, update: int, **content: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), step=update, **content)
        file.write(event.SerializeToString())


class WandbTracker:
    """Weights & Biases: one run; metrics are "<metric>/<member>" and "<metric>/mean".

    The package's own environment variables hold, among them WANDB_MODE=offline, which writes files to sync later.

    Args:
        project: its name.
        settings: passed to `wandb.init`, such as `name`, `group`, `entity`, `dir`, `id`, `resume`.
    """

    def __init__(self, project: str, **settings: Any) -> None:
        self._package = _package(self, "wandb", "init", extra="wandb")
        self._settings = {"project": project} | settings
        self._run: Any = None

    def start(self, config: dict[str, Any]) -> None:
        self._run = self._package.init(config=config, **self._settings)

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        values = {f"{name}/mean": _mean(numbers) for name, numbers in metrics.items()}
        for member, own in _by_member(metrics, members):
            values |= {f"{name}/{member}": value for name, value in own.items()}
        self._run.log(values, step=update)

    def finish(self) -> None:
        self._run.finish()


class MLflowTracker:
    """MLflow: one run with the settings and every metric's mean, and below it one run a member.

    Args:
        experiment: its name; made if absent.
        tracking_uri: a server (https://...) or a database (sqlite:///mlflow.db); None takes MLflow's own default
            (MLFLOW_TRACKING_URI, else a store in the working directory).
    """

    def __init__(self, experiment: str, tracking_uri: str | None = None) -> None:
        self._package = _package(self, "mlflow", "MlflowClient", extra="mlflow")
        self._experiment = experiment
        self._client = self._package.MlflowClient(tracking_uri=tracking_uri)
        self._experiment_id = self._parent = ""
        self._children: dict[str, str] = {}

    def start(self, config: dict[str, Any]) -> None:
        found = self._client.get_experiment_by_name(self._experiment)
        self._experiment_id = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        name = str(config.get("algorithm", "training"))
        self._parent = self._client.create_run(self._experiment_id, run_name=name).info.run_id
        parameters = [
            self._package.entities.Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in _flat(config)
        ]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(self._parent, params=parameters[first : first + MOST_PARAMETERS])

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        self._send(self._parent, update, {name: _mean(numbers) for name, numbers in metrics.items()})
        for member, values in _by_member(metrics, members):
            if member not in self._children:
                tags = {"mlflow.parentRunId": self._parent}
                run = self._client.create_run(self._experiment_id, run_name=member, tags=tags)
                self._children[member] = run.info.run_id
            self._send(self._children[member], update, values)

    def finish(self) -> None:
        for run in (*self._children.values(), self._parent):
            self._client.set_terminated(run)
        self._children = {}

    def _send(self, run: str, update: int, values: dict[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        metric = self._package.entities.Metric
        self._client.log_batch(run, metrics=[metric(name, value, now, update) for name, value in values.items()])


class TrackioTracker:
    """Trackio, which keeps a local database: one run a member, in one group, so that seeds are curves of one chart.

    Args:
        project: its name.
    """

    def __init__(self, project: str) -> None:
        self._package = _package(self, "trackio", "init", extra="trackio")
        self._project = project
        self._config: dict[str, Any] = {}
        self._group = ""
        self._runs: dict[str, Any] = {}

    def start(self, config: dict[str, Any]) -> None:
        self._config = config
        self._group = f"{config.get('algorithm', 'training')} {time.strftime('%Y-%m-%d %H:%M:%S')}"

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        for member, values in _by_member(metrics, members):
            if member not in self._runs:
                self._runs[member] = self._open(member)
            self._runs[member].log(values, step=update)

    def finish(self) -> None:
        for run in self._runs.values():
            run.finish()
        self._runs = {}

    def _open(self, member: str) -> Any:
        # `init` finishes the run that is open in its context: one a member needs a context each.
        context = contextvars.copy_context()
        name = f"{self._group}, {member}"
        return context.run(self._package.init, self._project, name=name, group=self._group, config=self._config)


class SafeTracker:
    """Passes everything on to a tracker, and lets nothing that goes wrong in `log` and `finish` reach training.

    The first failure is a warning, later ones are silent; after three in a row the tracker gets no more metrics.
    `start` may raise: what is set up wrongly is best known before training.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._warned = False
        self._failures_in_a_row = 0

    def start(self, config: dict[str, Any]) -> None:
        self._tracker.start(config)

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        if self._failures_in_a_row == MOST_FAILURES:
            return
        try:
            self._tracker.log(update, metrics, members)
            self._failures_in_a_row = 0
        except Exception as error:
            self._failures_in_a_row += 1
            self._warn(f"log update {update}", error)

    def finish(self) -> None:
        try:
            self._tracker.finish()
        except Exception as error:
            self._warn("finish its run", error)

    def _warn(self, task: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self._tracker).__name__} could not {task}: {error!r}. Training goes on and keeps its own record; "
                "further failures of this tracker are not shown.",
                StitchRLWarning,
                stacklevel=3,
            )


def guarded(tracker: Tracker) -> SafeTracker:
    """The tracker, unable to stop or disturb training."""
    return tracker if isinstance(tracker, SafeTracker) else SafeTracker(tracker)


def _package(tracker: Tracker, name: str, attribute: str, *, extra: str) -> ModuleType:
    """Import an optional package. A folder of that name is none: W&B leaves a folder `wandb` wherever it ran."""
    who, command = type(tracker).__name__, f'pip install --upgrade "stitchrl[{extra}]"'
    missing = f'`{who}` needs the package {name}; install it with `pip install "stitchrl[{extra}]"`.'
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if error.name == name:
            raise ConfigurationError(missing) from None
        raise ConfigurationError(
            f"`{who}` cannot import the installed {name}: {error}. Bring it up to date with `{command}`."
        ) from error
    if not hasattr(module, attribute):
        raise ConfigurationError(missing)
    return module


def _mean(numbers: list[float]) -> float:
    """Over the members that are left: those that diverged have NaN."""
    left = [number for number in numbers if math.isfinite(number)]
    return fmean(left) if left else math.nan


def _by_member(metrics: dict[str, list[float]], members: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each member with its own metrics."""
    for k, member in enumerate(members):
        yield member, {name: float(numbers[k]) for name, numbers in metrics.items()}


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of settings as "outer.inner"."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
