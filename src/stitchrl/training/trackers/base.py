"""Training metrics sent to experiment trackers, each an optional package that is imported when its tracker is made.

A tracker is given plain numbers between chunks of updates. Wrapped by `guarded`, none can stop a training run.

A run resumed after a crash may log updates that it had logged before, with the same values, since resuming is exact.
What a tracker does with them differs:

    TensorBoard   same folder, same curve: the new points replace the old ones
    W&B           a new run, unless `id=...` and `resume="allow"` are given; updates below the run's last are dropped,
                  so the old points stay (offline, each start is a file of its own)
    MLflow        a new run, starting where training was resumed
    Trackio       a new run, starting where training was resumed
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from statistics import fmean
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from stitchrl.errors import ConfigurationError, StitchRLWarning

__all__ = ["SafeTracker", "Tracker", "by_member", "guarded", "mean_over_members", "optional_package"]

MOST_FAILURES = 3
"""Failures in a row after which a guarded tracker is given nothing more: each may have cost a network timeout."""


@runtime_checkable
class Tracker(Protocol):
    """Where training metrics go. Any object with these three methods is one."""

    def start(self, config: dict[str, Any]) -> None:
        """Open a run; `config` describes it and holds plain values, lists and dicts. Called once, before `log`."""

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        """Take the metrics of one chunk.

        Args:
            update: updates done; larger at every call.
            metrics: name -> one number per member.
            members: a label for each, such as "seed 3"; the same at every call.
        """

    def finish(self) -> None:
        """Close the run. Nothing is logged afterwards."""


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


def optional_package(tracker: Tracker, name: str, attribute: str, *, extra: str) -> ModuleType:
    """Import an optional package. A mere folder of that name does not count: W&B leaves a folder `wandb` wherever it ran."""
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


def mean_over_members(numbers: list[float]) -> float:
    """The mean over the members that did not diverge; the others have NaN."""
    left = [number for number in numbers if math.isfinite(number)]
    return fmean(left) if left else math.nan


def by_member(metrics: dict[str, list[float]], members: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each member with its own metrics."""
    for k, member in enumerate(members):
        yield member, {name: float(numbers[k]) for name, numbers in metrics.items()}
