"""Fitted Q evaluation (fqe): the Q of `evaluation/fitted_q.py`, corrected on the episodes by `evaluation/refit.py`.

    value = E[ V(s_0) + psi_0^T theta ],   interval from the contributions c_i of each episode

The network alone would have no honest interval. The correction weights each logged transition by how much likelier the
policy comes to its state and takes its action, without multiplying ratios over the episode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.attainable import what_untried_actions_may_do
from stitchrl.evaluation.balance import balance_test
from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.estimator import Case, Draft, shared_assumptions
from stitchrl.evaluation.fits import FitRequest
from stitchrl.evaluation.health import (
    Check,
    check_balance,
    check_never_tried,
    check_range,
    check_regional_balance,
    check_spread,
)
from stitchrl.evaluation.predictable import VisitRatios
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ, Refit, refusal_of_q

__all__ = ["FittedQEvaluation"]


@dataclasses.dataclass(frozen=True)
class FittedQEvaluation:
    """Refitted FQE; the estimate that a verdict rests on first."""

    name: str = "fqe"
    title: str = "fitted Q evaluation: trusts a fitted model of the value"
    primary_rank: int | None = 0

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses images, which no Q is fitted to."""
        return refusal_of_q(self.name, log, estimand)

    def requests(self) -> tuple[FitRequest, ...]:
        """The policy's Q."""
        return (FitQ(),)

    def estimate(self, case: Case) -> Draft:
        """The mean of the contributions, with the health of the weights of state visits, summed by episode."""
        (request,) = self.requests()
        fitted = case.fits.get(request)
        found = fitted.refit
        log = case.fits.fits.timed_log
        per_episode = np.add.reduceat(np.abs(found.weights), case.log.episode_start[:-1])
        ratios = VisitRatios(
            found.visits * log.can_bootstrap,
            case.fits.probs,
            case.fits.fits.behavior_probs,
            found.residual * log.can_bootstrap,
            found.first,
        )
        untried = ratios.never_tried(log.num_episodes)
        balance = balance_test(log, case.fits.fits.regions, found.weights, case.estimand.gamma, case.units)
        checks: tuple[Check, ...] = (
            *check_spread(case.units, per_episode),
            check_balance(found.imbalance),
            check_regional_balance(balance),
            case.calibration,
            check_never_tried(untried),
        )
        statistic = None
        if per_episode.any():
            statistic = Contributions.average(found.contributions)
            checks += (check_range(statistic.value(), case.attainable),)
        assumptions = (*shared_assumptions(case), "Q or the ratio of state visits is well fitted")
        gradient = -found.weights * found.residual / case.log.num_episodes
        baseline = _behavior(case, fitted.behavior)
        low, high = case.attainable
        if not np.isfinite([low, high]).all():
            low, high = float(case.episodes.returns.min()), float(case.episodes.returns.max())
        return Draft(
            statistic,
            checks,
            assumptions,
            per_episode,
            ratios,
            behavior=baseline,
            behavior_gradient=gradient,
            unknown=what_untried_actions_may_do(untried, (low, high)),
        )


def _behavior(case: Case, found: Refit | None) -> Draft | None:
    """The behaviour's value by the same refit, where episodes were cut."""
    if found is None:
        return None
    # Its own residual holds the choice of the action as well, which the policy's does not: they are not compared.
    ratios = VisitRatios(found.visits * case.fits.fits.timed_log.can_bootstrap, None, case.fits.fits.behavior_probs)
    gradient = np.zeros(case.log.num_transitions)
    return Draft(Contributions.average(found.contributions), ratios=ratios, behavior_gradient=gradient)
