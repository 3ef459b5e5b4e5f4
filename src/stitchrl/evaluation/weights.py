"""Cumulative importance weights of padded episodes, and what becomes of the weight of cut ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.contributions import Episodes
from stitchrl.types import NumpyArray

__all__ = ["Weights", "cumulative_weights", "final_weights"]


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


def final_weights(episodes: Episodes, weight: Weights) -> Float[NumpyArray, " n"]:
    """(n,) weight at the end of the episode; 0 where it was cut, in its last step too."""
    return np.where(episodes.terminated, weight.now[:, -1], 0.0)
