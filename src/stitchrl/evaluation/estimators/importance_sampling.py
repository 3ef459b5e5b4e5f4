"""Importance sampling over episodes (Precup, Sutton, Singh 2000): is, pdis, wis, pdwis.

With the cumulative weights w_t of `evaluation/weights.py`, which also says what becomes of cut episodes:

    is     (1/n) sum_i w_end sum_t gamma^t r_t              unbiased, largest variance
    pdis   (1/n) sum_i sum_t gamma^t w_t r_t                 unbiased: a reward needs only the ratios up to it
    wis    sum_i w_end G_i / sum_i w_end                     biased, consistent, bounded by the returns seen
    pdwis  sum_t gamma^t sum_i w_t r_t / sum_i w_t           likewise a step at a time
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand
from stitchrl.evaluation.estimator import Case, Draft, episode_weight_draft
from stitchrl.evaluation.fits import FitRequest
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.weights import Weights, final_weights

__all__ = [
    "IMPORTANCE_SAMPLING",
    "ImportanceSampling",
    "importance_sampling",
    "per_decision",
    "weighted",
    "weighted_per_decision",
]


def importance_sampling(episodes: Episodes, weight: Weights) -> Contributions:
    """Ordinary importance sampling (is); episodes that were cut count through those that take over their weight."""
    return Contributions.average(final_weights(episodes, weight) * weight.scale[-1] * episodes.returns)


def per_decision(episodes: Episodes, weight: Weights) -> Contributions:
    """Per-decision importance sampling (pdis)."""
    return Contributions.average((weight.now * episodes.reward) @ (episodes.discount * weight.scale))


def weighted(episodes: Episodes, weight: Weights) -> Contributions:
    """Weighted (self-normalised) importance sampling (wis)."""
    final = final_weights(episodes, weight)
    return Contributions((final * episodes.returns)[:, None], final[:, None])


def weighted_per_decision(episodes: Episodes, weight: Weights) -> Contributions:
    """Weighted per-decision importance sampling (pdwis); steps at which no reward was seen fall away."""
    return Contributions.ratios(weight.now * episodes.reward * episodes.discount, weight.now)


@dataclasses.dataclass(frozen=True)
class ImportanceSampling:
    """An estimator that weights the logged rewards and fits nothing but, where it is not logged, the behaviour.

    Attributes:
        name, title, primary_rank: as in `Estimator`.
        contributions: one of the four formulas.
        normalised: whether the formula divides by the weights.
    """

    name: str
    title: str
    contributions: Callable[[Episodes, Weights], Contributions]
    normalised: bool
    primary_rank: int | None = None

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It applies to every log with discrete actions."""
        return None

    def requests(self) -> tuple[FitRequest, ...]:
        """Nothing."""
        return ()

    def estimate(self, case: Case) -> Draft:
        """The formula, with the health of its weights."""
        return episode_weight_draft(
            case, lambda: self.contributions(case.episodes, case.weights), normalised=self.normalised
        )


IMPORTANCE_SAMPLING = (
    ImportanceSampling("is", "importance sampling: whole episodes reweighted", importance_sampling, False),
    ImportanceSampling("pdis", "per-decision importance sampling: rewards reweighted", per_decision, False),
    ImportanceSampling("wis", "weighted importance sampling: weights only, whole episodes", weighted, True),
    ImportanceSampling("pdwis", "per-decision weighted importance sampling: weights only", weighted_per_decision, True),
)
