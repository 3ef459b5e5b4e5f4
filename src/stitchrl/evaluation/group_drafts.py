"""Drafts of one estimate in each of several groups of episodes.

An estimator that weights episodes is right on the episodes of a group alone, since the weight of an episode does not depend on
the others. An estimator that corrects a fitted Q is not, and has a method `by_group` that says what it does instead.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.evaluation.attainable import what_untried_actions_may_do
from stitchrl.evaluation.balance import balance_test
from stitchrl.evaluation.balance_checks import UNLIKELY, check_balance, check_regional_balance
from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.corrected import finite_range
from stitchrl.evaluation.estimator import Case, Draft, shared_assumptions
from stitchrl.evaluation.group_refit import FitGroups, GroupRefit, RefitOfGroups
from stitchrl.evaluation.groups import Groups
from stitchrl.evaluation.health import Check, check_spread
from stitchrl.evaluation.predictable import LoggedWeights, Ratios, VisitRatios
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["EstimatesGroups", "corrected_group_drafts", "group_units", "masked"]


@runtime_checkable
class EstimatesGroups(Protocol):
    """An estimator whose estimate in a group of episodes is not that of the group's episodes alone."""

    def by_group(self, case: Case, groups: Groups) -> list[Draft]:
        """The draft of the value in each group."""


def group_units(units: Units, member: Float[NumpyArray, " n"]) -> int:
    """How many independent units have an episode in a group."""
    return int((units.sums(member) > 0).sum())


def masked(draft: Draft, member: Float[NumpyArray, " n"], case: Case) -> Draft:
    """The draft of an estimator that weights episodes, on the episodes of a group alone.

    Args:
        draft: the draft on the whole log.
        member: (n,) 1 for each episode of the group, else 0.
        case: what is estimated.
    """
    if not isinstance(draft.statistic, Contributions):
        sentence = "This estimator has no value for a group of episodes."
        return dataclasses.replace(draft, statistic=None, checks=(Check("group", None, None, False, sentence),))
    share, rows = member.mean(), np.repeat(member, case.log.episode_lengths)
    whole = draft.statistic
    statistic = Contributions(whole.numerator * member[:, None], whole.denominator * member[:, None])
    checks: tuple[Check, ...] = ()
    if draft.unit_weight is not None:
        checks = check_spread(case.units, draft.unit_weight * member, among=group_units(case.units, member))
    gradient = None
    if draft.behavior_gradient is not None and whole.linear:
        gradient = draft.behavior_gradient * rows / share
    elif case.behavior.fitted:
        sentence = "The noise of the fitted behaviour in a group is not known for this estimator."
        checks += (Check("behavior-noise", None, None, False, sentence),)
    ratios: Ratios | None = None
    if isinstance(draft.ratios, VisitRatios):
        ratios = dataclasses.replace(draft.ratios, visits=draft.ratios.visits * rows / share, first=None)
    elif draft.ratios is not None:
        ratios = dataclasses.replace(draft.ratios, weights=draft.ratios.weights * rows / share, first=None)
    return dataclasses.replace(
        draft,
        statistic=statistic if (statistic.denominator.sum(0) > 0).all() else None,
        checks=checks,
        ratios=ratios,
        predictable_variance=None,
        behavior=None,
        behavior_gradient=gradient,
        by_network=(),
    )


def corrected_group_drafts(case: Case, groups: Groups, *, with_ratios: bool = True) -> list[Draft]:
    """The drafts of a corrected Q in each group: its own right-hand side, weights, balance and influence."""
    fitted: RefitOfGroups = case.fits.get(FitGroups(groups, with_ratios))
    return [
        _corrected(case, fitted, member, g, jointly=with_ratios) for g, member in enumerate(groups.members(case.log).T)
    ]


def _corrected(case: Case, fitted: RefitOfGroups, member: Float[NumpyArray, " n"], g: int, *, jointly: bool) -> Draft:
    found, share = fitted.policy, float(member.mean())
    log, start = case.fits.fits.timed_log, case.log.episode_start[:-1]
    weights = found.weights[:, g] / share
    per_episode = np.add.reduceat(np.abs(weights), start)
    balance = balance_test(log, case.fits.fits.regions, weights, case.estimand.gamma, case.units, start=member / share)
    checks = (
        *check_spread(case.units, per_episode, among=group_units(case.units, member)),
        check_balance(float(found.imbalance[g])),
        check_regional_balance(balance),
        _check_explained(case, found, member, g),
    )
    ratios = _ratios(case, found, g, share)
    untried = ratios.never_tried(case.log.num_episodes)
    behavior = None
    if fitted.behavior is not None and fitted.behavior_by_network is not None:
        own = fitted.behavior
        behavior = Draft(
            Contributions(own.contributions[:, [g]], member[:, None]),
            ratios=_of_behavior(case, own, g, share),
            behavior_gradient=np.zeros(case.log.num_transitions),
            by_network=tuple((fitted.behavior_by_network[:, g] / share).tolist()),
            jointly=jointly,
            moved=0.0 if fitted.behavior_moved is None else float(fitted.behavior_moved[g] / share),
        )
    return Draft(
        Contributions(found.contributions[:, [g]], member[:, None]),
        checks,
        shared_assumptions(case),
        per_episode,
        ratios,
        behavior=behavior,
        unknown=what_untried_actions_may_do(untried, finite_range(case)),
        behavior_gradient=-weights * found.residual / case.log.num_episodes,
        by_network=tuple((fitted.by_network[:, g] / share).tolist()),
        jointly=jointly,
        moved=float(fitted.moved[g] / share),
    )


def _ratios(case: Case, found: GroupRefit, g: int, share: float) -> Ratios:
    """What the variance of the value in a group is computed from."""
    known = case.fits.fits.timed_log.can_bootstrap
    if case.log.num_actions is None:
        return LoggedWeights(found.weights[:, g] / share * known, found.residual * known)
    behavior = case.fits.fits.behavior_probs
    return VisitRatios(found.visits[:, g] / share * known, case.fits.choices, behavior, found.residual * known)


def _of_behavior(case: Case, found: GroupRefit, g: int, share: float) -> Ratios:
    """The same of the behaviour's value by the same equations."""
    known = case.fits.fits.timed_log.can_bootstrap
    if case.log.num_actions is None:
        return LoggedWeights(found.weights[:, g] / share * known, found.residual * known)
    return VisitRatios(found.visits[:, g] / share * known, None, case.fits.fits.behavior_probs)


def _check_explained(case: Case, found: GroupRefit, member: Float[NumpyArray, " n"], g: int) -> Check:
    """Whether the observations explain the outcomes of a group, so that episodes of other groups may stand for its own.

    The TD errors that the correction leaves average 0 in every group if the observation holds all that matters.
    """
    left = np.add.reduceat(found.weights[:, g] * found.residual, case.log.episode_start[:-1]) * member
    sums, counts = case.units.sums(left), case.units.sums(member)
    inside = counts > 0
    seen, n = sums[inside], int(inside.sum())
    error = float(seen.std(ddof=1)) if n > 1 else 0.0
    p_value = float(2 * stats.t.sf(abs(float(seen.mean())) / (error / np.sqrt(n)), n - 1)) if error > 0 else 1.0
    passed = p_value >= UNLIKELY
    sentence = (
        f"The observations explain the outcomes of the group, as far as chance lets one see (p = {p_value:.2g})."
        if passed
        else f"The observations do not explain the outcomes of the group (p = {p_value:.1g}): make the column of the groups a "
        "part of the observation."
    )
    return Check("explained", p_value, UNLIKELY, passed, sentence)
