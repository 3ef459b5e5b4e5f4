"""`st.evaluate`: every estimate of a policy on a log, its gain over the behaviour, and the verdict."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.auditing.binning import binning_of
from stitchrl.auditing.history import HistoryCheck, history_check
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.action_shift import ActionShift, action_shift
from stitchrl.evaluation.agreement import Agreement, agreement
from stitchrl.evaluation.behavior_summary import BehaviorSummary, summary_of
from stitchrl.evaluation.cases import cases_of, draft_of, logged_draft
from stitchrl.evaluation.clock import first_steps
from stitchrl.evaluation.confirmation import Confirmation
from stitchrl.evaluation.consistency import Consistency, consistency_of
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.costs import CostLimits, Limit, check_costs, costs_of, limits_of
from stitchrl.evaluation.decisions import of_decisions, unit_noun
from stitchrl.evaluation.estimating import behavior_estimate, bounded, estimates_of
from stitchrl.evaluation.estimator import (
    Case,
    Draft,
    Estimator,
    behavior_variances,
)
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.group_gains import GroupGains, gains_in_groups
from stitchrl.evaluation.groups import Groups, groups_of
from stitchrl.evaluation.influence import VarianceShares, variance_shares
from stitchrl.evaluation.intervals import RESAMPLES, Resampler
from stitchrl.evaluation.looks import look_at, notes_on
from stitchrl.evaluation.lower_bounds import LowerBound, lower_bounds
from stitchrl.evaluation.policy_actions import has_density
from stitchrl.evaluation.power import power_of
from stitchrl.evaluation.primary import choose_primary
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ
from stitchrl.evaluation.registry import chosen_estimators, default_estimators
from stitchrl.evaluation.requirements import check_requirements, check_size
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.return_distribution import ReturnDistribution, return_distributions
from stitchrl.evaluation.returns import check_tail_share
from stitchrl.evaluation.sensitivity import Sensitivity, hidden_cause_sensitivity
from stitchrl.evaluation.settings import MINIMUM_ODDS_RATIO, FitSettings, check_odds_ratio
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.verdict import NOT_AUDITED, Verdict, decide
from stitchrl.evaluation.vetoes import Vetoes
from stitchrl.messages import interval_in_words
from stitchrl.progress import LoopMonitor

__all__ = ["Evaluation", "evaluate", "evaluate_all", "evaluate_fits"]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        estimates: estimator -> value of the policy.
        gain: estimator -> gain over the behaviour (or the baseline) on the same episodes, paired.
        behavior: the behaviour's own value: the mean logged return.
        verdict: GO, NO-GO or CANNOT TELL, with its checklist.
        behavior_fitted: True where the behaviour's probabilities come from a model.
        agreement: how the policy's decisions differ from the logged ones; `ActionShift` where actions are continuous.
        confirmation: what is known about the behaviour that the primary gain rests on; None where nobody looked.
        influence: who carries the variance of the primary gain; None where there is none, or nobody looked.
        behavior_model: the fitted behaviour; None where the log has propensities, or where nobody looked.
        groups: the primary gain in each group that was asked for; None where none was, or there is no such gain.
        costs: each cost that was asked for, against its limit; None where none was.
        lower_bounds: bounds of the value, and of the gain over the behaviour, that rest on no model of the value; none where
            nobody looked, or where none can be given. No line of the verdict looks at them.
        distribution: how the returns are distributed, by "weights" and by "fqe"; none where it was not asked for. No line of
            the verdict looks at it.
        consistency: whether the healthy estimates agree, and an interval of the gain that holds if one of them is right; None
            where nobody looked. No line of the verdict looks at it.
    """

    estimates: dict[str, Estimate]
    gain: dict[str, Estimate]
    behavior: Estimate
    verdict: Verdict
    behavior_fitted: bool
    agreement: Agreement | ActionShift
    confirmation: Confirmation | None = None
    influence: VarianceShares | None = None
    behavior_model: BehaviorSummary | None = None
    groups: GroupGains | None = None
    costs: CostLimits | None = None
    lower_bounds: tuple[LowerBound, ...] = ()
    distribution: dict[str, ReturnDistribution] = dataclasses.field(default_factory=dict)
    consistency: Consistency | None = None

    def __str__(self) -> str:
        name = self.verdict.primary
        values = [] if name is None else [(f"the policy, by {name}", self.estimates[name])]
        lines = [
            f"value of {whose}: {interval_in_words(one.value, one.lower, one.upper, sign=False)}"
            for whose, one in (
                *values,
                (f"the behaviour, {self.behavior.title.removesuffix(' of the behaviour')}", self.behavior),
            )
            if one.value is not None and one.lower is not None and one.upper is not None
        ]
        stated = [one.sentence for one in self.lower_bounds if one.chosen and (one.says_something or one.of == "value")]
        worst = [one.sentence for one in self.distribution.values()]
        together = () if self.consistency is None else self.consistency.sentences
        return "\n".join([*lines, *together, *stated, *worst, str(self.verdict)])

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "estimates": {name: estimate.to_dict() for name, estimate in self.estimates.items()},
            "gain": {name: estimate.to_dict() for name, estimate in self.gain.items()},
            "behavior": self.behavior.to_dict(),
            "verdict": self.verdict.to_dict(),
            "behavior_fitted": self.behavior_fitted,
            "agreement": self.agreement.to_dict(),
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "influence": None if self.influence is None else self.influence.to_dict(),
            "behavior_model": None if self.behavior_model is None else self.behavior_model.to_dict(),
            "groups": None if self.groups is None else self.groups.to_dict(),
            "costs": None if self.costs is None else self.costs.to_dict(),
            "lower_bounds": [one.to_dict() for one in self.lower_bounds],
            "consistency": None if self.consistency is None else self.consistency.to_dict(),
            "distribution": {name: one.to_dict() for name, one in self.distribution.items()},
        }


def evaluate(
    policy: PolicyLike,
    log: Dataset,
    gamma: float | None = None,
    horizon: int | None = None,
    estimators: Sequence[str | Estimator] | None = None,
    baseline: PolicyLike | None = None,
    *,
    fit_on: Dataset | None = None,
    settings: FitSettings | None = None,
    confidence: float = 0.95,
    margin: float = 0.0,
    audit_verdict: str | None = None,
    history: HistoryCheck | None = None,
    minimum_odds_ratio: float = MINIMUM_ODDS_RATIO,
    groups: str | Sequence[str] = (),
    costs: str | Sequence[str] = (),
    seed: int = 0,
    record_look: bool = False,
    distribution: bool = False,
    tail: float = 0.1,
) -> Evaluation:
    """Estimate how good a policy is from a log it did not learn from.

    Intervals resample episodes; whole groups where the log has the role `group`, whose episodes are then not taken to be
    independent.

    Args:
        policy: anything with `probs(obs, action_mask=...)` giving (B, A) NumPy or JAX rows; over continuous actions
            `sample(obs, key=...)`, or `mode(obs)` where it leaves no chance, and `log_prob(obs, action)` where it has a
            density. Exactly this object is judged: pass `policy.greedy()` if that is what will be deployed.
        log: episodes the policy never saw.
        gamma: discount; the log's own by default. Of one step, or of one `time_unit` where the log's schema states one.
        horizon: count only the first so many steps of an episode; None counts until it terminates. An episode that the
            log cut at the horizon or later is then complete, and models of value know the time.
        estimators: names from `registry.ESTIMATORS`, or estimators of your own; None: those that suit the log. Only what they
            ask for is fitted.
        baseline: what the gain is over; None is the behaviour, by its logged returns.
        fit_on: other episodes for the fitted parts (Q, and the behaviour where propensities are missing), for
            instance training and validation together; None fits on one half of `log` for the other, both ways.
        settings: of those fits.
        confidence: two-sided coverage the intervals aim at.
        margin: the least gain worth having, in return units.
        audit_verdict: the verdict of `st.audit` on the whole log; "not usable" rules out GO and NO-GO. None: the verdict
            says that the log was not audited.
        history: of `auditing.history.history_check` on the whole log; None: this log is checked where the behaviour has
            to be fitted.
        minimum_odds_ratio: a gain from a fitted behaviour must withstand a hidden cause of this strength in any single
            decision; at least 1, and 1 asks for nothing.
        groups: columns whose value at the first step of an episode tells which group it is of: columns with the role
            `subgroup`, `source` or `group`, or of the observation. A group in which the gain lies wholly below the margin
            forbids GO; the intervals of all groups hold together.
        costs: limits such as "hours_sedated<=8", of columns with the role `cost` or of the observation: a policy whose
            expected cost of an episode, discounted as rewards are, lies wholly above the limit gets no GO.
        seed: of the fits and the bootstrap.
        record_look: remember that these episodes served as test, in the state folder of the user, and say in the verdict
            how often they did before. For the part that decides, and not for one that you choose candidates on. The
            commands `stitchrl run` and `stitchrl evaluate`, and `st.run`, always do; STITCHRL_STATE=off keeps nothing.
        distribution: also estimate how the returns are distributed: their spread, quantiles, and the mean return of the worst
            share of episodes, beside those of the behaviour or the baseline. It fits one more network.
        tail: that share.

    Raises:
        ConfigurationError: an unknown estimator, or a number outside its range.
        EvaluationError: fewer than 2 episodes or groups, more rows and actions than fit, or a policy whose `probs` are not
            probabilities, or whose actions are not finite.
    """
    settings = FitSettings(seed=seed) if settings is None else settings
    policies = [policy] if baseline is None else [policy, baseline]
    found = evaluate_all(
        policies,
        log,
        gamma=gamma,
        horizon=horizon,
        estimators=estimators,
        fit_on=fit_on,
        settings=settings,
        confidence=confidence,
        margin=margin,
        audit_verdict=audit_verdict,
        history=history,
        minimum_odds_ratio=minimum_odds_ratio,
        groups=groups,
        costs=costs,
        over_last=baseline is not None,
        record_look=record_look,
        tail=tail if distribution else None,
    )
    return found[0]


def evaluate_all(
    policies: Sequence[PolicyLike],
    log: Dataset,
    *,
    gamma: float | None = None,
    horizon: int | None = None,
    estimators: Sequence[str | Estimator] | None = None,
    fit_on: Dataset | None = None,
    settings: FitSettings | None = None,
    confidence: float = 0.95,
    margin: float = 0.0,
    audit_verdict: str | None = None,
    history: HistoryCheck | None = None,
    minimum_odds_ratio: float = MINIMUM_ODDS_RATIO,
    groups: str | Sequence[str] = (),
    costs: str | Sequence[str] = (),
    confirm: bool = True,
    resamples: int = RESAMPLES,
    over_last: bool = False,
    monitors: Sequence[LoopMonitor] = (),
    record_look: bool = False,
    notes: Sequence[str] = (),
    tail: float | None = None,
) -> list[Evaluation]:
    """`evaluate` for several policies: one program fits the FQE of all, one set of resamples serves all.

    Arguments as `evaluate`; `over_last=True` takes the last policy as the baseline of the others' gains; with
    `confirm=False` nothing is looked at that only confirms a gain, and no verdict is GO; `notes` are further caveats of the
    verdicts; `tail` is the worst share of episodes of the distributions of returns, which None does not estimate.
    """
    if tail is not None:
        check_tail_share(tail)
    check_odds_ratio(minimum_odds_ratio)
    settings = FitSettings() if settings is None else settings
    chosen = () if estimators is None else chosen_estimators(estimators)
    check_requirements(log, gamma, policies)
    estimand = Estimand.of(log, gamma, horizon)
    if tail is not None and estimand.time_unit is not None:
        raise ConfigurationError(
            "`distribution` discounts by steps, and the schema of this log has a `time_unit`, by which gamma is per "
            f"{estimand.time_unit}. Leave `time_unit` out to count steps, or `distribution`."
        )
    divided, limits = groups_of(log, groups), limits_of(costs)
    check_costs(limits, log, fit_on)
    if fit_on is not None and fit_on.schema.time_unit != log.schema.time_unit:
        raise ConfigurationError(
            f"`fit_on` must be discounted as the log is; their `time_unit` are {fit_on.schema.time_unit} and "
            f"{log.schema.time_unit}. Read both with one schema."
        )
    whole, log = log, first_steps(log, horizon)
    fit_on = None if fit_on is None else first_steps(fit_on, horizon)
    chosen = chosen or chosen_estimators(default_estimators(log, horizon))
    if log.behavior_log_prob is None or not all(getattr(one, "row_by_row", False) for one in chosen):
        check_size(log, log.num_transitions, None if fit_on is None else fit_on.num_transitions, len(policies))
    if record_look:  # before anything is seen; what is refused above is no look
        rule = (margin, confidence, minimum_odds_ratio, *settings.numbers())
        notes = (*notes, *notes_on(look_at(policies, whole, estimand, rule), noun=unit_noun(log, horizon)))
    if confirm and (binned := binning_of(whole)) is not None:
        notes = (*notes, binned.caveat)
    fits = Fits(policies, log, fit_on, estimand=estimand, settings=settings, monitors=monitors)
    if confirm and history is None and fits.behavior.fitted:
        history = history_check(whole)
    return evaluate_fits(
        fits,
        chosen,
        confidence=confidence,
        margin=margin,
        audit_verdict=audit_verdict,
        history=history,
        minimum_odds_ratio=minimum_odds_ratio,
        groups=divided,
        limits=limits,
        confirm=confirm,
        resamples=resamples,
        over_last=over_last,
        notes=notes,
        tail=tail,
    )


def evaluate_fits(
    fits: Fits,
    chosen: Sequence[Estimator],
    *,
    confidence: float = 0.95,
    margin: float = 0.0,
    audit_verdict: str | None = None,
    history: HistoryCheck | None = None,
    minimum_odds_ratio: float = MINIMUM_ODDS_RATIO,
    groups: Groups | None = None,
    limits: Sequence[Limit] = (),
    confirm: bool = True,
    resamples: int = RESAMPLES,
    over_last: bool = False,
    notes: Sequence[str] = (),
    tail: float | None = None,
) -> list[Evaluation]:
    """`evaluate_all` on what is known already about policies and their log; arguments as there."""
    log = fits.log
    units = Units(log.num_episodes, log.group, noun=unit_noun(log, fits.estimand.horizon))
    resampler = Resampler(units, resamples=resamples, confidence=confidence, seed=fits.settings.seed)
    cases = cases_of(fits, units, over_last=over_last)
    logged = logged_draft(cases[0])
    # Fitted values go on past the cuts as before them; who reads the verdict must know, and how to do without.
    notes = (*(check.sentence for check in logged.checks if not check.passed), *notes)
    if fits.estimand.time_unit is not None:
        notes = (*notes, _by_time(fits.estimand))
    drafts = [[draft_of(estimator, case) for estimator in chosen] for case in cases]
    others = drafts[-1] if over_last else [logged] * len(chosen)
    gains = [
        [
            draft.over(other if over_last or draft.behavior is None else draft.behavior)
            for draft, other in zip(of_policy, others, strict=True)
        ]
        for of_policy in drafts
    ]
    found = estimates_of([*drafts, *gains], chosen, cases[0], resampler)
    summary = summary_of(fits, units) if confirm else None
    assert logged.statistic is not None
    behavior = behavior_estimate(resampler.interval(logged.statistic), cases[0], confidence)
    limited = costs_of(fits, chosen, limits, resampler, over_last=over_last) if limits else None
    evaluations = []
    for k, (case, of_values, values, gain, of_policy) in enumerate(
        zip(cases, drafts, found[: len(cases)], found[len(cases) :], gains, strict=True)
    ):
        confirmation = influence = None
        bounds: tuple[LowerBound, ...] = ()
        together: Consistency | None = None
        if confirm:
            if log.num_actions is not None or has_density(case.policy):
                bounds = lower_bounds(case, confidence=confidence, seed=fits.settings.seed)
            by_name = {estimator.name: draft for estimator, draft in zip(chosen, of_policy, strict=True)}
            value_drafts = {estimator.name: draft for estimator, draft in zip(chosen, of_values, strict=True)}
            together = consistency_of(
                value_drafts, values, gain, functools.partial(behavior_variances, case), resampler
            )
            confirmation = Confirmation(
                fits.behavior.fitted,
                case.calibration,
                history if fits.behavior.fitted else None,
                _sensitivity(chosen, case, gain, by_name, margin),
                minimum_odds_ratio,
                "" if summary is None else summary.title,
                continuous=log.num_actions is None,
            )
            influence = _influence(gain, by_name, units)
        vetoes = None
        if groups is not None or limited is not None:
            base = drafts[-1] if over_last else None
            in_groups = _groups(groups, chosen, case, gain, drafts[k], base, logged, resampler, margin)
            vetoes = Vetoes(in_groups, None if limited is None else limited[k])
        verdict = decide(
            gain,
            audit_verdict=NOT_AUDITED if audit_verdict is None else audit_verdict,
            margin=margin,
            confirmation=confirmation,
            vetoes=vetoes,
            baseline="the baseline" if over_last else "the behaviour",
            notes=notes,
            decisions=log.num_actions is not None and of_decisions(log, fits.estimand.horizon),
        )
        if confirm and verdict.decision == "CANNOT TELL" and (name := verdict.primary) is not None:
            draft = gains[k][next(j for j, estimator in enumerate(chosen) if estimator.name == name)]
            failed = [line.key for line in verdict.lines if line.passed is False]
            power = power_of(draft, gain[name], units, margin, failed, seed=fits.settings.seed)
            verdict = dataclasses.replace(verdict, power=power)
        overlap: Agreement | ActionShift
        if log.num_actions is None:
            overlap = action_shift(log, case.fits.choices)
        else:
            pieces = functools.partial(fits.pieces, case.fits.policy)
            overlap = agreement(log, pieces, fits.behavior.log_prob, fits.behavior.probs)
        fitted = fits.behavior.fitted
        returns: dict[str, ReturnDistribution] = {}
        if tail is not None and not (over_last and case is cases[-1]):
            returns = return_distributions(case, tail=tail, confidence=confidence, seed=fits.settings.seed)
        evaluations.append(
            Evaluation(
                values,
                gain,
                behavior,
                verdict,
                fitted,
                overlap,
                confirmation,
                influence,
                summary,
                None if vetoes is None else vetoes.groups,
                None if vetoes is None else vetoes.costs,
                bounds,
                returns,
                together,
            )
        )
    return evaluations


def _groups(
    groups: Groups | None,
    chosen: Sequence[Estimator],
    case: Case,
    gain: Mapping[str, Estimate],
    drafts: Sequence[Draft],
    others: Sequence[Draft] | None,
    logged: Draft,
    resampler: Resampler,
    margin: float,
) -> GroupGains | None:
    """The primary gain in each group; None where no group was asked for, or there is no such gain."""
    name = choose_primary(gain)
    if groups is None or name is None:
        return None
    k = next(k for k, estimator in enumerate(chosen) if estimator.name == name)
    other = None
    if others is not None:
        assert case.baseline is not None
        other = (case.baseline, others[k])
    return gains_in_groups(chosen[k], case, groups, drafts[k], logged, other, resampler, margin)


def _by_time(estimand: Estimand) -> str:
    return (
        f"Rewards are discounted by time, gamma {estimand.gamma:g} per {estimand.time_unit}, from the decisions that they "
        "follow: these values must not be compared with ones that are discounted by steps."
    )


def _sensitivity(
    chosen: Sequence[Estimator], case: Case, gain: Mapping[str, Estimate], drafts: Mapping[str, Draft], margin: float
) -> Sensitivity | None:
    """The hidden causes that would overturn the primary gain; None where there is no such gain, it rests on no Q, or the
    policy has no density, without which nothing is known of its actions' odds."""
    name = choose_primary(gain)
    judged = [case.policy, *([] if case.baseline is None else [case.baseline.policy])]
    if case.log.num_actions is None and not all(map(has_density, judged)):
        return None
    if name is None or not any(FitQ() in one.requests() for one in chosen if one.name == name):
        return None
    statistic, error = drafts[name].statistic, gain[name].standard_error
    assert statistic is not None
    assert error is not None
    return hidden_cause_sensitivity(
        case,
        statistic,
        error,
        margin=margin,
        confidence=gain[name].confidence,
        unknown=bounded(drafts[name].unknown[0]),
    )


def _influence(gain: Mapping[str, Estimate], drafts: Mapping[str, Draft], units: Units) -> VarianceShares | None:
    """Who carries the variance of the primary gain; None where there is no such gain."""
    name = choose_primary(gain)
    statistic = None if name is None else drafts[name].statistic
    return None if statistic is None else variance_shares(statistic.influence(), units)
