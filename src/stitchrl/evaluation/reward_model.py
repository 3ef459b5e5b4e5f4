"""A model of the reward of one discrete decision, q(s, a), by two ridge regressions that need no array of rows by actions by
features. (Continuous actions: `evaluation/response_surface.py`.)

With x(s) the standardised observation and 1 the constant, the model is fitted in two steps:

    (1)  base(s)    = mean reward + x(s)^T beta                       one regression on all decisions
    (2)  q(s, a)    = base(s) + z(s)^T theta_a,   z = 1 or (1, x)     one for each action, on the residuals of (1)

Both are penalised, (2) with one penalty for all actions, so that an action that was seldom tried stays near the base and one
that was often tried may differ. The penalties, "no effect at all" among them, and whether the effect of an action depends on
the observation, are chosen by the leave-one-out squared error, which ridge regressions give in closed form. q is kept within
the range of the rewards of the fit, and an action that was never tried has q = base.

The value of a policy needs q for every action. It is computed some rows at a time, and only the actions that were fitted have an
effect of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.response_surface import ResponseSurface, fit_surface
from stitchrl.evaluation.ridge import ridge, standardised
from stitchrl.types import NumpyArray

__all__ = ["FitReward", "RewardModel", "RewardValues", "fit_reward"]

CELLS_AT_ONCE = 2**22
"""Numbers of one piece of rows by actions while q is averaged over a policy: 32 MB of them."""
MOST_EFFECTS = 2**20
"""The most numbers that the effects of all actions may hold; beyond it no effect depends on the observation."""


@dataclasses.dataclass(frozen=True, eq=False)
class RewardValues:
    """A model of the reward on N decisions.

    Attributes:
        q: (N,) predicted reward of the logged action.
        v: (N,) predicted reward averaged over the policy's actions.
    """

    q: Float[NumpyArray, " N"]
    v: Float[NumpyArray, " N"]


@dataclasses.dataclass(frozen=True, eq=False)
class RewardModel:
    """The fitted q.

    Attributes:
        scaling: scaling of the observations.
        intercept, slope: the coefficients of equation (1).
        actions: (K,) the actions with an effect of their own, ascending.
        effects: (K, 1) or (K, 1 + D) theta_a of equation (2).
        low, high: the least and the largest reward of the fit.
        residual: (M,) reward minus prediction of each decision of the fit, each predicted without itself.
    """

    scaling: Scaling
    intercept: float
    slope: Float[NumpyArray, " D"]
    actions: Int[NumpyArray, " K"]
    effects: Float[NumpyArray, "K E"]
    low: float
    high: float
    residual: Float[NumpyArray, " M"]

    def of_actions(
        self, obs: Float[NumpyArray, "rows D"], action: Int[NumpyArray, " rows"]
    ) -> Float[NumpyArray, " rows"]:
        """(rows,) q of one action at each row."""
        x = standardised(self.scaling, obs)
        found = self.intercept + x @ self.slope
        if len(self.actions):
            place = np.minimum(np.searchsorted(self.actions, action), len(self.actions) - 1)
            known = self.actions[place] == action
            z = _with_constant(x, self.effects.shape[1])
            found = found + np.where(known, (z * self.effects[place]).sum(1), 0.0)
        return np.clip(found, self.low, self.high)

    def average(
        self, obs: Float[NumpyArray, "rows D"], probs: Float[NumpyArray, "rows A"]
    ) -> Float[NumpyArray, " rows"]:
        """(rows,) q averaged over the actions of a policy."""
        x = standardised(self.scaling, obs)
        base = self.intercept + x @ self.slope
        plain = np.clip(base, self.low, self.high)
        found = probs.sum(1, dtype=np.float64) * plain
        if not len(self.actions):
            return found
        z = _with_constant(x, self.effects.shape[1])
        at_once = max(1, CELLS_AT_ONCE // len(self.actions))
        for start in range(0, len(obs), at_once):
            rows = slice(start, start + at_once)
            q = np.clip(base[rows, None] + z[rows] @ self.effects.T, self.low, self.high)
            found[rows] += (probs[rows][:, self.actions] * (q - plain[rows, None])).sum(1)
        return found


def fit_reward(log: Dataset) -> RewardModel:
    """Fit equations (1) and (2) to the decisions of a log."""
    reward, scaling = log.reward.astype(np.float64), Scaling.fit(log)
    x = standardised(scaling, log.observation)
    intercept, center = float(reward.mean()), x.mean(0)
    path = ridge(x - center, reward - intercept)
    one = int((path.left_out**2).sum(1).argmin())
    slope = path.coefficients[one]
    intercept -= float(center @ slope)
    base = path.left_out[one]  # residuals of (1), each decision predicted without itself
    actions, effects, residual = _effects(x, log.action.astype(np.int64), base)
    return RewardModel(scaling, intercept, slope, actions, effects, float(reward.min()), float(reward.max()), residual)


def _effects(
    x: Float[NumpyArray, "M D"], action: Int[NumpyArray, " M"], left: Float[NumpyArray, " M"]
) -> tuple[Int[NumpyArray, " K"], Float[NumpyArray, "K E"], Float[NumpyArray, " M"]]:
    """Equation (2): the actions with an effect, their effects, and the residual of each decision, predicted without itself."""
    order = np.argsort(action, kind="stable")
    actions, first = np.unique(action[order], return_index=True)
    groups = np.split(order, first[1:])
    best: tuple[float, Float[NumpyArray, "K E"], Float[NumpyArray, " M"]] | None = None
    widths = (1, 1 + x.shape[1]) if len(groups) * (1 + x.shape[1]) <= MOST_EFFECTS else (1,)
    for width in widths:
        paths = [ridge(_with_constant(x[rows], width), left[rows]) for rows in groups]
        errors = np.sum([(path.left_out**2).sum(1) for path in paths], axis=0)
        at = int(errors.argmin())
        if best is not None and errors[at] >= best[0]:
            continue
        residual = np.empty(len(left))
        for rows, path in zip(groups, paths, strict=True):
            residual[rows] = path.left_out[at]
        best = float(errors[at]), np.stack([path.coefficients[at] for path in paths]), residual
    assert best is not None
    _, effects, residual = best
    if not effects.any():
        return actions[:0], effects[:0], residual
    return actions, effects, residual


def _with_constant(x: Float[NumpyArray, "rows D"], width: int) -> Float[NumpyArray, "rows E"]:
    """z of equation (2): the constant alone (width 1), or the constant and the observation."""
    ones = np.ones((len(x), 1))
    return ones if width == 1 else np.concatenate([ones, x], axis=1)


@dataclasses.dataclass(frozen=True)
class FitReward:
    """The request for a model of the reward, by the kind of the log's actions; one serves all policies."""

    def fit(self, data: FitData) -> Sequence[RewardModel | ResponseSurface]:
        """The same model for every policy."""
        fitted = fit_surface(data.log) if data.log.num_actions is None else fit_reward(data.log)
        return [fitted] * data.policies

    def apply(self, model: RewardModel | ResponseSurface, fold: Fold, policy: int) -> RewardValues:
        """q and v on the decisions of a fold."""
        log, v = fold.log, np.empty(fold.log.num_transitions)
        if isinstance(model, ResponseSurface):
            return RewardValues(
                model.of_actions(log.observation, log.action), model.average(log.observation, fold.choices(policy))
            )
        for rows, probs in fold.pieces(policy):
            v[rows] = model.average(log.observation_table[log.observation_index[rows]], probs)
        return RewardValues(model.of_actions(log.observation, log.action), v)

    def join(self, parts: Sequence[RewardValues], order: Order) -> RewardValues:
        """The values of the decisions of all folds, in the order of the log."""
        return RewardValues(order.per_row([part.q for part in parts]), order.per_row([part.v for part in parts]))
