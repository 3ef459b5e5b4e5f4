"""Fitted Q evaluation (fqe): the Q of `evaluation/fitted_q.py`, corrected on the episodes by `evaluation/refit.py`.

    value = E[ V(s_0) + psi_0^T theta ],   interval from the contributions c_i of each episode

with psi_0 the features of the first state, theta the fitted correction, and c_i as in equations (2) to (4) of `refit.py`. The
network alone would have no valid interval. The correction weights each logged transition by how much likelier than the
behaviour the policy comes to its state and takes its action, without multiplying ratios over the episode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.corrected import corrected_draft
from stitchrl.evaluation.decisions import weights_suffice
from stitchrl.evaluation.estimator import Case, Draft
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.group_drafts import corrected_group_drafts
from stitchrl.evaluation.groups import Groups
from stitchrl.evaluation.health import check_never_tried
from stitchrl.evaluation.policy_actions import refusal_without_density
from stitchrl.evaluation.predictable import LoggedWeights, Ratios, VisitRatios
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ, Refit, refusal_of_q

__all__ = ["FittedQEvaluation"]


@dataclasses.dataclass(frozen=True)
class FittedQEvaluation:
    """Refitted FQE; the first choice of the estimates that a verdict may rest on."""

    irregular_time: ClassVar[bool] = True

    name: str = "fqe"
    title: str = "fitted Q evaluation: trusts a fitted model of the value"
    primary_rank: int | None = 0

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses images, which no Q is fitted to, policies without a density, and single decisions with propensities."""
        if weights_suffice(log, estimand.horizon):
            return (
                f"{self.name} models what follows an action, and nothing follows a single decision: where propensities are "
                "logged, reward-dr and snips are right whatever a model says."
            )
        return refusal_of_q(self.name, log, estimand) or refusal_without_density(self.name, policies)

    def requests(self) -> tuple[FitRequest, ...]:
        """The policy's Q."""
        return (FitQ(),)

    def estimate(self, case: Case) -> Draft:
        """The mean of the contributions, with the health of the weights of state visits, summed by episode."""
        (request,) = self.requests()
        fitted = case.fits.get(request)
        found: Refit = fitted.refit
        ratios = _ratios(case, found)
        untried = ratios.never_tried(case.log.num_episodes)
        return corrected_draft(
            case,
            fitted,
            ratios,
            (case.calibration, *([] if case.log.num_actions is None else [check_never_tried(untried)])),
            assumes="Q or the ratio of state visits is well fitted",
            gradient=-found.weights * found.residual / case.log.num_episodes,
            untried=untried,
        )

    def by_group(self, case: Case, groups: Groups) -> list[Draft]:
        """The value in each group of episodes, from one matrix and a right-hand side for each group."""
        return corrected_group_drafts(case, groups)


def _ratios(case: Case, found: Refit) -> Ratios:
    """What the variance of the value is computed from: all actions where they can be counted, else the logged ones."""
    known = case.fits.fits.timed_log.can_bootstrap
    if case.log.num_actions is None:
        return LoggedWeights(found.weights * known, found.residual * known, found.first)
    return VisitRatios(
        found.visits * known,
        case.fits.choices,
        case.fits.fits.behavior_probs,
        found.residual * known,
        found.first,
    )
