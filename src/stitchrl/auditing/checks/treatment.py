"""Checks for observation columns that overlap with the treatment: made of the action of their own row, or telling it alone.

`leaks_action` finds a column that equals the action. These find what the action determines in another form: a flag, a
table's value, a running total that counts this row's dose already, a score that a treatment raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.leaked_action import columns_equal_to_action
from stitchrl.auditing.treatment import Treatment, treatment
from stitchrl.auditing.wording import listed, percent
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["column_decides_action", "column_made_of_action"]

MADE, LEAST_LEFT = 0.95, 1e-5
"""A column is made of the action where the action accounts for this share of what the row before (and other columns) leave of
it, if these leave at least this share of its variance."""
TOLD = 0.97
"""A column decides the action where it alone avoids this share of the errors of a constant guess."""


def column_made_of_action(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that the action of its own row accounts for, given the row before it or also the other columns."""
    found = treatment(facts)
    if found is None:
        return
    made = _made(found)
    which = _named(found, np.asarray(made.any(axis=0)), facts)
    if not which:
        return
    explained = (1 - found.left_acted / np.maximum(found.left, 1e-12))[made]
    known = [
        text
        for text, needed in (("the row before", found.has_past), ("the other columns", not made[0].any()))
        if needed
    ]
    one, columns = len(which) == 1, "this column" if len(which) == 1 else f"these {len(which)} columns"
    whole = f"what {' and '.join(known)} cannot tell about {columns}" if known else f"the variance of {columns}"
    yield Finding(
        "observation-made-of-action",
        "warning",
        f"observation: {listed('column', which)}",
        f"the action of the same row accounts for {percent(float(explained.min()))} of {whole}",
        "observations of what was known before the action",
        f"If {'the column was' if one else 'these columns were'} filled in after the action or computed from it (a dose of "
        "this window, a running total, a score that a treatment raises), move it to the next row or leave the treatment out "
        "of it: a policy in use will not have it. If the behaviour follows an exact rule of it, the log has tried nothing "
        "else.",
    )


def column_decides_action(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A single column that tells the action of its row almost without error, whatever the other columns hold."""
    found = treatment(facts)
    if found is None:
        return
    which = _named(found, (found.told >= TOLD) & ~_made(found).any(axis=0), facts)
    if which:
        told = float(found.told[found.told >= TOLD].min())
        yield Finding(
            "column-decides-action",
            "warning",
            f"observation: {listed('column', which)}",
            f"{'this column alone tells' if len(which) == 1 else 'each of these columns alone tells'} the action of its row: "
            f"it avoids {percent(told)} of the errors of a guess that knows nothing",
            "actions that weigh several things, or that chance has a part in",
            "If it was recorded with the action or after it (the dose of which the action is a bin, an order number), drop it: "
            "a policy in use will not have it, and imitation would read the answer from it. If it is the rule that the "
            "behaviour follows, the log has tried nothing else, and no other policy can be judged from it.",
        )


def _made(found: Treatment) -> NumpyArray:
    """(2, D) which columns are made of the action, by the row before, and by the other columns too."""
    return np.asarray((found.left >= LEAST_LEFT) & (found.left_acted <= (1 - MADE) * found.left))


def _named(found: Treatment, which: NumpyArray, facts: Facts) -> Sequence[str]:
    """The columns as findings call them, without those that equal the action, which have a finding of their own."""
    equal = {facts.observation_names[j] for j in columns_equal_to_action(facts)}
    chosen = [found.names[j] for j in np.flatnonzero(which) if found.names[j] not in equal]
    return [name[12:-1] if name.startswith("observation[") else name for name in chosen]
