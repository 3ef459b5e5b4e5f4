"""The gain in each of several groups of episodes, with intervals that all hold at once.

Among many groups one looks bad by luck alone. The intervals here are so much wider than that of a single gain that all of them
hold at once with the stated confidence. With z_g the deviation of group g in standard errors,

    lower, upper = gain_g -+ c s_g,     P(max_g |z_g| <= c) = confidence

(max-T; Romano and Wolf 2005). The joint law of the z_g is that of a multiplier bootstrap of the influence values by unit with
normal multipliers (Chernozhukov, Chetverikov, Kato 2013): normal, with the correlations of these values, from which it is
drawn directly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.evaluation.estimating import bounded, variance_of_model
from stitchrl.evaluation.estimator import (
    Case,
    Draft,
    Estimator,
    behavior_variances,
    expected_variance,
    influence_checks,
)
from stitchrl.evaluation.group_drafts import EstimatesGroups, group_units, masked
from stitchrl.evaluation.groups import Groups
from stitchrl.evaluation.health import LEAST_EFFECTIVE_UNITS, Check
from stitchrl.evaluation.intervals import Resampler
from stitchrl.messages import interval_in_words
from stitchrl.types import NumpyArray

__all__ = ["GroupGain", "GroupGains", "gains_in_groups", "simultaneous_reach"]

LEAST_UNITS = LEAST_EFFECTIVE_UNITS
"""The fewest independent units with which a group is judged: episodes, or groups of them where the log has the role `group`."""
DRAWS = 100_000
"""Draws from the joint distribution of the deviations."""


@dataclasses.dataclass(frozen=True)
class GroupGain:
    """The gain in one group.

    Attributes:
        column, label: the column, and its value at the first step of the group's episodes.
        units: how many independent units have an episode in it.
        noun: what one unit is called.
        value, standard_error: the gain and its standard error; None where there is no estimate.
        lower, upper: its interval, which holds together with those of the other groups; None where there is no estimate.
        policy, behavior: the two values whose difference is the gain.
        reasons: why it is not judged, one sentence each: too few units, or failed checks. Empty where it is judged.
        checks: every health check.
        state: where the interval lies: "below" or "above" the margin, or "not decided"; else "too few" or "not judged".
    """

    column: str
    label: str
    units: int
    noun: str
    value: float | None
    lower: float | None
    upper: float | None
    standard_error: float | None
    policy: float | None
    behavior: float | None
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    state: str

    @property
    def name(self) -> str:
        """The group in words."""
        return f"{self.column} = {self.label}"

    def forbids(self, margin: float) -> bool:
        """Whether it forbids GO: the gain lies wholly below the margin, or would if its failed checks were ignored."""
        below = self.upper is not None and self.upper < margin
        return self.state == "below" or (self.state == "not judged" and below)

    def sentence(self, margin: float) -> str:
        """What is said of the group in the verdict."""
        size = f"{self.units:,} {self.noun}{'' if self.units == 1 else 's'}"
        if self.state == "too few":
            return f"For {self.name} there are too few to judge: {size}, and {LEAST_UNITS:,} are needed."
        if self.state == "not judged":
            if self.forbids(margin):
                assert self.value is not None
                assert self.lower is not None
                assert self.upper is not None
                span = interval_in_words(self.value, self.lower, self.upper)
                return (
                    f"For {self.name} the gain cannot be judged, and its estimate lies wholly below {margin:g}, {span}: "
                    f"{self.reasons[0]}"
                )
            return f"For {self.name} the gain cannot be judged: {self.reasons[0]}"
        assert self.value is not None
        assert self.lower is not None
        assert self.upper is not None
        where = {
            "below": f"lies wholly below {margin:g}",
            "above": f"lies wholly above {margin:g}",
            "not decided": f"does not lie wholly below {margin:g}",
        }[self.state]
        span = interval_in_words(self.value, self.lower, self.upper)
        return f"For {self.name} the gain {where}: {span} in {size}."


@dataclasses.dataclass(frozen=True)
class GroupGains:
    """The gains in all groups that were asked for.

    Attributes:
        estimator: name of the estimator of the gains.
        confidence: the confidence with which all intervals hold together.
        reach: c, how many standard errors an interval reaches to either side of its gain.
        margin: the least gain worth having.
        gains: one a group.
    """

    estimator: str
    confidence: float
    reach: float
    margin: float
    gains: tuple[GroupGain, ...]

    def parts(self) -> list[tuple[bool, str]]:
        """Whether each group lets a GO pass, with a sentence that says why."""
        return [(not gain.forbids(self.margin), gain.sentence(self.margin)) for gain in self.gains]

    @property
    def judged(self) -> bool:
        """Whether groups were judged, and every one that has enough episodes."""
        states = [gain.state for gain in self.gains if gain.state != "too few"]
        return bool(states) and "not judged" not in states

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON, each group with its sentence."""
        content = dataclasses.asdict(self)
        for entry, gain in zip(content["gains"], self.gains, strict=True):
            entry["sentence"] = gain.sentence(self.margin)
        return content


def gains_in_groups(
    estimator: Estimator,
    case: Case,
    groups: Groups,
    whole: Draft,
    logged: Draft,
    other: tuple[Case, Draft] | None,
    resampler: Resampler,
    margin: float,
) -> GroupGains:
    """The gains in groups by one estimator.

    Args:
        estimator: the estimator of the primary gain.
        case: the case of the policy.
        groups: the groups of episodes.
        whole: the draft of the policy's value on all episodes.
        logged: the draft of the behaviour's value by its logged returns.
        other: case and draft of the baseline; None: gains are over the behaviour.
        resampler: gives the standard errors and the confidence.
        margin: the least gain worth having.
    """
    members = groups.members(case.log)
    values = _drafts(estimator, case, groups, whole, members)
    if other is None:
        others = [
            draft.behavior or masked(logged, member, case) for draft, member in zip(values, members.T, strict=True)
        ]
    else:
        others = _drafts(estimator, other[0], groups, other[1], members)
    gains = [value.over(base) for value, base in zip(values, others, strict=True)]
    held = [g for g, gain in enumerate(gains) if gain.statistic is not None]
    errors = dict(zip(held, _errors([gains[g] for g in held], case, resampler), strict=True))
    enough = {g: group_units(case.units, member) for g, member in enumerate(members.T)}
    judged = [g for g in held if enough[g] >= LEAST_UNITS and errors[g] > 0]
    influence = [
        gain.statistic.influence() for g, gain in enumerate(gains) if g in judged and gain.statistic is not None
    ]
    sums = case.units.sums(np.stack(influence, axis=1)) if influence else np.zeros((case.units.count, 0))
    reach = simultaneous_reach(sums, resampler.confidence)
    found = []
    for g, (column, label) in enumerate(groups.named):
        draft, error = gains[g], errors.get(g)
        shown = (column, label, enough[g], case.units.noun)
        values_of = (_value(values[g]), _value(others[g]))
        found.append(_gain(shown, draft, error, reach, values_of, case, margin))
    return GroupGains(estimator.name, resampler.confidence, reach, margin, tuple(found))


def _gain(
    shown: tuple[str, str, int, str],
    draft: Draft,
    error: float | None,
    reach: float,
    values: tuple[float | None, float | None],
    case: Case,
    margin: float,
) -> GroupGain:
    """The gain in one group with what is said of it."""
    units, noun = shown[2], shown[3]
    checks, value, lower, upper = draft.checks, None, None, None
    if draft.statistic is not None and error is not None:
        value = draft.statistic.value()
        lower = value - reach * error + bounded(draft.unknown[0])
        upper = value + reach * error + bounded(draft.unknown[1])
        checks += influence_checks(draft, error, case.units)
    reasons = tuple(check.sentence for check in checks if not check.passed)
    if units < LEAST_UNITS:
        state, reasons = "too few", (f"{units:,} {noun}s are fewer than {LEAST_UNITS:,}.", *reasons)
    elif reasons or lower is None or upper is None:
        state, reasons = "not judged", reasons or ("There is no estimate.",)
    else:
        state = "below" if upper < margin else "above" if lower > margin else "not decided"
    policy, behavior = values
    return GroupGain(*shown, value, lower, upper, error, policy, behavior, reasons, checks, state)


def _value(draft: Draft) -> float | None:
    return None if draft.statistic is None else draft.statistic.value()


def _drafts(
    estimator: Estimator, case: Case, groups: Groups, whole: Draft, members: Float[NumpyArray, "n G"]
) -> list[Draft]:
    if isinstance(estimator, EstimatesGroups):
        return estimator.by_group(case, groups)
    return [masked(whole, member, case) for member in members.T]


def _errors(gains: Sequence[Draft], case: Case, resampler: Resampler) -> list[float]:
    """The standard error of each gain, computed as that of the gain on all episodes is."""
    statistics = [gain.statistic for gain in gains if gain.statistic is not None]
    noises = behavior_variances(case, gains)
    added = [(noise or 0.0) + variance_of_model(gain, resampler) for noise, gain in zip(noises, gains, strict=True)]
    return resampler.errors(statistics, [expected_variance(gain) for gain in gains], added)


def simultaneous_reach(influence: Float[NumpyArray, "units G"], confidence: float, *, seed: int = 0) -> float:
    """c: how many standard errors intervals must reach to either side for all of G to hold at once.

    It is never less than a single interval needs, and the normal quantile is scaled by the ratio of Student's to the normal for
    a single one.

    Args:
        influence: (units, G) influence values, summed over the episodes of each unit; columns that do not vary are left out.
        confidence: chance that all intervals hold.
        seed: random seed of the draws.
    """
    n = len(influence)
    alone = float(stats.t.ppf((1 + confidence) / 2, max(n - 1, 1)))
    spread = influence.std(axis=0)
    varying = influence[:, spread > 0]
    if varying.shape[1] < 2:
        return alone
    correlation = np.corrcoef(varying, rowvar=False)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = np.random.default_rng(seed).normal(size=(DRAWS, len(values))) @ root.T
    many = float(np.quantile(np.abs(drawn).max(1), confidence))
    return max(alone, many * alone / float(stats.norm.ppf((1 + confidence) / 2)))
