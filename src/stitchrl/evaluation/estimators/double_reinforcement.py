"""Double reinforcement learning (Kallus and Uehara 2020, JMLR 21(167); 2022, Operations Research 70(6)): drl.

With Q and the ratio w of discounted state visits fitted on other episodes, V(s) = E_{a ~ policy} Q(s, a) and
rho_t = policy / behaviour probability of the logged action, so that mu_t = w(s_t) rho_t is the ratio of visits of state and
action together:

    (1)  value = (1/n) sum_i sum_t gamma^t [ mu_t (r_t - Q(s_t, a_t)) + mu_{t-1} V(s_t) ],   mu_{-1} = 1

Ordered by transitions, this is what is computed; an episode ends where it ends, and after a true end V is 0:

    (2)  value = (1/n) sum_i { V(s_0) + sum_t gamma^t mu_t (r_t + gamma (1 - terminated) V(s_{t+1}) - Q(s_t, a_t)) }

It is wrong only by the product of the errors of w and Q, and no ratios are multiplied over an episode. Its models are
cross-fitted: no episode is judged by a model that it helped to fit, so that the contributions are independent given the
models.

The refitted fqe has the same form with a w in the features of its own Q network, solved on the very episodes that it is
judged on. If drl used that w, the two would coincide. Its w comes from `evaluation/visits.py` instead: other features, other
episodes, and a ridge towards the behaviour's own visits. So the two fail in different ways. Where the last layer of the
network cannot represent where the policy goes, fqe is wrong and drl need not be; where w needs more episodes than there are,
drl is wrong and fqe need not be. A bias of drl that comes from both errors is in no interval, so no verdict rests on it. How
large it is on worlds that are known exactly is in docs/evaluation.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.attainable import what_untried_actions_may_do
from stitchrl.evaluation.balance import balance_test, mass_test
from stitchrl.evaluation.balance_checks import check_carried_mass, check_regional_balance
from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.corrected import behavior_of, finite_range
from stitchrl.evaluation.decisions import weights_suffice
from stitchrl.evaluation.estimator import Case, Draft, shared_assumptions
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.health import Check, check_never_tried, check_range, check_spread
from stitchrl.evaluation.predictable import VisitRatios
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import CorrectedQ, FitQ, FittedValues, ratio_of, refusal_of_q
from stitchrl.evaluation.visits import FitVisits
from stitchrl.types import NumpyArray

__all__ = ["DoubleReinforcementLearning", "by_transitions"]


def by_transitions(
    log: Dataset, weight: Float[NumpyArray, " N"], values: FittedValues, *, gamma: float
) -> tuple[Float[NumpyArray, " n"], Float[NumpyArray, " N"]]:
    """Equation (2): the contribution of each episode, and the TD error of each transition.

    Args:
        log: the episodes.
        weight: (N,) gamma^t mu_t; 0 where the next observation is unknown.
        values: the fitted Q, with V of the next observations.
        gamma: discount.
    """
    assert values.next_v is not None
    residual = log.reward + gamma * (1.0 - log.terminated) * values.next_v - values.q
    start = log.episode_start[:-1]
    return values.v[start] + np.add.reduceat(weight * residual, start), residual


@dataclasses.dataclass(frozen=True)
class DoubleReinforcementLearning:
    """A Q and a ratio of visits, fitted separately from each other and on other episodes than those of the estimate."""

    name: str = "drl"
    title: str = "double reinforcement learning: a fitted value, corrected by a separately fitted ratio of visits"
    primary_rank: int | None = None

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses continuous actions, images, and single decisions with propensities, after which nothing follows."""
        if log.num_actions is None:
            return (
                f"{self.name} weighs discrete actions so far; this log's are continuous. fqe and lstdq correct a fitted value "
                "over continuous ones."
            )
        if weights_suffice(log, estimand.horizon):
            return (
                f"{self.name} fits what follows an action, and nothing follows a single decision: where propensities are "
                "logged, reward-dr and snips are right whatever a model says."
            )
        return refusal_of_q(self.name, log, estimand)

    def requests(self) -> tuple[FitRequest, ...]:
        """The policy's Q, and the ratio of visits of states."""
        return FitQ(), FitVisits()

    def estimate(self, case: Case) -> Draft:
        """The mean of equation (2), with the health of the weights, summed by episode."""
        of_q, of_visits = self.requests()
        fitted: CorrectedQ = case.fits.get(of_q)
        log, gamma = case.fits.fits.timed_log, case.estimand.gamma
        visits = case.fits.get(of_visits) * np.power(float(gamma), log.position) * log.can_bootstrap
        weight = visits * ratio_of(case.fits.log_ratio)
        contributions, residual = by_transitions(log, weight, fitted.values, gamma=gamma)
        ratios = VisitRatios(
            visits,
            case.fits.choices,
            case.fits.fits.behavior_probs,
            residual * log.can_bootstrap,
            fitted.values.v[log.episode_start[:-1]],
        )
        untried = ratios.never_tried(log.num_episodes)
        per_episode = np.add.reduceat(weight, log.episode_start[:-1])
        checks: tuple[Check, ...] = (
            *check_spread(case.units, per_episode),
            check_regional_balance(balance_test(log, case.fits.fits.regions, weight, gamma, case.units)),
            check_carried_mass(mass_test(log, weight, gamma, case.units)),
            case.calibration,
            check_never_tried(untried),
        )
        statistic = None
        if per_episode.any():
            statistic = Contributions.average(contributions)
            checks += (check_range(statistic.value(), case.attainable),)
        return Draft(
            statistic,
            checks,
            (*shared_assumptions(case), "Q or the ratio of state visits is well fitted"),
            per_episode,
            ratios,
            behavior=behavior_of(case, fitted),
            behavior_gradient=-weight * residual / log.num_episodes,
            unknown=what_untried_actions_may_do(untried, finite_range(case)),
        )
