"""Importance sampling over episodes (Precup, Sutton, Singh 2000): is, pdis, wis, pdwis.

rho_t = policy / behaviour probability of the logged action, w_t = prod_{u <= t} rho_u, all in log space:

    is     (1/n) sum_i w_end sum_t gamma^t r_t              unbiased, largest variance
    pdis   (1/n) sum_i sum_t gamma^t w_t r_t                 unbiased: a reward needs only the ratios up to it
    wis    sum_i w_end G_i / sum_i w_end                     biased, consistent, bounded by the returns seen
    pdwis  sum_t gamma^t sum_i w_t r_t / sum_i w_t           likewise a step at a time

An episode that terminated keeps its last weight in every later denominator: its later rewards are known to be 0. One
that was cut leaves the denominators at the cut: its later rewards are unknown.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.evaluation.base import Contributions, Episodes
from stitchrl.types import NumpyArray

__all__ = [
    "cumulative_weights",
    "importance_sampling",
    "in_denominator",
    "per_decision",
    "weighted",
    "weighted_per_decision",
]


def cumulative_weights(episodes: Episodes, log_ratio: Float[NumpyArray, " N"]) -> Float[NumpyArray, "n T"]:
    """(n, T) w_t, constant after an episode's end."""
    return np.exp(np.cumsum(episodes.pad(log_ratio), axis=1))


def in_denominator(episodes: Episodes) -> Bool[NumpyArray, "n T"]:
    """(n, T) steps at which an episode counts: its logged ones, and all later ones if it terminated."""
    return episodes.valid | episodes.terminated[:, None]


def importance_sampling(episodes: Episodes, weight: Float[NumpyArray, "n T"]) -> Contributions:
    """Ordinary importance sampling (is)."""
    return Contributions.average(weight[:, -1] * episodes.returns)


def per_decision(episodes: Episodes, weight: Float[NumpyArray, "n T"]) -> Contributions:
    """Per-decision importance sampling (pdis)."""
    return Contributions.average((weight * episodes.reward) @ episodes.discount)


def weighted(episodes: Episodes, weight: Float[NumpyArray, "n T"]) -> Contributions:
    """Weighted (self-normalised) importance sampling (wis)."""
    return Contributions((weight[:, -1] * episodes.returns)[:, None], weight[:, -1:])


def weighted_per_decision(episodes: Episodes, weight: Float[NumpyArray, "n T"]) -> Contributions:
    """Weighted per-decision importance sampling (pdwis); steps at which no reward was seen fall away."""
    counted = np.where(in_denominator(episodes), weight, 0.0)
    numerator = counted * episodes.reward * episodes.discount
    used = (episodes.reward != 0).any(0) & (counted.sum(0) > 0)
    if not used.any():
        return Contributions.average(np.zeros(len(weight)))
    return Contributions(numerator[:, used], counted[:, used])
