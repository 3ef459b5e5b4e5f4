"""Importance sampling over episodes (Precup, Sutton, Singh 2000): is, pdis, wis, pdwis; and what to do about cuts.

rho_t = policy / behaviour probability of the logged action, w_t = prod_{u <= t} rho_u, all in log space:

    is     (1/n) sum_i w_end sum_t gamma^t r_t              unbiased, largest variance
    pdis   (1/n) sum_i sum_t gamma^t w_t r_t                 unbiased: a reward needs only the ratios up to it
    wis    sum_i w_end G_i / sum_i w_end                     biased, consistent, bounded by the returns seen
    pdwis  sum_t gamma^t sum_i w_t r_t / sum_i w_t           likewise a step at a time

An episode that terminated keeps its last weight in every later denominator: its later rewards are known to be 0. One
that was cut leaves at the cut: its later rewards are unknown. Leaving alone would make the terminated ones too many,
so the episodes that run on past step t take over the weight of those cut there (Kaplan and Meier 1958, "redistribution
to the right"; Robins and Rotnitzky 1992), assuming that cuts do not depend on what would have come:

    k_{t+1} = k_t (cut at t + running on past t) / running on past t

Where all that still ran were cut, their weight is lost and the estimates say so.
"""

from __future__ import annotations

import numpy as np

from stitchrl.evaluation.contributions import Contributions, Episodes
from stitchrl.evaluation.weights import Weights, cumulative_weights, final_weights

__all__ = ["importance_sampling", "logged_return", "per_decision", "weighted", "weighted_per_decision"]


def importance_sampling(episodes: Episodes, weight: Weights) -> Contributions:
    """Ordinary importance sampling (is); episodes that were cut count through those that take over their weight."""
    return Contributions.average(final_weights(episodes, weight) * episodes.returns)


def per_decision(episodes: Episodes, weight: Weights) -> Contributions:
    """Per-decision importance sampling (pdis)."""
    return Contributions.average((weight.now * episodes.reward) @ episodes.discount)


def weighted(episodes: Episodes, weight: Weights) -> Contributions:
    """Weighted (self-normalised) importance sampling (wis)."""
    final = final_weights(episodes, weight)
    return Contributions((final * episodes.returns)[:, None], final[:, None])


def weighted_per_decision(episodes: Episodes, weight: Weights) -> Contributions:
    """Weighted per-decision importance sampling (pdwis); steps at which no reward was seen fall away."""
    numerator = weight.now * episodes.reward * episodes.discount
    used = (episodes.reward != 0).any(0) & (weight.now.sum(0) > 0)
    if not used.any():
        return Contributions.average(np.zeros(len(numerator)))
    return Contributions(numerator[:, used], weight.now[:, used])


def logged_return(episodes: Episodes) -> Contributions:
    """The behaviour's own value: the mean return, or where episodes were cut, pdwis with all ratios 1."""
    if episodes.terminated.all():
        return Contributions.average(episodes.returns)
    unit = cumulative_weights(episodes, np.zeros(int(episodes.index.max()) + 1))
    return weighted_per_decision(episodes, unit)
