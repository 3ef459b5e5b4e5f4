"""How strong a hidden cause in one single decision would have to be to overturn a gain.

A hidden cause u of strength Lambda (Tan 2006) changes the odds of a logged action by a factor of at most Lambda in either
direction. With z = b(a|s) / b(a|s, u), which then lies between alpha = b + (1 - b)/Lambda and beta = b + Lambda (1 - b)
and averages 1, the least mean outcome of an action that such a cause permits is (Dorn and Guo 2023; Bruns-Smith and Zhou
2023)

    alpha E[Y] + (1 - alpha) CVaR_tau(Y),   tau = 1 / (Lambda + 1),   Y = r + gamma V(s')

with CVaR_tau the mean of the worst share tau. Where the cause acts in the decision at step t and in no other, the value
of the policy falls by at most

    drop_t(Lambda) = gamma^t E_{s ~ policy at t} sum_a pi(a|s) (1 - b(a|s)) (1 - 1/Lambda) (E[Y|s,a] - CVaR_tau(Y|s,a))

and the largest over t is reported. It is estimated from the TD errors that the corrected Q leaves, since the drop does not
depend on where the outcomes lie; by CVaR_tau(Y) = max_q (q - E(q - Y)_+ / tau) any q gives a drop that is too large rather
than too small, so a quantile within groups of like Q is enough. The ratio of state visits at each step apart is carried
forward from the first step (Xie, Ma, Wang 2019, arXiv 1906.03393).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.estimator import Case
from stitchrl.evaluation.fits import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import FittedQ
from stitchrl.evaluation.refit import RIDGE, FitQ, refit
from stitchrl.evaluation.statistic import Statistic
from stitchrl.types import NumpyArray

__all__ = ["LARGEST", "OutcomeSpread", "Sensitivity", "SpreadOfOutcomes", "single_decision_sensitivity"]

LARGEST = 20.0
"""Odds ratios are searched up to this one."""
GROUPS = 20
"""Groups of like Q in which the outcomes of an action are taken to be spread alike."""
STEPS_LOOKED_AT = 400
"""A hidden cause is sought in so many first steps; under a discount later ones weigh less."""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The hidden cause in one decision that would overturn a gain.

    Attributes:
        odds_ratio: the smallest Lambda at which the lower end of the gain falls to the margin; 1 where it is not above
            it at all, `LARGEST` where none up to that would do.
        step: the step of the decision in which it would act, counted from 0.
    """

    odds_ratio: float
    step: int

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class OutcomeSpread:
    """What the drop is computed from, at N transitions.

    Attributes:
        weight: (N,) gamma^t w_t rho_t (1 - b), with the ratio of state visits of step t alone.
        residual: (N,) outcome minus the corrected Q of the logged action.
        group: (N,) transitions whose outcomes are taken to be spread alike.
    """

    weight: Float[NumpyArray, " N"]
    residual: Float[NumpyArray, " N"]
    group: Int[NumpyArray, " N"]

    @cached_property
    def _sorted(self) -> list[tuple[NumpyArray, NumpyArray]]:
        """For each group its residuals, ascending, and the shares of weight up to each."""
        found = []
        for k in range(int(self.group.max(initial=0)) + 1):
            rows = np.flatnonzero(self.group == k)
            rows = rows[np.argsort(self.residual[rows], kind="stable")]
            weight = np.abs(self.weight[rows])
            total = weight.sum()
            share = np.cumsum(weight) / total if total > 0 else np.linspace(0, 1, len(rows))
            found.append((self.residual[rows], share))
        return found

    def drops(self, odds_ratio: float, *, upwards: bool = False) -> Float[NumpyArray, " N"]:
        """(N,) what each transition adds to the drop of the value, or to its rise, at an odds ratio."""
        tau = 1.0 / (odds_ratio + 1.0)
        quantile = np.array(
            [
                0.0 if not len(sorted_) else sorted_[_place(share, 1 - tau if upwards else tau)]
                for sorted_, share in self._sorted
            ]
        )[self.group]
        beyond = self.residual - quantile if upwards else quantile - self.residual
        tail = quantile + np.maximum(beyond, 0.0) / tau * (1 if upwards else -1)
        gap = tail - self.residual if upwards else self.residual - tail
        return self.weight * (1.0 - 1.0 / odds_ratio) * gap


def _place(share: NumpyArray, tau: float) -> int:
    return min(int(np.searchsorted(share, tau)), len(share) - 1)


@dataclasses.dataclass(frozen=True)
class SpreadOfOutcomes:
    """The request for the outcomes' spread about the Q that `FitQ` fits; nothing else is fitted for it."""

    def fit(self, data: FitData) -> Sequence[list[FittedQ]]:
        """The Q of all policies."""
        found: Sequence[list[FittedQ]] = data.models(FitQ())
        return found

    def apply(self, model: list[FittedQ], fold: Fold, policy: int) -> OutcomeSpread:
        """The spread on the episodes of a fold, about the first network's Q."""
        log, gamma = fold.timed_log, fold.data.gamma
        fitted = model[0].on(log, fold.choices(policy), fold.next_choices(policy))
        known = fold.log_ratio(policy)
        assert known is not None, "the primary estimate weighs actions by their density"
        ratio = np.exp(known)
        corrected = refit(log, fitted, ratio, gamma=gamma)
        bootstraps = log.can_bootstrap
        visits = visits_by_step(log, fitted["psi"].astype(np.float64), fitted["next_psi"], ratio, corrected.visits)
        # No action out of a continuum has a probability: alpha is 1/Lambda there, and beta Lambda.
        behavior = 0.0 if log.num_actions is None else np.exp(fold.behavior.log_prob)
        weight = np.power(gamma, log.position) * visits * ratio * bootstraps * (1.0 - behavior)
        return OutcomeSpread(weight, np.where(bootstraps, corrected.residual, 0.0), _groups(fitted["q"]))

    def join(self, parts: Sequence[OutcomeSpread], order: Order) -> OutcomeSpread:
        """Groups of different folds stay apart, since each fold has a Q of its own."""
        first = np.cumsum([0] + [int(part.group.max(initial=0)) + 1 for part in parts])
        return OutcomeSpread(
            order.per_row([part.weight for part in parts]),
            order.per_row([part.residual for part in parts]),
            order.per_row([part.group + k for part, k in zip(parts, first, strict=False)]),
        )


def visits_by_step(
    log: Dataset,
    psi: Float[NumpyArray, "N H"],
    next_psi: Float[NumpyArray, "N H"],
    ratio: Float[NumpyArray, " N"],
    visits: Float[NumpyArray, " N"],
) -> Float[NumpyArray, " N"]:
    """Ratio of state visits at each step apart, carried forward from the first step.

    At each step the weights of the last step, times the ratio of its actions, say which features the policy meets next. A
    ridge regression gives the weights that reproduce them, starting from `visits`, which remain where rows are few. Steps
    beyond `STEPS_LOOKED_AT` keep `visits`.
    """
    n, position = log.num_episodes, log.position
    found = visits.copy()
    found[log.episode_start[:-1]] = 1.0
    order = np.argsort(position, kind="stable")
    last = min(int(position.max()), STEPS_LOOKED_AT)
    ends = np.searchsorted(position[order], np.arange(last + 2))
    go_on = log.can_bootstrap & ~log.terminated
    ridge = RIDGE * float((psi**2).mean()) * np.eye(psi.shape[1])
    for step in range(last):
        before, now = order[ends[step] : ends[step + 1]], order[ends[step + 1] : ends[step + 2]]
        met = next_psi[before].T @ (found[before] * ratio[before] * go_on[before]) / n
        here = psi[now]
        share = len(now) / n
        change = np.linalg.solve(here.T @ here / n + share * ridge, met - here.T @ visits[now] / n)
        found[now] = np.maximum(visits[now] + here @ change, 0.0)
    return found


def _groups(q: Float[NumpyArray, " N"]) -> Int[NumpyArray, " N"]:
    edges = np.unique(np.quantile(q, np.linspace(0, 1, GROUPS + 1)[1:-1]))
    return np.searchsorted(edges, q).astype(np.int64)


def single_decision_sensitivity(
    case: Case, gain: Statistic, standard_error: float, *, margin: float, confidence: float, unknown: float = 0.0
) -> Sensitivity:
    """The smallest hidden cause in one decision at which the lower end of a gain falls to the margin.

    Args:
        case: of the policy; where it has a baseline policy, the baseline's value rises by what its own falls.
        gain: of the primary estimate.
        standard_error: of that gain, with the variance to be expected.
        margin: the least gain worth having.
        confidence: two-sided coverage that the lower end is of.
        unknown: by how much the lower end is lower for what the log cannot say; at most 0.
    """
    spread: OutcomeSpread = case.fits.get(SpreadOfOutcomes())
    other: OutcomeSpread | None = None if case.baseline is None else case.baseline.fits.get(SpreadOfOutcomes())
    position = case.log.position
    near = position < STEPS_LOOKED_AT
    reach = float(stats.t.ppf((1 + confidence) / 2, max(case.units.count - 1, 1)))
    value, influence, n = gain.value(), gain.influence(), gain.n
    widened = standard_error**2 - float(case.units.sums(influence).var()) * case.units.count / n**2

    def worst(odds_ratio: float) -> tuple[float, int]:
        """The lower end of the gain where the drop at one step is largest, and that step."""
        drops = spread.drops(odds_ratio)
        if other is not None:
            drops = drops + other.drops(odds_ratio, upwards=True)
        by_step = np.bincount(position[near], drops[near]) / n
        step = int(by_step.argmax())
        rows = np.flatnonzero(position == step)
        of_episode = np.bincount(case.log.episode_of_transition[rows], drops[rows], minlength=n)
        sums = case.units.sums(influence - (of_episode - of_episode.mean()))
        error = np.sqrt(max(float(sums.var()) * case.units.count / n**2 + max(widened, 0.0), 0.0))
        return value + unknown - by_step[step] - reach * error - margin, step

    if value + unknown - reach * standard_error <= margin:
        return Sensitivity(1.0, worst(LARGEST)[1])
    low, high = 1.0, LARGEST
    if worst(high)[0] > 0:
        return Sensitivity(LARGEST, worst(high)[1])
    for _ in range(30):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if worst(middle)[0] > 0 else (low, middle)
    return Sensitivity(float(low), worst(high)[1])
