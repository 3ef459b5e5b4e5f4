"""Atoms of continuous actions: values at the ends of a number of the action that are logged again and again.

A number that is drawn and then clipped to [low, high] is exactly low or high in a share of the rows. Such a value has a
probability and no density, and the quotient of a density and a probability is no ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["LEAST_SHARE", "SLACK", "Atoms", "action_atoms", "bound_slack"]

LEAST_SHARE = 0.001
"""An end of a number of the action is an atom if it is logged in at least this share of the rows. Weights are wrong there
by a factor without limit, so a share that is small beside the errors of an estimate is the most that may go unsaid."""
LEAST_ROWS = 5
"""An atom needs at least so many rows: of a small log each share is large."""
STANDS_OUT = 2.0
"""An atom is logged at least this many times as often as the commonest value inside: numbers that were rounded repeat their
values too, their ends less often than what is inside, and quotients of densities are right for them."""
SLACK = 1e-5
"""An action lies on a bound if it is this share of the box from it: float32 rounds when actions are brought into [-1, 1]."""
SAMPLE_ROWS = 2**16
ROWS_AT_ONCE = 2**16


class Atoms(NamedTuple):
    """The ends of each number of the action, and how often it is logged there.

    Attributes:
        low, high: (D,) what each number is clipped to: an atom where there is one, else the bound that the schema declares,
            else -inf or inf.
        share_low, share_high: (D,) share of the rows in which each number lies there; 0 where there is no atom.
        share: of the rows in which any number lies on an atom.
    """

    low: Float[NumpyArray, " D"]
    high: Float[NumpyArray, " D"]
    share_low: Float[NumpyArray, " D"]
    share_high: Float[NumpyArray, " D"]
    share: float

    @property
    def each(self) -> Float[NumpyArray, " D"]:
        """(D,) share of the rows in which each number lies on one of its atoms."""
        return self.share_low + self.share_high

    def on(self, action: Float[NumpyArray, "*b D"]) -> Bool[NumpyArray, "*b two D"]:
        """(..., 2, D) whether each number of some actions lies on its lower, and on its upper atom, and not beyond."""
        slack = bound_slack(self.low, self.high)
        found = np.stack([np.abs(action - self.low) <= slack, np.abs(action - self.high) <= slack], axis=-2)
        return found & (np.stack([self.share_low, self.share_high]) > 0)


def bound_slack(low: Float[NumpyArray, " D"], high: Float[NumpyArray, " D"]) -> Float[NumpyArray, " D"]:
    """(D,) how near to a bound a number lies on it; where the other bound is infinite, as if the box were 2 wide."""
    width = high - low
    return SLACK * np.where(np.isfinite(width), width, 2.0)


def action_atoms(log: Dataset) -> Atoms | None:
    """The atoms of a log's continuous actions; None where there are none, or actions are discrete.

    An end is the least or the largest value that is logged, whether it is declared or not: a log may be clipped to less than
    its schema allows.
    """
    if log.num_actions is not None or not log.num_transitions:
        return None
    size = log.action.shape[1]
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    for block in _blocks(log):
        finite = np.where(np.isfinite(block), block, np.nan)
        low, high = np.fmin(low, np.fmin.reduce(finite)), np.fmax(high, np.fmax.reduce(finite))
    live = high > low
    low, high = np.where(live, low, 0.0), np.where(live, high, 1.0)
    found = Atoms(low, high, np.ones(size), np.ones(size), 0.0)
    count = sum(found.on(block).sum(0) for block in _blocks(log)) * live
    atom = (count >= LEAST_ROWS) & (count >= LEAST_SHARE * log.num_transitions)
    for j in np.flatnonzero(atom.any(0)).tolist():
        atom[:, j] &= count[:, j] / log.num_transitions >= STANDS_OUT * _commonest_inside(log, j, found)
    if not atom.any():
        return None
    share_low, share_high = np.where(atom, count / log.num_transitions, 0.0)
    found = found._replace(share_low=share_low, share_high=share_high)
    rows = sum(int(found.on(block).any((1, 2)).sum()) for block in _blocks(log))
    declared_low, declared_high = (
        np.full(size, unbounded) if bound is None else np.asarray(bound, np.float64)
        for bound, unbounded in ((log.schema.action_low, -np.inf), (log.schema.action_high, np.inf))
    )
    return found._replace(
        low=np.where(atom[0], low, declared_low),
        high=np.where(atom[1], high, declared_high),
        share=rows / log.num_transitions,
    )


def _blocks(log: Dataset) -> Iterator[Float[NumpyArray, "R D"]]:
    for start in range(0, log.num_transitions, ROWS_AT_ONCE):
        yield np.asarray(log.action[start : start + ROWS_AT_ONCE], np.float64)


def _commonest_inside(log: Dataset, number: int, ends: Atoms) -> float:
    """The share of the rows of the commonest value of one number of the action between its ends; 0 where none repeats."""
    rows = np.arange(log.num_transitions)
    if len(rows) > SAMPLE_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), SAMPLE_ROWS, replace=False))
    action = np.asarray(log.action[rows], np.float64)
    inside = action[~ends.on(action)[:, :, number].any(1), number]
    times = np.unique(inside, return_counts=True)[1]
    largest = int(times.max(initial=1))
    return largest / len(rows) if largest > 1 else 0.0
