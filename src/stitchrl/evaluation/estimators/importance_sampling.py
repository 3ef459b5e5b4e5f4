"""Importance sampling over episodes (Precup, Sutton, Singh 2000): is, pdis, wis, pdwis.

With the cumulative weights w_t of `evaluation/weights.py`, which also says what becomes of cut episodes, w_end the weight at
the end of an episode, and G_i its discounted return:

    is     (1/n) sum_i w_end G_i                             unbiased, largest variance
    pdis   (1/n) sum_i sum_t gamma^t w_t r_t                 unbiased: a reward needs only the ratios up to it
    wis    sum_i w_end G_i / sum_i w_end                     biased, consistent, bounded by the returns seen
    pdwis  sum_t gamma^t sum_i w_t r_t / sum_i w_t           as wis, but one step at a time

In pdwis the rewards of each step are divided by the weights of that step. So the weighted chances of ending at each step need
not sum to 1, and adding a constant to every return does not add that constant to the estimate. The further the sum is from 1,
the worse is the estimate; its health check `termination-mass` says how far it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.balance_checks import check_termination_mass
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand, influence_of_ratios
from stitchrl.evaluation.estimator import Case, Draft, episode_weight_draft, refusal_of_products, weighted
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.policy_actions import refusal_without_density
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.weights import ByWeight, Weights, by_final_weight, final_weights

__all__ = [
    "IMPORTANCE_SAMPLING",
    "ImportanceSampling",
    "importance_sampling",
    "per_decision",
    "termination_mass",
    "weighted",
    "weighted_per_decision",
]


def importance_sampling(episodes: Episodes, weight: Weights) -> Contributions:
    """Ordinary importance sampling (is); cut episodes count by way of the episodes that take over their weight."""
    return Contributions.average(final_weights(episodes, weight) * weight.scale[-1] * episodes.returns)


def per_decision(episodes: Episodes, weight: Weights) -> Contributions:
    """Per-decision importance sampling (pdis)."""
    return Contributions.average(episodes.discounted(weight.now * episodes.reward, weight.scale))


def weighted_per_decision(episodes: Episodes, weight: Weights) -> Contributions:
    """Weighted per-decision importance sampling (pdwis); steps at which every reward is 0 add nothing and are left out."""
    return Contributions.ratios(weight.now * episodes.reward * episodes.discount, weight.now)


def termination_mass(episodes: Episodes, weight: Weights) -> float:
    """Sum over the steps of the share of that step's weight whose episode ends there: 1 where weights are right."""
    last = episodes.valid.sum(1) - 1
    rows = np.flatnonzero(episodes.terminated)
    total = weight.now.sum(0)[last[rows]]
    ends = weight.now[rows, last[rows]]
    return float(np.divide(ends, total, out=np.zeros_like(ends), where=total > 0).sum())


def _of_is(episodes: Episodes, weight: Weights) -> ByWeight:
    return by_final_weight(importance_sampling(episodes, weight).numerator[:, 0], weight)


def _of_pdis(episodes: Episodes, weight: Weights) -> ByWeight:
    return weight.now * episodes.reward * (episodes.discount * weight.scale) / len(weight.now), None


def _of_wis(episodes: Episodes, weight: Weights) -> ByWeight:
    return by_final_weight(weighted(episodes, weight).influence(), weight)


def _of_pdwis(episodes: Episodes, weight: Weights) -> ByWeight:
    rewards = weight.now * episodes.reward * episodes.discount
    return influence_of_ratios(rewards, weight.now) / len(weight.now), None


@dataclasses.dataclass(frozen=True)
class ImportanceSampling:
    """An estimator that weights the logged rewards and fits nothing but, where it is not logged, the behaviour.

    Attributes:
        name, title, primary_rank: as in `Estimator`.
        contributions: one of the four formulas.
        by_weight: derivatives of the estimate by the logarithms of the weights.
        normalised: whether the formula divides by the weights.
        by_step: whether the formula divides the rewards of each step by the weights of that step.
    """

    irregular_time: ClassVar[bool] = True
    logged_actions_suffice: ClassVar[bool] = True

    name: str
    title: str
    contributions: Callable[[Episodes, Weights], Contributions]
    by_weight: Callable[[Episodes, Weights], ByWeight]
    normalised: bool
    primary_rank: int | None = None
    by_step: bool = False

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses policies without a density, and logs of which no episode ends."""
        return refusal_without_density(self.name, policies) or refusal_of_products(self.name, log, estimand)

    def requests(self) -> tuple[FitRequest, ...]:
        """Nothing."""
        return ()

    def estimate(self, case: Case) -> Draft:
        """The formula, with the health of its weights."""
        draft = episode_weight_draft(
            case,
            lambda: self.contributions(case.episodes, case.weights),
            lambda: self.by_weight(case.episodes, case.weights),
            normalised=self.normalised,
        )
        if not self.by_step or draft.statistic is None:
            return draft
        mass = termination_mass(case.episodes, case.weights)
        return dataclasses.replace(draft, checks=(*draft.checks, check_termination_mass(mass)))


IMPORTANCE_SAMPLING = (
    ImportanceSampling("is", "importance sampling: whole episodes reweighted", importance_sampling, _of_is, False),
    ImportanceSampling("pdis", "per-decision importance sampling: rewards reweighted", per_decision, _of_pdis, False),
    ImportanceSampling("wis", "weighted importance sampling: weights only, whole episodes", weighted, _of_wis, True),
    ImportanceSampling(
        "pdwis",
        "per-decision weighted importance sampling: weights only",
        weighted_per_decision,
        _of_pdwis,
        True,
        by_step=True,
    ),
)
