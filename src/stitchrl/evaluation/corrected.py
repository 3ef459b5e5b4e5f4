"""The draft of an estimate that corrects a fitted Q on the episodes of the estimate: its value, health and baseline."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.action_checks import checks_of_actions
from stitchrl.evaluation.attainable import what_untried_actions_may_do
from stitchrl.evaluation.balance import balance_test
from stitchrl.evaluation.balance_checks import check_balance, check_regional_balance
from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.estimator import Case, Draft, shared_assumptions
from stitchrl.evaluation.health import Check, check_networks, check_range, check_spread, check_unknown_waits
from stitchrl.evaluation.predictable import LoggedWeights, Ratios, VisitRatios
from stitchrl.evaluation.refit import CorrectedQ, Refit
from stitchrl.types import NumpyArray

__all__ = ["behavior_of", "corrected_draft", "finite_range"]


def corrected_draft(
    case: Case,
    fitted: CorrectedQ,
    ratios: Ratios,
    checks: tuple[Check, ...],
    *,
    assumes: str,
    gradient: Float[NumpyArray, " N"],
    untried: float = 0.0,
    weighs_actions: bool = True,
) -> Draft:
    """The mean of the contributions, with the health of the weights, summed by episode.

    Args:
        case: what is estimated.
        fitted: the corrected Q.
        ratios: what the expected variance of the value is computed from.
        checks: further health checks.
        assumes: what must hold beside what every estimate assumes.
        gradient: (N,) derivative of the value by the logarithm of the behaviour's probability of each logged action.
        untried: how many actions that the behaviour never takes the policy takes in an episode, on average.
        weighs_actions: whether the logged actions are weighed by their propensities.
    """
    found = fitted.refit
    assert found is not None
    log, fits = case.fits.fits.timed_log, case.fits.fits
    per_episode = np.add.reduceat(np.abs(found.weights), case.log.episode_start[:-1])
    balance = balance_test(log, fits.regions, found.weights, case.estimand.gamma, case.units)
    checks = (
        *check_spread(case.units, per_episode),
        check_balance(found.imbalance),
        check_regional_balance(balance),
        *_of_actions(case, found, len(fitted.by_network)),
        *_of_waits(case),
        *checks,
    )
    statistic = None
    if per_episode.any():
        statistic = Contributions.average(found.contributions)
        checks += (check_range(statistic.value(), case.attainable),)
    return Draft(
        statistic,
        checks,
        (*shared_assumptions(case), assumes),
        per_episode,
        ratios,
        behavior=behavior_of(case, fitted),
        by_network=fitted.by_network,
        jointly=weighs_actions,
        moved=fitted.moved,
        weighs_actions=weighs_actions,
        behavior_gradient=gradient,
        unknown=what_untried_actions_may_do(untried, finite_range(case)),
    )


def finite_range(case: Case) -> tuple[float, float]:
    """The attainable range; where it is not finite, the range of the logged returns."""
    low, high = case.attainable
    if np.isfinite([low, high]).all():
        return low, high
    return float(case.episodes.returns.min()), float(case.episodes.returns.max())


def _of_waits(case: Case) -> tuple[Check, ...]:
    """Whether the time to the next decision is known, where values are discounted by it."""
    if case.estimand.time_unit is None:
        return ()
    assert case.log.elapsed is not None
    unknown = ~np.isfinite(case.log.elapsed) & ~case.log.terminated
    return (check_unknown_waits(float(unknown.sum()) / case.log.num_episodes),)


def _of_actions(case: Case, found: Refit, networks: int) -> tuple[Check, ...]:
    """Over continuous actions, whether weights follow the policy's actions as well, and whether there are several networks."""
    if case.log.num_actions is not None:
        return ()
    return (*checks_of_actions(case, found.weights), check_networks(networks))


def behavior_of(case: Case, fitted: CorrectedQ) -> Draft | None:
    """The behaviour's value by the same refit, where episodes were cut."""
    found = fitted.behavior
    if found is None:
        return None
    known = case.fits.fits.timed_log.can_bootstrap
    gradient = np.zeros(case.log.num_transitions)
    ratios: Ratios
    if case.log.num_actions is None:
        ratios = LoggedWeights(found.weights * known, found.residual * known)
    else:
        # The behaviour's residual here also holds the choice of the action, which the policy's does not, so the two must not
        # be compared: without one of its own the policy's is used.
        ratios = VisitRatios(found.visits * known, None, case.fits.fits.behavior_probs)
    return Draft(
        Contributions.average(found.contributions),
        ratios=ratios,
        behavior_gradient=gradient,
        by_network=fitted.behavior_by_network,
        moved=fitted.behavior_moved,
    )
