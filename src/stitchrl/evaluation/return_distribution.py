"""How the returns of a policy are distributed, beside those of the behaviour or a baseline: what happens to the worst tenth?

By weights: the logged returns with the importance weights of their whole episodes, intervals by resampling, and the health of
these weights. By a model: distributional fitted Q evaluation (`distributional_q.py`), which does not suffer from products
of ratios, and has no interval, since nothing is known about the error of its fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.distributional_q import FitReturns
from stitchrl.evaluation.estimator import (
    Case,
    episode_weight_draft,
    refusal_of_products,
    shared_assumptions,
    weighted,
)
from stitchrl.evaluation.health import (
    Check,
    check_influence,
    check_tail,
    check_untested_model,
    not_applicable,
    of_baseline,
)
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.logged_policy import refusal_of_unknown_actions
from stitchrl.evaluation.policy_actions import refusal_without_density
from stitchrl.evaluation.refit import refusal_of_q
from stitchrl.evaluation.returns import WeightedReturns, grid_of, names_of, read_off, spans
from stitchrl.evaluation.weights import cumulative_weights, final_weights
from stitchrl.messages import interval_in_words
from stitchrl.printing import Shown
from stitchrl.types import NumpyArray

__all__ = ["Reading", "ReturnDistribution", "Span", "return_distributions"]

RESAMPLES = 2000
"""Resamples for the intervals of a distribution."""
TITLES = {
    "weights": "logged returns, whole episodes reweighted",
    "fqe": "distributional fitted Q evaluation, without an interval",
}


class Span(NamedTuple):
    """A number and its two-sided interval; None for its ends where no interval can be justified."""

    value: float
    lower: float | None = None
    upper: float | None = None

    def __str__(self) -> str:
        if self.lower is None or self.upper is None:
            return f"{self.value:.4f}"
        return interval_in_words(self.value, self.lower, self.upper, sign=False)


class Reading(NamedTuple):
    """One number of a distribution of returns.

    Attributes:
        policy: the number for the policy.
        other: the number for the behaviour, or for the baseline.
        difference: the first less the second, with its interval from the same resamples.
    """

    policy: Span
    other: Span
    difference: Span


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReturnDistribution(Shown):
    """The distribution of returns of a policy, and of the behaviour or a baseline, by one method.

    Attributes:
        method: "weights" or "fqe".
        title: the method in words.
        other: what the policy is compared with: "the behaviour" or "the baseline".
        confidence: two-sided coverage that the intervals aim at.
        tail: which share of the episodes counts as the worst, in (0, 1).
        readings: name -> number: "mean", "standard deviation", "worst 10%" (the mean return of the worst tenth of episodes, also
            called CVaR), "quantile 0.05" and others; none where the method does not apply.
        returns: (G,) returns at which the distribution functions are given.
        cdf: (G,) probability that a return of the policy is at most that.
        cdf_lower, cdf_upper: (G,) the interval of `cdf` at each point; None where there is no interval.
        other_cdf: (G,) `cdf` for the behaviour or the baseline.
        checks: its health checks.
        assumptions: what must hold for it to mean what it says.
        noun: what one episode is called: "episode", or "decision" where each has one step.
    """

    method: str
    title: str
    other: str
    confidence: float
    tail: float
    readings: dict[str, Reading]
    returns: Float[NumpyArray, " G"]
    cdf: Float[NumpyArray, " G"]
    other_cdf: Float[NumpyArray, " G"]
    cdf_lower: Float[NumpyArray, " G"] | None = None
    cdf_upper: Float[NumpyArray, " G"] | None = None
    checks: tuple[Check, ...] = ()
    assumptions: tuple[str, ...] = ()
    noun: str = "episode"

    @property
    def healthy(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not healthy, or does not apply, one sentence each."""
        return tuple(check.sentence for check in self.checks if not check.passed)

    @property
    def worst(self) -> Reading:
        """The mean return of the worst share of episodes."""
        return self.readings[names_of(self.tail)[2]]

    @property
    def sentence(self) -> str:
        """What happens to the worst episodes, in words."""
        if not self.readings:
            return f"The worst {self.tail * 100:g}% of {self.noun}s, by {self.method}: {' '.join(self.reasons)}"
        found = self.worst
        text = (
            f"The worst {self.tail * 100:g}% of {self.noun}s return {found.policy} on average under the policy and {found.other} "
            f"under {self.other}, by {self.method}: a difference of {found.difference}."
        )
        if found.policy.lower is None:
            text += " This comes from a fitted model whose error is not known, so it has no interval and shows nothing by itself."
        elif not self.healthy:
            text += f" This estimate is not healthy: {' '.join(self.reasons)}"
        return text

    def __str__(self) -> str:
        lines = [f"Returns by {self.title}:"]
        for name, found in self.readings.items():
            lines.append(f"  {name}: policy {found.policy}, {self.other} {found.other}, difference {found.difference}")
        return "\n".join([*lines, *(f"  not healthy: {reason}" for reason in self.reasons)])

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        content = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("checks", "readings")
        }
        content |= {key: value.tolist() for key, value in content.items() if isinstance(value, np.ndarray)}
        readings = {
            name: {which: span._asdict() for which, span in found._asdict().items()}
            for name, found in self.readings.items()
        }
        checks = [dataclasses.asdict(check) for check in self.checks]
        return content | {"readings": readings, "checks": checks, "healthy": self.healthy, "sentence": self.sentence}


def return_distributions(case: Case, *, tail: float, confidence: float, seed: int) -> dict[str, ReturnDistribution]:
    """Both methods, by name; one that does not apply has no readings and says why.

    Args:
        case: a policy on a log.
        tail: which share of the episodes counts as the worst, in (0, 1).
        confidence: two-sided coverage that the intervals aim at.
        seed: random seed of the resamples.
    """
    policies = [case.policy, *([] if case.baseline is None else [case.baseline.policy])]
    found = {}
    for method in TITLES:
        refusal = refusal_of_products("the distribution by weights", case.log, case.estimand)
        refusal = refusal_without_density("the distribution by weights", policies) or refusal
        if method == "fqe":
            refusal = refusal_of_q("distributional fitted Q evaluation", case.log, case.estimand)
        if refusal is not None:
            found[method] = _empty(method, case, tail, confidence, (not_applicable(refusal),))
        elif method == "fqe":
            found[method] = _by_model(case, tail, confidence)
        else:
            found[method] = _by_weights(case, tail, confidence, seed)
    noun = case.units.episode_noun
    return {name: dataclasses.replace(one, noun=noun) for name, one in found.items()}


def _by_weights(case: Case, tail: float, confidence: float, seed: int) -> ReturnDistribution:
    """The logged returns with the policy's weights, beside those with the baseline's, or as they are."""
    checks, policy = _weighted(case, tail)
    if case.baseline is None:
        plain = cumulative_weights(case.episodes, np.zeros(case.log.num_transitions))
        other = WeightedReturns(case.episodes.returns, final_weights(case.episodes, plain))
    else:
        of_other, other = _weighted(case.baseline, tail)
        checks += of_baseline(of_other)
    if not (policy.weight.any() and other.weight.any()):
        return _empty("weights", case, tail, confidence, checks)
    # Where one episode carries the worst share, its interval is too short: few resamples lack that episode.
    for influence in (
        policy.influence_on_worst(tail),
        policy.influence_on_worst(tail) - other.influence_on_worst(tail),
    ):
        found = dataclasses.replace(check_influence(case.units, influence), key="tail-influence")
        if not found.passed:
            break
    checks += (dataclasses.replace(found, sentence=f"For the worst {tail * 100:g}%: {found.sentence}"),)
    grid, names = grid_of(case.episodes.returns), names_of(tail)
    value = [read_off(one.x, one.mass(), grid, tail)[0] for one in (policy, other)]
    resampler = Resampler(case.units, resamples=RESAMPLES, confidence=confidence, seed=seed)
    replicates: list[list[NumpyArray]] = [[], [], []]
    for counts in resampler.counts():
        drawn = [read_off(one.x, one.mass(counts), grid, tail) for one in (policy, other)]
        for k, numbers in enumerate((*drawn, drawn[0] - drawn[1])):
            replicates[k].append(numbers)
    ends = [spans(numbers, confidence) for numbers in replicates]
    value.append(value[0] - value[1])
    readings = {
        name: Reading(
            *(Span(float(v[k]), float(low[k]), float(up[k])) for v, (low, up) in zip(value, ends, strict=True))
        )
        for k, name in enumerate(names)
    }
    # In a world of heavy tails, intervals of the standard deviation missed too often, where those of the worst tenth covered.
    spread = readings["standard deviation"]
    readings["standard deviation"] = Reading(*(Span(span.value) for span in spread))
    first = len(names)
    return ReturnDistribution(
        "weights",
        TITLES["weights"],
        _other(case),
        confidence,
        tail,
        readings,
        grid,
        value[0][first:],
        value[1][first:],
        ends[0][0][first:],
        ends[0][1][first:],
        checks,
        shared_assumptions(case),
    )


def _weighted(case: Case, tail: float) -> tuple[tuple[Check, ...], WeightedReturns]:
    """The health of a policy's weights, in the worst share too, and its distribution."""
    draft = episode_weight_draft(case, lambda: weighted(case.episodes, case.weights), normalised=True)
    found = WeightedReturns(case.episodes.returns, final_weights(case.episodes, case.weights))
    checks = (*draft.checks, case.calibration)
    if found.weight.any():
        checks += (check_tail(case.units.effective(found.worst(tail)), tail, case.units.noun),)
    return checks, found


def _by_model(case: Case, tail: float, confidence: float) -> ReturnDistribution:
    """The modelled distribution from the first states of the log, beside the logged returns or the baseline's model."""
    refusal = refusal_of_unknown_actions("fqe", case.log, case.fits.fits.policies)
    if refusal is not None:
        return _empty("fqe", case, tail, confidence, (not_applicable(refusal),))
    request = FitReturns()
    model = case.fits.get(request)
    grid, names = model.atoms, names_of(tail)
    policy = read_off(model.atoms, model.probs.mean(0, keepdims=True), grid, tail)[0]
    if case.baseline is None:
        plain = cumulative_weights(case.episodes, np.zeros(case.log.num_transitions))
        logged = WeightedReturns(case.episodes.returns, final_weights(case.episodes, plain))
        if not logged.weight.any():
            sentence = (
                "Every episode was cut, so the behaviour's own returns are not known; give a `horizon` or a `baseline`."
            )
            return _empty("fqe", case, tail, confidence, (not_applicable(sentence),))
        other = read_off(logged.x, logged.mass(), grid, tail)[0]
    else:
        of_other = case.baseline.fits.get(request)
        other = read_off(of_other.atoms, of_other.probs.mean(0, keepdims=True), grid, tail)[0]
    readings = {
        name: Reading(Span(float(policy[k])), Span(float(other[k])), Span(float(policy[k] - other[k])))
        for k, name in enumerate(names)
    }
    first, assumptions = len(names), (*shared_assumptions(case), "the model of the distribution is right")
    return ReturnDistribution(
        "fqe",
        TITLES["fqe"],
        _other(case),
        confidence,
        tail,
        readings,
        grid,
        policy[first:],
        other[first:],
        checks=(check_untested_model(),),
        assumptions=assumptions,
    )


def _empty(method: str, case: Case, tail: float, confidence: float, checks: Sequence[Check]) -> ReturnDistribution:
    """The result of a method that gives no distribution: its checks say why."""
    none = np.zeros(0)
    return ReturnDistribution(
        method, TITLES[method], _other(case), confidence, tail, {}, none, none, none, checks=tuple(checks)
    )


def _other(case: Case) -> str:
    return "the behaviour" if case.baseline is None else "the baseline"
