"""Checks of the actions: whether they lie inside their space and masks, use all of it, and are of the declared kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import count_rows
from stitchrl.auditing.wording import listed, rows_from, share_of
from stitchrl.data.atoms import LEAST_SHARE, Atoms
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = [
    "action_constant",
    "action_few_values",
    "action_integers",
    "action_outside_bounds",
    "action_saturated",
    "action_twins",
    "actions_unused",
    "empty_mask",
    "logged_action_outside_mask",
]

RARE_SHARE = 0.001
"""Actions with a smaller share of the rows are called rare."""
FAR_OUT = 3.0
"""A value is far out when it lies this many ranges from the 10th to the 90th percentile away from the median: 7.7 standard
deviations of a normal distribution."""
SATURATED = 0.5
"""Share of rows in which a number of the action is exactly its smallest or largest value that leaves little to compare."""
PLAINLY_SATURATED = 0.1
"""Above this share of rows on its bounds a number is called saturated even where values between them are as common."""
FEW_VALUES = 32
"""A number with at most this many different values in `LEAST_ROWS` rows or more is effectively discrete."""
LEAST_ROWS = 500


def logged_action_outside_mask(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Logged actions that their own mask forbids: the mask or the action is wrong."""
    mask = log.action_mask
    if mask is None:
        return

    def outside(rows: slice) -> NumpyArray:
        action = log.action[rows].astype(np.int64)[:, None].clip(0, mask.shape[1] - 1)
        forbidden: NumpyArray = ~np.take_along_axis(mask[rows], action, 1)[:, 0]
        return forbidden

    count, first = count_rows(log.num_transitions, outside)
    if count:
        yield Finding(
            "action-outside-mask",
            "error",
            f"action, action_mask: {rows_from(first, count)}",
            f"{share_of(count, log.num_transitions)} of logged actions are forbidden by their own mask",
            "every logged action to be allowed",
            "Correct the mask: otherwise learned policies may never take the action that was logged there.",
        )


def empty_mask(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rows whose mask allows no action."""
    mask = log.action_mask
    if mask is None:
        return
    count, first = count_rows(log.num_transitions, lambda rows: ~np.asarray(mask[rows].any(1)))
    if count:
        yield Finding(
            "empty-mask",
            "error",
            f"action_mask: row {first}",
            f"{count:,} row{' allows' if count == 1 else 's allow'} no action",
            "at least one allowed action in every row",
            "Correct the mask.",
        )


def action_outside_bounds(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions outside the declared space; where no bounds are declared, values far from all others."""
    if facts.scan.actions_outside:
        yield Finding(
            "action-outside-bounds",
            "error",
            "action",
            f"{facts.scan.actions_outside:,} actions are not among 0 to {(log.num_actions or 0) - 1}",
            "every action inside the declared space",
            "Correct the number of actions in the schema, or the log.",
        )
    moments = facts.scan.action
    if moments is None or log.action.shape[1] == 0:
        return
    low, high = (getattr(log.schema, name, None) for name in ("action_low", "action_high"))
    if low is not None and high is not None:
        low, high = (np.broadcast_to(np.asarray(b, float), moments.low.shape) for b in (low, high))
        slack = 1e-5 * np.maximum(1.0, np.abs(high - low))
        for j in np.flatnonzero((moments.low < low - slack) | (moments.high > high + slack)):
            yield Finding(
                "action-outside-bounds",
                "error",
                f"action: number {j}",
                f"values from {moments.low[j]:g} to {moments.high[j]:g}",
                f"values from {low[j]:g} to {high[j]:g}, as the schema says",
                "Correct the bounds, or the unit of the rows outside.",
            )
        return
    lower, middle, upper = np.quantile(facts.sample.action, [0.1, 0.5, 0.9], axis=0)
    reach = FAR_OUT * (upper - lower)
    far = (reach > 0) & ((moments.low < middle - reach) | (moments.high > middle + reach))
    for j in np.flatnonzero(far):
        beyond = np.abs(facts.sample.action[:, j] - middle[j]) > reach[j]
        yield Finding(
            "action-outside-bounds",
            "warning",
            f"action: number {j}",
            f"values from {moments.low[j]:g} to {moments.high[j]:g}, where 80% lie from {lower[j]:g} to {upper[j]:g} "
            f"({beyond.mean():.2%} of rows are far out)",
            "values in one unit, inside the bounds of the action",
            "Look for rows in another unit or a placeholder, and declare the bounds in the schema.",
        )


def action_saturated(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Continuous actions that lie exactly on a bound again and again, as clipped ones do.

    With logged propensities it is a warning: a number on a bound may be a probability or a density.
    """
    if log.num_actions is not None or len(facts.sample) < LEAST_ROWS:
        return
    atoms, plain = facts.action_atoms
    few = _few(facts)
    found = _above(atoms, 0.0, few)
    if not len(found):  # where other values inside are as common, a bound is still one
        atoms, found = plain, _above(plain, PLAINLY_SATURATED, few)
    if atoms is not None and len(found):
        worst = found[atoms.each[found].argmax()]
        ends = [f"{end:g}" for end, share in zip(
            (atoms.low[worst], atoms.high[worst]), (atoms.share_low[worst], atoms.share_high[worst]), strict=True
        ) if share > 0]  # fmt: skip
        logged = log.behavior_log_prob is not None
        yield Finding(
            "action-saturated",
            "warning" if logged or atoms.each[worst] >= SATURATED else "info",
            f"action: {listed('number', found.tolist())}",
            f"number {worst} is exactly {' or '.join(ends)} in {atoms.each[worst]:.1%} of rows",
            f"less than {LEAST_SHARE:.1%} of rows on a bound",
            "A bound that actions were clipped to has a probability and no density: evaluate a policy that is clipped as well, "
            "st.ClippedPolicy(policy, low, high)"
            + (
                ", and make sure that the logged propensity of an action on a bound is the probability of being clipped there."
                if logged
                else "."
            ),
        )


def _above(atoms: Atoms | None, share: float, but: NumpyArray) -> NumpyArray:
    """The numbers of the action that lie on their bounds in more than a share of the rows, but for some."""
    return np.zeros(0, int) if atoms is None else np.flatnonzero((atoms.each > share) & ~but)


def _few(facts: Facts) -> NumpyArray:
    """(k,) whether each number of the action has few different values."""
    return np.array([len(np.unique(column)) <= FEW_VALUES for column in facts.sample.action.T], bool)


def action_few_values(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A continuous action that takes a handful of values which are not whole numbers."""
    for j, values in _effectively_discrete(log, facts):
        if not _whole(values):
            yield Finding(
                "action-effectively-discrete",
                "warning",
                f"action: number {j}",
                f"the number takes only {len(values)} values ({', '.join(f'{v:.4g}' for v in values[:6])}"
                f"{' ...' if len(values) > 6 else ''})",
                "a number that varies freely, as the schema says",
                "Declare the action discrete, with one integer for each choice: a probability density has no meaning here.",
            )


def action_integers(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Discrete actions that are stored as floats and therefore read as continuous."""
    for j, values in _effectively_discrete(log, facts):
        if _whole(values):
            yield Finding(
                "action-integers-as-floats",
                "warning",
                f"action: number {j}",
                f"the number takes only {len(values)} whole values from {values.min():g} to {values.max():g}",
                "a number that varies freely, as the schema says",
                "Store the action as integers, or declare it in the schema: under [action], kind = discrete and the count.",
            )


def _effectively_discrete(log: Dataset, facts: Facts) -> Iterator[tuple[int, NumpyArray]]:
    if log.num_actions is None and len(facts.sample) >= LEAST_ROWS:
        for j, column in enumerate(facts.sample.action.T):
            values = np.unique(column)
            whole = _whole(values) and len(values) <= 10 * FEW_VALUES
            if len(values) > 1 and (len(values) <= FEW_VALUES or whole):
                yield j, values


def _whole(values: NumpyArray) -> bool:
    return bool((values == np.round(values)).all())


def action_constant(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """An action, or one of its numbers, that never changes, so that nothing can be compared."""
    moments = facts.scan.action
    if log.num_transitions < 2:
        return
    if moments is None:
        used = np.flatnonzero(facts.scan.action_counts.sum(0))
        if len(used) == 1:
            yield Finding(
                "action-constant",
                "error",
                "action",
                f"every row takes action {used[0]}",
                "at least two different actions",
                "A log of one action says nothing about others: check the column.",
            )
        return
    constant = np.flatnonzero(moments.high == moments.low)
    if len(constant):
        yield Finding(
            "action-constant",
            "error" if len(constant) == len(moments.low) else "warning",
            f"action: {listed('number', constant.tolist())}",
            f"{len(constant)} of {len(moments.low)} numbers never {'changes' if len(constant) == 1 else 'change'} (the first is "
            f"{moments.low[constant[0]]:g})",
            "numbers that vary",
            "Drop them from the action, or find out why they never change.",
        )


def action_twins(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Two numbers of the action that are always equal."""
    if log.num_actions is not None or len(facts.sample) < 20:
        return
    action = facts.sample.action
    for j in range(1, action.shape[1]):
        for i in range(j):
            if action[:, i].std() > 0 and (action[:, i] == action[:, j]).all():
                yield Finding(
                    "action-duplicate",
                    "warning",
                    f"action: numbers {i} and {j}",
                    "the two numbers are equal in every sampled row",
                    "numbers that vary independently",
                    "Drop one of them: together they have no probability density.",
                )


def actions_unused(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions of the declared space that are never or hardly ever taken."""
    if log.num_actions is None:
        return
    share = facts.scan.action_counts.sum(0) / log.num_transitions
    unused, rare = np.flatnonzero(share == 0), np.flatnonzero((share > 0) & (share < RARE_SHARE))
    for code, which, text in (
        ("action-unused", unused, "never taken"),
        ("action-rare", rare, f"taken in less than {RARE_SHARE:.1%} of rows"),
    ):
        if len(which):
            yield Finding(
                code,
                "warning" if code == "action-unused" and log.action_mask is None else "info",
                f"action: {', '.join(map(str, which[:10]))}{' ...' if len(which) > 10 else ''}",
                f"{len(which)} of {log.num_actions} actions {'is' if len(which) == 1 else 'are'} {text}",
                "some rows for every action that a policy may take",
                f"{'Nothing' if code == 'action-unused' else 'Little'} can be learned about them: forbid them with an "
                "action_mask, or collect some.",
            )
