"""Red flags: signs in the metrics of a run that something is going wrong, found between chunks by pure functions.

A flag is a reason to look, not a proof. The rules are in `flag_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stitchrl.training.flag_rules import RULES, in_logged_units
from stitchrl.training.history import History
from stitchrl.training.value_limits import ValueLimits

__all__ = ["FlagMonitor", "RedFlag", "red_flags"]


@dataclass(frozen=True)
class RedFlag:
    """Something in the metrics of one member to look at.

    Attributes:
        code: a key of `flag_rules.RULES`.
        member: the index of the member.
        update: the last update of the row in which it was seen.
        seen: what was seen.
        expected: what a sound run would show.
        action: what it may mean, and what to do, in whole sentences.
    """

    code: str
    member: int
    update: int
    seen: str
    expected: str
    action: str

    @property
    def sentence(self) -> str:
        """What was seen, what was expected, and what to do about it."""
        return f"{self.seen[:1].upper()}{self.seen[1:]}; expected {self.expected}. {self.action}"


def red_flags(
    rows: Iterable[Mapping[str, Any]] | History, limits: ValueLimits, *, reported: Collection[RedFlag] = ()
) -> list[RedFlag]:
    """The red flags of a history, each at most once per member.

    Args:
        rows: the history: "update", "member" and metrics, in the order of updates; or the history itself.
        limits: what the rewards allow values to be.
        reported: flags of earlier calls, which are not returned again.
    """
    columns = in_logged_units((rows if isinstance(rows, History) else History.of_rows(rows)).columns(), limits.scale)
    known = {(flag.code, flag.member) for flag in reported}
    found: list[RedFlag] = []
    for member in np.unique(columns["member"]).tolist():
        own = {name: column[columns["member"] == member] for name, column in columns.items()}
        flags = {code: check(own, limits) for code, check in RULES.items() if (code, member) not in known}
        found += [RedFlag(code, member, *flag) for code, flag in flags.items() if flag is not None]
    return found


class FlagMonitor:
    """A monitor of the training loop that reports each red flag once, as it appears.

    Args:
        say: called with each new flag.
        limits: what the rewards allow values to be.
    """

    def __init__(self, say: Callable[[RedFlag], None], limits: ValueLimits) -> None:
        self._say, self._limits = say, limits
        self._history = History()
        self._look_at = 0
        self.flags: list[RedFlag] = []

    def __call__(self, done: int, total: int, metrics: dict[str, list[float]]) -> None:
        """Take a chunk's metrics. The rules read the whole history, so they run again only once it is a twentieth longer."""
        # A member that diverged has been reported.
        finite = np.isfinite(list(metrics.values())).all(axis=0) if metrics else np.zeros(0, bool)
        self._history.add(done, metrics, np.flatnonzero(finite).tolist())
        if len(self._history) < self._look_at and done < total:
            return
        self._look_at = len(self._history) + len(self._history) // 20
        for flag in red_flags(self._history, self._limits, reported=self.flags):
            self.flags.append(flag)
            self._say(flag)
