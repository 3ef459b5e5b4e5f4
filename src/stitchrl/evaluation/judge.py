"""From fitted models to evaluations: one set of resamples for all policies, then each judged by one rule."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stitchrl.auditing.history import HistoryCheck
from stitchrl.evaluation.action_shift import ActionShift, action_shift
from stitchrl.evaluation.agreement import Agreement, agreement
from stitchrl.evaluation.behavior_summary import summary_of
from stitchrl.evaluation.cases import cases_of, draft_of, logged_draft
from stitchrl.evaluation.confirmation import Confirmation
from stitchrl.evaluation.consistency import Consistency, consistency_of
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.costs import Limit, costs_of
from stitchrl.evaluation.decisions import judged_as_decisions, of_decisions, unit_noun
from stitchrl.evaluation.estimating import behavior_estimate, bounded, estimates_of
from stitchrl.evaluation.estimator import Draft, Estimator, behavior_variances
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.group_gains import GroupGains, gains_in_groups
from stitchrl.evaluation.groups import Groups
from stitchrl.evaluation.influence import VarianceShares, variance_shares
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.logged_policy import knows_every_action, why_no_verdict
from stitchrl.evaluation.lower_bounds import LowerBound, lower_bounds
from stitchrl.evaluation.policy_actions import has_density
from stitchrl.evaluation.power import power_of
from stitchrl.evaluation.primary import choose_primary
from stitchrl.evaluation.refit import FitQ
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.return_distribution import ReturnDistribution, return_distributions
from stitchrl.evaluation.sensitivity import Sensitivity, hidden_cause_sensitivity
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.verdict import NOT_AUDITED, Verdict, decide
from stitchrl.evaluation.vetoes import Vetoes

__all__ = ["Judge", "Rule"]


class Rule(NamedTuple):
    """By what policies are judged: the arguments of these names of `evaluate` and `evaluate_all`.

    Attributes:
        confirm: whether to compute what only confirms a gain; without it no verdict is GO.
        tail: the worst share of episodes that the distributions of returns report on; None where none is asked for.
    """

    confidence: float
    margin: float
    audit_verdict: str | None
    history: HistoryCheck | None
    minimum_odds_ratio: float
    groups: Groups | None
    limits: tuple[Limit, ...]
    confirm: bool
    tail: float | None


class Judge:
    """Estimates of all policies of `fits`, and what is said of each.

    Args:
        fits: the policies, their log, and the models that are fitted for them.
        chosen: estimators.
        rule: what they are judged by.
        resamples: how many bootstrap resamples the intervals that have no closed form are made from.
        over_last: whether the last policy is the baseline of the others' gains.
        notes: caveats of the verdicts.
    """

    def __init__(
        self,
        fits: Fits,
        chosen: Sequence[Estimator],
        rule: Rule,
        *,
        resamples: int,
        over_last: bool,
        notes: Sequence[str],
    ) -> None:
        self._fits, self._rule, self._over_last = fits, rule, over_last
        self._names = [estimator.name for estimator in chosen]
        self._chosen = chosen
        log = fits.log
        units = Units(log.num_episodes, log.group, noun=unit_noun(log, fits.estimand.horizon))
        self._resampler = Resampler(units, resamples=resamples, confidence=rule.confidence, seed=fits.settings.seed)
        self._cases = cases_of(fits, units, over_last=over_last)
        self._logged = logged_draft(self._cases[0])
        self._notes = _notes(self._logged, fits.estimand, notes)
        self._values = [[draft_of(estimator, case) for estimator in chosen] for case in self._cases]
        others = self._values[-1] if over_last else [self._logged] * len(chosen)
        self._gains = [
            [
                draft.over(other if over_last or draft.behavior is None else draft.behavior)
                for draft, other in zip(of_policy, others, strict=True)
            ]
            for of_policy in self._values
        ]
        self._found = estimates_of([*self._values, *self._gains], chosen, self._cases[0], self._resampler)
        self._summary = summary_of(fits, units) if rule.confirm else None
        assert self._logged.statistic is not None
        interval = self._resampler.interval(self._logged.statistic)
        self._behavior = behavior_estimate(interval, self._cases[0], rule.confidence)
        self._costs = costs_of(fits, chosen, rule.limits, self._resampler, over_last=over_last) if rule.limits else None

    def evaluation(self, k: int) -> Evaluation:
        """What is said of policy `k`."""
        values, gain = self._found[k], self._found[len(self._cases) + k]
        confirm = self._rule.confirm
        confirmation = self._confirmation(k, gain) if confirm else None
        vetoes = self._vetoes(k, gain)
        return Evaluation(
            values,
            gain,
            self._behavior,
            self._verdict(k, gain, confirmation, vetoes),
            self._fits.behavior.fitted,
            self._agreement(k),
            confirmation,
            self._influence(k, gain) if confirm else None,
            self._summary,
            None if vetoes is None else vetoes.groups,
            None if vetoes is None else vetoes.costs,
            self._lower_bounds(k) if confirm else (),
            self._distribution(k),
            self._consistency(k, values, gain) if confirm else None,
            _described(self._cases[k].policy),
        )

    def _primary(self, k: int, gain: Mapping[str, Estimate]) -> tuple[int, Draft] | None:
        """The place of the estimator that the verdict rests on, and the draft of its gain; None where there is none."""
        name = choose_primary(gain)
        if name is None:
            return None
        place = self._names.index(name)
        return place, self._gains[k][place]

    def _confirmation(self, k: int, gain: Mapping[str, Estimate]) -> Confirmation:
        fits, summary = self._fits, self._summary
        return Confirmation(
            fits.behavior.fitted,
            self._cases[k].calibration,
            self._rule.history if fits.behavior.fitted else None,
            self._sensitivity(k, gain),
            self._rule.minimum_odds_ratio,
            "" if summary is None else summary.title,
            continuous=fits.log.num_actions is None,
            decisions=of_decisions(fits.log, fits.estimand.horizon),
        )

    def _sensitivity(self, k: int, gain: Mapping[str, Estimate]) -> Sensitivity | None:
        """The hidden causes that would overturn the primary gain; None where there is no such gain, it rests on no Q, or the
        policy has no density, without which nothing is known of its actions' odds."""
        case, primary = self._cases[k], self._primary(k, gain)
        judged = [case.policy, *([] if case.baseline is None else [case.baseline.policy])]
        if case.log.num_actions is None and not all(map(has_density, judged)):
            return None
        if primary is None or FitQ() not in self._chosen[primary[0]].requests():
            return None
        place, draft = primary
        estimate = gain[self._names[place]]
        assert draft.statistic is not None
        assert estimate.standard_error is not None
        return hidden_cause_sensitivity(
            case,
            draft.statistic,
            estimate.standard_error,
            margin=self._rule.margin,
            confidence=estimate.confidence,
            unknown=bounded(draft.unknown[0]),
        )

    def _influence(self, k: int, gain: Mapping[str, Estimate]) -> VarianceShares | None:
        """Who carries the variance of the primary gain; None where there is no such gain."""
        primary = self._primary(k, gain)
        if primary is None or (statistic := primary[1].statistic) is None:
            return None
        return variance_shares(statistic.influence(), self._resampler.units, primary[1].variance_of_models)

    def _vetoes(self, k: int, gain: Mapping[str, Estimate]) -> Vetoes | None:
        if self._rule.groups is None and self._costs is None:
            return None
        return Vetoes(self._groups(k, gain), None if self._costs is None else self._costs[k])

    def _groups(self, k: int, gain: Mapping[str, Estimate]) -> GroupGains | None:
        """The primary gain in each group; None where no group was asked for, or there is no such gain."""
        primary, case, groups = self._primary(k, gain), self._cases[k], self._rule.groups
        if groups is None or primary is None:
            return None
        place, other = primary[0], None
        if self._over_last:
            assert case.baseline is not None
            other = (case.baseline, self._values[-1][place])
        return gains_in_groups(
            self._chosen[place],
            case,
            groups,
            self._values[k][place],
            self._logged,
            other,
            self._resampler,
            self._rule.margin,
        )

    def _verdict(
        self, k: int, gain: Mapping[str, Estimate], confirmation: Confirmation | None, vetoes: Vetoes | None
    ) -> Verdict:
        """The verdict; under CANNOT TELL with how large a log would decide."""
        log, rule = self._fits.log, self._rule
        decisions = judged_as_decisions(log, self._fits.estimand.horizon)
        verdict = decide(
            gain,
            audit_verdict=NOT_AUDITED if rule.audit_verdict is None else rule.audit_verdict,
            margin=rule.margin,
            confirmation=confirmation,
            vetoes=vetoes,
            baseline="the baseline" if self._over_last else "the behaviour",
            notes=(*self._notes, *_of_another_policy(self._cases[k].policy)),
            decisions=decisions,
            not_judged="" if decisions else why_no_verdict(self._cases[k].policy, log),
        )
        primary = self._primary(k, gain)
        if not rule.confirm or verdict.decision != "CANNOT TELL" or primary is None:
            return verdict
        failed = [line.key for line in verdict.lines if line.passed is False]
        estimate, units = gain[self._names[primary[0]]], self._resampler.units
        power = power_of(primary[1], estimate, units, rule.margin, failed, seed=self._fits.settings.seed)
        return dataclasses.replace(verdict, power=power)

    def _agreement(self, k: int) -> Agreement | ActionShift | None:
        fits, case = self._fits, self._cases[k]
        if not knows_every_action(case.policy, fits.log):
            return None  # what else it would have done is not in the log
        if fits.log.num_actions is None:
            return action_shift(fits.log, case.fits.choices)
        pieces = functools.partial(fits.pieces, case.fits.policy)
        return agreement(fits.log, pieces, fits.behavior.log_prob, fits.behavior.probs)

    def _lower_bounds(self, k: int) -> tuple[LowerBound, ...]:
        case = self._cases[k]
        if case.log.num_actions is None and not has_density(case.policy):
            return ()
        if not all(check.passed for check in case.clipping):
            return ()  # a bound that rests on ratios alone says nothing where they are wrong
        return lower_bounds(case, confidence=self._rule.confidence, seed=self._fits.settings.seed)

    def _distribution(self, k: int) -> dict[str, ReturnDistribution]:
        tail = self._rule.tail
        if tail is None or (self._over_last and k == len(self._cases) - 1):
            return {}
        seed = self._fits.settings.seed
        return return_distributions(self._cases[k], tail=tail, confidence=self._rule.confidence, seed=seed)

    def _consistency(self, k: int, values: Mapping[str, Estimate], gain: Mapping[str, Estimate]) -> Consistency | None:
        drafts = dict(zip(self._names, self._values[k], strict=True))
        variances = functools.partial(behavior_variances, self._cases[k])
        return consistency_of(drafts, values, gain, variances, self._resampler)


def _described(policy: object) -> str:
    """What was done to the policy that it was made from; "" where nothing was."""
    return str(getattr(policy, "described", ""))


def _of_another_policy(policy: object) -> tuple[str, ...]:
    """A caveat where what is judged is a changed policy, whose value is not that of the policy it was made from."""
    described = _described(policy)
    if not described:
        return ()
    return (
        f"Every value here is that of the policy {described}; none is that of the policy before this was done to it.",
    )


def _notes(logged: Draft, estimand: Estimand, notes: Sequence[str]) -> tuple[str, ...]:
    """What a reader of the verdict must know."""
    # Fitted values assume that episodes go on after a cut as before it. Who reads the verdict must know that, and how to do
    # without the assumption.
    found = (*(check.sentence for check in logged.checks if not check.passed), *notes)
    if estimand.time_unit is None:
        return found
    by_time = (
        f"Rewards are discounted by the time of the decision that they follow, with gamma {estimand.gamma:g} per "
        f"{estimand.time_unit}: do not compare these values with ones that are discounted by steps."
    )
    return (*found, by_time)
