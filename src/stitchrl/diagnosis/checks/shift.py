"""Checks for change: within the log, and between the log and newer data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from stitchrl.auditing.all_checks import DRIFT
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.shifts import (
    ERRORS,
    LEAST_EPISODES,
    OUTSIDE,
    ColumnShift,
    Rows,
    Shift,
    mechanism_shift,
    observation_shift,
)
from stitchrl.diagnosis.subject import NotLookedAtError, Shared, Subject, drawn_episodes
from stitchrl.diagnosis.two_samples import RATE
from stitchrl.types import NumpyArray

__all__ = ["change_in_newer_data", "drift_in_log", "shift_numbers"]

MOST_ROWS = 2**14
"""Rows of either log that are compared, at most."""
LEAST_TAKEN, MOST_ACTIONS = 30, 50
"""How often an action must be taken in each log to be compared by itself, and the most actions that are."""
SMALL, MEDIUM = 0.2, 0.5
"""Shifts of observations, in standard deviations, called small and medium (Cohen 1988)."""
MOST_CROSSED = 12
"""With at most this many observation columns errors are correlated with each of them; with more, with actions alone."""
WEAK = 0.05
"""Shifts of what follows, in standard deviations of what a model leaves unexplained, below which there is no finding: where
observations moved too, the model's own errors come to about 0.03."""
MOST_NAMES = 10
CHANCE = f"what chance brings (at most {RATE:.0%} of comparisons of unchanged logs show any change)"
END, TAKEN = "the end of the episode", "action"
PER = "for each standard deviation more of"
DYNAMICS = (
    "dynamics-shift",
    "what follows the same observation and action",
    "Either the world changed after the log was recorded, or the observation is not the whole state (the audit then finds "
    "`history-decides-outcomes`) and only the mix of cases changed: sicker patients who look alike fare worse in the same "
    "world. Either way the policy and its estimates are not of what happens now: find out what changed (treatment, equipment, "
    "patients, how a column is computed), and train and evaluate again on newer data alone.",
)
REWARDS = (
    "reward-shift",
    "the reward of the same observation and action",
    "See whether the definition of the reward changed or the world did. Where the observation is not the whole state (the "
    "audit then finds `history-decides-outcomes`), another mix of cases alone looks the same. Estimates from the log do not hold "
    "for the newer data: bring both to one definition, or train and evaluate again on newer data alone.",
)
BEHAVIOR = (
    "behavior-shift",
    "the action taken after the same observation",
    "The behaviour is now another one than in the log. The policy must now beat this newer behaviour: evaluate it on the newer "
    "log, with the newer propensities (or a behaviour fitted to that log alone), before it is deployed.",
)
"""Codes, what changed, and what to do."""
NO_NEWER = "No newer data was given to compare the log with (`newer=`, or `--newer`)."


Logs: TypeAlias = tuple[Dataset, Dataset]
"""The log and the newer one."""
Both: TypeAlias = tuple[Rows, Rows]
"""The rows of either."""


@dataclasses.dataclass(frozen=True)
class Shifts:
    """What changed from the log to the newer one; `reward`, `behavior` and `dynamics` are None where nothing is comparable.

    `few` is whether it is the size of a log and not what it holds that leaves `reward` and `dynamics` unknown.
    """

    observations: Shift
    behavior: Shift | None
    reward: Shift | None
    dynamics: Shift | None
    sizes: tuple[int, int]
    few: bool = False


def drift_in_log(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """The audit's findings on change from early to late in the log, where there is newer data; else `st.audit` reports them."""
    if subjects[0].shared.newer is None:
        raise NotLookedAtError(NO_NEWER)
    log = subjects[0].shared.log
    facts = Facts(log)
    for check in DRIFT:
        for finding in check(log, facts):
            yield dataclasses.replace(finding, where=f"within the log, {finding.where}")


def change_in_newer_data(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """Observations, behaviour, rewards or dynamics that are not in the newer log what they were."""
    found = subjects[0].shared.once(_shifts)
    rows = f"{found.sizes[0]:,} decisions of the log against {found.sizes[1]:,} newer ones"
    yield from _observations(found.observations, rows)
    parts = {
        "dynamics": (found.dynamics, *DYNAMICS),
        "rewards": (found.reward, *REWARDS),
        "behaviour": (found.behavior, *BEHAVIOR),
    }
    unknown = [name for name, (one, *_) in parts.items() if one is None]
    if found.few:
        yield Finding(
            "newer-not-comparable",
            "info",
            "newer data",
            f"no action was taken {LEAST_TAKEN} times in both logs, in {LEAST_EPISODES} episodes of each ({rows}), so it is not "
            f"known yet whether {' and '.join(unknown)} are the same",
            f"actions that both logs show {LEAST_TAKEN} times or more",
            "Nothing is wrong so far: go on logging, and compare again with more newer episodes.",
        )
    elif unknown:
        yield Finding(
            "newer-not-comparable",
            "warning",
            "newer data",
            f"hardly any older decision looks like the newer ones ({rows}), so it cannot be said whether "
            f"{' and '.join(unknown)} {'is' if unknown == ['behaviour'] else 'are'} the same",
            "older decisions with observations and actions like the newer ones",
            "What was learned holds for the old population alone: record a log of the new one, audit it, and train and evaluate "
            "again.",
        )
    for one, code, what, action in parts.values():
        if one is not None:
            yield from _followed(one, code, rows, what, action)


def shift_numbers(subjects: Sequence[Subject]) -> dict[str, Any]:
    """What was compared, and what changed, as plain numbers."""
    found = subjects[0].shared.once(_shifts)
    parts = {"observations": found.observations, "dynamics": found.dynamics, "reward": found.reward}
    return {
        name: None if one is None else dataclasses.asdict(one)
        for name, one in (parts | {"behavior": found.behavior}).items()
    }


def _observations(shift: Shift, rows: str) -> Iterator[Finding]:
    large = [one for one in shift.found if abs(one.size) >= SMALL]
    if not large:
        return
    worst = large[0]
    names = list(dict.fromkeys(one.target for one in large))
    moved = (
        f"{worst.after:.0%} of newer values of {worst.target} lie outside of the range that holds "
        f"{1 - worst.before:.0%} of the older ones"
        if worst.within == OUTSIDE
        else f"the mean of {worst.target} goes from {worst.before:.4g} to {worst.after:.4g} (effect {worst.size:+.2f} sd)"
    )
    yield Finding(
        "observation-shift",
        "warning" if max(abs(one.size) for one in large) >= MEDIUM else "info",
        "observation: " + _listed(names),
        f"{moved}; columns that changed by {SMALL:g} sd or more: {len(names)} ({rows})",
        f"effects of less than {SMALL:g} standard deviations, or {CHANCE}",
        "The policy now meets other states than those it learned from. See whether a unit, a sensor or the population changed, "
        "audit the newer log, and train and evaluate again on a log that holds such states.",
    )


def _followed(shift: Shift, code: str, rows: str, what: str, action: str) -> Iterator[Finding]:
    large = [one for one in shift.found if abs(one.size) >= WEAK]
    if not large:
        return
    names = list(dict.fromkeys(one.target for one in large))
    assert shift.error_ratio is not None
    ratio, low, high = shift.error_ratio
    yield Finding(
        code,
        "warning",
        f"action{'' if len(names) == 1 else 's'} {_listed([name.removeprefix(TAKEN).strip() for name in names])}"
        if _discrete(names[0])
        else _listed(names),
        f"{what} changed: {_in_words(large[0])}; the squared errors of a model fitted to the log are {ratio:.2f} times as "
        f"large on newer data ({low:.2f} to {high:.2f}; {rows})",
        f"effects of less than {WEAK:g} sd, or {CHANCE}",
        action,
    )


def _discrete(target: str) -> bool:
    return target.startswith(TAKEN) and "dimension" not in target


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")


def _in_words(shift: ColumnShift) -> str:
    """What changed, as a clause."""
    if shift.within == ERRORS:
        return (
            f"what a model of the log leaves unexplained of {shift.target} is {shift.after / max(shift.before, 1e-12):.2f} "
            "times as large"
        )
    change = shift.after - shift.before
    if shift.target == END or _discrete(shift.target):
        amount = f"in {100 * abs(change):.1f} {'more' if change > 0 else 'fewer'} of every 100 decisions"
        said = f"{shift.target} {'comes' if shift.target == END else 'is taken'} {amount}"
    else:
        said = f"{shift.target} is {abs(change):.3g} {'higher' if change > 0 else 'lower'}"
    where = f"{shift.within}, " if shift.within else ""
    return (
        f"{where}{said} than a model of the log says (effect {shift.size:+.2f} sd of what the model leaves unexplained)"
    )


def _shifts(shared: Shared) -> Shifts:
    """Both logs, compared."""
    if shared.newer is None:
        raise NotLookedAtError(NO_NEWER)
    old, new = (drawn_episodes(log, MOST_ROWS) for log in (shared.log, shared.newer))
    if old.observation_table.ndim != 2:
        raise NotLookedAtError("Images of two logs are not compared: only columns of numbers are.")
    if min(old.num_episodes, new.num_episodes) < LEAST_EPISODES:
        raise NotLookedAtError(
            f"The log and the newer data must have at least {LEAST_EPISODES} episodes each to be compared; got "
            f"{old.num_episodes} and {new.num_episodes}."
        )
    actions, either = _actions(old, new)
    rows = Rows.of(old, actions), Rows.of(new, actions)
    return Shifts(
        observation_shift(*rows, _columns(old)),
        _behavior(old, (Rows.of(old, either), Rows.of(new, either)), either),
        _reward((old, new), rows, actions),
        _dynamics((old, new), rows, actions),
        (old.num_transitions, new.num_transitions),
        old.num_actions is not None and min(_episodes_of(log, actions) for log in (old, new)) < LEAST_EPISODES,
    )


def _episodes_of(log: Dataset, actions: Sequence[int]) -> int:
    """How many episodes have one of these actions."""
    return len(np.unique(log.episode_of_transition[_known_actions(log, actions)]))


def _actions(old: Dataset, new: Dataset) -> tuple[list[int], list[int]]:
    """The discrete actions that both logs take often enough, and those that either does; the commonest of them."""
    if old.num_actions is None:
        return [], []
    counts = [np.bincount(log.action, minlength=old.num_actions) for log in (old, new)]
    of_both, of_either = np.minimum(*counts), np.maximum(*counts)
    commonest = [np.argsort(-count, kind="stable")[:MOST_ACTIONS] for count in (of_both, of_either)]
    both, either = (
        sorted(top[count[top] >= LEAST_TAKEN].tolist())
        for top, count in zip(commonest, (of_both, of_either), strict=True)
    )
    return both, either


def _columns(old: Dataset) -> list[str]:
    """The names of the observation columns in findings."""
    names = Facts(old).observation_names
    return [f"column {j}" if name == f"observation[{j}]" else name for j, name in enumerate(names)]


def _named(old: Dataset, actions: Sequence[int]) -> list[str]:
    if old.num_actions is None:
        return [f"{PER} action dimension {k}" for k in range(old.action.shape[1])]
    return [f"after action {a}" for a in actions]


def _standard(rows: Both, part: str) -> tuple[NumpyArray, NumpyArray]:
    """Columns of both logs, standardised by the older one."""
    old, new = (getattr(one, part) for one in rows)
    spread = np.where(old.std(0) > 0, old.std(0), 1.0)
    return tuple(np.clip((one - old.mean(0)) / spread, -5, 5) for one in (old, new))


def _instruments(old: Dataset, rows: Both, actions: Sequence[int]) -> Any:
    """The columns that errors are correlated with, beside their mean: actions, then observations; and their names."""
    acts = (rows[0].action, rows[1].action) if old.num_actions is not None else _standard(rows, "action")
    observed = _standard(rows, "observation")
    names = [f"{PER} {name}" for name in _columns(old)]
    return tuple(np.concatenate(pair, axis=1) for pair in zip(acts, observed, strict=True)), [
        *_named(old, actions),
        *names,
    ]


def _behavior(old: Dataset, rows: Both, actions: Sequence[int]) -> Shift | None:
    names = [f"action dimension {k}" for k in range(rows[0].action.shape[1])]
    if old.num_actions is not None:
        names = [f"{TAKEN} {a}" for a in actions]
    return mechanism_shift(
        *rows,
        (rows[0].observation, rows[1].observation),
        (rows[0].action, rows[1].action),
        names,
        _standard(rows, "observation"),
        [f"{PER} {name}" for name in _columns(old)],
    )


def _reward(logs: Logs, rows: Both, actions: Sequence[int]) -> Shift | None:
    """Whether the same observation and action bring the same reward."""
    kept = [_known_actions(log, actions) for log in logs]
    if not all(one.any() for one in kept):
        return None
    rows = _each(lambda one, rows_: one.take(rows_), rows, kept)
    target = _each(lambda log, rows_: log.reward[rows_].astype(np.float64)[:, None], logs, kept)
    return mechanism_shift(*rows, _observed_and_done(rows), target, ["reward"], *_instruments(logs[0], rows, actions))


def _dynamics(logs: Logs, rows: Both, actions: Sequence[int]) -> Shift | None:
    """Whether the same is observed next, and as many episodes end, after the same observation and action."""
    kept = [_known_actions(log, actions) & log.can_bootstrap for log in logs]
    if not all(one.any() for one in kept):
        return None
    rows = _each(lambda one, rows_: one.take(rows_), rows, kept)
    ends = _each(lambda log, rows_: log.terminated[rows_].astype(np.float64)[:, None], logs, kept)
    following = _each(lambda log, rows_: log.next_observation[rows_].astype(np.float64), logs, kept)
    moved = (
        # An end counts as no change: what follows it is not observed.
        np.where(end > 0, 0.0, after - one.observation)
        for one, end, after in zip(rows, ends, following, strict=True)
    )
    targets = _each(lambda one, end: np.concatenate([one, end], axis=1), moved, ends)
    instruments, called = _instruments(logs[0], rows, actions)
    names = _columns(logs[0])
    if len(names) > MOST_CROSSED:
        few = len(called) - len(names)
        instruments, called = _each(lambda one, _: one[:, :few], instruments, instruments), called[:few]
    return mechanism_shift(
        *rows, _observed_and_done(rows), targets, [*(f"next {name}" for name in names), END], instruments, called
    )


def _known_actions(log: Dataset, actions: Sequence[int]) -> NumpyArray:
    """(N,) whether both logs take the action of a row often enough; all rows of continuous actions."""
    return np.isin(log.action, actions) if log.num_actions is not None else np.ones(log.num_transitions, bool)


def _observed_and_done(rows: Both) -> Any:
    return _each(lambda one, _: np.concatenate([one.observation, one.action], axis=1), rows, rows)


def _each(compute: Callable[[Any, Any], Any], one: Iterable[Any], other: Iterable[Any]) -> Any:
    """What a function gives for the older log and for the newer one."""
    return tuple(compute(a, b) for a, b in zip(one, other, strict=True))
