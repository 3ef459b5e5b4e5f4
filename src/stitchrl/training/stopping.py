"""When to stop before the last update: a pure function of the history, so a resumed run stops where a whole one does."""

from __future__ import annotations

import dataclasses

import numpy as np

from stitchrl.errors import ConfigurationError
from stitchrl.training.loop import History

__all__ = ["EarlyStop"]


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Stop once a metric, averaged over the members, has not fallen below its best for so many updates.

    A training loss says when fitting has ended, not how good the policy is: for that, `evaluate` on episodes the run
    never saw. Online returns (`environment=`) may be watched with `rising=True`.

    Attributes:
        metric: as in the history, e.g. "loss/actor".
        patience_updates: updates without improvement from one measurement to another, at least 1.
        least_change: an improvement must be larger than this, at least 0.
        rising: True where larger is better.

    Raises:
        ConfigurationError: a number out of its range; or, when asked, a metric the run does not have.
    """

    metric: str
    patience_updates: int
    least_change: float = 0.0
    rising: bool = False

    def __post_init__(self) -> None:
        if self.patience_updates < 1:
            raise ConfigurationError(
                f"`patience_updates` of EarlyStop must be at least 1; got {self.patience_updates}."
            )
        if not self.least_change >= 0:
            raise ConfigurationError(f"`least_change` of EarlyStop must be at least 0; got {self.least_change}.")

    def __call__(self, history: History) -> str | None:
        """The reason to stop, or None."""
        values: dict[int, list[float]] = {}
        for row in history:
            if self.metric in row:
                values.setdefault(row["update"], []).append(row[self.metric])
        if not values:
            if self.metric.startswith("online/"):
                return None  # not played yet
            names = sorted(set(history[-1]) - {"update", "member"})
            raise ConfigurationError(f"EarlyStop watches {self.metric!r}; this run has {', '.join(names)}.")
        sign = -1.0 if self.rising else 1.0
        best, best_at = np.inf, next(iter(values))
        for update, members in values.items():
            value = sign * float(np.mean(members))
            if value < best - self.least_change:
                best, best_at = value, update
        now = max(values)
        if now - best_at < self.patience_updates:
            return None
        return f"{self.metric} has not improved on {sign * best:.6g} since update {best_at:,}"
