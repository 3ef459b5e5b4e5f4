"""LSTD-Q (lstdq): the Q of `evaluation/fitted_q.py`, corrected with features of the logged action in place of ratios.

    value = E[ V(s_0) + psi_0^T theta ],   A theta = b as in `evaluation/refit.py`, equation (5)

It needs no propensities and no density of the policy, so it applies to deterministic policies (Lagoudakis and Parr 2003). In
exchange, how much likelier than the behaviour the policy comes to a state and takes an action is known by the linear features
alone: where they cannot represent it, the estimate is as wrong as Q is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.corrected import corrected_draft
from stitchrl.evaluation.estimator import Case, Draft
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.group_drafts import corrected_group_drafts
from stitchrl.evaluation.groups import Groups
from stitchrl.evaluation.predictable import LoggedWeights
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ, refusal_of_q

__all__ = ["LSTDQ"]


@dataclasses.dataclass(frozen=True)
class LSTDQ:
    """A corrected Q without ratios; a verdict rests on it where no estimate that comes before it has an interval."""

    irregular_time: ClassVar[bool] = True

    name: str = "lstdq"
    title: str = "LSTD-Q: trusts a fitted model of the value, needs no propensities"
    primary_rank: int | None = 2

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses images, which no Q is fitted to, and discrete actions, whose probabilities fqe knows."""
        if log.num_actions is not None:
            return f"{self.name} is for continuous actions; over discrete ones fqe corrects the same Q and knows the ratios."
        return refusal_of_q(self.name, log, estimand)

    def requests(self) -> tuple[FitRequest, ...]:
        """The policy's Q, which is corrected both with ratios and without."""
        return (FitQ(),)

    def estimate(self, case: Case) -> Draft:
        """The mean of the contributions, with the health of the weights, summed by episode."""
        (request,) = self.requests()
        fitted = case.fits.get(request).without_ratios
        assert fitted is not None
        found = fitted.refit
        known = case.fits.fits.timed_log.can_bootstrap
        return corrected_draft(
            case,
            fitted,
            LoggedWeights(found.weights * known, found.residual * known, found.first),
            (),
            assumes="Q or the ratio of visits of state and action is well fitted",
            gradient=np.zeros(case.log.num_transitions),
            weighs_actions=False,
        )

    def by_group(self, case: Case, groups: Groups) -> list[Draft]:
        """The value in each group of episodes, from one matrix and a right-hand side for each group."""
        return corrected_group_drafts(case, groups, with_ratios=False)
