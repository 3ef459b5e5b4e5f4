"""Cumulative importance weights of padded episodes, computed from logarithms, and what becomes of the weight of cut episodes.

rho_t = policy / behaviour probability of the logged action, w_t = prod_{u <= t} rho_u.

An episode that terminated keeps its last weight in every later denominator: its later rewards are known to be 0. One
that was cut stops counting at the cut: its later rewards are unknown. Simply dropping the cut ones would over-represent the
terminated ones, so the episodes that run on past step t take over the weight of those cut there (Kaplan and Meier 1958,
"redistribution to the right"; Robins and Rotnitzky 1992). This assumes that cuts do not depend on what would have followed. The
factor k_t by which the weights of step t are multiplied starts at k_0 = 1 and grows as

    k_{t+1} = k_t (number cut at t + number running on past t) / number running on past t

Where all episodes that still ran were cut, their weight is lost, and the estimates say so.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.contributions import Episodes
from stitchrl.types import NumpyArray

__all__ = ["ByWeight", "Weights", "behavior_gradient", "by_final_weight", "cumulative_weights", "final_weights"]

ByWeight = tuple[NumpyArray, NumpyArray | None]
"""(n, T) derivatives of a number by the logarithms of `Weights.now` and of `Weights.before`; None where it does not depend on
these."""
LARGEST_LOG_WEIGHT = 300.0
"""Where the largest weight of a step is above e^300 or below e^-300, the weights of the step are scaled: their squares would
leave the range of float64 (about e^-709 to e^709)."""


class Weights(NamedTuple):
    """Weights of n episodes at T steps, with a scale for each step; 0 from the step after a cut, constant after a true end.

    The true weights are `now * exp(log_scale)`; the scale is 1 unless the largest weight of that step is
    above e^300 or below e^-300.
    Self-normalised estimates and effective sample sizes do not depend on it.

    Attributes:
        now: (n, T) w_t, the ratio of step t included, divided by the scale of its step.
        before: (n, T) w_{t-1} of the episodes that count at step t, divided by the scale of step t-1.
        lost: share of the weight that no episode could take over, with every ratio 1.
        log_scale: (T,) logarithm of the scale of each step.
        lost_of_policy: the same share of the policy's self-normalised weights.
    """

    now: Float[NumpyArray, "n T"]
    before: Float[NumpyArray, "n T"]
    lost: float
    log_scale: Float[NumpyArray, " T"]
    lost_of_policy: float = 0.0

    @property
    def representable(self) -> bool:
        """Whether the weights fit into float64 without their scale, which averages that do not divide by the weights need."""
        return bool(self.log_scale.max() <= 2 * LARGEST_LOG_WEIGHT)

    @property
    def scale(self) -> Float[NumpyArray, " T"]:
        """(T,) what `now` is to be multiplied by; only where the weights are `representable`."""
        return np.exp(self.log_scale)

    @property
    def scale_before(self) -> Float[NumpyArray, " T"]:
        """(T,) what `before` is to be multiplied by; only where the weights are `representable`."""
        return np.exp(np.concatenate([[0.0], self.log_scale[:-1]]))


def cumulative_weights(episodes: Episodes, log_ratio: Float[NumpyArray, " N"]) -> Weights:
    """Products of ratios up to and before each step, with the weight of cut episodes handed on.

    Args:
        episodes: the padded episodes.
        log_ratio: (N,) logarithm of policy / behaviour probability of each logged action.
    """
    log_product = np.cumsum(episodes.pad(log_ratio), axis=1)
    largest = log_product.max(0)
    log_scale = np.where((np.abs(largest) > LARGEST_LOG_WEIGHT) & np.isfinite(largest), largest, 0.0)
    product = np.exp(log_product - log_scale)
    earlier = np.concatenate([np.ones((len(product), 1)), product[:, :-1]], axis=1)
    factor, lost = _taken_over(episodes)
    now = product * factor
    ends = ~episodes.terminated & episodes.valid[:, -1]  # cut where no episode runs on
    last = now[:, -1]
    of_policy = float(last[ends].sum() / max(last.sum(), 1e-300)) if ends.any() else 0.0
    return Weights(now, earlier * factor, lost, log_scale, of_policy)


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
    """(n,) weight at the end of each episode, on the scale of the last step; 0 where it was cut, at whatever step."""
    return np.where(episodes.terminated, weight.now[:, -1], 0.0)


def by_final_weight(values: Float[NumpyArray, " n"], weight: Weights) -> ByWeight:
    """Derivatives of the mean of n numbers by the logarithms of the weights, each number being proportional to the weight at the
    end of its episode."""
    found = np.zeros(weight.now.shape)
    found[:, -1] = values / len(values)
    return found, None


def behavior_gradient(episodes: Episodes, by_weight: ByWeight) -> Float[NumpyArray, " N"]:
    """(N,) derivative of a number by the logarithm of the behaviour's probability of each logged action.

    The weights of the action's own step and of every later one are divided by that probability.

    Args:
        episodes: the padded episodes.
        by_weight: derivatives of the number by the logarithms of the weights.
    """
    now, before = by_weight
    by_step = now.copy()
    if before is not None:
        by_step[:, :-1] += before[:, 1:]
    later = np.cumsum(by_step[:, ::-1], axis=1)[:, ::-1]
    found = np.zeros(int(episodes.index.max()) + 1)
    found[episodes.index[episodes.valid]] = -later[episodes.valid]
    return found
