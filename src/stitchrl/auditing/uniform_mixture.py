"""A mixture, by episode, of uniformly random actions and one or two policies, fitted by expectation-maximisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.auditing.sample import Sample
from stitchrl.types import NumpyArray

__all__ = ["uniform_part"]

ROUNDS = 20
"""Rounds of expectation-maximisation from each start."""


def uniform_part(part: Sample, uniform: NumpyArray, fit: Any, parameters: int) -> tuple[float, NumpyArray, float]:
    """Fit a mixture, by episode, of uniform actions and one or two policies, from several starts, and keep the best by BIC.
    Two policies are tried so that a broad policy need not pass for uniform actions.

    Args:
        part: rows of the episodes.
        uniform: (rows,) log-density of uniform actions.
        fit: gives the log-density of the rows of one half under a policy fitted to the weighted rows of the other half.
        parameters: number of parameters of one policy.

    Returns:
        The weight of the uniform part; (rows,) the probability that the row's episode belongs to it; by how much
        log-likelihood per episode the mixture beats the better of the uniform part and one policy alone.
    """
    _, episode = np.unique(part.episode, return_inverse=True)
    even = episode % 2 == 0

    def score(weight: NumpyArray) -> NumpyArray:
        """(episodes,) log-likelihood under a policy fitted to the weighted rows, each half under the fit to the other."""
        rows = np.zeros(len(episode))
        rows[even], rows[~even] = fit(weight, even), fit(weight, ~even)
        return np.bincount(episode, rows)

    flat = np.bincount(episode, uniform)
    whole = score(np.ones(len(episode)))
    single = max(float(flat.sum()), float(whole.sum()))
    random_first = float(whole.sum() < flat.sum())
    best, belongs_best = single, np.full(len(flat), random_first)
    rank = np.argsort(np.argsort((whole - flat) / np.bincount(episode))) / len(flat)
    for cuts in ((0.9,), (0.5,), (0.2,), (0.33, 0.67)):
        label = np.searchsorted(cuts, rank)  # 0 is the uniform part, the others are policies
        belongs = (label[:, None] == np.arange(len(cuts) + 1)).astype(float)
        last = -np.inf
        for _ in range(ROUNDS):
            weight = np.clip(belongs.mean(0), 1e-3, 1)
            policies = [score(belongs[episode, k]) for k in range(1, len(weight))]
            logs = np.stack([flat, *policies], 1) + np.log(weight / weight.sum())
            total = np.logaddexp.reduce(logs, axis=1)
            belongs = np.exp(logs - total[:, None])
            if total.sum() < last + 1e-3 * len(flat):
                break
            last = total.sum()
        value = float(total.sum()) - 0.5 * (len(cuts) - 1) * parameters * np.log(len(episode))
        if value > best:
            best, belongs_best = value, belongs[:, 0]
    return float(belongs_best.mean()), belongs_best[episode], float(best - single) / len(flat)
