"""How strong a hidden cause would have to be to overturn a gain: in one single decision, or in every one.

A hidden cause u of strength Lambda (Tan 2006) changes the odds of a logged action by a factor of at most Lambda in either
direction. With z = b(a|s) / b(a|s, u), which then lies between alpha = b + (1 - b)/Lambda and beta = b + Lambda (1 - b)
and averages 1, the least mean outcome of an action that such a cause permits is (Dorn and Guo 2023; Bruns-Smith and Zhou
2023)

    alpha E[Y] + (1 - alpha) CVaR_tau(Y),   tau = 1 / (Lambda + 1),   Y = r + gamma V(s')

with CVaR_tau the mean of the worst share tau. Where the cause acts in the decision at step t and in no other, the value
of the policy falls by at most

    drop_t(Lambda) = gamma^t E_{s ~ policy at t} sum_a pi(a|s) (1 - b(a|s)) (1 - 1/Lambda) (E[Y|s,a] - CVaR_tau(Y|s,a))

and the largest over t is reported. It is estimated from the TD errors that the corrected Q leaves, since the drop does not
change when a constant is added to all outcomes. By CVaR_tau(Y) = max_q (q - E(q - Y)_+ / tau), a q that is not the quantile makes
the drop too large rather than too small, so that a quantile within groups of similar Q is enough. The ratio of state visits at
each single step is carried forward from the first step (Xie, Ma, Wang 2019, arXiv 1906.03393).

Where the cause acts in every decision, `robust_values.py` gives the fall of the value at each of a grid of strengths, and the
strength at which the lower end of the gain meets the margin is found between two of them. The behaviour's own value does not
fall: it is what the log shows. Either cause is taken to have no memory: it is drawn anew in every decision and depends on the
state alone. One that lasts, such as what a patient is like, can do more harm at the same strength.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.estimator import Case
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import FittedQ
from stitchrl.evaluation.linear_system import RIDGE
from stitchrl.evaluation.refit import FitQ, ratio_of, refit
from stitchrl.evaluation.robust_values import GRID, RobustValues, like_q, robust_values
from stitchrl.evaluation.statistic import Statistic
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["LARGEST", "LARGEST_EVERY", "OutcomeSpread", "Outcomes", "Sensitivity", "hidden_cause_sensitivity"]

LARGEST = 20.0
"""Odds ratios in one decision are searched up to this one."""
LARGEST_EVERY = GRID[-1]
"""Odds ratios in every decision are searched up to this one."""
STEPS_LOOKED_AT = 400
"""A hidden cause in one decision is sought among the first so many steps; under a discount later ones weigh less."""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The hidden cause, in one decision and in every one, at which a gain would no longer be shown.

    Attributes:
        odds_ratio: the smallest Lambda in one decision at which the lower end of the gain falls to the margin. It is 1 where
            the lower end is not above the margin at all, and `LARGEST` where no Lambda up to that is enough.
        step: the step of the decision in which it would act, counted from 0.
        every_decision: the smallest Lambda in every decision, from 1 to `LARGEST_EVERY` with the same meaning; None where it
            was not computed, as in files of older versions.
    """

    odds_ratio: float
    step: int
    every_decision: float | None = None

    def every_in_words(self) -> str:
        """How strong a cause in every decision would have to be, as a sentence; "" where that is not known, or where there is
        no gain to overturn."""
        if self.every_decision is None or self.every_decision <= 1:
            return ""
        if self.every_decision >= LARGEST_EVERY:
            return f"One that acts in every decision would not overturn it with a factor of up to {LARGEST_EVERY:g}."
        return f"One that acts in every decision would overturn it with a factor of {self.every_decision:.2f}."

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class OutcomeSpread:
    """What the drop is computed from, at N transitions.

    Attributes:
        weight: (N,) gamma^t w_t rho_t (1 - b), with the ratio of state visits of step t alone.
        residual: (N,) outcome minus the corrected Q of the logged action.
        group: (N,) the group of each transition; outcomes of one group are taken to have the same spread.
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
        """(N,) what each transition adds to the drop of the value, or with `upwards` to its rise, at an odds ratio."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class OutcomesOf:
    """What hidden causes can do to the value of one policy.

    Attributes:
        spread: what the effect of a cause in one decision is computed from.
        robust: the values under a cause in every decision; None where they were not asked for.
    """

    spread: OutcomeSpread
    robust: RobustValues | None


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """The request for the outcomes' spread about the Q that `FitQ` fits; no further network is fitted for it.

    Attributes:
        every: "falls" also asks for the least values under a cause in every decision, "rises" for the largest; "no" for neither.
    """

    every: Literal["no", "falls", "rises"] = "no"

    def fit(self, data: FitData) -> Sequence[list[FittedQ]]:
        """The Q of all policies."""
        found: Sequence[list[FittedQ]] = data.models(FitQ())
        return found

    def apply(self, model: list[FittedQ], fold: Fold, policy: int) -> OutcomesOf | None:
        """What is asked for, on the episodes of a fold, about the first network's Q; None where the policy has no density."""
        log, gamma = fold.timed_log, fold.data.gamma
        known = fold.log_ratio(policy)
        if known is None:
            return None
        fitted = model[0].on(log, fold.choices(policy), fold.next_choices(policy))
        ratio = ratio_of(known)
        # An action in a continuum has probability 0: alpha is 1/Lambda there, and beta Lambda.
        behavior = np.zeros(len(ratio)) if log.num_actions is None else np.exp(fold.behavior.log_prob)
        robust = None
        if self.every != "no":
            robust = robust_values(log, fitted, ratio, behavior, gamma=gamma, upwards=self.every == "rises")
        corrected = refit(log, fitted, ratio, gamma=gamma)
        bootstraps = log.can_bootstrap
        psi, next_psi = fitted["psi"], fitted["next_psi"]
        if log.elapsed is None:
            visits = visits_by_step(log, psi, next_psi, ratio, corrected.visits)
            visits = log.reward_discount(gamma) * visits
        else:  # the discount depends on how long a state makes wait, so the ratio that is carried forward includes it
            start = log.reward_discount(gamma) * corrected.visits
            visits = visits_by_step(log, psi, next_psi, ratio, start, log.discount(gamma))
        weight = visits * ratio * bootstraps * (1.0 - behavior)
        spread = OutcomeSpread(weight, np.where(bootstraps, corrected.residual, 0.0), like_q(fitted["q"]))
        return OutcomesOf(spread, robust)

    def join(self, parts: Sequence[OutcomesOf | None], order: Order) -> OutcomesOf | None:
        """Groups of different folds stay apart, since each fold has a Q of its own."""
        known = [part for part in parts if part is not None]
        return _joined(known, order) if known else None


def _joined(parts: Sequence[OutcomesOf], order: Order) -> OutcomesOf:
    spreads = [part.spread for part in parts]
    first = np.cumsum([0] + [int(one.group.max(initial=0)) + 1 for one in spreads])
    robust = [part.robust for part in parts if part.robust is not None]
    return OutcomesOf(
        OutcomeSpread(
            order.per_row([one.weight for one in spreads]),
            order.per_row([one.residual for one in spreads]),
            order.per_row([one.group + k for one, k in zip(spreads, first, strict=False)]),
        ),
        RobustValues.join(robust, order) if robust else None,
    )


def visits_by_step(
    log: Dataset,
    psi: Float[NumpyArray, "N H"],
    next_psi: Float[NumpyArray, "N H"],
    ratio: Float[NumpyArray, " N"],
    visits: Float[NumpyArray, " N"],
    discount: Float[NumpyArray, " N"] | None = None,
) -> Float[NumpyArray, " N"]:
    """(N,) ratio of state visits at each single step, carried forward from the first step.

    At each step the weights of the previous step, times the ratios of its actions, tell which features the policy meets. A ridge
    regression gives the weights that reproduce these features. It starts from `visits`, which remain where there are few rows.

    Args:
        log: the episodes.
        psi, next_psi: (N, H) features of the states and of the next ones.
        ratio: (N,) policy / behaviour probability of the logged actions.
        visits: (N,) ratio of state visits over all steps together; steps beyond `STEPS_LOOKED_AT` keep it.
        discount: (N,) factor by which the weights fall from each row to the next; None: they do not.
    """
    n, position = log.num_episodes, log.position
    found = visits.copy()
    found[log.episode_start[:-1]] = 1.0
    order = np.argsort(position, kind="stable")
    last = min(int(position.max()), STEPS_LOOKED_AT)
    ends = np.searchsorted(position[order], np.arange(last + 2))
    go_on = log.can_bootstrap & ~log.terminated if discount is None else log.can_bootstrap * discount
    squares = float(np.einsum("nh,nh->", psi, psi, dtype=np.float64)) / psi.size
    ridge = RIDGE * squares * np.eye(psi.shape[1])
    for step in range(last):
        before, now = order[ends[step] : ends[step + 1]], order[ends[step + 1] : ends[step + 2]]
        met = next_psi[before].T @ (found[before] * ratio[before] * go_on[before]) / n
        here = psi[now].astype(np.float64)
        share = len(now) / n
        change = np.linalg.solve(here.T @ here / n + share * ridge, met - here.T @ visits[now] / n)
        found[now] = np.maximum(visits[now] + here @ change, 0.0)
    return found


def hidden_cause_sensitivity(
    case: Case, gain: Statistic, standard_error: float, *, margin: float, confidence: float, unknown: float = 0.0
) -> Sensitivity:
    """The smallest hidden causes, in one decision and in every one, at which the lower end of a gain falls to the margin.

    Args:
        case: the case of the policy. Where gains are over a baseline policy, the same cause lowers the policy's value as far as
            it can and raises the baseline's as far as it can.
        gain: the gain by the primary estimator.
        standard_error: standard error of that gain, which is at least the expected one.
        margin: the least gain worth having.
        confidence: two-sided coverage of the interval whose lower end is meant.
        unknown: at most 0; added to the lower end for what the log cannot say.
    """
    reach = float(stats.t.ppf((1 + confidence) / 2, max(case.units.count - 1, 1)))
    above = _Above(case.units, gain, standard_error, reach, unknown - margin)
    shown = above.now > 0
    own: OutcomesOf = case.fits.get(Outcomes("falls" if shown else "no"))
    other: OutcomesOf | None = None
    if case.baseline is not None:
        other = case.baseline.fits.get(Outcomes("rises" if shown else "no"))
    found = _single_decision(case, own.spread, None if other is None else other.spread, above)
    if own.robust is None:
        return dataclasses.replace(found, every_decision=1.0)
    falls = -own.robust.change
    if other is not None and other.robust is not None:
        falls = falls + other.robust.change
    every = _every_decision(falls, above)
    # A cause that acts in one decision only must be at least as strong as one that acts in every decision. Over long episodes the
    # drop of one step is mostly noise and may come out otherwise, so it is corrected here. With a fitted behaviour, where the
    # verdict depends on the strength, it stays as it was found.
    known = found.odds_ratio if case.behavior.fitted else max(found.odds_ratio, every)
    return dataclasses.replace(found, odds_ratio=known, every_decision=every)


class _Above:
    """How far the lower end of a gain lies above the margin, now and where the gain were less."""

    def __init__(self, units: Units, gain: Statistic, standard_error: float, reach: float, moved: float) -> None:
        self._units, self._influence, self._n = units, gain.influence(), gain.n
        self._middle, self._reach, self._error = gain.value() + moved, reach, standard_error
        self._widened = standard_error**2 - self._variance(np.zeros(self._n))
        self.now = self._middle - reach * standard_error

    def _variance(self, falls: Float[NumpyArray, " n"]) -> float:
        sums = self._units.sums(self._influence - (falls - falls.mean()))
        return float(sums.var()) * self._units.count / self._n**2

    def after(self, falls: Float[NumpyArray, " n"], *, narrower: bool = True) -> float:
        """How far the lower end lies above the margin where the gain falls by the mean of `falls`.

        Args:
            falls: (n,) contribution of each episode to the fall; their spread, paired with the gain's, changes the interval.
            narrower: whether the interval may become narrower than it is now.
        """
        error = np.sqrt(max(self._variance(falls) + max(self._widened, 0.0), 0.0))
        error = error if narrower else max(error, self._error)
        return self._middle - float(falls.mean()) - self._reach * float(error)


def _single_decision(case: Case, spread: OutcomeSpread, other: OutcomeSpread | None, above: _Above) -> Sensitivity:
    """The smallest cause in one decision, and its step."""
    position, n = case.log.position, case.log.num_episodes
    near = position < STEPS_LOOKED_AT

    def worst(odds_ratio: float) -> tuple[float, int]:
        """How far above the margin the lower end is where the drop at one step is largest, and that step."""
        drops = spread.drops(odds_ratio)
        if other is not None:
            drops = drops + other.drops(odds_ratio, upwards=True)
        step = int(np.bincount(position[near], drops[near]).argmax())
        rows = np.flatnonzero(position == step)
        return above.after(np.bincount(case.log.episode_of_transition[rows], drops[rows], minlength=n)), step

    if above.now <= 0:
        return Sensitivity(1.0, worst(LARGEST)[1])
    low, high = 1.0, LARGEST
    if worst(high)[0] > 0:
        return Sensitivity(LARGEST, worst(high)[1])
    for _ in range(30):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if worst(middle)[0] > 0 else (low, middle)
    return Sensitivity(float(low), worst(high)[1])


def _every_decision(falls: Float[NumpyArray, "n L"], above: _Above) -> float:
    """The strength at which the lower end meets the margin, interpolated between two strengths of the grid.

    The lower end at a stronger cause is taken to be no higher than that at a weaker one, even where noise makes it so.

    Args:
        falls: (n, L) how far the gain falls by each episode, at every strength of `GRID`; 0 at the first.
        above: tells how far the lower end of the gain lies above the margin, which it does without a cause.
    """
    before = above.now
    for weaker, odds_ratio, of_episode in zip(GRID[:-1], GRID[1:], falls.T[1:], strict=True):
        if not np.isfinite(of_episode).all():
            return float(weaker)
        now = min(before, above.after(of_episode, narrower=False))
        if now <= 0:
            share = before / (before - now)
            return float(weaker * (odds_ratio / weaker) ** share)
        before = now
    return LARGEST_EVERY
