"""Red flags: what the metrics of a run say is going wrong, read between chunks. Plain numbers, pure functions.

A flag is a reason to look, not a proof. Thresholds are set so that sound runs raise none; each says why it is where it is.

There is no flag for advantage weights that are all near 1 (an inverse temperature too small to matter): their mean
passes through 1 in runs whose weights differ widely, and the metrics do not have their spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.errors import ConfigurationError
from stitchrl.training.history import History
from stitchrl.types import NumpyArray

__all__ = ["CHECKS", "FlagMonitor", "RedFlag", "red_flags"]

RECENT_ROWS = 5  # that "now" means: a chunk's mean is itself noisy
GROWTH_ROWS = 20  # fewest in which growth is looked for, so that a quarter of them is as many as "now"
LARGEST_GROWTH = 10.0  # of the critic loss; sound runs on Hopper raised it up to 6 times, as values rose from 0
VALUE_MARGIN = 1.5  # times the largest value possible: a mean over many transitions has no honest way there
CLAIM_SHARE = 0.5  # of that value, by which a policy may claim to beat the log; true gains of half of it are rare
CAPPED_SHARE = 0.5  # of the weights at their cap: beyond it the better half of the log is not told apart
LEAST_ENTROPY = 0.01  # nats: one action has more than 99.8% on average


@dataclass(frozen=True)
class RedFlag:
    """Something in the metrics of one member to look at.

    Attributes:
        code: a key of `CHECKS`.
        member: its index.
        update: of the row where it was seen.
        sentence: what was seen, what it may mean, what to do.
    """

    code: str
    member: int
    update: int
    sentence: str


class Limits(NamedTuple):
    """What rewards allow: the largest |scaled reward|, and the largest |value| (infinite where not known)."""

    reward: float
    value: float


Columns = Mapping[str, NumpyArray]
"""The rows of one member, at least one, by column: "update" and each metric, NaN where a row does not have it."""
Found = tuple[int, str] | None  # (update, sentence)


def _impossible_value(rows: Columns, limits: Limits) -> Found:
    row = _first(np.abs(_metric(rows, "q/data_mean")) > VALUE_MARGIN * limits.value)
    if row is None:
        return None
    return int(rows["update"][row]), (
        f"The mean value of logged actions is {rows['q/data_mean'][row]:.3g}, where rewards allow {limits.value:.3g} at "
        "most. The critic may be feeding on its own overestimates: lower the learning rate or the target rate, or use an "
        "algorithm that stays nearer to the log (IQL, or CQL with a larger `cql_weight`)."
    )


def _policy_claim(rows: Columns, limits: Limits) -> Found:
    gap = _metric(rows, "q/policy_mean") - _metric(rows, "q/data_mean")
    row = _first(gap > CLAIM_SHARE * limits.value)
    if row is None:
        return None
    return int(rows["update"][row]), (
        f"The critic values the policy's actions {gap[row]:.3g} above the logged ones, where rewards allow values of "
        f"{limits.value:.3g}. It may be praising actions that the log never shows: do not believe its claim, and "
        "hold the policy nearer to the log."
    )


def _critic_growth(rows: Columns, limits: Limits) -> Found:
    losses = _present(rows, "loss/critic")
    if len(losses) < GROWTH_ROWS:
        return None
    quarter = len(losses) // 4
    first, last = float(losses[:quarter].mean()), float(losses[-quarter:].mean())
    # Below a reward's own square, growth is a sparse reward's signal arriving, not divergence.
    if not last > max(LARGEST_GROWTH * first, limits.reward**2):
        return None
    return int(rows["update"][-1]), (
        f"The critic loss rose from {first:.3g} to {last:.3g}. Its targets may be running away: lower the learning rate "
        "or the target rate, or scale rewards down."
    )


def _capped_weights(rows: Columns, limits: Limits) -> Found:
    recent = _recent(rows, "weight/clipped")
    if not recent or fmean(recent) <= CAPPED_SHARE:
        return None
    return int(rows["update"][-1]), (
        f"{fmean(recent):.0%} of the advantage weights are at their cap. Most transitions then count alike, good or "
        "merely less bad: lower the inverse temperature, or scale rewards down."
    )


def _collapsed_entropy(rows: Columns, limits: Limits) -> Found:
    # "policy/agreement" is there for discrete actions only; a density's entropy may well be below 0.
    discrete = not math.isnan(_metric(rows, "policy/agreement")[-1])
    recent = _recent(rows, "policy/entropy") if discrete else []
    if not recent or fmean(recent) >= LEAST_ENTROPY:
        return None
    return int(rows["update"][-1]), (
        f"The policy's entropy is {fmean(recent):.2g} nats: it always takes one action. Unless the log does so too, it "
        "overfits or its weights single out few transitions: stop earlier, or lower the inverse temperature."
    )


def _nothing_learned(rows: Columns, limits: Limits) -> Found:
    for name in ("loss/critic", "loss/value"):
        recent = _recent(rows, name)
        if recent and not any(recent):
            return int(rows["update"][-1]), (
                f"{name} is exactly 0 over {RECENT_ROWS} rows. Nothing is being learned: rewards may all be 0, or no "
                "transition may have a target (see the audit)."
            )
    return None


CHECKS: dict[str, Callable[[Columns, Limits], Found]] = {
    "impossible-value": _impossible_value,
    "policy-claim": _policy_claim,
    "critic-growth": _critic_growth,
    "capped-weights": _capped_weights,
    "collapsed-entropy": _collapsed_entropy,
    "nothing-learned": _nothing_learned,
}
"""Code -> what looks for it in the rows of one member."""


def red_flags(
    rows: Iterable[Mapping[str, Any]] | History,
    *,
    gamma: float,
    reward_bound: float,
    value_bound: float | None = None,
    reported: Collection[RedFlag] = (),
) -> list[RedFlag]:
    """What is wrong in a history, each flag once a member.

    Args:
        rows: the history: "update", "member" and metrics, in the order of updates; or the history itself.
        gamma: the discount; at 1 flags on values need `value_bound`.
        reward_bound: largest |reward| as trained on (scaled).
        value_bound: largest |value| possible, in the same unit, where it is better known than by
            reward_bound / (1 - gamma), such as the largest |return| of an episode where rewards come at the end.
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
    limits = Limits(reward_bound, value_bound or math.inf)  # a bound of 0 would flag every fresh network
    columns = (rows if isinstance(rows, History) else History.of_rows(rows)).columns()
    known = {(flag.code, flag.member) for flag in reported}
    found: list[RedFlag] = []
    for member in np.unique(columns["member"]).tolist():
        own = {name: column[columns["member"] == member] for name, column in columns.items()}
        flags = {code: check(own, limits) for code, check in CHECKS.items() if (code, member) not in known}
        found += [RedFlag(code, member, *flag) for code, flag in flags.items() if flag is not None]
    return found


class FlagMonitor:
    """A monitor of the training loop that tells each red flag once, as it appears.

    Args:
        say: called with a new flag.
        bounds: `gamma`, `reward_bound` and `value_bound` of `red_flags`.
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


def _metric(rows: Columns, name: str) -> Float[NumpyArray, " N"]:
    """The metric of each row; NaN where it has none."""
    return rows[name] if name in rows else np.full(len(rows["update"]), np.nan)


def _present(rows: Columns, name: str) -> Float[NumpyArray, " _"]:
    """The metric of the rows that have it."""
    values = _metric(rows, name)
    return values[~np.isnan(values)]


def _recent(rows: Columns, name: str) -> list[float]:
    """The metric's last rows; none where there are too few."""
    values: list[float] = _present(rows, name)[-RECENT_ROWS:].tolist()
    return values if len(values) == RECENT_ROWS else []


def _first(seen: Bool[NumpyArray, " N"]) -> int | None:
    """Index of the first True; None where there is none."""
    return int(np.argmax(seen)) if seen.any() else None
