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

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.base import Contributions, Episodes
from stitchrl.types import NumpyArray

__all__ = [
    "Weights",
    "cumulative_weights",
    "final_weights",
    "importance_sampling",
    "logged_return",
    "per_decision",
    "weighted",
    "weighted_per_decision",
]


class Weights(NamedTuple):
    """Weights of n episodes at T steps; 0 from the step after a cut, constant after a true end.

    Attributes:
        now: (n, T) w_t, the ratio of step t included.
        before: (n, T) w_{t-1}, with the episodes that are there at step t.
        lost: share of the episodes' weight that no episode could take over.
    """

    now: Float[NumpyArray, "n T"]
    before: Float[NumpyArray, "n T"]
    lost: float


def cumulative_weights(episodes: Episodes, log_ratio: Float[NumpyArray, " N"]) -> Weights:
    """Products of ratios up to and before each step, with the weight of cut episodes handed on."""
    product = np.exp(np.cumsum(episodes.pad(log_ratio), axis=1))
    earlier = np.concatenate([np.ones((len(product), 1)), product[:, :-1]], axis=1)
    factor, lost = _taken_over(episodes)
    return Weights(product * factor, earlier * factor, lost)


def _taken_over(episodes: Episodes) -> tuple[Float[NumpyArray, "n T"], float]:
    """(n, T) k_t of each episode, 0 after its cut; and the share of weight that was lost."""
    steps = episodes.valid.shape[1]
    last = episodes.valid.sum(1) - 1
    cut_at = np.bincount(last[~episodes.terminated], minlength=steps).astype(np.float64)
    running_on = np.append(episodes.valid[:, 1:].sum(0), 0).astype(np.float64)
    taken = np.divide(cut_at + running_on, running_on, out=np.ones(steps), where=running_on > 0)
    factor = np.cumprod(np.concatenate([[1.0], taken[:-1]]))
    lost = float((cut_at * factor)[running_on == 0].sum() / len(last))
    at_end = np.where(episodes.terminated, factor[last], 0.0)
    return np.where(episodes.valid, factor[None, :], at_end[:, None]), lost


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


def final_weights(episodes: Episodes, weight: Weights) -> Float[NumpyArray, " n"]:
    """(n,) weight at the end of the episode; 0 where it was cut, in its last step too."""
    return np.where(episodes.terminated, weight.now[:, -1], 0.0)
