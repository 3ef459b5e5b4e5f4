"""Marginalised importance sampling: rewards weighted by ratios of visits, without a Q (smis, samis, dualdice, bestdice).

With W_t the weight of a transition, gamma^t included, every member of the family is the self-normalised

    (1)  value = sum_i sum_t W_t r_t / sum_i sum_t W_t (1 - gamma (1 - terminated_t))

(Liu, Li, Tang, Zhou 2018, arXiv 1810.12429; Xie, Ma, Wang 2019; Yuan, Chandak, Giguere, Thomas, Niekum 2021, arXiv 2111.03936).
The denominator counts how often the weighted episodes end; divided by n it is 1 for right weights, at gamma 1 too.

    smis       W_t = w(s_t) rho_t     linear in the features of Q, solved on these episodes (`evaluation/marginal.py`)
    samis      W_t = w(s_t, a_t)      one number for each of up to 2,000 pairs of s and a, else linear; no propensity
    dualdice   W_t = gamma^t zeta(s_t, a_t), by networks fitted on other episodes (`evaluation/dice.py`)
    bestdice   as dualdice, with the member of its family that did best where the family was tried

In the linear form these weights are those of the refitted fqe with Q = 0, so smis shares the features of fqe and nothing of
its value: where both agree, the agreement is not due to the network's Q. All are wrong to first order in the error of their
weights; where there are more than 2,000 pairs, samis is far off in the limit too (`evaluation/marginal.py`). The intervals of
the linear ones contain the noise of their solution. To the intervals of dualdice and bestdice is added what networks that saw
different halves of the episodes disagree by. No verdict rests on any of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.attainable import what_untried_actions_may_do
from stitchrl.evaluation.balance import balance_of_choices, balance_test
from stitchrl.evaluation.balance_checks import check_balance, check_choice_balance, check_regional_balance
from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.corrected import behavior_of, finite_range
from stitchrl.evaluation.decisions import weights_suffice
from stitchrl.evaluation.dice import FitDICE
from stitchrl.evaluation.estimator import Case, Draft, shared_assumptions
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.health import Check, check_never_tried, check_range, check_spread, not_applicable
from stitchrl.evaluation.marginal import FitMarginal, Marginal
from stitchrl.evaluation.predictable import VisitRatios
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ, refusal_of_q
from stitchrl.types import NumpyArray

__all__ = ["MARGINALISED", "DICEEstimator", "LinearMarginal", "self_normalised"]

LEAST_MASS = 0.1
"""Least share of episodes that weights must carry to an end; dividing by a smaller one would mean nothing."""


def self_normalised(
    log: Dataset, weight: Float[NumpyArray, "N K"], *, gamma: float
) -> tuple[Float[NumpyArray, "n K"], Float[NumpyArray, "n K"]]:
    """(n, K) numerators and denominators of equation (1) by episode, for K sets of weights.

    Args:
        log: the episodes.
        weight: (N, K) W_t of each transition, gamma^t included.
        gamma: discount.
    """
    start = log.episode_start[:-1]
    ends = 1.0 - gamma * (1.0 - log.terminated)
    reward = log.reward.astype(np.float64)
    return np.add.reduceat(weight * reward[:, None], start), np.add.reduceat(weight * ends[:, None], start)


def refusal_of_visits(name: str, log: Dataset, estimand: Estimand) -> str | None:
    """Why ratios of visits do not apply to a log; None where they do."""
    if log.num_actions is None:
        return (
            f"{name} weighs discrete actions so far; this log's are continuous. lstdq has weights of state and action over "
            "continuous ones."
        )
    if weights_suffice(log, estimand.horizon):
        return (
            f"{name} weighs visits of states, and a single decision visits one: where propensities are logged, snips weighs the "
            "decision by their ratio."
        )
    return refusal_of_q(name, log, estimand)


def _without_mass(name: str, mass: float) -> Check:
    return not_applicable(
        f"The weights of {name} carry {mass:.1%} of the episodes to their end, where 100% is expected: the estimate would have "
        "to divide by that share."
    )


def _of_choices(case: Case, weight: Float[NumpyArray, " N"]) -> Check:
    """Whether weights that know no propensity follow the policy's actions."""
    regions = case.fits.fits.regions
    return check_choice_balance(balance_of_choices(regions, case.fits.choices, case.log.action, weight, case.units))


@dataclasses.dataclass(frozen=True)
class LinearMarginal:
    """Marginal weights in the features of the policy's Q.

    Attributes:
        name, title, primary_rank: as in `Estimator`.
        actions: whether the weights are of state and action together, without propensities (samis, and not smis).
    """

    name: str
    title: str
    actions: bool
    primary_rank: int | None = None

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses continuous actions, images, and single decisions with propensities."""
        return refusal_of_visits(self.name, log, estimand)

    def requests(self) -> tuple[FitRequest, ...]:
        """The weights, and the policy's Q for the behaviour's value where episodes were cut."""
        return FitMarginal(self.actions), FitQ()

    def estimate(self, case: Case) -> Draft:
        """Equation (1), with the health of the weights, summed by episode."""
        of_weights, of_q = self.requests()
        found: Marginal = case.fits.get(of_weights)
        log, gamma, n = case.fits.fits.timed_log, case.estimand.gamma, case.log.num_episodes
        weight, mass = found.reward.weights, float(found.ended.mean())
        per_episode = np.add.reduceat(np.abs(weight), log.episode_start[:-1])
        checks: tuple[Check, ...] = (
            *check_spread(case.units, per_episode),
            check_balance(found.reward.imbalance),
            check_regional_balance(balance_test(log, case.fits.fits.regions, weight, gamma, case.units)),
        )
        assumes = "the ratio of visits, or the value, is linear in the features of the fitted Q"
        if mass < LEAST_MASS:
            checks += (_without_mass(self.name, mass),)
            return Draft(None, checks, (*shared_assumptions(case), assumes), per_episode)
        if self.actions:
            checks += (_of_choices(case, weight),)
        gradient, untried = np.zeros(case.log.num_transitions), 0.0
        if not self.actions:
            ratios = VisitRatios(found.reward.visits, case.fits.choices, case.fits.fits.behavior_probs)
            untried = ratios.never_tried(n)
            checks += (case.calibration, check_never_tried(untried))
            gradient = -weight * found.residual / (mass * n)
        statistic = Contributions(found.carried[:, None], found.ended[:, None])
        checks += (check_range(statistic.value(), case.attainable),)
        return Draft(
            statistic,
            checks,
            (*shared_assumptions(case), assumes),
            per_episode,
            behavior=behavior_of(case, case.fits.get(of_q)),
            behavior_gradient=gradient,
            weighs_actions=not self.actions,
            unknown=what_untried_actions_may_do(untried, finite_range(case)),
        )


@dataclasses.dataclass(frozen=True)
class DICEEstimator:
    """Marginal weights by networks that were fitted on other episodes.

    Attributes:
        name, title, primary_rank: as in `Estimator`.
        best: whether it is BestDICE, and not DualDICE.
    """

    name: str
    title: str
    best: bool
    primary_rank: int | None = None

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses continuous actions, images, and single decisions with propensities."""
        return refusal_of_visits(self.name, log, estimand)

    def requests(self) -> tuple[FitRequest, ...]:
        """The networks, and the policy's Q for the behaviour's value where episodes were cut."""
        return FitDICE(self.best), FitQ()

    def estimate(self, case: Case) -> Draft:
        """The average of equation (1) over the networks."""
        of_weights, of_q = self.requests()
        log, gamma = case.fits.fits.timed_log, case.estimand.gamma
        share = np.power(float(gamma), log.position) * log.can_bootstrap
        weight = case.fits.get(of_weights) * share[:, None]
        numerator, denominator = self_normalised(log, weight, gamma=gamma)
        mean, mass = weight.mean(1), float(denominator.mean(0).min())
        per_episode = np.add.reduceat(np.abs(mean), log.episode_start[:-1])
        checks: tuple[Check, ...] = (
            *check_spread(case.units, per_episode),
            check_regional_balance(balance_test(log, case.fits.fits.regions, mean, gamma, case.units)),
            _of_choices(case, mean),
        )
        assumptions = (*shared_assumptions(case), "the networks of the ratio of visits are near their saddle point")
        if not mass >= LEAST_MASS:
            return Draft(None, (*checks, _without_mass(self.name, mass)), assumptions, per_episode)
        statistic = Contributions(numerator / weight.shape[1], denominator)
        checks += (check_range(statistic.value(), case.attainable),)
        return Draft(
            statistic,
            checks,
            assumptions,
            per_episode,
            behavior=None
            if log.terminated[log.episode_start[1:] - 1].all()
            else behavior_of(case, case.fits.get(of_q)),
            behavior_gradient=np.zeros(case.log.num_transitions),
            by_network=tuple((numerator.mean(0) / denominator.mean(0)).tolist()),
            weighs_actions=False,
        )


MARGINALISED = (
    LinearMarginal("smis", "state marginalised importance sampling: rewards weighted by visits of states", False),
    LinearMarginal("samis", "state-action marginalised importance sampling: visits of states and actions", True),
    DICEEstimator("dualdice", "DualDICE: visits of states and actions by networks", False),
    DICEEstimator("bestdice", "BestDICE: visits of states and actions by networks, kept positive", True),
)
