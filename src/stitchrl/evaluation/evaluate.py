"""`st.evaluate`: every estimate of a policy on a log, its gain over the behaviour, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stitchrl.auditing.binning import binning_of
from stitchrl.auditing.history import HistoryCheck, history_check
from stitchrl.data.dataset import Dataset
from stitchrl.data.given import check_is_log
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.clock import first_steps
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.costs import Limit, check_costs, limits_of
from stitchrl.evaluation.decisions import unit_noun
from stitchrl.evaluation.estimator import (
    Estimator,
)
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.groups import Groups, groups_of
from stitchrl.evaluation.intervals import RESAMPLES
from stitchrl.evaluation.judge import Judge, Rule
from stitchrl.evaluation.log_of_policy import as_judged, notes_on_policies
from stitchrl.evaluation.logged_policy import note_on_ends
from stitchrl.evaluation.looks import look_at, notes_on
from stitchrl.evaluation.policy_actions import has_density
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.registry import chosen_estimators, default_estimators
from stitchrl.evaluation.requirements import check_requirements, check_size
from stitchrl.evaluation.returns import check_tail_share
from stitchrl.evaluation.settings import MINIMUM_ODDS_RATIO, FitSettings, check_odds_ratio
from stitchrl.progress import LoopMonitor, shown_once_it_runs

__all__ = ["evaluate", "evaluate_all", "evaluate_fits"]


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
    force: bool = False,
) -> Evaluation:
    """Estimate how good a policy is from a log it did not learn from.

    Intervals resample episodes. Where the log has a column with the role `group`, they resample whole groups, so that the
    episodes of one group need not be independent.

    Args:
        policy: anything with `probs(obs, action_mask=...)` giving (B, A) NumPy or JAX rows; over continuous actions
            `sample(obs, key=...)`, or `mode(obs)` where it is deterministic, and `log_prob(obs, action)` where it has a
            density. Exactly this object is judged: pass `policy.greedy()` if that is what will be deployed.
        log: episodes the policy never saw.
        gamma: discount in [0, 1], per step, or per `time_unit` where the log's schema states one; None takes the schema's.
        horizon: how many first steps of an episode count, 1 or more; None counts every step until the episode terminates. An
            episode that the log cut at the horizon or later is then complete, and models of the value are given the step.
        estimators: names from `registry.ESTIMATORS`, or estimators of your own; None: those that suit the log. Only what they
            ask for is fitted.
        baseline: the policy that the gain is over; None takes the behaviour, by its logged returns.
        fit_on: other episodes for the fitted parts (Q, and the behaviour where propensities are missing), for
            instance training and validation together; None fits on one half of `log` for the other, both ways.
        settings: how models are fitted; None takes `FitSettings(seed=seed)`.
        confidence: two-sided coverage that the intervals aim at, in (0, 1).
        margin: the least gain worth having, in return units.
        audit_verdict: the verdict of `st.audit` on the whole log; "not usable" rules out GO and NO-GO. None: the verdict
            says that the log was not audited.
        history: the result of `auditing.history.history_check` on the whole log; None: this log is checked where the
            behaviour has to be fitted.
        minimum_odds_ratio: a gain from a fitted behaviour must withstand a hidden cause of this strength in any single
            decision. It is an odds ratio of at least 1, and 1 asks for nothing.
        groups: columns whose value at the first step of an episode tells which group the episode belongs to. They have the
            role `subgroup`, `source` or `group`, or are part of the observation. A group in which the gain lies wholly below
            the margin forbids GO; the intervals of the gains hold for all groups at once.
        costs: limits such as "hours_sedated<=8", on columns with the role `cost` or of the observation. A policy gets no GO
            if the interval of its expected cost of an episode, discounted as rewards are, lies wholly above the limit.
        seed: random seed of the fits and the bootstrap; where `settings` are given, theirs is used instead.
        record_look: remember that these episodes served as test, in the state folder of the user, and say in the verdict
            how often they did before. Use it on the part of the log that decides, not on one that candidates are chosen on.
            The commands `stitchrl run` and `stitchrl evaluate`, and `st.run`, always record; STITCHRL_STATE=off keeps nothing.
        distribution: also estimate how the returns are distributed: their spread, quantiles, and the mean return of the worst
            share of episodes, beside those of the behaviour or the baseline. It fits one more network.
        tail: the worst share of episodes that `distribution` reports on, in (0, 1).
        force: judge the policy even where this log's observations look like another unit than those it learned from, which
            is known of policies that carry the ranges of their log.

    Returns:
        The estimates, their gains, the verdict, and what the verdict rests on.

    Raises:
        ConfigurationError: an unknown estimator, a number outside its range, a group or a cost whose column the log lacks, or
            a `log` that is no log.
        EvaluationError: fewer than 2 episodes or groups, more rows and actions than fit in memory, a horizon below 1, a row that
            allows no action, or a logged action with propensity 0; a policy whose `probs` are not probabilities, or whose
            actions are not finite; a bundle that learned from episodes of this log, from columns with another meaning, or from
            observations in what looks like another unit.
    """
    check_is_log(log, "st.evaluate")
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
        monitors=(shown_once_it_runs("fits of the evaluation"),),
        record_look=record_look,
        tail=tail if distribution else None,
        force=force,
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
    force: bool = False,
) -> list[Evaluation]:
    """`evaluate` for several policies: one program fits the FQE of all of them, and one set of resamples serves all.

    Arguments that `evaluate` has too mean the same here, but for `tail`. Errors are those of `evaluate`.

    Args:
        policies: what is judged.
        log: episodes that no policy saw.
        confirm: whether to compute what only confirms a gain; without it no verdict is GO.
        resamples: how many bootstrap resamples the intervals that have no closed form are made from.
        over_last: whether the last policy is the baseline of the others' gains.
        monitors: shown the progress of long fits.
        notes: further caveats of the verdicts.
        tail: the worst share of episodes that the distributions of returns report on; None estimates no distribution.

    Returns:
        One evaluation a policy, in their order; with `over_last` the baseline's own is the last.
    """
    _check_numbers(margin, minimum_odds_ratio, tail)
    settings = FitSettings() if settings is None else settings
    unseen = len(policies) - over_last
    notes = (*notes, *notes_on_policies(policies, log, unseen=unseen, force=force))
    policies = [as_judged(policy) for policy in policies]
    chosen = () if estimators is None else chosen_estimators(estimators)
    check_requirements(log, gamma, policies)
    estimand = Estimand.of(log, gamma, horizon)
    _check_time_units(log, fit_on, estimand, tail)
    divided, limits = groups_of(log, groups), limits_of(costs)
    check_costs(limits, log, fit_on)
    whole, log = log, first_steps(log, horizon)
    fit_on = None if fit_on is None else first_steps(fit_on, horizon)
    chosen = chosen or chosen_estimators(default_estimators(log, horizon, densities=all(map(has_density, policies))))
    if log.behavior_log_prob is None or not all(getattr(one, "row_by_row", False) for one in chosen):
        check_size(log, log.num_transitions, None if fit_on is None else fit_on.num_transitions, len(policies))
    if confirm and (binned := binning_of(whole)) is not None:
        notes = (*notes, binned.caveat)
    notes = (*notes, *note_on_ends(policies, log))
    fits = Fits(policies, log, fit_on, estimand=estimand, settings=settings, monitors=monitors)
    if confirm and history is None and fits.behavior.fitted:
        history = history_check(whole)
    found = evaluate_fits(
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
    if not record_look:
        return found
    # A look is recorded once there are results and before anybody sees them: a run that was refused, failed or was killed
    # above showed nothing.
    rule = (margin, confidence, minimum_odds_ratio, *settings.numbers())
    looks = look_at(policies, whole, estimand, rule)
    return [one.noted(notes_on(looks, noun=unit_noun(log, horizon))) for one in found]


def _check_numbers(margin: float, minimum_odds_ratio: float, tail: float | None) -> None:
    """Raise ConfigurationError where a number is outside its range."""
    if tail is not None:
        check_tail_share(tail)
    check_odds_ratio(minimum_odds_ratio)
    if not np.isfinite(margin):
        raise ConfigurationError(
            f"`margin` must be a finite number of return units; got {margin}. 0 asks for any gain."
        )


def _check_time_units(log: Dataset, fit_on: Dataset | None, estimand: Estimand, tail: float | None) -> None:
    """Raise ConfigurationError where the distribution of returns, or `fit_on`, would be discounted unlike the log."""
    if tail is not None and estimand.time_unit is not None:
        raise ConfigurationError(
            "`distribution` discounts by steps, but the schema of this log has a `time_unit`, so that gamma is per "
            f"{estimand.time_unit}. Leave out `distribution`, or leave `time_unit` out of the schema to count steps."
        )
    if fit_on is not None and fit_on.schema.time_unit != log.schema.time_unit:
        raise ConfigurationError(
            f"`fit_on` must be discounted as the log is; their `time_unit` are {fit_on.schema.time_unit} and "
            f"{log.schema.time_unit}. Read both with one schema."
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
    """`evaluate_all` with models that may have been fitted already.

    Args:
        fits: the policies, their log, and whatever was fitted for them so far.
        chosen: the estimators.
        groups: the groups that were asked for, as `groups_of` gives them.
        limits: the limits of costs, as `limits_of` gives them.

    The other arguments are those of `evaluate_all`.
    """
    rule = Rule(confidence, margin, audit_verdict, history, minimum_odds_ratio, groups, tuple(limits), confirm, tail)
    judge = Judge(fits, chosen, rule, resamples=resamples, over_last=over_last, notes=notes)
    return [judge.evaluation(k) for k in range(len(fits.policies))]
