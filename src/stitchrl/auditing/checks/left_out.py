"""Checks of the columns that a log has and its observation leaves out: what reveals them, and what they decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.history import HistoryGain, gains_beyond_observation
from stitchrl.auditing.history_rows import past_rows
from stitchrl.auditing.left_out import left_out_columns, revealed
from stitchrl.auditing.wording import listed, percent
from stitchrl.data.dataset import Dataset
from stitchrl.messages import likelier

__all__ = ["left_out_common_cause", "removed_column_revealed"]

REVEALED, PARTLY = 0.9, 0.5
"""Shares of the errors of a constant guess from which on a column counts as revealed, and as revealed in part."""
ROWS, LEAST_ROWS, LEAST_CLUSTERS = 2**13, 300, 20


def removed_column_revealed(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column that was removed from the observation, or that tells subgroups apart, and that the observation tells all the
    same."""
    for column in left_out_columns(facts):
        if column.kind == "source" or (found := revealed(facts, column)) is None or found.share < PARTLY:
            continue
        removed, whole = column.kind == "removed", found.share >= REVEALED
        of = "errors of guessing its commonest value" if column.categories else "variance"
        yield Finding(
            "removed-column-revealed",
            "warning" if removed and whole else "info",
            f"{column.name}; observation: {listed('column', found.through)}",
            f"the observation tells {'' if whole else 'in part '}the {'removed' if removed else 'subgroup'} column "
            f"{column.name}, which it leaves out: held out, {percent(found.share)} of the {of} "
            f"{'are' if column.categories else 'is'} explained",
            "an observation from which a column that was left out on purpose cannot be computed",
            "Leaving a column out does not keep its information out. If it was removed because it holds the treatment, the "
            "outcome, or something that must not decide, remove or coarsen the columns named here as well."
            if removed
            else "A policy can treat these subgroups differently although it is not told of them: look at its actions and "
            "estimates for each.",
        )


def left_out_common_cause(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A column of the log, left out of the observation, that predicts the action beyond the observation and what follows beyond
    the observation and the action: a cause of both that the log does hold."""
    gains = facts.once(_gains)
    action = [gain for gain in gains if gain.target == "action" and gain.passed is False]
    outcome = [gain for gain in gains if gain.target != "action" and gain.passed is False]
    if not action or not outcome:
        return
    shared = {name.partition("=")[0] for name in action[0].columns}
    names = [n for n in dict.fromkeys(c.partition("=")[0] for gain in outcome for c in gain.columns) if n in shared]
    if not names:
        return
    numbers = ", ".join(f"the {gain.target} (which is {likelier(gain.gain)} with them)" for gain in (*action, *outcome))
    yield Finding(
        "left-out-common-cause",
        "warning",
        ", ".join(names),
        f"{listed('column', names)}, which the observation leaves out, improve{'s' if len(names) == 1 else ''} held-out "
        f"predictions of {numbers}",
        "columns outside the observation to decide the action or what follows, but not both",
        "What decided the treatment also decided the outcome, so that actions look better or worse than they are to everything "
        "that sees the observation alone. Add the column to the observation if a policy in use will have it; if not, learn and "
        "judge within its values one by one.",
    )


def _gains(facts: Facts) -> tuple[HistoryGain, ...]:
    """What the left-out columns add to the predictions of the history check, in which they take the place of the past."""
    columns = left_out_columns(facts)
    if not columns or not facts.has_columns or facts.log.observation_table.shape[1] == 0:
        return ()
    rows = past_rows(facts.log, first_steps=True)
    rows = rows.every(max(1, len(rows.rows) // ROWS))
    if len(rows.rows) < LEAST_ROWS or len(np.unique(rows.cluster)) < LEAST_CLUSTERS:
        return ()
    cluster = np.unique(rows.cluster, return_inverse=True)[1]
    parts = [column.columns(rows.rows) for column in columns]
    past = np.concatenate([values for values, _ in parts], 1)
    names = tuple(name for _, of_part in parts for name in of_part)
    spread = past.std(0)
    past = (past[:, spread > 0] - past[:, spread > 0].mean(0)) / spread[spread > 0]
    kept = tuple(name for name, varies in zip(names, spread > 0, strict=True) if varies)
    if not kept:
        return ()
    return gains_beyond_observation(dataclasses.replace(rows, cluster=cluster, past=past, past_names=kept))
