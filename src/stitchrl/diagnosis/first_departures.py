"""Where a policy leaves the support of the log first: the first such decision of each episode, and what its state is like."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy.stats import rankdata

from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.support import Support
from stitchrl.types import NumpyArray

__all__ = ["ColumnDifference", "FirstDepartures", "column_name", "distinguishing_columns", "first_departures"]

LEAST_ROWS = 20
"""The fewest rows of each kind with which columns are compared."""
LEAST_APART = 0.2
"""A column is named if the chance that a value at a departure is the larger one differs from one half by at least this."""
LEAST_MEDIANS_APART = 0.25
"""And if its two medians differ by at least this, in standard deviations of the column."""
MOST_NAMED = 3
MOST_COLUMNS = 2000
"""Columns that are compared, at most: the first ones."""


class ColumnDifference(NamedTuple):
    """A column whose values differ between the states where the policy leaves the log and those where it stays.

    Attributes:
        name: of the column.
        here, elsewhere: its median in the former, and in the latter.
        chance: that a value of the former is larger than one of the latter; ties count as half.
    """

    name: str
    here: float
    elsewhere: float
    chance: float

    def __str__(self) -> str:
        way = "higher" if self.chance > 0.5 else "lower"
        return f"{way} values of {self.name} (median {self.here:.3g} against {self.elsewhere:.3g})"


class FirstDepartures(NamedTuple):
    """The first decision without support of each episode.

    Attributes:
        episodes: how many episodes have one, of `looked_at`.
        looked_at: see above.
        step: the median of its number in the episode, from 1; None where no episode has one.
        at_once: share of the departing episodes in which it is the first decision.
        columns: those that tell its states from the ones before it and in other episodes, the clearest first.
    """

    episodes: int
    looked_at: int
    step: float | None
    at_once: float
    columns: tuple[ColumnDifference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return self._asdict() | {"columns": [column._asdict() for column in self.columns]}

    def __str__(self) -> str:
        if self.step is None:
            return "it leaves the log in no episode"
        when = (
            f"in {self.at_once:.0%} of them at the very first decision"
            if self.at_once > 0.5
            else f"first at decision {self.step:g} (median)"
        )
        text = f"it leaves the log in {self.episodes:,} of {self.looked_at:,} episodes, {when}"
        return f"{text}, in states with {', '.join(map(str, self.columns))}" if self.columns else text


def column_name(log: Dataset, column: int) -> str:
    """The name of an observation column in findings: its own name, or its number from 0."""
    name = log.observation_names[column] if column < len(log.observation_names) else ""
    return name if name and name != f"observation[{column}]" else f"observation column {column}"


def first_departures(log: Dataset, support: Support) -> FirstDepartures:
    """Where most of the policy's decision has no support for the first time in an episode."""
    off = support.off > 0.5
    episode = log.episode_of_transition[support.rows]
    start = np.flatnonzero(np.diff(episode, prepend=-1))
    earlier: NumpyArray = np.cumsum(off) - off
    before: NumpyArray = earlier - np.repeat(earlier[start], np.diff(start, append=len(off)))
    first = off & (before == 0)
    steps = log.position[support.rows[first]] + 1
    return FirstDepartures(
        int(first.sum()),
        len(start),
        float(np.median(steps)) if first.any() else None,
        float((steps == 1).mean()) if first.any() else 0.0,
        distinguishing_columns(log, support.rows, first, ~off & (before == 0)),
    )


def distinguishing_columns(
    log: Dataset, rows: NumpyArray, here: Bool[NumpyArray, " n"], elsewhere: Bool[NumpyArray, " n"]
) -> tuple[ColumnDifference, ...]:
    """The columns of the observation that differ most between two kinds of rows, by the rank-sum statistic."""
    count, others = int(here.sum()), int(elsewhere.sum())
    if min(count, others) < LEAST_ROWS or log.observation_table.ndim != 2:
        return ()
    obs = log.observation_table[log.observation_index[rows[here | elsewhere]], :MOST_COLUMNS]
    departing = here[here | elsewhere]
    ranks = rankdata(obs, axis=0)[departing].sum(0)
    chance = (ranks - count * (count + 1) / 2) / (count * others)
    medians = np.stack([np.median(obs[departing], axis=0), np.median(obs[~departing], axis=0)])
    differs = np.abs(medians[0] - medians[1]) >= LEAST_MEDIANS_APART * obs.std(0)
    clearest = np.argsort(-np.abs(chance - 0.5), kind="stable")[:MOST_NAMED]
    return tuple(
        ColumnDifference(column_name(log, int(j)), float(medians[0, j]), float(medians[1, j]), float(chance[j]))
        for j in clearest
        if abs(chance[j] - 0.5) >= LEAST_APART and differs[j]
    )
