"""Lower bounds of a value that hold with a stated confidence and rest on no model (Thomas, Theocharous, Ghavamzadeh 2015).

With w_t the product of the ratios policy / behaviour up to step t, G the discounted return, l the least possible return and m
the least logged reward, or 0 where all are above it, each episode gives a number that is never negative:

    (1)  by episode    X = w_end (G - l),                       value >= l + E[X]
    (2)  by decision   X = sum_t gamma^t w_t (r_t - m),         value >= m sum_t gamma^t + E[X]

In (2) the sum goes on after an episode has ended, with reward 0. Both are equalities where the behaviour may take every
action of the policy; where it may not, X is too small, and the bound holds all the same. What follows a cut is unknown
and counts as the least possible, so that cuts can only lower a bound.

X is cut off at a clip c, which can only lower its mean. Of n independent numbers min(X, c) in a range of width R, with mean M
and variance S^2 (divided by n - 1), the true mean is below these with a probability of at most d:

    (3)  Hoeffding (1963)                                       M - R sqrt(ln(1/d) / (2 n))
    (4)  empirical Bernstein (Maurer and Pontil 2009, thm. 4)   M - S sqrt(2 ln(2/d) / n) - 7 R ln(2/d) / (3 (n - 1))
    (5)  Student                                                M - S t_{1-d, n-1} / sqrt(n), if means are nearly normal

The clip is chosen on a fifth of the episodes, for the highest bound that the others are predicted to give; the bound is then
computed on the others alone. A clip chosen on the same episodes would make (3) to (5) wrong, and so would the best of several
bounds; so which of them is `chosen` is decided on that fifth as well.

The gain over the behaviour is bounded in the same way, from X minus the same number with weights 1. This difference cannot be
below minus the range of returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.evaluation.contributions import Episodes, Estimand
from stitchrl.evaluation.estimator import FITTED_IS_RIGHT, Case
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["METHODS", "LowerBound", "Numbers", "bound_of", "bounds_of", "lower_bounds", "numbers_of"]

METHODS = ("hoeffding", "bernstein", "student")
"""Equations (3), (4) and (5)."""
TITLES = {"hoeffding": "Hoeffding's bound", "bernstein": "the empirical Bernstein bound", "student": "Student's bound"}
PROVEN = ("hoeffding", "bernstein")
"""Those that hold for every number of episodes, however the returns are spread."""
CHOOSING = 0.2
"""Share of the independent units on which the clip is chosen."""
FEWEST = 10
"""The fewest independent units for which bounds are computed."""
CLIPS = 60
"""Clips that are compared."""
LARGEST_LOG_WEIGHT = 300.0
"""Largest logarithm of a weight; larger ones are set to it, which can only lower a bound."""


@dataclasses.dataclass(frozen=True)
class LowerBound:
    """A number that the true one lies above, with a one-sided confidence.

    Attributes:
        of: what is bounded: the "value" of the policy, or its "gain" over the behaviour.
        method: one of `METHODS`.
        weights: "episodes" where whole episodes are weighed, equation (1); "decisions" where each reward is, equation (2).
        lower: the bound, in return units; never below `least`.
        confidence: how often such a bound is not above the true number.
        clip: what X is cut off at.
        episodes: how many episodes the bound is computed on; the clip was chosen on others.
        least: the least possible value, or gain; a bound of that size says nothing.
        assumptions: what must hold for it.
        chosen: whether it is the bound to state: of the proven bounds of this value, or gain, the one that was predicted to be
            the highest.
        noun: what one episode is called: "episode", or "decision" where each has one step.
    """

    of: str
    method: str
    weights: str
    lower: float
    confidence: float
    clip: float
    episodes: int
    least: float
    assumptions: tuple[str, ...] = ()
    chosen: bool = False
    noun: str = "episode"

    @property
    def says_something(self) -> bool:
        """Whether it lies above the least possible value, or gain."""
        return self.lower > self.least

    @property
    def proven(self) -> bool:
        """Whether it holds for every number of episodes, however the returns are spread."""
        return self.method in PROVEN

    @property
    def sentence(self) -> str:
        """The bound in words."""
        whose = "value of the policy" if self.of == "value" else "gain over the behaviour"
        form = "+.4f" if self.of == "gain" else ".4f"
        if not self.says_something:
            return f"By the weights alone nothing is known about the {whose}: its lower bound is the least possible."
        weighed = (
            "each reward of " if self.weights == "decisions" else "" if self.noun == "decision" else "the whole of "
        )
        alone = (
            "By weights from a fitted behaviour, if it is right,"
            if FITTED_IS_RIGHT in self.assumptions
            else "By the weights alone,"
        )
        return (
            f"{alone} with no model of the value, the {whose} is at least {self.lower:{form}} with "
            f"{self.confidence:.0%} one-sided confidence ({TITLES[self.method]}, weighing {weighed}{self.episodes:,} "
            f"{self.noun}s)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self) | {"sentence": self.sentence}


class Numbers(NamedTuple):
    """One number for each independent unit. Their expectation plus `offset` is at most the true value or gain.

    Attributes:
        of, weights: as in `LowerBound`.
        per_unit: (units,) the numbers, not cut off.
        least: a number that none of them is below.
        offset: what is added to their mean.
    """

    of: str
    weights: str
    per_unit: Float[NumpyArray, " units"]
    least: float
    offset: float


def lower_bounds(case: Case, *, confidence: float = 0.95, seed: int = 0) -> tuple[LowerBound, ...]:
    """Every bound of the value and, where gains are over the behaviour, of the gain.

    There is none where there are fewer than `FEWEST` units, or where returns have no least value.

    Args:
        case: a policy with a density, on a log.
        confidence: one-sided confidence, in (0, 1).
        seed: random seed of the choice of units that the clip is chosen on.
    """
    if case.units.count < FEWEST:
        return ()
    ratio = case.fits.log_ratio
    found = numbers_of(case.episodes, ratio, case.estimand, case.attainable, case.units, gain=case.baseline is None)
    low = f"no return is below {case.attainable[0]:g}, the least that logged rewards can add up to"
    per_decision = f"no reward is below {min(float(case.log.reward.min()), 0.0):g}, the least that was logged"
    shared = [
        "no unmeasured confounding",
        FITTED_IS_RIGHT if case.behavior.fitted else "the logged propensities are right",
        f"{case.units.noun}s are independent",
    ]
    choosing = np.zeros(case.units.count, bool)
    rng = np.random.default_rng(seed)
    choosing[rng.permutation(case.units.count)[: max(int(CHOOSING * case.units.count), FEWEST // 5)]] = True
    bounds: list[LowerBound] = []
    for of in ("value", "gain"):
        bounds += bounds_of([one for one in found if one.of == of], choosing, confidence=confidence)
    episodes = round(case.units.episodes * float((~choosing).mean()))
    return tuple(
        dataclasses.replace(
            one,
            episodes=episodes,
            noun=case.units.episode_noun,
            assumptions=(*shared, low if one.weights == "episodes" else per_decision),
        )
        for one in bounds
    )


def numbers_of(
    episodes: Episodes,
    log_ratio: Float[NumpyArray, " N"],
    estimand: Estimand,
    attainable: tuple[float, float],
    units: Units,
    *,
    gain: bool = True,
) -> list[Numbers]:
    """The numbers of equations (1) and (2) of each independent unit.

    Args:
        episodes: the padded episodes.
        log_ratio: (N,) logarithm of policy / behaviour of the logged actions.
        estimand: which value is bounded.
        attainable: the least and the largest possible return.
        units: which episodes are independent.
        gain: whether the gain over the behaviour is bounded too.
    """
    log_weight = np.cumsum(episodes.pad(log_ratio), axis=1)
    weight = np.exp(np.minimum(log_weight, LARGEST_LOG_WEIGHT))
    found = []
    for weights, of_weight in (("episodes", _by_episode), ("decisions", _by_decision)):
        # Equation (2) needs the same discount at a step in all episodes, which does not hold where rewards are discounted by
        # time.
        by_decision = episodes.longest > 1 and estimand.time_unit is None
        if not np.isfinite(attainable[0]) or (weights == "decisions" and not by_decision):
            continue
        x, offset, _ = of_weight(episodes, weight, estimand, attainable)
        found.append(Numbers("value", weights, _per_unit(x, units), 0.0, offset))
        same, _, width = of_weight(episodes, np.ones_like(weight), estimand, attainable)
        # Undiscounted and without a horizon, nothing bounds what could follow a cut.
        endless = estimand.gamma == 1 and estimand.horizon is None and not episodes.terminated.all()
        if gain and np.isfinite(width) and not endless:
            # What the behaviour gets after a cut counts as the most possible, so that the gain cannot come out too large.
            same = np.where(episodes.terminated, same, width)
            least = -width * float(units.sums(np.ones(units.episodes)).max()) * units.count / units.episodes
            found.append(Numbers("gain", weights, _per_unit(x - same, units), least, 0.0))
    return found


def _by_episode(
    episodes: Episodes, weight: Float[NumpyArray, "n T"], estimand: Estimand, attainable: tuple[float, float]
) -> tuple[Float[NumpyArray, " n"], float, float]:
    """X of equation (1), what is added to its mean, and the most that X can be with weights 1."""
    low, high = attainable
    final = np.where(episodes.terminated, weight[:, -1], 0.0)
    return final * np.maximum(episodes.returns - low, 0.0), low, high - low


def _by_decision(
    episodes: Episodes, weight: Float[NumpyArray, "n T"], estimand: Estimand, attainable: tuple[float, float]
) -> tuple[Float[NumpyArray, " n"], float, float]:
    """X of equation (2), what is added to its mean, and the most that X can be with weights 1."""
    low, high = min(float(episodes.reward.min()), 0.0), max(float(episodes.reward.max()), 0.0)
    steps = episodes.longest if estimand.horizon is None else estimand.horizon
    every = float(np.power(float(estimand.gamma), np.arange(steps)).sum())
    if estimand.horizon is None and estimand.gamma < 1:
        every = 1.0 / (1.0 - estimand.gamma)
    shifted = np.where(episodes.valid, episodes.reward - low, 0.0)
    x = (weight * shifted) @ episodes.discount
    # After a true end the reward is 0, which is -low above the least, until the last step that counts.
    lasted = np.cumsum(episodes.discount)[episodes.valid.sum(1) - 1]
    x += np.where(episodes.terminated, weight[:, -1] * -low * np.maximum(every - lasted, 0.0), 0.0)
    return x, low * every, (high - low) * every


def _per_unit(x: Float[NumpyArray, " n"], units: Units) -> Float[NumpyArray, " units"]:
    """(units,) sums over the episodes of each unit, scaled so that their mean is that of the episodes."""
    return units.sums(x) * (units.count / units.episodes)


def bounds_of(numbers: Sequence[Numbers], choosing: NumpyArray, *, confidence: float) -> list[LowerBound]:
    """A bound by each method from each kind of numbers, of one and the same true number.

    Args:
        numbers: numbers of the same units, all of them of the value or all of the gain.
        choosing: (units,) True where a unit serves to choose clips; the bounds are computed on the others.
        confidence: one-sided confidence, in (0, 1).
    """
    risk, rest = 1.0 - confidence, int((~choosing).sum())
    found, predicted = [], []
    for one in numbers:
        before, after = one.per_unit[choosing], one.per_unit[~choosing]
        for method, (clip, height) in _clips(before, one.least, rest, risk).items():
            bound = one.offset + bound_of(after, clip, one.least, risk, method)
            least = one.offset + one.least
            found.append(LowerBound(one.of, method, one.weights, max(bound, least), confidence, clip, rest, least))
            predicted.append(one.offset + height if method in PROVEN else -np.inf)
    if not found:
        return []
    best = int(np.argmax(predicted))
    return [dataclasses.replace(one, chosen=k == best) for k, one in enumerate(found)]


def bound_of(x: Float[NumpyArray, " n"], clip: float, least: float, risk: float, method: str) -> float:
    """Equations (3) to (5).

    Args:
        x: (n,) numbers, none below `least`.
        clip: what they are cut off at, chosen without looking at `x`.
        least: the lower end of their range.
        risk: d, 1 minus the one-sided confidence.
        method: one of `METHODS`.
    """
    cut = np.minimum(x, clip)
    return float(cut.mean()) - _width(float(cut.std(ddof=1)), clip - least, len(x), risk, method)


def _width(spread: float, reach: float, n: int, risk: float, method: str) -> float:
    """How far a bound lies below the mean of n numbers of such a standard deviation, in a range of width `reach`."""
    if method == "hoeffding":
        return reach * float(np.sqrt(np.log(1.0 / risk) / (2.0 * n)))
    if method == "bernstein":
        term = float(np.log(2.0 / risk))
        return spread * float(np.sqrt(2.0 * term / n)) + 7.0 * reach * term / (3.0 * (n - 1))
    return spread * float(stats.t.ppf(1.0 - risk, n - 1)) / float(np.sqrt(n))


def _clips(x: Float[NumpyArray, " n"], least: float, count: int, risk: float) -> dict[str, tuple[float, float]]:
    """For each method, the clip that is predicted to give the highest bound on `count` other units, and that prediction."""
    above = x[x > 0]
    if not len(above):
        return dict.fromkeys(METHODS, (max(-least, 1.0), least))
    largest = float(above.max())
    clips = np.geomspace(max(float(np.median(above)) / 10, largest * 1e-9), 2 * largest, CLIPS)
    cut = (np.minimum(x, clip) for clip in clips)
    moments = [(float(one.mean()), float(one.std(ddof=1))) for one in cut]
    found = {}
    for method in METHODS:
        heights = [
            mean - _width(spread, float(clip) - least, count, risk, method)
            for clip, (mean, spread) in zip(clips, moments, strict=True)
        ]
        best = int(np.argmax(heights))
        found[method] = (float(clips[best]), heights[best])
    return found
