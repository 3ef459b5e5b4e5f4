"""Metrics to MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from stitchrl.training.trackers.base import by_member, mean_over_members, optional_package

__all__ = ["MLflowTracker"]


LONGEST_PARAMETER = 500
"""Characters of a setting's value in MLflow, which refuses longer ones (how much longer depends on the store)."""


MOST_PARAMETERS = 100
"""Settings that MLflow takes in one request."""


class MLflowTracker:
    """MLflow: one run with the settings and every metric's mean, and below it one run per member.

    Args:
        experiment: its name; made if absent.
        tracking_uri: a server (https://...) or a database (sqlite:///mlflow.db); None takes MLflow's own default
            (MLFLOW_TRACKING_URI, else a store in the working directory).
    """

    def __init__(self, experiment: str, tracking_uri: str | None = None) -> None:
        self._package = optional_package(self, "mlflow", "MlflowClient", extra="mlflow")
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
        self._send(self._parent, update, {name: mean_over_members(numbers) for name, numbers in metrics.items()})
        for member, values in by_member(metrics, members):
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


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of settings as "outer.inner"."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
