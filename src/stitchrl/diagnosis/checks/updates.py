"""Checks of the number of updates, by the metrics of a probe: too few, or more than was needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.subject import NO_RUN, NotLookedAtError, Subject
from stitchrl.messages import likelier
from stitchrl.types import NumpyArray

__all__ = ["updates_more_than_enough", "updates_too_few"]

LEAST_ROWS = 20
"""The fewest logged rows in which a trend is looked for."""
QUARTER = 0.25
"""Share of the updates, the last ones, over which things should have settled."""
MOVED, SHARE = 0.25, 0.15
"""Largest change of the mean claimed value in that time: in standard deviations of a return, and as a share of all change."""
GAINED = 0.1
"""Largest gain of the log-probability of held-out actions over that time, in nats per decision."""
NEAR = 0.02
"""A held-out signal is settled from where it stays within 2% of its range of its best."""
EARLY = 0.5
"""It is worth a note if nothing more was gained after at most this share of the updates."""


class Signal(NamedTuple):
    """A metric of all seeds: at which updates, and its mean over them, smoothed over a few rows."""

    update: NumpyArray
    mean: Float[NumpyArray, " N"]


def updates_too_few(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """Claimed values, or the likelihood of held-out actions, still move at the end of training."""
    q, likelihood = _signal(subjects, "probe/q_logged"), _signal(subjects, "held_out/log_prob")
    if q is None and likelihood is None:
        raise NotLookedAtError(
            _probed_too_rarely(subjects)
            or "The run was not probed while it learned, so it is not known whether it has settled (`probe=`)."
        )
    run = subjects[0].member.run
    spread = float(subjects[0].returns.std())
    if q is not None and _impossible(subjects, float(q.mean[-1])):
        return  # they run away, and more updates would not settle them
    if q is not None and spread > 0:
        scale = 1.0 if run is None else run.scaling.reward_scale
        moved = (q.mean[-1] - q.mean[_before_last_quarter(q)]) / scale
        whole = float(np.abs(q.mean - q.mean[0]).max()) / scale
        if abs(moved) > MOVED * spread and abs(moved) > SHARE * whole:
            yield _too_few(
                f"over the last quarter of the updates the mean claimed value {'rose' if moved > 0 else 'fell'} by "
                f"{abs(moved):.3g}, {abs(moved) / spread:.0%} of the standard deviation of a return",
                f"at most {MOVED:.0%}",
            )
            return
    if likelihood is not None and (q is None or "loss/actor" in _metrics(subjects)):
        gained = likelihood.mean[-1] - likelihood.mean[_before_last_quarter(likelihood)]
        if gained > GAINED:
            yield _too_few(
                f"over the last quarter of the updates held-out actions became {likelier(gained)} under the policy on average",
                f"at most {likelier(GAINED)}",
            )


def updates_more_than_enough(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """No measurement on held-out rows got better in the second half of training."""
    found = {
        "the TD error on held-out rows": _signal(subjects, "held_out/td_error"),
        "the log-probability of held-out actions": _signal(subjects, "held_out/log_prob"),
    }
    if "loss/actor" not in _metrics(subjects):  # a greedy policy gives all other actions probability 0
        found.pop("the log-probability of held-out actions")
    known = {name: _settled(signal, rises="log" in name) for name, signal in found.items() if signal is not None}
    q = _signal(subjects, "probe/q_logged")
    if q is not None and (_impossible(subjects, float(q.mean[-1])) or any(updates_too_few(subjects))):
        return
    if not known:
        raise NotLookedAtError(
            _probed_too_rarely(subjects)
            or "The run has no metrics on held-out rows that would say when to stop (`probe=st.Probe(...)`)."
        )
    last = subjects[0].member.run.updates if subjects[0].member.run is not None else 0
    settled = max(known.values())
    if settled <= EARLY * last:
        yield Finding(
            "updates-more-than-enough",
            "info",
            "`updates`",
            f"{' and '.join(known)} had settled by update {settled:,} of {last:,}",
            f"signals that still get better after {EARLY:.0%} of the updates",
            f"Nothing is wrong: {_rounded(settled):,} updates would have done, in less time and with less room to learn rows "
            "by heart.",
        )


def _too_few(seen: str, expected: str) -> Finding:
    return Finding(
        "updates-too-few",
        "warning",
        "`updates`",
        seen,
        expected,
        "Training had not settled: what the policy does and what it claims would have gone on changing. Continue the run with "
        "more `updates`, or raise the learning rate.",
    )


def _metrics(subjects: Sequence[Subject]) -> tuple[str, ...]:
    run = subjects[0].member.run
    return () if run is None else run.metrics.metrics


def _signal(subjects: Sequence[Subject], name: str) -> Signal | None:
    """A metric; None where there is none, or too few rows of it."""
    run = subjects[0].member.run
    if run is None:
        raise NotLookedAtError(NO_RUN)
    if name not in run.metrics.metrics:
        return None
    columns = run.metrics.columns()
    present = ~np.isnan(columns[name])
    update, of_row = np.unique(columns["update"][present], return_inverse=True)
    if len(update) < LEAST_ROWS:
        return None
    mean = np.bincount(of_row, columns[name][present]) / np.bincount(of_row)
    wide = max(len(update) // LEAST_ROWS, 1)
    return Signal(update[wide - 1 :], np.convolve(mean, np.full(wide, 1 / wide), "valid"))


def _probed_too_rarely(subjects: Sequence[Subject]) -> str:
    """A sentence that a probed run has too few rows of metrics to show a trend; "" where it was not probed."""
    run = subjects[0].member.run
    if run is None or not any(name.startswith(("probe/", "held_out/")) for name in run.metrics.metrics):
        return ""
    rows = len(np.unique(run.metrics.columns()["update"]))
    return (
        f"The run was probed {rows:,} times, and whether it has settled shows from {LEAST_ROWS} times on: train for "
        "more updates, or with a smaller `log_every_updates`."
    )


def _before_last_quarter(signal: Signal) -> int:
    return int(np.searchsorted(signal.update, (1 - QUARTER) * signal.update[-1], side="right")) - 1


def _settled(signal: Signal, *, rises: bool) -> int:
    """The first update after which a signal stays near its best, within 2% of its range; the last one if it got worse again."""
    values = signal.mean if rises else -signal.mean
    near = values >= values.max() - NEAR * (values.max() - values.min())
    far = np.flatnonzero(~near)
    return int(signal.update[min(far[-1] + 1, len(values) - 1)]) if len(far) else int(signal.update[0])


def _impossible(subjects: Sequence[Subject], claimed: float) -> bool:
    """Whether a mean claimed value, in units of training, is above what logged rewards can add up to."""
    run = subjects[0].member.run
    if run is None or run.scaling.reward_shift:
        return False
    return claimed / run.scaling.reward_scale > subjects[0].limits.highest(subjects[0].entropy_reach[1])


def _rounded(update: int) -> int:
    """An update rounded up to two digits."""
    digits = 10 ** max(len(str(update)) - 2, 0)
    return -(-update // digits) * digits
