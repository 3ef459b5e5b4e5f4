"""Health checks of an estimate: what was seen, the limit, and a sentence either way.

The thresholds of balance and calibration are in `balance_checks.py`, those of learned models in `model_health.py`, and most of
the others here.

Two checks ask whether enough of the log tells about the policy. The effective number of units (Kish 1965) must be at least a
tenth of the units, since large weights that are seldom drawn may easily not be drawn at all; but fewer than 100 are never
enough, and 1,000 always are. The largest share of one unit is limited as well: it stays large until the sample is large
enough for its heaviest weights (Chatterjee and Diaconis 2018). See docs/decisions/0014-estimators.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.auditing.thresholds import MAXIMUM_WEIGHT_SHARE
from stitchrl.evaluation.units import Units
from stitchrl.messages import first_steps_in_words
from stitchrl.types import NumpyArray

__all__ = [
    "LEAST_EFFECTIVE_UNITS",
    "Check",
    "at_another_size",
    "check_influence",
    "check_lost_weight",
    "check_mean_weight",
    "check_networks",
    "check_never_tried",
    "check_own_fit",
    "check_possible_influence",
    "check_range",
    "check_shrinkage",
    "check_spread",
    "check_tail",
    "check_uncorrected",
    "check_untested_model",
    "not_applicable",
    "of_baseline",
    "uses_episode_weights",
]

MINIMUM_EFFECTIVE_SHARE = 0.1
"""Effective units, as a share of all, that weights must be worth; clipped to the two numbers that follow."""
LEAST_EFFECTIVE_UNITS = 100
"""Effective units that even a small log needs."""
ENOUGH_EFFECTIVE_UNITS = 1000
"""Effective units that are enough for a log of any size."""
MEAN_WEIGHT_SLACK = 0.25
"""How far the average of whole-episode weights may be from 1."""
MAXIMUM_LOST = 0.01
"""Largest share of weight that may end in cuts no other episode runs past."""
MAXIMUM_OPTIMISM = 0.1
"""By how many nats an episode a behaviour model may predict the episodes that it was fitted to better than other episodes."""
MAXIMUM_INFLUENCE = 0.1
"""Share of the variance of an estimate that one unit may carry."""
MAXIMUM_POSSIBLE_INFLUENCE = 0.25
"""Share of the variance that the action with the largest weight may carry if it is logged once, whether it was or not."""
MAXIMUM_NEVER_TRIED = 0.01
"""How many decisions of an episode may be actions that the behaviour never takes; the interval is widened for them."""
MINIMUM_TAIL_UNITS = 30
"""Effective units that the worst share of a distribution of returns must hold to be trusted."""
MAXIMUM_SHRINKAGE = 0.25
"""Largest share of all weight that shrinking may take away."""
MAXIMUM_UNCORRECTED = 0.05
"""Largest share of a policy's discounted weight that may rest on an uncorrected fitted value."""
NO_REWARD_SLACK = 1e-3
"""How far from 0 a value may be where every reward is 0."""
RANGE_SLACK = 1e-6
"""Rounding allowed at the ends of the attainable range, as a share of its larger end."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One health check of an estimate.

    Attributes:
        key: what is checked; each key occurs once among the checks of an estimate.
        seen: the number that was seen; None where there is none.
        limit: the number that it is held against; None where there is none.
        passed: whether the estimate can be trusted, as far as this check goes.
        sentence: what was seen and what it means.
    """

    key: str
    seen: float | None
    limit: float | None
    passed: bool
    sentence: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Check:
        """The check of its `dataclasses.asdict`."""
        return cls(**content)


def not_applicable(sentence: str) -> Check:
    """The failed check of an estimator that refuses a case."""
    return Check("applicable", None, None, False, sentence)


def check_spread(units: Units, weight: Float[NumpyArray, " n"], *, among: int | None = None) -> tuple[Check, Check]:
    """Whether the weights of n episodes rest on enough independent units, and not too much on any one.

    Args:
        units: which episodes are independent.
        weight: (n,) weight of each episode, at least 0.
        among: how many units the estimate is about, where it is about a group of them; None: all.
    """
    count = units.count if among is None else among
    effective, share = units.effective(weight), units.largest_share(weight)
    needed = effective_units_needed(count)
    enough, even = effective >= needed, share <= MAXIMUM_WEIGHT_SHARE
    noun = units.noun
    return (
        Check(
            "effective-units",
            effective,
            needed,
            enough,
            f"The weights of {count:,} {noun}s are worth {effective:,.0f} equally weighted ones, at least "
            f"{needed:,.0f}."
            if enough
            else f"The effective sample size of {effective:,.0f} of {count:,} {noun}s is below "
            f"{needed:,.0f}: too little of the log speaks about this policy.",
        ),
        Check(
            "largest-share",
            share,
            MAXIMUM_WEIGHT_SHARE,
            even,
            f"No {noun} has more than {share:.1%} of all weight, at most {MAXIMUM_WEIGHT_SHARE:.0%}."
            if even
            else f"One {noun} has {share:.1%} of all weight, above {MAXIMUM_WEIGHT_SHARE:.0%}.",
        ),
    )


def check_mean_weight(weight: Float[NumpyArray, " n"], log_scale: float = 0.0, *, noun: str = "episode") -> Check:
    """Whole-episode weights average 1 in expectation; where they are far below, the episodes that matter most are missing.

    Args:
        weight: (n,) weight of each episode, divided by a common scale.
        log_scale: logarithm of that scale.
        noun: what one episode is called.
    """
    mean = float(weight.mean()) * float(np.exp(min(log_scale, 700.0)))
    mean = min(mean, 1e300)
    passed = abs(mean - 1.0) <= MEAN_WEIGHT_SLACK
    if passed:
        sentence = f"The weights average {mean:.2f} where 1 is expected."
    elif mean < 1:
        sentence = f"The weights average {mean:.2f} where 1 is expected: the log lacks the policy's likeliest {noun}s."
    else:
        sentence = f"The weights average {mean:.3g} where 1 is expected: a few {noun}s outweigh all others."
    return Check("mean-weight", mean, 1.0, passed, sentence)


def uses_episode_weights(checks: Iterable[Check]) -> bool:
    """Whether an estimate multiplies probability ratios over whole episodes: then their mean weight was checked."""
    return any(check.key == "mean-weight" for check in checks)


def check_networks(count: int) -> Check:
    """Whether there are several networks, whose disagreement shows how wrong a fitted value may be; one alone cannot."""
    passed = count >= 2
    sentence = (
        f"{count} networks of different kinds were fitted; what they disagree by is in the interval."
        if passed
        else "One network was fitted, so nothing is known about the error of the model. Set `networks` of the fit settings to 4."
    )
    return Check("networks", float(count), 2.0, passed, sentence)


def check_unknown_waits(share: float) -> Check:
    """Where values are discounted by time, a cut that hides the time of the next decision hides its discount too.

    Args:
        share: share of the episodes that go on after their last logged decision to one whose time is unknown.
    """
    passed = share <= MAXIMUM_LOST
    seen = f"In {share:.1%} of the episodes the time of the decision after the last logged one is unknown"
    sentence = (
        f"{seen}, at most {MAXIMUM_LOST:.0%}."
        if passed
        else f"{seen}, above {MAXIMUM_LOST:.0%}: these rows are left out, so that episodes seem to end more often than they do. "
        "Log the decision that follows, or leave `time_unit` out to count steps."
    )
    return Check("unknown-waits", share, MAXIMUM_LOST, passed, sentence)


def check_own_fit(nats: float) -> Check:
    """A behaviour model that is too rich for the episodes it is fitted to, and judged on, makes ratios look closer to 1.

    Args:
        nats: by how many nats it predicts the actions of an episode better than the same model fitted without that episode.
    """
    passed = nats <= MAXIMUM_OPTIMISM
    seen = (
        f"The behaviour model predicts the actions of an episode that it was fitted to {nats:.2f} nats better than those of "
        "other episodes"
    )
    if passed:
        sentence = f"{seen}, at most {MAXIMUM_OPTIMISM:g}."
    else:
        sentence = (
            f"{seen}, above {MAXIMUM_OPTIMISM:g}: it has learned these episodes by heart, so that the weights look more even "
            "than they are."
        )
    return Check("own-fit", nats, MAXIMUM_OPTIMISM, passed, sentence)


def check_influence(units: Units, influence: Float[NumpyArray, " n"], model_variance: float = 0.0) -> Check:
    """Where one unit carries much of the variance, others like it may be missing by luck, so that the error is not known.

    Args:
        units: which episodes are independent.
        influence: (n,) influence value of each episode; the sum of their squares over n^2 is the variance of sampling.
        model_variance: what fitted models add to the variance of the estimate, which its interval contains.
    """
    squares = units.sums(influence) ** 2
    total = float(squares.sum() + model_variance * len(influence) ** 2)
    share = float(squares.max()) / total if total > 0 else 0.0
    passed = share <= MAXIMUM_INFLUENCE
    if passed:
        sentence = f"No {units.noun} carries more than {share:.1%} of the variance, at most {MAXIMUM_INFLUENCE:.0%}."
    else:
        sentence = (
            f"One {units.noun} carries {share:.0%} of the variance, above {MAXIMUM_INFLUENCE:.0%}: the estimate rests on "
            "too few of them."
        )
    return Check("influence", share, MAXIMUM_INFLUENCE, passed, sentence)


def check_possible_influence(share: float, ratio: float) -> Check:
    """A rare action that the policy prefers may be absent from the sample by luck, and from its influence values with it.

    Args:
        share: share of the variance that the action with the largest weight would carry if it were logged once.
        ratio: the weight of that action.
    """
    passed = share <= MAXIMUM_POSSIBLE_INFLUENCE
    seen = f"A single logged action could weigh {ratio:,.0f}, and carry {min(share, 99.0):.0%} of the variance"
    if passed:
        sentence = f"{seen}, at most {MAXIMUM_POSSIBLE_INFLUENCE:.0%}."
    else:
        sentence = (
            f"{seen}, above {MAXIMUM_POSSIBLE_INFLUENCE:.0%}: the policy prefers actions that the behaviour takes too "
            "rarely."
        )
    return Check("possible-influence", share, MAXIMUM_POSSIBLE_INFLUENCE, passed, sentence)


def check_never_tried(decisions: float, *, noun: str = "episode") -> Check:
    """A log says nothing about actions that its behaviour never takes.

    Args:
        decisions: how many such actions the policy takes in an episode, on average.
        noun: what one episode is called; "decision" where each is a single decision.
    """
    passed = decisions <= MAXIMUM_NEVER_TRIED
    seen = f"On average the policy takes {decisions:.3g} actions in an episode that the behaviour never takes"
    if noun == "decision":
        seen = f"In {decisions:.2%} of its decisions the policy takes an action that the behaviour never takes"
    limit = f"{MAXIMUM_NEVER_TRIED:.0%}" if noun == "decision" else f"{MAXIMUM_NEVER_TRIED:g}"
    sentence = f"{seen}, at most {limit}." if passed else f"{seen}, above {limit}: the log says nothing about them."
    return Check("never-tried", decisions, MAXIMUM_NEVER_TRIED, passed, sentence)


def check_shrinkage(weight: Float[NumpyArray, " n"], shrunken: Float[NumpyArray, " n"]) -> Check:
    """How much weight shrinking took away; there the estimate rests on the model of the reward, or on 0 without one.

    Args:
        weight, shrunken: (n,) weights of the decisions before and after.
    """
    total = float(weight.sum())
    taken = 1.0 - float(shrunken.sum()) / total if total > 0 else 1.0
    passed = taken <= MAXIMUM_SHRINKAGE
    seen = f"Shrinking took away {taken:.1%} of all weight to make the estimate steadier"
    limit = f"{MAXIMUM_SHRINKAGE:.0%}"
    sentence = (
        f"{seen}, at most {limit}."
        if passed
        else f"{seen}, above {limit}: too much of the estimate comes from what replaces that weight and not from the log."
    )
    return Check("shrinkage", taken, MAXIMUM_SHRINKAGE, passed, sentence)


def check_uncorrected(share: float, steps: int) -> Check:
    """How much of an estimate rests on a fitted value that nothing corrects, whose error no interval contains.

    Args:
        share: share of the policy's discounted weight that rests on the value.
        steps: after how many steps the value takes over.
    """
    passed = share <= MAXIMUM_UNCORRECTED
    seen = f"After {steps} steps, {share:.1%} of the policy's weight rests on a fitted value that nothing corrects"
    limit = f"{MAXIMUM_UNCORRECTED:.0%}"
    sentence = f"{seen}, at most {limit}." if passed else f"{seen}, above {limit}: its error is in no interval."
    return Check("uncorrected", share, MAXIMUM_UNCORRECTED, passed, sentence)


def check_lost_weight(lost: float, *, longest: int, unknown: tuple[float, float]) -> Check:
    """What comes after a cut that no other episode runs past is unknown.

    Only the longest episodes can be cut like that. With a horizon of at most their steps they are complete, and some episode
    runs past every other cut, so that no weight is lost. With a discount below 1 what is lost is bounded, and the interval is
    widened by the bound.

    Args:
        lost: share of the episodes' weight that no episode could take over.
        longest: steps of the longest episode.
        unknown: the least and the largest value of what follows these cuts, as `attainable.what_follows` gives them.
    """
    bounded = np.isfinite(unknown).all()
    passed = lost <= MAXIMUM_LOST or bool(bounded)
    seen = f"{lost:.1%} of the episodes' weight ends in cuts that no other episode runs past"
    if lost <= MAXIMUM_LOST:
        sentence = f"{seen}, at most {MAXIMUM_LOST:.0%}."
    elif bounded:
        sentence = (
            f"{seen}; under the discount what comes after adds between {unknown[0]:.2g} and {unknown[1]:.2g}, and the "
            "interval is widened by it."
        )
    else:
        sentence = (
            f"{seen}: what comes after is not in the log. With `horizon` at most {longest} no weight is lost, and the value "
            f"is of {first_steps_in_words(longest)}."
        )
    return Check("lost-weight", lost, MAXIMUM_LOST, passed, sentence)


def check_range(value: float, attainable: tuple[float, float]) -> Check:
    """An estimate that no sequence of the logged rewards adds up to is extrapolation, or rests on too large weights.

    Args:
        value: the estimate.
        attainable: the least and the largest return that logged rewards can add up to.
    """
    low, high = attainable
    largest = max(abs(low), abs(high))
    slack = RANGE_SLACK * largest if largest > 0 else NO_REWARD_SLACK
    passed = low - slack <= value <= high + slack
    limit = high if value > low else low
    if passed:
        sentence = f"The value {value:.4g} is attainable: the logged rewards allow {low:.4g} to {high:.4g}."
    else:
        sentence = f"The value {value:.4g} is not attainable: the logged rewards allow {low:.4g} to {high:.4g}."
    return Check("range", value, limit if np.isfinite(limit) else None, passed, sentence)


def at_another_size(check: Check, size: int, other: int) -> Check:
    """The check of a sample of `size` independent units, as it is predicted to come out on a sample of `other` units.

    The share of one unit falls as the sample grows; the variance of fitted models beside it is taken to fall as that of
    sampling does, which errs towards caution for larger samples. The number of effective units grows with the sample, and so
    does the number that is needed. The check of the networks passes, since it does not depend on the sample. Everything else
    stays as it is.
    """
    if check.seen is None or check.limit is None:
        return check
    key, ratio = check.key.removeprefix("baseline-"), other / size
    if key in ("influence", "possible-influence", "largest-share"):
        return dataclasses.replace(check, seen=check.seen / ratio, passed=check.seen / ratio <= check.limit)
    if key == "networks":  # how many networks there are does not depend on the sample
        return dataclasses.replace(check, passed=True)
    if key == "effective-units":
        limit = effective_units_needed(other)
        return dataclasses.replace(check, seen=check.seen * ratio, limit=limit, passed=check.seen * ratio >= limit)
    return check


def effective_units_needed(count: int) -> float:
    """How many effective units the weights of `count` units must be worth."""
    return float(np.clip(MINIMUM_EFFECTIVE_SHARE * count, LEAST_EFFECTIVE_UNITS, ENOUGH_EFFECTIVE_UNITS))


def check_tail(effective: float, tail: float, noun: str) -> Check:
    """Whether enough units lie in the worst share of a distribution of returns."""
    enough = effective >= MINIMUM_TAIL_UNITS
    return Check(
        "tail-units",
        effective,
        MINIMUM_TAIL_UNITS,
        enough,
        f"The {noun}s in the worst {tail * 100:g}% are worth {effective:,.0f} equally weighted ones, "
        f"{'at least' if enough else 'below'} {MINIMUM_TAIL_UNITS}.",
    )


def check_untested_model() -> Check:
    """The failed check of a modelled distribution whose error is not known."""
    return Check(
        "interval",
        None,
        None,
        False,
        "The distribution is a fitted model's, and nothing is known about the error of its fit: it has no interval.",
    )


def of_baseline(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The checks of the baseline's estimate, told apart from those of the policy's."""
    return tuple(
        dataclasses.replace(check, key=f"baseline-{check.key}", sentence=f"For the baseline: {check.sentence}")
        for check in checks
    )
