"""Atoms of continuous actions: values at the ends of a number of the action that are logged again and again.

A number that is drawn and then clipped to [low, high] is exactly low or high in a share of the rows. Such a value has a
probability and no density, and the quotient of a density and a probability is no ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.types import Bool, Float, NumpyArray

__all__ = ["BOUND_ROUNDING", "LEAST_SHARE", "SLACK", "Atoms", "action_atoms", "atoms_and_shares"]

LEAST_SHARE = 0.001
"""An end of a number of the action is an atom if it is logged in at least this share of the rows. On an atom that is missed,
importance weights can be wrong by any factor, so the share must be small compared with the errors of an estimate."""
LEAST_ROWS = 5
"""An atom needs at least this many rows, since in a small log even one row is a large share."""
STANDS_OUT = 2.0
"""An atom is logged at least this many times as often as the common values inside. Rounded numbers repeat values too, but their
ends less often than values inside, and for them ratios of densities are right."""
RESTS = 3
"""This many values inside may be of any frequency, such as 0 of a pump that is off: an atom is compared with the commonest value
after them."""
MANY_VALUES = 32
"""With fewer different values inside, such resting values cannot be told from the steps of a setting, and an atom is compared
with the commonest value inside."""
OUTLIERS = 5
"""Beyond an atom that no schema declares lie at most this many rows, or `OUTLIERS_SHARE` of the log where that is more."""
OUTLIERS_SHARE = 1e-4
OUTWEIGHS = 10
"""An atom that no schema declares is logged at least this many times as often as what lies beyond it."""
SLACK = 1e-5
"""An action lies on a bound if it is this share of the box, or of the spread, from it: scaling actions to
[-1, 1] in float32 rounds them."""
BOUND_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Values and bounds are equal if they differ by at most this share of the bound."""
SAMPLE_ROWS = 2**16
ROWS_AT_ONCE = 2**16


class Atoms(NamedTuple):
    """The ends of each number of the action, and how often it is logged there.

    Attributes:
        low, high: (D,) what each number is clipped to: an atom where there is one, else the bound that the schema declares,
            else -inf or inf.
        share_low, share_high: (D,) share of the rows in which each number lies there; 0 where there is no atom.
        share: of the rows in which any number lies on an atom.
        spread: (D,) how widely each number is spread between its ends, by which it is told what lies on them.
    """

    low: Float[NumpyArray, " D"]
    high: Float[NumpyArray, " D"]
    share_low: Float[NumpyArray, " D"]
    share_high: Float[NumpyArray, " D"]
    share: float
    spread: Float[NumpyArray, " D"]

    @property
    def each(self) -> Float[NumpyArray, " D"]:
        """(D,) share of the rows in which each number lies on one of its atoms."""
        return self.share_low + self.share_high

    def on(self, action: Float[NumpyArray, "*b D"]) -> Bool[NumpyArray, "*b two D"]:
        """(..., 2, D) whether each number of some actions lies on its lower, and on its upper atom, and not beyond."""
        there = np.stack([self.share_low, self.share_high]) > 0
        ends = np.where(there, np.stack([self.low, self.high]), 0.0)
        slack = SLACK * self.spread + BOUND_ROUNDING * np.abs(ends)
        return (np.abs(np.asarray(action)[..., None, :] - ends) <= slack) & there


def action_atoms(log: Dataset) -> Atoms | None:
    """The atoms of a log's continuous actions; None where there are none, or actions are discrete.

    An end is the bound that the schema declares, or the commonest of the least and of the largest values that are logged, up to
    a handful of outliers: a log may be clipped to less than its schema allows.
    """
    return atoms_and_shares(log)[0]


def atoms_and_shares(log: Dataset, *, seed: int = 0) -> tuple[Atoms | None, Atoms | None]:
    """The atoms as `action_atoms` gives them, and the shares on the ends whether or not these stand out among the values inside
    (whose `share` is not counted and 0); both from one look at the actions. None where actions are discrete, or there are none.
    `seed` draws the rows whose values are counted where there are many.
    """
    ends = _ends(log, seed)
    return (None, None) if ends is None else (_standing_out(log, *ends), ends[0])


def _standing_out(
    log: Dataset, found: Atoms, usual: Float[NumpyArray, " D"], enough: Bool[NumpyArray, "two D"]
) -> Atoms | None:
    """Those of the likeliest atoms that stand out among the values inside; None where none does. Arguments as `_ends` gives."""
    share = np.stack([found.share_low, found.share_high])
    atom = enough & (share >= LEAST_SHARE) & (share >= STANDS_OUT * usual)
    if not atom.any():
        return None
    share_low, share_high = np.where(atom, share, 0.0)
    found = found._replace(share_low=share_low, share_high=share_high)
    rows = sum(int(found.on(block).any((1, 2)).sum()) for block in _blocks(log))
    declared = _declared(log)
    return found._replace(
        low=np.where(atom[0], found.low, np.where(np.isnan(declared[0]), -np.inf, declared[0])),
        high=np.where(atom[1], found.high, np.where(np.isnan(declared[1]), np.inf, declared[1])),
        share=rows / log.num_transitions,
    )


def _ends(log: Dataset, seed: int) -> tuple[Atoms, Float[NumpyArray, " D"], Bool[NumpyArray, "two D"]] | None:
    """The likeliest atom on each side of each number, the share of a value that is common inside, and whether an end has rows
    enough beside what lies beyond it; None where actions are discrete or there are none."""
    if log.num_actions is not None or not log.num_transitions:
        return None
    size, sample, declared = log.action.shape[1], _sample(log, seed), _declared(log)
    ends, spread, usual = np.full((2, size), np.nan), np.zeros(size), np.zeros(size)
    for j in range(size):
        column = sample[np.isfinite(sample[:, j]), j]
        ends[:, j], spread[j], usual[j] = _ends_of(column, declared[:, j])
    share = np.where(np.isnan(ends), 0.0, 1.0)
    low, high = np.nan_to_num(ends)
    found = Atoms(low, high, share[0], share[1], 0.0, spread)
    count, beyond = np.zeros((2, size)), np.zeros((2, size))
    for block in _blocks(log):
        on = found.on(block)
        count += on.sum(0)
        outside = np.stack([block < found.low, block > found.high], axis=1)
        beyond += (outside & ~on).sum(0)
    few = (beyond <= max(OUTLIERS, OUTLIERS_SHARE * log.num_transitions)) & (count >= OUTWEIGHS * beyond)
    enough = (count >= LEAST_ROWS) & (few | (np.nan_to_num(ends) == declared))
    share_low, share_high = np.where(enough, count / log.num_transitions, 0.0)
    return found._replace(share_low=share_low, share_high=share_high), usual, enough


def _ends_of(
    column: Float[NumpyArray, " n"], declared: Float[NumpyArray, "2"]
) -> tuple[Float[NumpyArray, "2"], float, float]:
    """The likeliest atom on each side of the values of one number, NaN where there is none; the spread of what lies between;
    and the share of a value that is common there."""
    value, times = np.unique(column, return_counts=True)
    if len(value) < 2:
        return np.full(2, np.nan), 0.0, 0.0
    ends = np.array([_end(value, times), _end(value[::-1], times[::-1])])
    for side in (0, 1):
        if np.isfinite(declared[side]):
            near = [
                times[np.abs(value - end) <= BOUND_ROUNDING * abs(end)].sum() for end in (ends[side], declared[side])
            ]
            # As float32 rounds it the bound is the extreme itself.
            ends[side] = declared[side] if near[1] >= near[0] else ends[side]
    if ends[0] >= ends[1]:  # all but a handful of rows have one value
        ends = value[[0, -1]]
    inside = np.abs(value[:, None] - ends).min(1) > BOUND_ROUNDING * np.abs(ends).max()
    value, times = value[inside], times[inside]
    if not len(value):
        return ends, 0.0, 0.0
    between = np.quantile(np.repeat(value, times), (0.25, 0.75, 0.05, 0.95, 0.0, 1.0))
    spread = next((float(b - a) for a, b in between.reshape(3, 2) if b > a), 0.0)
    times = np.sort(times)[::-1]
    usual = int(times[RESTS] if len(times) >= MANY_VALUES else times[0])
    return ends, spread, usual / len(column) if usual > 1 else 0.0


def _end(value: Float[NumpyArray, " n"], times: NumpyArray) -> float:
    """The commonest of the values with at most a handful of rows beyond; the outermost of equally common ones."""
    beyond = np.cumsum(times) - times
    outermost = int((beyond <= max(OUTLIERS, OUTLIERS_SHARE * times.sum())).sum())
    return float(value[times[:outermost].argmax()])


def _declared(log: Dataset) -> Float[NumpyArray, "two D"]:
    """(2, D) the bounds that the schema declares, NaN where it declares none."""
    size = log.action.shape[1]
    bounds = (log.schema.action_low, log.schema.action_high)
    return np.stack([np.full(size, np.nan if one is None else np.asarray(one, np.float64)) for one in bounds])


def _blocks(log: Dataset) -> Iterator[Float[NumpyArray, "R D"]]:
    for start in range(0, log.num_transitions, ROWS_AT_ONCE):
        yield np.asarray(log.action[start : start + ROWS_AT_ONCE], np.float64)


def _sample(log: Dataset, seed: int) -> Float[NumpyArray, "R D"]:
    """The actions of all rows of a log, or of some at random where there are many."""
    rows = np.arange(log.num_transitions)
    if len(rows) > SAMPLE_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), SAMPLE_ROWS, replace=False))
    return np.asarray(log.action[rows], np.float64)
