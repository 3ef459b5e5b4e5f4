"""When to stop before the last update: a pure function of the history, so that a resumed run stops where an unbroken one does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from stitchrl.errors import ConfigurationError
from stitchrl.training.history import History, Rows
from stitchrl.types import NumpyArray

__all__ = ["EarlyStop", "StopRule", "Stopping"]

StopRule = Callable[[Rows], str | None]
"""A pure function of the history so far: the reason to stop now, or None."""


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Stop once a metric, averaged over the members, has not improved for a given number of updates.

    A training loss says when fitting has ended, not how good the policy is: for that, `evaluate` on episodes the run
    never saw. Online returns (`environment=`) may be watched with `rising=True`.

    Attributes:
        metric: as in the history, e.g. "loss/actor".
        patience_updates: updates without improvement after which to stop, at least 1.
        least_change: an improvement must be larger than this, at least 0.
        rising: True where larger is better.

    Raises:
        ConfigurationError: a number outside its range; or, when the rule is applied, a metric that the run does not have.
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

    def __call__(self, history: Rows) -> str | None:
        """The reason to stop after these rows, or None."""
        members = sorted({row["member"] for row in history})
        return Stopping(self).reason(History.of_rows(history), members) or None


class EarlyStopWatch:
    """What an `EarlyStop` has to know of a history: the best value so far, and at which update it was."""

    def __init__(self, rule: EarlyStop) -> None:
        self._rule = rule
        self._best = np.inf
        self._best_at: int | None = None
        self._now = 0

    def see(self, update: int, values: Float[NumpyArray, " members"]) -> None:
        """Take the metric of the chunk that ends at an update, one number per member."""
        sign = -1.0 if self._rule.rising else 1.0
        value = sign * float(np.mean(values))
        self._now = update
        if self._best_at is None:
            self._best_at = update
        if value < self._best - self._rule.least_change:
            self._best, self._best_at = value, update

    @property
    def reason(self) -> str:
        """The reason to stop now; "" where there is none."""
        if self._best_at is None or self._now - self._best_at < self._rule.patience_updates:
            return ""
        best = -self._best if self._rule.rising else self._best
        return f"{self._rule.metric} has not improved on {best:.6g} since update {self._best_at:,}"


class Stopping:
    """Asks a rule after each chunk. An `EarlyStop` sees each chunk only once, so that a long history costs no more.

    Args:
        rule: what to ask; None never stops.
    """

    def __init__(self, rule: StopRule | None) -> None:
        self._rule = rule
        self._members: list[int] | None = None
        self._seen = 0
        self._watch: EarlyStopWatch | None = None
        self._rows: Rows = []

    def reason(self, history: History, members: Sequence[int]) -> str:
        """The reason to stop after a history, "" where there is none.

        Args:
            history: with at least the rows of the call before.
            members: whose rows count: those that have not diverged.

        Raises:
            ConfigurationError: an `EarlyStop` watches a metric that the run does not have.
        """
        if self._rule is None:
            return ""
        if self._members != list(members):  # at first, and where another member's rows no longer count: read all of it
            self._members, self._seen, self._rows = list(members), 0, []
            self._watch = EarlyStopWatch(self._rule) if isinstance(self._rule, EarlyStop) else None
        start, self._seen = self._seen, len(history)
        if isinstance(self._rule, EarlyStop) and self._watch is not None:
            for update, values in _chunks(history, self._rule.metric, start, members):
                self._watch.see(update, values)
            return self._watch.reason
        self._rows += history.rows(start, members=members)
        return self._rule(self._rows) or ""


def _chunks(
    history: History, metric: str, start: int, members: Sequence[int]
) -> Iterator[tuple[int, Float[NumpyArray, " members"]]]:
    """Update and the metric of these members, of each chunk from the row `start` on that has it."""
    if metric not in history.metrics:
        if metric.startswith("online/"):  # it comes when the policies have been played
            return
        raise ConfigurationError(f"EarlyStop watches {metric!r}; this run has {', '.join(sorted(history.metrics))}.")
    columns = history.columns(start)
    counted = np.zeros(1 + max([columns["member"].max(initial=0), *members]), bool)
    counted[list(members)] = True
    kept = counted[columns["member"]] & ~np.isnan(columns[metric])
    update, values = columns["update"][kept], columns[metric][kept]
    edges = [0, *(np.flatnonzero(np.diff(update)) + 1).tolist(), len(update)]
    for first, last in pairwise(edges if len(update) else []):
        yield int(update[first]), values[first:last]
