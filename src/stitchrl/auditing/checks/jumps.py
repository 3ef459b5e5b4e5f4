"""The check for steps that lead far from where other steps lead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.regression import features, residuals
from stitchrl.auditing.wording import rows_from
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset

__all__ = ["observation_jumps"]

STEPS_LOOKED_AT = 2**14
"""Jumps are sought among at most this many steps."""
LEAST_STEPS = 1000
FAR_OFF, HALF = 10.0, 0.5
"""A jump misses the prediction ten times as far as nine of ten steps do, and by half a standard deviation a column."""
MANY_JUMPS = 0.01
"""With at least this share of such steps, ten times as far as the median step is enough."""
MOST_COLUMNS, COLUMN_FAR_OFF = 0.5, 3.0
"""In a jump at least half of the columns that move miss their own prediction by three times as much as in nine of ten steps:
where an event moves one column and the others go on as before, no row is lost."""


def observation_jumps(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Steps that lead far from where other steps lead: rows are lost or out of order, or two episodes share an identifier.

    A step counts as a jump when most columns of the observation change much, and a regression of the change on observation
    and action (fitted on other episodes) misses it by far more than it misses nearly all other steps at which anything moved.
    """
    sample = facts.sample
    following = log.next_observation_index[sample.rows]
    known = np.flatnonzero(following != NO_OBSERVATION)
    if len(known) > STEPS_LOOKED_AT:
        known = np.sort(draws(5).choice(known, STEPS_LOOKED_AT, replace=False))
    rows = sample.rows[known]
    if not facts.has_columns or len(rows) < LEAST_STEPS:
        return
    here = facts.standardised(sample.observation[known])
    change = facts.standardised(facts.observation_at(following[known])) - here
    action = sample.action[known]
    if log.num_actions is not None:
        action = facts.one_hot(action)
    left = residuals(features(here, action, full_up_to=8), change, facts.fold[known])
    moved = (change != 0).any(1)
    if moved.sum() < LEAST_STEPS:
        return
    # What the regression misses is no jump where nothing changed.
    off_columns = np.minimum(np.abs(left), np.abs(change))
    off = np.minimum(*(np.sqrt((part**2).mean(1)) for part in (left, change)))
    usual, nearly_all = (float(q) for q in np.quantile(off[moved], [0.5, 0.9]))
    live = (change != 0).any(0)
    own = np.quantile(off_columns[moved][:, live], 0.9, axis=0)
    most = (off_columns[:, live] > COLUMN_FAR_OFF * np.maximum(own, 1e-9)).mean(1) >= MOST_COLUMNS
    jumps = np.flatnonzero(most & (off > max(FAR_OFF * nearly_all, HALF)))
    many = np.flatnonzero(off > max(FAR_OFF * usual, HALF))
    # Where jumps are more than a tenth of the steps, they set the ninth tenth themselves.
    own = np.quantile(off_columns[moved][:, live], 0.5, axis=0)
    many = many[(off_columns[many][:, live] > COLUMN_FAR_OFF * np.maximum(own, 1e-9)).mean(1) >= MOST_COLUMNS]
    found = many if len(many) >= MANY_JUMPS * len(off) else jumps
    if len(found) >= 3:
        yield Finding(
            "observation-jumps",
            "warning",
            f"next_observation: {rows_from(rows[found[0]], len(found))} of {len(rows):,} examined",
            f"{len(found) / len(rows):.2%} of steps lead {np.median(off[found]):.2g} standard deviations per column away from "
            f"where the other steps would (the usual distance is {usual:.2g})",
            "steps that follow from the observation and the action, as nearly all others in this log do",
            "Look for lost rows, rows out of order, or two episodes under one identifier.",
        )
