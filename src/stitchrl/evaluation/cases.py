"""The cases of an evaluation, one a policy, and the drafts that estimators make of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from stitchrl.evaluation.attainable import what_follows
from stitchrl.evaluation.behavior import logged_return
from stitchrl.evaluation.contributions import Contributions, Episodes
from stitchrl.evaluation.decisions import of_decisions
from stitchrl.evaluation.estimator import Case, Draft, Estimator
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.health import check_lost_weight
from stitchrl.evaluation.logged_policy import knows_every_action, refusal_of_unknown_actions
from stitchrl.evaluation.predictable import VisitRatios
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.weights import cumulative_weights

__all__ = ["cases_of", "draft_of", "logged_draft"]


def cases_of(fits: Fits, units: Units, *, over_last: bool = False) -> list[Case]:
    """The case of every policy of `fits`; with `over_last` the last one is the baseline of all."""
    log, estimand = fits.log, fits.estimand
    episodes = Episodes.of(log, estimand)
    for k in range(len(fits.policies)):
        # A policy that cannot be asked is refused before anything is fitted.
        fits.choices(k) if fits.whole and knows_every_action(fits.policies[k], fits.log) else fits.log_policy(k)
    cases = [
        Case(log, episodes, estimand, fits.behavior, policy, fits.of(k), units)
        for k, policy in enumerate(fits.policies)
    ]
    return [dataclasses.replace(case, baseline=cases[-1]) for case in cases] if over_last else cases


def draft_of(estimator: Estimator, case: Case) -> Draft:
    """The draft that an estimator makes of a case; where it refuses, a draft without an estimate that says why."""
    refusal = estimator.refusal(case.log, case.estimand, [case.policy])
    if refusal is None and case.estimand.time_unit is not None and not getattr(estimator, "irregular_time", False):
        refusal = (
            f"{estimator.name} discounts by steps, but the schema of this log has a `time_unit`, so that gamma is per "
            f"{case.estimand.time_unit}. Leave `time_unit` out of the schema to count steps."
        )
    if refusal is None and not getattr(estimator, "logged_actions_suffice", False):
        refusal = refusal_of_unknown_actions(estimator.name, case.log, case.fits.fits.policies)
    if refusal is not None:
        return Draft.refused(refusal, case)
    draft = estimator.estimate(case)
    if draft.weighs_actions and draft.statistic is not None:
        draft = dataclasses.replace(draft, checks=(*draft.checks, *case.clipping))
    return draft


def logged_draft(case: Case) -> Draft:
    """The behaviour's own value as a draft, to take gains over."""
    n = case.log.num_transitions
    if of_decisions(case.log, case.estimand.horizon):
        ratios = VisitRatios(np.ones(n), None, np.ones((n, 0)))
        return Draft(Contributions.average(case.episodes.returns), ratios=ratios, behavior_gradient=np.zeros(n))
    lost = cumulative_weights(case.episodes, np.zeros(n)).lost
    unknown = what_follows(case.log, case.estimand, lost, case.episodes.longest)
    check = check_lost_weight(lost, longest=case.episodes.longest, unknown=unknown)
    ratios = VisitRatios(np.ones(n), None, np.ones((n, 0)))
    gradient = np.zeros(n)
    return Draft(logged_return(case.episodes), (check,), ratios=ratios, unknown=unknown, behavior_gradient=gradient)
