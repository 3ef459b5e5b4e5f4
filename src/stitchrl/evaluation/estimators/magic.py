"""MAGIC, model and guided importance sampling combined (Thomas and Brunskill 2016, arXiv 1604.00923): magic.

With self-normalised weights w_t (the mean over the episodes is 1), a fitted Q and its V, the estimated return that uses weights
up to step j and the model from there on is

    (1)  g_j = mean_i { sum_{t <= j} gamma^t [ w_t (r_t - Q_t) + w_{t-1} V_t ] + gamma^{j+1} w_j V_{j+1} },   j = -1, 0, 1, ...

g_{-1} = mean V(s_0) is the model alone, and the last is wdr. The estimate is their average with the weights x that minimise an
estimate of its squared error:

    (2)  x = argmin_{x >= 0, sum x = 1}  x^T (Omega + b b^T) x,    value = x^T g

    Omega   covariance of the g_j, from their influence values: Omega_jk = (1 / (n (n - 1))) sum_i phi_ij phi_ik
    b_j     signed distance of g_j from the 90% interval of wdr; 0 inside

Deviations. The covariance comes from influence values, which allow for the normalisation of the weights; the paper's covariance
of the terms does not. The interval of wdr is g +- 1.645 standard errors and not a bootstrap interval, so that (2) can be solved
anew in every resample. Where wdr does not vary at all (one of its steps has no weight, or every residual is 0), there is no
interval to compare the model with, and the estimate is wdr itself. (2) is solved exactly, as a problem of non-negative least
squares. Up to twelve steps j are used: the first, the last, and others spaced evenly in the logarithm.

Its interval comes from resampled episodes, with x solved for anew in each. Where the model is wrong by less than the width of
wdr's interval, b does not notice it, and the spread over episodes does not show such a bias. The interval is therefore widened
by the distance of the estimate from wdr, which is right whatever the model says. No verdict rests on magic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Episodes, Estimand, influence_of_ratios
from stitchrl.evaluation.doubly_robust_form import refusal_of_weighted_q
from stitchrl.evaluation.estimator import Case, Draft, episode_weight_draft
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import FitQ, FittedValues
from stitchrl.evaluation.weights import ByWeight, Weights
from stitchrl.types import NumpyArray

__all__ = ["Magic", "MagicStatistic", "blend", "steps_looked_at"]

MOST_STEPS = 12
"""The most partial returns that are blended."""
REACH = 1.6448536269514722
"""How many standard errors the 90% interval of wdr reaches to each side."""


def steps_looked_at(longest: int) -> Int[NumpyArray, " J"]:
    """The steps j of equation (1): -1, the last, and others between them."""
    inner = np.unique(np.round(np.geomspace(1, longest, MOST_STEPS - 1)).astype(np.int64)) - 1
    return np.unique(np.concatenate([[-1], inner, [longest - 1]]))


def blend(
    returns: Float[NumpyArray, " J"], covariance: Float[NumpyArray, "J J"]
) -> tuple[Float[NumpyArray, " J"], Float[NumpyArray, " J"]]:
    """x and b of equation (2); the last of the returns is wdr.

    Args:
        returns: (J,) g_j.
        covariance: (J, J) Omega.
    """
    error = float(np.sqrt(max(covariance[-1, -1], 0.0)))
    weights, bias = np.zeros(len(returns)), np.zeros(len(returns))
    if not error > 0 or not np.isfinite(covariance).all():
        weights[-1] = 1.0
        return weights, bias
    away = returns - returns[-1]
    bias = np.sign(away) * np.maximum(np.abs(away) - REACH * error, 0.0)
    # In units of the error of wdr. y >= 0 with least y^T M y + (sum y - 1)^2 is a multiple of x.
    matrix = (covariance + np.outer(bias, bias)) / error**2
    size, axes = np.linalg.eigh(matrix)
    root = np.sqrt(np.maximum(size, 0.0))[:, None] * axes.T
    found, _ = optimize.nnls(np.vstack([root, np.ones(len(returns))]), np.append(np.zeros(len(returns)), 1.0))
    return found / found.sum(), bias


@dataclasses.dataclass(frozen=True, eq=False)
class MagicStatistic:
    """The blend of partial returns as a function of the episodes.

    The columns are the terms of equation (1), each a ratio of means: first w_t (r_t - Q_t), then w_{t-1} V_t, gamma^t included.

    Attributes:
        numerator, denominator: (n, K) numerators and denominators of these ratios, K = 2 T.
        steps: (J,) the steps j, the last of them T - 1.
    """

    numerator: Float[NumpyArray, "n K"]
    denominator: Float[NumpyArray, "n K"]
    steps: Int[NumpyArray, " J"]

    @classmethod
    def of(cls, episodes: Episodes, weight: Weights, fitted: FittedValues) -> MagicStatistic:
        """The terms of some episodes."""
        residual = episodes.reward - episodes.pad(fitted.q)
        numerator = np.concatenate([weight.now * residual, weight.before * episodes.pad(fitted.v)], axis=1)
        denominator = np.concatenate([weight.now, weight.before], axis=1)
        return cls(numerator * np.tile(episodes.discount, 2), denominator, steps_looked_at(episodes.longest))

    @property
    def n(self) -> int:
        """How many episodes it is computed from."""
        return len(self.numerator)

    @cached_property
    def sums(self) -> Float[NumpyArray, "K J"]:
        """Which terms each partial return adds up: g_j has residuals up to j, and values up to j + 1."""
        time = np.arange(self.numerator.shape[1] // 2)[:, None]
        return np.concatenate([time <= self.steps[None, :], time <= self.steps[None, :] + 1]).astype(np.float64)

    @cached_property
    def returns(self) -> Float[NumpyArray, " J"]:
        """(J,) g_j."""
        found: NumpyArray = _ratio(self.numerator.mean(0), self.denominator.mean(0)) @ self.sums
        return found

    @cached_property
    def by_step(self) -> Float[NumpyArray, "n J"]:
        """(n, J) influence values of the g_j."""
        return influence_of_ratios(self.numerator, self.denominator) @ self.sums

    @cached_property
    def blended(self) -> tuple[Float[NumpyArray, " J"], Float[NumpyArray, " J"]]:
        """x and b."""
        return blend(self.returns, self.by_step.T @ self.by_step / (self.n * (self.n - 1)))

    @property
    def disagreement(self) -> float:
        """By how much the blend differs from wdr."""
        return abs(self.value() - float(self.returns[-1]))

    def value(self) -> float:
        """The estimate."""
        return float(self.blended[0] @ self.returns)

    @cached_property
    def slopes(self) -> Float[NumpyArray, " J"]:
        """(J,) derivative of the estimate by each g_j with Omega held fixed: x, and the effect of g on x by way of b.

        It is taken by differences over a quarter of a standard error, since x is not smooth where a weight becomes 0 or a g
        leaves the interval.
        """
        covariance = self.by_step.T @ self.by_step / (self.n * (self.n - 1))
        step = 0.25 * float(np.sqrt(covariance[-1, -1]))
        if not step > 0:
            return self.blended[0]

        def moved(shift: NumpyArray) -> float:
            returns = self.returns + shift
            return float(blend(returns, covariance)[0] @ returns)

        every = np.eye(len(self.steps)) * step
        return np.array([(moved(shift) - moved(-shift)) / (2.0 * step) for shift in every])

    def influence(self) -> Float[NumpyArray, " n"]:
        """(n,) influence values of the blend. The effect of Omega on x is of a smaller order and is left to the resamples."""
        found: NumpyArray = self.by_step @ self.slopes
        return found

    def replicate(self, counts: Float[NumpyArray, "R n"]) -> Float[NumpyArray, " R"]:
        """(R,) the estimate of each resample, with ratios and x anew; Omega uses the influence values of the whole sample."""
        returns = _ratio(counts @ self.numerator, counts @ self.denominator) @ self.sums
        kept, steps = self.by_step, len(self.steps)
        upper = np.triu_indices(steps)
        squares = counts @ (kept[:, upper[0]] * kept[:, upper[1]])
        means = counts @ kept / self.n
        found = np.empty(len(counts))
        for r in range(len(counts)):
            covariance = np.zeros((steps, steps))
            covariance[upper] = squares[r]
            covariance = np.triu(covariance, 1).T + np.triu(covariance) - self.n * np.outer(means[r], means[r])
            found[r] = blend(returns[r], covariance / (self.n * (self.n - 1)))[0] @ returns[r]
        return found

    def by_weight(self) -> ByWeight:
        """Derivatives of the blend by the logarithms of the weights with Omega held fixed, which are right to about a fifth."""
        share = influence_of_ratios(self.numerator, self.denominator) * (self.sums @ self.slopes) / self.n
        now, before = np.split(share, 2, axis=1)
        return now, before


def _ratio(numerator: NumpyArray, denominator: NumpyArray) -> NumpyArray:
    found: NumpyArray = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return found


@dataclasses.dataclass(frozen=True)
class Magic:
    """A blend of a fitted value and weighted doubly robust estimation."""

    name: str = "magic"
    title: str = "MAGIC: a blend of a fitted model and of weights that correct it"
    primary_rank: int | None = None

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses images, which no Q is fitted to, policies without a density, and logs of which no episode ends."""
        return refusal_of_weighted_q(self.name, log, estimand, policies)

    def requests(self) -> tuple[FitRequest, ...]:
        """The policy's Q."""
        return (FitQ(),)

    def estimate(self, case: Case) -> Draft:
        """Equation (2), with the health of its weights."""
        (request,) = self.requests()
        statistic = MagicStatistic.of(case.episodes, case.weights, case.fits.get(request).values)
        draft = episode_weight_draft(
            case,
            lambda: statistic,
            statistic.by_weight,
            normalised=True,
            assumes=("the fitted model is wrong by no more than it differs from wdr",),
        )
        if draft.statistic is None:
            return draft
        low, high = draft.unknown
        unknown = (low - statistic.disagreement, high + statistic.disagreement)
        return dataclasses.replace(draft, unknown=unknown, trusts_values=True)
