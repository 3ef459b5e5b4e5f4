"""Red flags: what the metrics of a run say is going wrong, read between chunks. Plain numbers, pure functions.

A flag is a reason to look, not a proof.

What is looked for stands in `flag_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stitchrl.errors import ConfigurationError
from stitchrl.training.flag_rules import RULES, Limits
from stitchrl.training.history import History

__all__ = ["FlagMonitor", "RedFlag", "red_flags"]


@dataclass(frozen=True)
class RedFlag:
    """Something in the metrics of one member to look at.

    Attributes:
        code: a key of `flag_rules.RULES`.
        member: its index.
        update: of the row where it was seen.
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
    rows: Iterable[Mapping[str, Any]] | History,
    *,
    gamma: float,
    reward_bound: float,
    value_bound: float | None = None,
    lowest_value: float | None = None,
    reported: Collection[RedFlag] = (),
) -> list[RedFlag]:
    """What is wrong in a history, each flag once a member.

    Args:
        rows: the history: "update", "member" and metrics, in the order of updates; or the history itself.
        gamma: the discount; at 1 flags on values need `value_bound`.
        reward_bound: largest |reward| as trained on (scaled).
        value_bound: largest |value| possible, in the same unit, where it is better known than by
            reward_bound / (1 - gamma), such as the largest |return| of an episode where rewards come at the end.
        lowest_value: the least value that scaled rewards can add up to, where it is known.
        reported: flags of earlier calls, which are not given again.

    Raises:
        ConfigurationError: `gamma` outside [0, 1], or a bound below 0.
    """
    if not 0 <= gamma <= 1 or reward_bound < 0 or (value_bound or 0.0) < 0:
        raise ConfigurationError(
            "red_flags needs `gamma` in [0, 1] and bounds of at least 0; "
            f"got gamma {gamma}, reward_bound {reward_bound}, value_bound {value_bound}."
        )
    if value_bound is None:
        value_bound = reward_bound / (1 - gamma) if gamma < 1 else 0.0
    limits = Limits(
        reward_bound, value_bound or math.inf, -math.inf if lowest_value is None else lowest_value
    )  # a bound of 0 would flag every fresh network
    columns = (rows if isinstance(rows, History) else History.of_rows(rows)).columns()
    known = {(flag.code, flag.member) for flag in reported}
    found: list[RedFlag] = []
    for member in np.unique(columns["member"]).tolist():
        own = {name: column[columns["member"] == member] for name, column in columns.items()}
        flags = {code: check(own, limits) for code, check in RULES.items() if (code, member) not in known}
        found += [RedFlag(code, member, *flag) for code, flag in flags.items() if flag is not None]
    return found


class FlagMonitor:
    """A monitor of the training loop that tells each red flag once, as it appears.

    Args:
        say: called with a new flag.
        bounds: `gamma`, `reward_bound`, `value_bound` and `lowest_value` of `red_flags`.
    """

    def __init__(self, say: Callable[[RedFlag], None], **bounds: Any) -> None:
        self._say, self._bounds = say, bounds
        self._history = History()
        self._look_at = 0
        self.flags: list[RedFlag] = []

    def __call__(self, done: int, total: int, metrics: dict[str, list[float]]) -> None:
        """Take a chunk's metrics. Looks again once the history is a twentieth longer: the whole of it is read."""
        # A member that diverged has been told of.
        finite = np.isfinite(list(metrics.values())).all(axis=0) if metrics else np.zeros(0, bool)
        self._history.add(done, metrics, np.flatnonzero(finite).tolist())
        if len(self._history) < self._look_at and done < total:
            return
        self._look_at = len(self._history) + len(self._history) // 20
        for flag in red_flags(self._history, reported=self.flags, **self._bounds):
            self.flags.append(flag)
            self._say(flag)
