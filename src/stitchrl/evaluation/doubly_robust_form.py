"""Doubly robust estimation over episodes, whatever Q it corrects (Jiang and Li 2016; Thomas and Brunskill 2016).

With Q fitted on other episodes, V(s) = E_{a ~ policy} Q(s, a), w_t the cumulative weight and w_{-1} = 1:

    (1)  doubly robust             (1/n) sum_i sum_t gamma^t [ w_t (r_t - Q(s_t, a_t)) + w_{t-1} V(s_t) ]
    (2)  weighted doubly robust    the same with w_t / sum_j w_t^j in place of w_t / n

Q = 0 gives pdis and pdwis; an exact Q leaves only the spread of V(s_0) and of the transitions. Cut episodes stop counting at
the cut and hand on their weight as in importance sampling, so that no value of an unknown next state is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand, influence_of_ratios
from stitchrl.evaluation.estimator import Case, Draft, episode_weight_draft, refusal_of_products
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.policy_actions import refusal_without_density
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ, FittedValues, refusal_of_q
from stitchrl.evaluation.weights import ByWeight, Weights
from stitchrl.types import NumpyArray

__all__ = [
    "DR",
    "WDR",
    "DoublyRobust",
    "doubly_robust",
    "refusal_of_weighted_q",
    "weighted_doubly_robust",
]


FITTED_Q = FitQ()
"""The Q that is corrected where no other is named."""


def doubly_robust(episodes: Episodes, weight: Weights, fitted: FittedValues) -> Contributions:
    """Doubly robust estimation (dr)."""
    residual, value = _terms(episodes, fitted)
    now, before = weight.now * weight.scale, weight.before * weight.scale_before
    return Contributions.average(episodes.discounted(now * residual + before * value))


def weighted_doubly_robust(episodes: Episodes, weight: Weights, fitted: FittedValues) -> Contributions:
    """Weighted doubly robust estimation (wdr): each step's weights are normalised over the episodes that count at it."""
    residual, value = _terms(episodes, fitted)
    numerator = np.concatenate([weight.now * residual, weight.before * value], axis=1) * np.tile(episodes.discount, 2)
    return Contributions.ratios(numerator, np.concatenate([weight.now, weight.before], axis=1))


def influence_of_dr(episodes: Episodes, weight: Weights, fitted: FittedValues) -> ByWeight:
    residual, value = _terms(episodes, fitted)
    now, before = weight.now * weight.scale, weight.before * weight.scale_before
    share = episodes.discount / len(residual)
    return now * residual * share, before * value * share


def influence_of_wdr(episodes: Episodes, weight: Weights, fitted: FittedValues) -> ByWeight:
    residual, value = _terms(episodes, fitted)
    now = influence_of_ratios(weight.now * residual * episodes.discount, weight.now)
    before = influence_of_ratios(weight.before * value * episodes.discount, weight.before)
    return now / len(residual), before / len(residual)


def _terms(episodes: Episodes, fitted: FittedValues) -> tuple[Float[NumpyArray, "n T"], Float[NumpyArray, "n T"]]:
    """r - Q and V on each step, 0 in the padding."""
    return episodes.reward - episodes.pad(fitted.q), episodes.pad(fitted.v)


def no_checks(found: Any) -> tuple[Check, ...]:
    """No further health check."""
    return ()


def refusal_of_weighted_q(name: str, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
    """Why an estimator that joins a fitted Q and products of ratios does not apply; None where it does."""
    return (
        refusal_of_q(name, log, estimand)
        or refusal_without_density(name, policies)
        or refusal_of_products(name, log, estimand)
    )


@dataclasses.dataclass(frozen=True)
class DoublyRobust:
    """An estimator that corrects a fitted Q by weighted residuals.

    Attributes:
        name, title, primary_rank: as in `Estimator`.
        contributions: one of the two formulas.
        by_weight: derivatives of the estimate by the logarithms of the weights.
        normalised: whether the formula divides by the weights.
        request: what gives Q: the `values` of what it finds are corrected.
        refuses: gives the reason why there is no such Q, from this estimator's name, the log and the estimand; None where there
            is one.
        examine: further health checks, from what the request found.
        refuses_policies: gives the reason why policies cannot be judged, beyond having no density; None where they can.
    """

    irregular_time: ClassVar[bool] = True

    name: str
    title: str
    contributions: Callable[[Episodes, Weights, FittedValues], Contributions]
    by_weight: Callable[[Episodes, Weights, FittedValues], ByWeight]
    normalised: bool
    primary_rank: int | None = None
    request: FitRequest = FITTED_Q
    refuses: Callable[[str, Dataset, Estimand], str | None] = refusal_of_q
    examine: Callable[[Any], tuple[Check, ...]] = no_checks
    refuses_policies: Callable[[str, Sequence[PolicyLike]], str | None] = refusal_without_density

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses images, which no Q is fitted to, policies without a density, and logs of which no episode ends."""
        return (
            self.refuses(self.name, log, estimand)
            or refusal_without_density(self.name, policies)
            or self.refuses_policies(self.name, policies)
            or refusal_of_products(self.name, log, estimand)
        )

    def requests(self) -> tuple[FitRequest, ...]:
        """The policy's Q."""
        return (self.request,)

    def estimate(self, case: Case) -> Draft:
        """The formula, with the health of its weights."""
        draft = episode_weight_draft(
            case,
            lambda: self.contributions(case.episodes, case.weights, case.fits.get(self.request).values),
            lambda: self.by_weight(case.episodes, case.weights, case.fits.get(self.request).values),
            normalised=self.normalised,
        )
        if draft.statistic is None:  # without any weight nothing is fitted
            return draft
        return dataclasses.replace(draft, checks=draft.checks + self.examine(case.fits.get(self.request)))


DR = doubly_robust, influence_of_dr
"""The formula and its derivatives by the weights, of (1)."""
WDR = weighted_doubly_robust, influence_of_wdr
"""The same of (2)."""
