"""Metrics to Trackio."""

from __future__ import annotations

import contextvars
import time
from typing import Any

from stitchrl.training.trackers.base import by_member, optional_package

__all__ = ["TrackioTracker"]


class TrackioTracker:
    """Trackio, which keeps a local database: one run per member, in one group, so that seeds are curves of one chart.

    Args:
        project: its name.
    """

    def __init__(self, project: str) -> None:
        self._package = optional_package(self, "trackio", "init", extra="trackio")
        self._project = project
        self._config: dict[str, Any] = {}
        self._group = ""
        self._runs: dict[str, Any] = {}

    def start(self, config: dict[str, Any]) -> None:
        self._config = config
        self._group = f"{config.get('algorithm', 'training')} {time.strftime('%Y-%m-%d %H:%M:%S')}"

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        for member, values in by_member(metrics, members):
            if member not in self._runs:
                self._runs[member] = self._open(member)
            self._runs[member].log(values, step=update)

    def finish(self) -> None:
        for run in self._runs.values():
            run.finish()
        self._runs = {}

    def _open(self, member: str) -> Any:
        # `init` finishes the run that is open in its context: one per member needs a context each.
        context = contextvars.copy_context()
        name = f"{self._group}, {member}"
        return context.run(self._package.init, self._project, name=name, group=self._group, config=self._config)
