"""Metrics to Weights and Biases."""

from __future__ import annotations

from typing import Any

from stitchrl.training.trackers.base import by_member, mean_over_members, optional_package

__all__ = ["WandbTracker"]


class WandbTracker:
    """Weights & Biases: one run; metrics are "<metric>/<member>" and "<metric>/mean".

    The package's own environment variables hold, among them WANDB_MODE=offline, which writes files to sync later.

    Args:
        project: its name.
        settings: passed to `wandb.init`, such as `name`, `group`, `entity`, `dir`, `id`, `resume`.
    """

    def __init__(self, project: str, **settings: Any) -> None:
        self._package = optional_package(self, "wandb", "init", extra="wandb")
        self._settings = {"project": project} | settings
        self._run: Any = None

    def start(self, config: dict[str, Any]) -> None:
        self._run = self._package.init(config=config, **self._settings)

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        values = {f"{name}/mean": mean_over_members(numbers) for name, numbers in metrics.items()}
        for member, own in by_member(metrics, members):
            values |= {f"{name}/{member}": value for name, value in own.items()}
        self._run.log(values, step=update)

    def finish(self) -> None:
        self._run.finish()
