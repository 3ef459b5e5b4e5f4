"""Estimators for single decisions (contextual bandits): ips, snips, reward-dr, switch-dr, dros, sg-ips, sg-dr.

The log has n decisions (s, a, r), each with the ratio w = policy / behaviour probability of its action; q(s, a) is a model of
the reward that was fitted on other decisions (`evaluation/reward_model.py`, `response_surface.py`), and v(s) its mean over the
policy's actions. Where actions are continuous, w is a ratio of densities.

    (1)  ips        (1/n) sum w r                           unbiased (Horvitz and Thompson 1952)
    (2)  snips      sum w r / sum w                         within the rewards seen (Swaminathan and Joachims 2015)
    (3)  reward-dr  (1/n) sum v + w (r - q)                 unbiased; a good q leaves little to weight (Dudik and others 2011)

The others put a smaller weight u(w) in place of w: less variance, and a bias where the model is wrong.

    (4)  switch-dr  u = w where w <= l, else 0              (Wang, Agarwal, Dudik 2017)
    (5)  dros       u = l w / (w^2 + l)                     (Su, Dimakopoulou, Krishnamurthy, Dudik 2020)
    (6)  sg-dr      u = w / (1 - l + l w), and sg-ips with q = v = 0       (Metelli, Russo, Restelli 2021)

In (4) and (5) l = 0 leaves the model alone and l = infinity gives (3); in (6) l = 0 gives (3), or (1). The limit l is the one
with the least estimated squared error, bias^2 + variance, on other decisions than those of the estimate:

    (7)  bias = |mean (w - u)(r - q)| + its standard error,   variance = var[u (r - q)] / n

with n the number of decisions of the estimate. Where the squared error is least, the bias is about as large as the standard
error, so that an interval from the variance alone would miss too often. The ends of the interval are moved outwards by

    (8)  |mean (w - u)(r - q)| + 2 standard errors of it

on the other decisions. A verdict rests on (2) and (3), which need no such bound; the others confirm or contradict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.action_checks import checks_of_actions
from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.decisions import of_decisions
from stitchrl.evaluation.estimator import Case, Draft, shared_assumptions
from stitchrl.evaluation.fit_data import FitData, FitRequest, Fold, Order
from stitchrl.evaluation.health import (
    Check,
    check_mean_weight,
    check_never_tried,
    check_range,
    check_shrinkage,
    check_spread,
    not_applicable,
)
from stitchrl.evaluation.policy_actions import refusal_without_density
from stitchrl.evaluation.predictable import LoggedWeights, Ratios, VisitRatios
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.response_surface import ResponseSurface
from stitchrl.evaluation.reward_model import FitReward, RewardModel, RewardValues
from stitchrl.types import NumpyArray

__all__ = [
    "CONTEXTUAL_BANDITS",
    "BanditEstimator",
    "ChooseLimit",
    "Shrunken",
    "doubly_robust",
    "optimistic",
    "self_normalised",
    "sub_gaussian",
    "switched",
]

LARGEST_LOG_WEIGHT = 300.0
"""Largest logarithm of a weight: above it weights are scaled down, since their squares would exceed the range of float64."""
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Limits of equations (4) and (5) that are tried: these quantiles of the weights of other decisions, or their squares."""
RATES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)
"""Limits of equation (6) that are tried."""


# --- equations (1) to (3) --------------------------------------------------------------------------------------


def doubly_robust(
    weight: Float[NumpyArray, " n"], reward: Float[NumpyArray, " n"], model: RewardValues
) -> Contributions:
    """Equation (3), with w or a smaller weight; with q = v = 0 it is equation (1)."""
    return Contributions.average(model.v + weight * (reward - model.q))


def self_normalised(weight: Float[NumpyArray, " n"], reward: Float[NumpyArray, " n"]) -> Contributions:
    """Equation (2)."""
    return Contributions.ratios((weight * reward)[:, None], weight[:, None])


# --- equations (4) to (6) --------------------------------------------------------------------------------------


class Shrunken(NamedTuple):
    """Weights u(w), and their derivatives by the logarithm of w."""

    weight: Float[NumpyArray, " n"]
    slope: Float[NumpyArray, " n"]


Shrink = Callable[[NumpyArray, NumpyArray | float], Shrunken]


def switched(weight: Float[NumpyArray, " n"], limit: NumpyArray | float) -> Shrunken:
    """Equation (4)."""
    kept = np.where(weight <= limit, weight, 0.0)
    return Shrunken(kept, kept)


def optimistic(weight: Float[NumpyArray, " n"], limit: NumpyArray | float) -> Shrunken:
    """Equation (5)."""
    limit = np.broadcast_to(np.asarray(limit, np.float64), weight.shape)
    finite = np.isfinite(limit) & (limit > 0)
    safe = np.where(finite, limit, 1.0)
    # l / (w^2 + l), which is 1 without a limit and 0 where the limit is 0
    share = np.where(finite, 1.0 / (weight**2 / safe + 1.0), (limit > 0).astype(np.float64))
    shrunken = share * weight
    return Shrunken(shrunken, shrunken * (2.0 * share - 1.0))


def sub_gaussian(weight: Float[NumpyArray, " n"], limit: NumpyArray | float) -> Shrunken:
    """Equation (6)."""
    share = 1.0 / np.maximum(1.0 - limit + limit * weight, 1e-300)
    shrunken = weight * share
    return Shrunken(shrunken, shrunken * share * (1.0 - limit))


class Shrinkage(NamedTuple):
    """A way to shrink weights, and the limits that are tried.

    Attributes:
        shrink: one of equations (4) to (6).
        limits: gives them from the weights of other decisions.
    """

    shrink: Shrink
    limits: Callable[[NumpyArray], NumpyArray]


def _cuts(weight: Float[NumpyArray, " n"]) -> Float[NumpyArray, " _"]:
    positive = weight[weight > 0]
    return np.append(np.unique(np.quantile(positive, QUANTILES)) if len(positive) else [], np.inf)


SHRINKAGES = {
    "switch": Shrinkage(switched, _cuts),
    "dros": Shrinkage(optimistic, lambda weight: _cuts(weight) ** 2),  # u is largest where w^2 = l
    "sg": Shrinkage(sub_gaussian, lambda _: np.asarray(RATES)),
}


class _Elsewhere(NamedTuple):
    """Weights and residuals r - q of other decisions, from which a limit is chosen."""

    weight: Float[NumpyArray, " m"]
    residual: Float[NumpyArray, " m"]


class Limits(NamedTuple):
    """The limit l of each decision, and the bound of equation (8) on the bias that it brings."""

    limit: Float[NumpyArray, " N"]
    bias: Float[NumpyArray, " N"]


@dataclasses.dataclass(frozen=True)
class ChooseLimit:
    """The request for the limit l of each decision, chosen on other decisions by equation (7).

    Attributes:
        shrinkage: a key of `SHRINKAGES`.
        modelled: whether the residual is r - q and not r.
    """

    shrinkage: str
    modelled: bool

    def fit(self, data: FitData) -> Sequence[_Elsewhere | None]:
        """Weights and residuals for each policy that has a density; the model predicts each decision without having seen it."""
        residual = data.log.reward.astype(np.float64)
        if self.modelled:
            models: Sequence[RewardModel | ResponseSurface] = data.models(FitReward())
            residual = models[0].residual
        with np.errstate(over="ignore"):
            ratios = [data.log_ratio(k) for k in range(data.policies)]
            return [
                None if ratio is None else _Elsewhere(np.minimum(np.exp(ratio), 1e100), residual) for ratio in ratios
            ]

    def apply(self, model: _Elsewhere | None, fold: Fold, policy: int) -> Limits:
        """The limit with the least estimated squared error, the same for every decision of a fold; NaN without a density."""
        if model is None:
            nothing = np.full(fold.log.num_episodes, np.nan)
            return Limits(nothing, nothing)
        shrink, limits = SHRINKAGES[self.shrinkage]
        weight, residual = model
        tried = limits(weight)
        errors, bounds = [], []
        for limit in tried:
            used = shrink(weight, limit).weight
            lost = (weight - used) * residual
            bias, noise = abs(float(lost.mean())), float(lost.std()) / np.sqrt(len(lost))
            errors.append((bias + noise) ** 2 + float((used * residual).var()) / fold.episodes)
            bounds.append(bias + 2 * noise)
        # Of limits with equal errors the one that shrinks least is taken: the first of the rates, the last of the cuts.
        equal = np.flatnonzero(np.asarray(errors) <= min(errors))
        best = int(equal[0] if self.shrinkage == "sg" else equal[-1])
        n = fold.log.num_episodes
        return Limits(np.full(n, tried[best]), np.full(n, bounds[best]))

    def join(self, parts: Sequence[Limits], order: Order) -> Limits:
        """The limits of the decisions of all folds, in the order of the log."""
        return Limits(order.per_row([part.limit for part in parts]), order.per_row([part.bias for part in parts]))


# --- the estimators --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BanditEstimator:
    """An estimator for logs whose episodes are single decisions.

    Attributes:
        name, title, primary_rank: as in `Estimator`.
        modelled: whether it corrects a model of the reward; otherwise it weights the rewards themselves.
        normalised: whether the weights are divided by their sum, equation (2).
        shrinkage: how weights are made smaller, a key of `SHRINKAGES`; None: they are not.
        row_by_row: as in `Estimator`.
    """

    irregular_time: ClassVar[bool] = True

    name: str
    title: str
    modelled: bool = False
    normalised: bool = False
    shrinkage: str | None = None
    primary_rank: int | None = None
    row_by_row: bool = True

    @property
    def logged_actions_suffice(self) -> bool:
        """Whether it needs the policy's probability of the logged action alone; a model of the reward needs that of every one."""
        return not self.modelled

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses episodes of several steps, policies without a density, and, with a model of the reward, images."""
        if not of_decisions(log, estimand.horizon):
            longest = int(log.episode_lengths.max())
            seen = f"have up to {longest:,}" if longest > 1 else "were cut after it, so that something may follow"
            return (
                f"{self.name} is for logs of single decisions, whose episodes end after one step; this log's {seen}. "
                "is, wis, dr and wdr weight whole episodes."
            )
        if (refusal := refusal_without_density(self.name, policies)) is not None:
            return refusal
        if self.modelled and log.observation_table.ndim != 2:
            return (
                f"{self.name} fits a model of the reward to vectors; this log's observations are images of shape "
                f"{log.observation_shape}. ips and snips need no model."
            )
        return None

    def requests(self) -> tuple[FitRequest, ...]:
        """The model of the reward, and the limit of the weights."""
        model: tuple[FitRequest, ...] = (FitReward(),) if self.modelled else ()
        return model if self.shrinkage is None else (*model, ChooseLimit(self.shrinkage, self.modelled))

    def estimate(self, case: Case) -> Draft:
        """The formula, with the health of its weights."""
        log_scale = max(float(case.fits.log_ratio.max(initial=0.0)) - LARGEST_LOG_WEIGHT, 0.0)
        weight = np.exp(case.fits.log_ratio - log_scale)
        used, bias = Shrunken(weight, weight), 0.0
        if self.shrinkage is not None and log_scale == 0:
            found: Limits = case.fits.get(ChooseLimit(self.shrinkage, self.modelled))
            used, bias = SHRINKAGES[self.shrinkage].shrink(weight, found.limit), float(found.bias.mean())
        checks: tuple[Check, ...] = (
            *check_spread(case.units, used.weight),
            check_mean_weight(weight, log_scale, noun=case.units.episode_noun),
            case.calibration,
        )
        if case.log.num_actions is None and case.fits.fits.every_action_known:
            checks += checks_of_actions(case, weight)
        if self.shrinkage is not None:
            checks += (check_shrinkage(weight, used.weight),)
        assumptions = (*shared_assumptions(case), *self._assumes())
        if not weight.any():
            return Draft(None, checks, assumptions, used.weight)
        if log_scale > 0 and not self.normalised:
            sentence = (
                f"The largest weight is 10^{(log_scale + LARGEST_LOG_WEIGHT) / np.log(10):,.0f}, and an average of such "
                "weights means nothing; snips, which divides by their sum, still applies."
            )
            return Draft(None, (*checks, not_applicable(sentence)), assumptions, used.weight)
        draft = self._draft(case, used, checks, assumptions)
        return dataclasses.replace(draft, unknown=(-bias, bias)) if bias > 0 else draft

    def _draft(self, case: Case, used: Shrunken, checks: tuple[Check, ...], assumptions: tuple[str, ...]) -> Draft:
        """The draft where there is an estimate."""
        reward = case.log.reward.astype(np.float64)
        model = self._model(case)
        if self.normalised:
            statistic = self_normalised(used.weight, reward)
            total, value = float(used.weight.sum()), statistic.value()
            residual, first = reward - value, None
            by_log_weight = used.slope * residual / total
        else:
            statistic = doubly_robust(used.weight, reward, model)
            residual, first = reward - model.q, model.v if self.modelled else None
            by_log_weight = used.slope * residual / len(reward)
        ratios: Ratios | None = None
        discrete = case.log.num_actions is not None
        counted = discrete and case.fits.fits.whole and case.fits.fits.every_action_known
        centered = (self.normalised or self.modelled) and self.shrinkage is None
        if centered and not discrete:
            scale = len(reward) / total if self.normalised else 1.0
            ratios = LoggedWeights(scale * used.weight, residual, first)
        elif centered and counted:
            ratios = VisitRatios(
                np.ones(len(reward)), case.fits.choices, case.fits.fits.behavior_probs, residual, first
            )
            checks += (check_never_tried(ratios.never_tried(len(reward)), noun=case.units.episode_noun),)
        if self.shrinkage is None and not counted:
            assumptions += ("few of the actions that the policy prefers are absent from the log by chance",)
        checks += (check_range(statistic.value(), case.attainable),)
        return Draft(
            statistic,
            checks,
            assumptions,
            used.weight,
            ratios,
            behavior_gradient=-by_log_weight if case.behavior.fitted else None,
            possible=case.attainable,
        )

    def _model(self, case: Case) -> RewardValues:
        if self.modelled:
            found: RewardValues = case.fits.get(FitReward())
            return found
        nothing = np.zeros(case.log.num_transitions)
        return RewardValues(nothing, nothing)

    def _assumes(self) -> tuple[str, ...]:
        """What it assumes beyond what all do."""
        if self.shrinkage is None:
            return ()
        return (
            "the bias of the smaller weights is within the bound from other decisions, by which the interval is widened",
        )


CONTEXTUAL_BANDITS = (
    BanditEstimator(
        "reward-dr",
        "doubly robust for single decisions: a model of the reward, corrected by weights",
        modelled=True,
        primary_rank=-2,
    ),
    BanditEstimator(
        "snips",
        "self-normalised inverse propensity score: weights only, divided by their sum",
        normalised=True,
        primary_rank=-1,
    ),
    BanditEstimator("ips", "inverse propensity score: weights only"),
    BanditEstimator(
        "switch-dr", "switch doubly robust: large weights give way to the model", modelled=True, shrinkage="switch"
    ),
    BanditEstimator("dros", "doubly robust with optimistic shrinkage of the weights", modelled=True, shrinkage="dros"),
    BanditEstimator("sg-ips", "sub-Gaussian importance weighting: weights made smaller", shrinkage="sg"),
    BanditEstimator(
        "sg-dr", "sub-Gaussian doubly robust: a model, corrected by smaller weights", modelled=True, shrinkage="sg"
    ),
)
