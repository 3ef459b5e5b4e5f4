"""Checks for change from early to late in the log, by time where there is one, otherwise by the order of the rows.

In a large log every difference is significant, so a difference must also be large. The effect size is the difference of
means in standard deviations (Cohen 1988: 0.2 is small, 0.5 medium); for a reward of two values, the logarithm of the odds
ratio times sqrt(3)/pi, which is on the same scale (Chinn 2000); for discrete actions, the share of decisions that come out
differently (total variation distance). The rows of an episode are correlated, so standard errors count episodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from stitchrl.auditing.facts import SHOWN_ACTIONS, Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import PARTS
from stitchrl.auditing.regression import means_by_group
from stitchrl.auditing.sample import Sample
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["action_drift", "drift_numbers", "observation_drift", "reward_drift"]

SMALL, MEDIUM = 0.2, 0.5
"""Effect sizes, in standard deviations, called small and medium (Cohen 1988)."""
DIFFERENT_INFO, DIFFERENT_WARNING = 0.1, 0.25
"""Share of discrete decisions that come out differently."""
Z = 5.0
"""Standard errors of a difference, which chance exceeds once in 1.7 million comparisons."""
LEAST_EPISODES = 20
"""Episodes needed on each side of a cut."""
ODDS_TO_D = np.sqrt(3) / np.pi
MOST_COLUMNS = 8
"""The picture shows at most this many observation columns, those that move most."""


@dataclasses.dataclass
class Change:
    """The greatest difference of each column between before and after a cut of the log.

    Attributes:
        size: (k,) signed effect size, the greatest over all cuts at which it is significant; 0 where there is none.
        cut: (k,) the number of that cut, 1 to PARTS - 1.
        before, after: (k,) means on either side of it.
    """

    size: NumpyArray
    cut: NumpyArray
    before: NumpyArray
    after: NumpyArray


def _sides(
    facts: Facts, values: NumpyArray, sample: Sample
) -> Iterator[tuple[int, NumpyArray, NumpyArray, NumpyArray]]:
    """For each cut: its number, the means before and after it, and (k,) squared standard errors of their difference."""
    sums, counts = means_by_group(values, sample.episode)
    episodes = np.unique(sample.episode)
    part = facts.part_of(facts.log.episode_start[episodes])

    def of_side(side: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        number = counts[side].sum()
        mean = sums[side].sum(0) / number
        return mean, ((sums[side] - mean * counts[side][:, None]) ** 2).sum(0) / number**2

    return _at_cuts(part, of_side)


def _sides_of_actions(
    facts: Facts, sample: Sample, taken: NumpyArray
) -> Iterator[tuple[int, NumpyArray, NumpyArray, NumpyArray]]:
    """As `_sides` for one indicator column an action, without making these columns: an episode has few different actions, so
    only the pairs of episode and action that occur are counted. `taken` (n,) numbers the actions from 0 without gaps."""
    episodes, of_row, lengths = np.unique(sample.episode, return_inverse=True, return_counts=True)
    actions = int(taken.max()) + 1
    pairs, counts = np.unique(of_row * actions + taken, return_counts=True)
    episode, action = np.divmod(pairs, actions)
    part = facts.part_of(facts.log.episode_start[episodes])

    def of_side(side: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        inside = side[episode]
        of, times, rows = action[inside], counts[inside], lengths[episode[inside]]
        number = lengths[side].sum()
        mean = np.bincount(of, times, actions) / number
        # The sum over episodes of (times - mean * rows)^2; an episode without the action adds only the last term.
        squares = np.bincount(of, times**2, actions) - 2 * mean * np.bincount(of, times * rows, actions)
        return mean, np.maximum(squares + mean**2 * (lengths[side] ** 2).sum(), 0) / number**2

    return _at_cuts(part, of_side)


def _at_cuts(
    part: NumpyArray, of_side: Callable[[NumpyArray], tuple[NumpyArray, NumpyArray]]
) -> Iterator[tuple[int, NumpyArray, NumpyArray, NumpyArray]]:
    """What `_sides` gives, from a function for the mean and squared error of one side; cuts with few episodes on a side are
    left out."""
    for cut in range(1, PARTS):
        sides = (part < cut, part >= cut)
        if min(side.sum() for side in sides) >= LEAST_EPISODES:
            (before, error), (after, other) = map(of_side, sides)
            yield cut, before, after, error + other


def _change(facts: Facts, values: NumpyArray, sample: Sample, *, odds: bool = False) -> Change:
    """The greatest change of the mean of each column. With `odds`, columns hold 0 or 1 and sizes are log odds ratios."""
    columns = values.shape[1]
    found = Change(*(np.zeros(columns) for _ in range(4)))
    spread = values.std(0)
    for cut, before, after, squared_error in _sides(facts, values, sample):
        if odds:
            rows = len(values) / 2
            p, q = (np.clip(m, 0.5 / rows, 1 - 0.5 / rows) for m in (before, after))
            size = ODDS_TO_D * (np.log(q / (1 - q)) - np.log(p / (1 - p)))
        else:
            size = (after - before) / np.where(spread > 0, spread, 1)
        sure = np.abs(after - before) > Z * np.sqrt(squared_error)
        greater = sure & (spread > 0) & (np.abs(size) > np.abs(found.size))
        for old, new in (
            (found.size, size),
            (found.cut, np.full(columns, cut)),
            (found.before, before),
            (found.after, after),
        ):
            old[greater] = np.broadcast_to(new, columns)[greater]
    return found


def _order(facts: Facts) -> str:
    return "time" if facts.time_edges is not None else "the order of the rows"


def _severity(size: float) -> str | None:
    return "warning" if size >= MEDIUM else "info" if size >= SMALL else None


def observation_drift(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Observation columns whose mean is different late in the log."""
    if facts.sample.observation.shape[1] == 0:
        return
    change = _change(facts, facts.sample.observation, facts.sample)
    size = np.abs(change.size)
    worst = int(size.argmax())
    severity = _severity(float(size[worst]))
    if severity:
        moved = np.flatnonzero(size >= SMALL)
        moved = moved[np.argsort(-size[moved])]
        yield Finding(
            "observation-drift",
            severity,
            f"observation: {facts.columns(moved)}",
            f"by {_order(facts)}, column {facts.label(worst)} goes from {change.before[worst]:.4g} to "
            f"{change.after[worst]:.4g} after {change.cut[worst] / PARTS:.0%} of the log, a change of {change.size[worst]:+.2f} "
            f"standard deviations; columns that change by {SMALL:g} or more: {len(moved)}",
            f"changes of less than {SMALL:g} standard deviations",
            "Find out what changed; evaluate on the latest part of the log, or use only that part.",
        )


def action_drift(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions that are chosen differently late in the log: more than one policy made it."""
    sample = facts.sample
    if log.num_actions is None:
        change = _change(facts, sample.action, sample)
        if not change.size.size:
            return
        worst = int(np.abs(change.size).argmax())
        severity = _severity(float(np.abs(change.size[worst])))
        if severity:
            yield _action_finding(
                facts,
                severity,
                f"number {worst} goes from {change.before[worst]:.3g} to {change.after[worst]:.3g} after "
                f"{change.cut[worst] / PARTS:.0%} of the log, a change of {change.size[worst]:+.2f} standard deviations",
                f"changes of less than {SMALL:g} standard deviations",
            )
        return
    used, taken = np.unique(sample.action.clip(0, log.num_actions - 1), return_inverse=True)
    best = (0.0, 0, 0)
    for cut, before, after, squared_error in _sides_of_actions(facts, sample, taken):
        error = np.sqrt(squared_error)
        # Less what chance alone gives: the mean absolute deviation of a normal is sqrt(2 / pi) of its spread.
        different = 0.5 * (np.abs(after - before) - np.sqrt(2 / np.pi) * error).sum()
        sure = np.abs(after - before) > Z * np.maximum(error, 1e-12)
        if sure.any() and different > best[0]:
            best = (float(different), cut, int(used[np.where(sure, np.abs(after - before), 0).argmax()]))
    if best[0] >= DIFFERENT_INFO:
        yield _action_finding(
            facts,
            "warning" if best[0] >= DIFFERENT_WARNING else "info",
            f"{best[0]:.0%} of decisions come out differently after {best[1] / PARTS:.0%} of the log; action {best[2]} "
            "changes most",
            f"less than {DIFFERENT_INFO:.0%} of decisions to change",
        )


def _action_finding(facts: Facts, severity: str, seen: str, expected: str) -> Finding:
    return Finding(
        "action-drift",
        severity,
        "action",
        f"by {_order(facts)}, {seen}",
        expected,
        "More than one policy made this log: log their probabilities or a source, and split by time.",
    )


def reward_drift(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rewards, or returns of whole episodes, whose mean is different late in the log."""
    worst: tuple[float, str, Change] | None = None
    first = facts.first_rows
    for sample, reward, name in (
        (facts.sample, facts.sample.reward, "reward"),
        (first, facts.scan.returns[first.episode], "return"),
    ):
        values = np.unique(reward)
        if len(values) < 2:
            continue
        two = len(values) == 2
        of_two = (reward == values[1])[:, None].astype(float)
        change = _change(facts, of_two if two else reward[:, None], sample, odds=two)
        size = float(np.abs(change.size[0]))
        if worst is None or size > worst[0]:
            worst = size, f"share of {name} {values[1]:g}" if two else f"mean {name}", change
    severity = _severity(worst[0]) if worst else None
    if worst and severity:
        _, what, change = worst
        yield Finding(
            "reward-drift",
            severity,
            "reward",
            f"by {_order(facts)}, the {what} goes from {change.before[0]:.4g} to {change.after[0]:.4g} after "
            f"{change.cut[0] / PARTS:.0%} of the log, a change of {change.size[0]:+.2f} standard deviations",
            f"changes of less than {SMALL:g} standard deviations",
            "Find out whether the environment, the reward or the behaviour changed; split by time.",
        )


def drift_numbers(facts: Facts) -> dict[str, object]:
    """Lines for pictures: a value for each part of the log, early to late.

    `action` has a column for each action, or is None where there are more than `SHOWN_ACTIONS`; then `common_actions` has
    the commonest. `small` is the shift, in standard deviations, up to which a change is called small.
    """
    log, scan = facts.log, facts.scan
    numbers: dict[str, object] = {
        "order": "time" if facts.time_edges is not None else "rows",
        "small": SMALL,
        "rows": scan.part_rows.tolist(),
        "reward": scan.reward.part_mean[:, 0].tolist(),
    }
    if scan.observation is not None:
        spread = np.where(scan.observation.spread > 0, scan.observation.spread, 1.0)
        shift = (scan.observation.part_mean - scan.observation.mean) / spread
        top = np.argsort(-np.abs(shift).max(0))[:MOST_COLUMNS]
        numbers["observation"] = [
            {"name": facts.observation_names[j], "shift": shift[:, j].tolist()} for j in top.tolist()
        ]
        numbers["observation_shift"] = np.sqrt((shift**2).mean(1)).tolist() if shift.shape[1] else []
    if scan.action is not None:
        numbers["action"] = scan.action.part_mean.tolist()
    else:
        top = facts.commonest(SHOWN_ACTIONS)
        share = (scan.action_counts[:, top] / np.maximum(scan.action_counts.sum(1, keepdims=True), 1)).tolist()
        few = len(top) == log.num_actions
        numbers["action"] = share if few else None
        if not few:
            numbers["common_actions"] = {"actions": top.tolist(), "share": share}
    return numbers
