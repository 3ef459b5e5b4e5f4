"""The calibration curve of the behaviour's probabilities: how often actions are taken that have a given probability.

Every allowed action of every decision is a pair of a probability b and of whether it was taken. The pairs are put in bins by
b. In a bin, right probabilities average the share that was taken, and the expected calibration error is

    (1)  ECE = sum over bins of |sum over its pairs of (b - taken)| / decisions

(Naeini, Cooper and Hauskrecht 2015, here for every action and not for the likeliest alone). Probability that is given to one
bin and belongs to another counts in both. Chance alone keeps the error above 0: right probabilities would show about
`by_chance`, the mean size of a normal deviation, sqrt(2 / pi) times its standard error, summed over the bins.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["CalibrationCurve", "calibration_curve"]

EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of the bins: finer where most actions are, which are rare ones."""


@dataclasses.dataclass(frozen=True)
class CalibrationCurve:
    """Bins with pairs in them, least probability first.

    Attributes:
        edges: the ends of each bin, a smaller and a larger probability.
        pairs: how many pairs each bin has.
        predicted: mean probability of the pairs of each bin.
        taken: share of the pairs of each bin that was taken.
        error: standard error of `taken` minus `predicted` in each bin, by independent units.
        expected_error: the expected calibration error, equation (1).
        standard_error: standard error of `expected_error`.
        by_chance: what `expected_error` would be on average if all probabilities were right.
    """

    edges: tuple[tuple[float, float], ...]
    pairs: tuple[int, ...]
    predicted: tuple[float, ...]
    taken: tuple[float, ...]
    error: tuple[float, ...]
    expected_error: float
    standard_error: float
    by_chance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


def calibration_curve(probs: Float[NumpyArray, "N A"], log: Dataset, units: Units) -> CalibrationCurve:
    """The curve of (N, A) probabilities on the episodes of a log; actions that a mask forbids are left out."""
    count = len(probs)
    bins = np.clip(np.searchsorted(EDGES, probs, side="right") - 1, 0, len(EDGES) - 2)
    counted = np.ones(probs.shape, bool) if log.action_mask is None else np.asarray(log.action_mask)
    hot = np.zeros(probs.shape)
    hot[np.arange(count), log.action] = 1.0
    pairs, predicted, taken, gaps = [], [], [], []
    used = []
    for k in range(len(EDGES) - 1):
        here = (bins == k) & counted
        number = int(here.sum())
        if not number:
            continue
        used.append(k)
        gap = np.where(here, hot - probs, 0.0).sum(1)
        gaps.append(units.sums(np.add.reduceat(gap, log.episode_start[:-1])))
        pairs.append(number)
        predicted.append(float(probs[here].mean()))
        taken.append(float(hot[here].mean()))
    by_unit = np.stack(gaps, axis=1)
    total = by_unit.sum(0)
    spread = np.sqrt(units.count) * by_unit.std(0)
    # The sign of each gap is taken as it was seen, which is an approximation where the gap is no larger than its error.
    signed = (by_unit * np.sign(total)).sum(1)
    return CalibrationCurve(
        tuple((EDGES[k], EDGES[k + 1]) for k in used),
        tuple(pairs),
        tuple(predicted),
        tuple(taken),
        tuple((spread / np.asarray(pairs)).tolist()),
        float(np.abs(total).sum() / count),
        float(np.sqrt(units.count) * signed.std() / count),
        float(np.sqrt(2 / np.pi) * spread.sum() / count),
    )
