"""Do the estimates of one value agree with each other, and where does the gain lie if only one of them is right?

Estimates from the same episodes are dependent, so whether their intervals overlap says little. Their difference is a
statistic of the same episodes, with the influence values

    (1)  influence of (a - b) = influence of a - influence of b,   standard error = its spread / sqrt(n)

in which what both share cancels. A pair differs where the difference is too large for chance, by Student's test at a level
divided by the number of pairs (Bonferroni). Then at least one assumption that the two do not share is wrong.

    (2)  combined interval = [least lower end, largest upper end] of the healthy gains

This is an intersection-union statement (Berger 1982). Suppose that one of the gains is right. The true gain lies below the least
lower end no more often than below the lower end of that one, and likewise above. So (2) covers at least as often as the interval
of the right gain, without any correction for their number.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from stitchrl.evaluation.estimator import Draft, expected_variance
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.results import Estimate
from stitchrl.messages import interval_in_words

__all__ = ["Consistency", "Pair", "consistency_of"]

ALMOST_NONE = 1e-12
"""Differences of no more than this share of the values are rounding, not disagreement."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two estimates of the value of a policy on the same episodes.

    Attributes:
        name, other: the estimators.
        difference: the first value minus the second.
        standard_error: standard error of the difference, from the joint influence of each episode.
        p_value: how often chance alone makes so large a difference where both are right.
        differs: whether `p_value` is below the level divided by the number of pairs.
    """

    name: str
    other: str
    difference: float
    standard_error: float
    p_value: float
    differs: bool

    @property
    def sentence(self) -> str:
        """The pair in words."""
        what = (
            f"{self.name} and {self.other} differ by {self.difference:+.4f} (standard error {self.standard_error:.4f})"
        )
        if self.differs:
            return (
                f"{what}, more than chance explains (p = {self.p_value:.2g}): an assumption that they do not share is wrong, so "
                "at most one of them is right."
            )
        return f"{what}, no more than chance explains (p = {self.p_value:.2g})."


@dataclasses.dataclass(frozen=True)
class Consistency:
    """What the healthy estimates of a policy say together.

    Attributes:
        pairs: every pair of healthy estimates of the value.
        names: the estimators whose gains are healthy and have an interval.
        lower, upper: the combined interval of the gain; None where there is no such gain.
        confidence: two-sided coverage of the combined interval if one of the gains is right.
    """

    pairs: tuple[Pair, ...]
    names: tuple[str, ...]
    lower: float | None
    upper: float | None
    confidence: float

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it in words; nothing where fewer than two estimates are healthy."""
        if len(self.names) < 2 or self.lower is None or self.upper is None:
            return ()
        differing = [pair.sentence for pair in self.pairs if pair.differs]
        largest = min(self.pairs, key=lambda pair: pair.p_value, default=None)
        if not differing and largest is not None:
            differing = [f"The healthy estimates agree: {largest.sentence}"]
        middle = interval_in_words((self.lower + self.upper) / 2, self.lower, self.upper)
        ends = middle[middle.index("[") :]
        return (
            *differing,
            f"If at least one of {', '.join(self.names)} is right, the gain lies in {ends} with {self.confidence:.0%} "
            "confidence: from the least lower to the largest upper end.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self) | {"sentences": list(self.sentences)}


def consistency_of(
    values: Mapping[str, Draft],
    estimates: Mapping[str, Estimate],
    gains: Mapping[str, Estimate],
    behavior_noise: Callable[[Sequence[Draft]], Sequence[float | None]],
    resampler: Resampler,
) -> Consistency:
    """The pairs of healthy values, and the combined interval of the healthy gains.

    Args:
        values: the drafts of the values of one policy, by estimator.
        estimates, gains: the estimates of the value and of the gain, by estimator.
        behavior_noise: gives the variance that the fit of the behaviour brings to each of several drafts.
        resampler: gives the standard errors; the level of the tests is 1 minus its confidence.
    """
    healthy = [name for name, one in estimates.items() if one.healthy and one.lower is not None]
    drafts = [(a, b, values[a].over(values[b])) for a, b in itertools.combinations(healthy, 2)]
    noise = behavior_noise([draft for _, _, draft in drafts])
    pairs = [
        _pair(a, b, draft, variance or 0.0, resampler, len(drafts))
        for (a, b, draft), variance in zip(drafts, noise, strict=True)
    ]
    held = {name: one for name, one in gains.items() if one.healthy and one.lower is not None and one.upper is not None}
    return Consistency(
        tuple(pairs),
        tuple(held),
        min((one.lower for one in held.values() if one.lower is not None), default=None),
        max((one.upper for one in held.values() if one.upper is not None), default=None),
        resampler.confidence,
    )


def _pair(a: str, b: str, draft: Draft, noise: float, resampler: Resampler, count: int) -> Pair:
    """Student's test of one difference, with the larger of the seen and the expected variance, as for intervals."""
    assert draft.statistic is not None
    value, expected = draft.statistic.value(), expected_variance(draft)
    error = max(resampler.standard_error(draft.statistic), 0.0 if expected is None else float(np.sqrt(expected)))
    error = float(np.sqrt(error**2 + noise + draft.model_variance + draft.moved**2))
    scale = ALMOST_NONE * max(abs(value), 1.0)
    units = max(resampler.units.count - 1, 1)
    p_value = 1.0 if abs(value) <= scale else 0.0
    if error > scale:
        p_value = float(2 * stats.t.sf(abs(value) / error, units))
    return Pair(a, b, value, error, p_value, p_value < (1 - resampler.confidence) / count)
