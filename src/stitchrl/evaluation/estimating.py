"""From drafts to estimates: intervals for all of them at once, widened by what is unknown, and the checks that need an
interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from stitchrl.evaluation.estimator import (
    Case,
    Draft,
    Estimator,
    behavior_variances,
    expected_variance,
    influence_checks,
)
from stitchrl.evaluation.intervals import Interval, Resampler
from stitchrl.evaluation.results import Estimate

__all__ = ["behavior_estimate", "bounded", "estimates_of", "variance_of_model"]

ROUNDING = 1e-6
"""Half the width of the narrowest interval, as a share of the largest logged return."""


def estimates_of(
    drafts: Sequence[Sequence[Draft]], chosen: Sequence[Estimator], case: Case, resampler: Resampler
) -> list[dict[str, Estimate]]:
    """Estimates by name, for each row of drafts of the chosen estimators; one pass of resamples for all."""
    held = [draft for row in drafts for draft in row if draft.statistic is not None]
    statistics = [draft.statistic for draft in held if draft.statistic is not None]
    noise = behavior_variances(case, held)
    intervals = iter(
        zip(
            resampler.intervals(
                statistics,
                [expected_variance(draft) for draft in held],
                [
                    (variance or 0.0) + variance_of_model(draft, resampler)
                    for variance, draft in zip(noise, held, strict=True)
                ],
            ),
            noise,
            strict=True,
        )
    )
    return [
        {
            estimator.name: _estimate(
                estimator,
                draft,
                (None, None) if draft.statistic is None else next(intervals),
                case,
                resampler.confidence,
            )
            for estimator, draft in zip(chosen, row, strict=True)
        }
        for row in drafts
    ]


def _estimate(
    estimator: Estimator,
    draft: Draft,
    found: tuple[Interval | None, float | None],
    case: Case,
    confidence: float,
) -> Estimate:
    interval, noise = found
    units, weight = case.units, draft.unit_weight
    expected = expected_variance(draft)
    checks, assumptions = draft.checks, draft.assumptions
    if interval is not None and draft.interval and noise is None:
        assumptions += ("the noise of the fitted behaviour, which is not in the interval, is small",)
    lower = upper = None
    if interval is not None and draft.interval:
        # Probabilities are float32: a difference smaller than their rounding is no gain, however small its error.
        rounding = ROUNDING * float(np.abs(case.episodes.returns).max(initial=0.0))
        lower = min(interval.lower, interval.value - rounding) + bounded(draft.unknown[0])
        upper = max(interval.upper, interval.value + rounding) + bounded(draft.unknown[1])
        if draft.possible[0] <= interval.value <= draft.possible[1]:
            lower, upper = max(lower, draft.possible[0]), min(upper, draft.possible[1])
        checks += influence_checks(draft, interval.standard_error, units)
    return Estimate(
        name=estimator.name,
        value=None if interval is None else interval.value,
        lower=lower,
        upper=upper,
        standard_error=None if lower is None or interval is None else interval.standard_error,
        confidence=confidence,
        estimand=case.estimand,
        # Effective sample size over independent units, rescaled to episodes.
        ess=None if weight is None else units.effective(weight) * (units.episodes / units.count),
        max_weight_share=None if weight is None else units.largest_share(weight),
        healthy=all(check.passed for check in checks),
        reasons=tuple(check.sentence for check in checks if not check.passed),
        assumptions=assumptions,
        weight_based=draft.weight_based,
        title=estimator.title,
        primary_rank=estimator.primary_rank,
        checks=checks,
        predictable_error=None if expected is None else float(np.sqrt(expected)),
        model_error=None if draft.model_variance == 0 else float(np.sqrt(draft.model_variance)),
        trace_shift=draft.moved or None,
        weighs_actions=draft.weighs_actions,
        trusts_values=draft.trusts_values,
        behavior_error=None if lower is None or noise is None or not case.behavior.fitted else float(np.sqrt(noise)),
    )


def variance_of_model(draft: Draft, resampler: Resampler) -> float:
    """The variance that fitted networks add to a standard error; only the square of `moved` where there are fewer than two.

    An interval multiplies the whole standard error by one quantile, Student's for the number of units. The variance between
    networks is known from few of them, so it is scaled up by the squared ratio of Student's quantile for so few networks to
    that for the units. The square of `moved` is added.
    """
    count = len(draft.by_network)
    if count < 2:
        return draft.moved**2
    middle = (1 + resampler.confidence) / 2
    few, many = (float(stats.t.ppf(middle, max(degrees, 1))) for degrees in (count - 1, resampler.units.count - 1))
    return draft.model_variance * (few / many) ** 2 + draft.moved**2


def bounded(unknown: float) -> float:
    """By how much an end of an interval moves for what is unknown; 0 where that has no bound, since a check then fails."""
    return unknown if np.isfinite(unknown) else 0.0


def behavior_estimate(interval: Interval, case: Case, confidence: float) -> Estimate:
    """The behaviour's own value: the mean logged return, cut episodes completed by the others."""
    return Estimate(
        "logged",
        interval.value,
        interval.lower,
        interval.upper,
        interval.standard_error,
        confidence,
        case.estimand,
        assumptions=(f"{case.units.noun}s are independent",),
        title=f"mean logged {'reward' if case.units.episode_noun == 'decision' else 'return'} of the behaviour",
    )
