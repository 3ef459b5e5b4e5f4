"""Importance sampling for a few steps, then a fitted value: weights-then-value.

    value = sum_{t < k} gamma^t [ sum_i w_t r_t / sum_i w_t ] + gamma^k [ sum_i w_{k-1} V(s_k) / sum_i w_{k-1} ]

with w_t the product of the ratios policy / behaviour up to step t, and V the value of the policy's fitted Q. It is the hybrid
that tutorials describe as "weights for the near future, a value function for the rest". With k = 0 it is the fitted value of
the first states, and with k at least the length of every episode it is pdwis. The choice of k trades the growth of products of
ratios against the error of V. Two other estimators make the same trade: SOPE (Yuan, Chandak, Giguere, Thomas, Niekum 2021,
arXiv 2111.03936) goes on with ratios of visits after k steps, and the partial returns of magic correct V on the way.

What it is not. Some texts call it regression importance sampling; that is ris, which fits the behaviour and no value. It is not
doubly robust, since nothing corrects V after step k: the estimate is wrong by gamma^k times the error of V there, and no spread
shows that. And the steps must be counted from the first state on. The average over all logged transitions of
rho_t (r_t + gamma V(s_{t+1})), with weights of single steps, is the value at the states that the behaviour visits, which is
another number.

A health check limits how much of the estimate V carries, and no verdict rests on the estimate. Cut episodes stop counting at
the cut, as in pdwis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand, influence_of_ratios
from stitchrl.evaluation.doubly_robust_form import refusal_of_weighted_q
from stitchrl.evaluation.estimator import Case, Draft, episode_weight_draft
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.health import check_uncorrected
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ, FittedValues
from stitchrl.evaluation.weights import ByWeight, Weights
from stitchrl.types import NumpyArray

__all__ = ["WeightsThenValue", "uncorrected_share", "weights_then_value"]


def _terms(episodes: Episodes, weight: Weights, fitted: FittedValues, steps: int) -> tuple[NumpyArray, NumpyArray]:
    """Numerators and denominators, (n, 2 T): weighted rewards of the first steps, and weighted values at step `steps`."""
    time = np.arange(episodes.longest)
    rewards = weight.now * episodes.reward * (episodes.discount * (time < steps))
    values = weight.before * episodes.pad(fitted.v) * (episodes.discount * (time == steps))
    return np.concatenate([rewards, values], axis=1), np.concatenate([weight.now, weight.before], axis=1)


def weights_then_value(episodes: Episodes, weight: Weights, fitted: FittedValues, steps: int) -> Contributions:
    """The estimate as a sum of ratios of means; after a true end V is 0, and the episode keeps its weight.

    Args:
        episodes: the padded episodes.
        weight: their cumulative weights.
        fitted: the policy's fitted Q.
        steps: k.
    """
    return Contributions.ratios(*_terms(episodes, weight, fitted, steps))


def _by_weight(episodes: Episodes, weight: Weights, fitted: FittedValues, steps: int) -> ByWeight:
    now, before = np.split(influence_of_ratios(*_terms(episodes, weight, fitted, steps)), 2, axis=1)
    return now / len(now), before / len(now)


def uncorrected_share(episodes: Episodes, weight: Weights, steps: int) -> float:
    """Share of the policy's weight on episodes that still run after so many steps, discounted: the part that rests on V."""
    if steps >= episodes.longest:
        return 0.0
    before = weight.before[:, steps]
    running = float((before * episodes.valid[:, steps]).sum())
    return float(episodes.discount[steps]) * running / max(float(before.sum()), 1e-300)


@dataclasses.dataclass(frozen=True)
class WeightsThenValue:
    """Products of ratios for the first steps, a fitted value for the rest.

    Attributes:
        steps: k, how many first steps use weights; 0 or more.
    """

    name: str = "weights-then-value"
    primary_rank: int | None = None
    steps: int = 5

    @property
    def title(self) -> str:
        """What it does, with the number of steps."""
        if self.steps == 0:
            return "an uncorrected fitted value"
        first = "the first step" if self.steps == 1 else f"the first {self.steps} steps"
        return f"importance sampling for {first}, then an uncorrected fitted value"

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses images, which no Q is fitted to, policies without a density, and logs of which no episode ends."""
        return refusal_of_weighted_q(self.name, log, estimand, policies)

    def requests(self) -> tuple[FitRequest, ...]:
        """The policy's Q."""
        return (FitQ(),)

    def estimate(self, case: Case) -> Draft:
        """The formula, with the health of its weights and the share that rests on V."""
        (request,) = self.requests()
        fitted: FittedValues = case.fits.get(request).values
        draft = episode_weight_draft(
            case,
            lambda: weights_then_value(case.episodes, case.weights, fitted, self.steps),
            lambda: _by_weight(case.episodes, case.weights, fitted, self.steps),
            normalised=True,
            assumes=(f"the fitted value is right after {self.steps} steps",),
        )
        share = uncorrected_share(case.episodes, case.weights, self.steps)
        checks = (*draft.checks, check_uncorrected(share, self.steps))
        return dataclasses.replace(draft, checks=checks, trusts_values=True)
