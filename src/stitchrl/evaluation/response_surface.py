"""A model of the reward of one decision with continuous actions, q(s, a): a response surface of the second order.

With x the standardised observation, u the standardised action and z products of them, each standardised,

    q(s, a) = mean reward + z(s, a)^T theta

is a ridge regression (Box and Wilson 1951, for the surface). Four sets of products are tried, each with all of the one before:

    (1)  x and u              (2)  products of two of u, so that a dose may be too high
    (3)  products of x and u, so that the best dose depends on the observation              (4)  products of two of x

The set and the penalty, "no effect at all" among them, are those with the least squared error where each decision is predicted
without itself. q is kept within the range of the rewards of the fit. The model need not be right: `reward-dr` corrects it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.ridge import ridge, standardised
from stitchrl.types import NumpyArray

__all__ = ["ResponseSurface", "fit_surface"]

SETS = 4
"""How many sets of products are tried."""
MOST_TERMS = 1_000
"""Sets of more products than this are not tried."""
NUMBERS_OF_FIT = 2**24
"""Numbers of rows by products that the fit holds, 128 MB of them: on larger logs it is made on a sample of the decisions."""
NUMBERS_AT_ONCE = 2**22
"""Numbers of one piece of rows by products while q is computed: 32 MB of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class ResponseSurface:
    """The fitted q.

    Attributes:
        scaling: scaling of the observations.
        action_mean, action_std: (A,) of the logged actions.
        terms: the set of products, 1 to `SETS`.
        mean, std: (E,) of the products on the decisions of the fit.
        intercept, coefficients: the mean reward, and (E,) theta.
        low, high: the least and the largest reward of the fit.
        residual: (M,) reward minus prediction of each decision of the fit, each predicted without itself.
    """

    scaling: Scaling
    action_mean: Float[NumpyArray, " A"]
    action_std: Float[NumpyArray, " A"]
    terms: int
    mean: Float[NumpyArray, " E"]
    std: Float[NumpyArray, " E"]
    intercept: float
    coefficients: Float[NumpyArray, " E"]
    low: float
    high: float
    residual: Float[NumpyArray, " M"]

    def of_actions(
        self, obs: Float[NumpyArray, "rows D"], action: Float[NumpyArray, "rows A"]
    ) -> Float[NumpyArray, " rows"]:
        """(rows,) q of one action, in logged units, at each row."""
        return self.average(obs, action[:, None, :])

    def average(
        self, obs: Float[NumpyArray, "rows D"], draws: Float[NumpyArray, "rows K A"]
    ) -> Float[NumpyArray, " rows"]:
        """(rows,) mean q of K actions at each row."""
        found, at_once = np.zeros(len(obs)), max(1, NUMBERS_AT_ONCE // len(self.mean))
        slope = self.coefficients / self.std
        constant = self.intercept - float(self.mean @ slope)
        for start in range(0, len(obs), at_once):
            rows = slice(start, start + at_once)
            x = standardised(self.scaling, obs[rows])
            alone = _of_observations(x, self.terms)
            here = constant + alone @ slope[: alone.shape[1]]
            for k in range(draws.shape[1]):
                u = (draws[rows, k].astype(np.float64) - self.action_mean) / self.action_std
                there = _of_actions(x, u, self.terms) @ slope[alone.shape[1] :]
                found[rows] += np.clip(here + there, self.low, self.high)
        return found / draws.shape[1]


def fit_surface(log: Dataset) -> ResponseSurface:
    """Fit the surface to the decisions of a log with continuous actions."""
    reward, scaling = log.reward.astype(np.float64), Scaling.fit(log)
    action = log.action.astype(np.float64)
    mean, std = action.mean(0), _spread(action)
    columns, numbers = log.observation_table.shape[1], action.shape[1]
    tried = [terms for terms in range(1, SETS + 1) if terms == 1 or _count(columns, numbers, terms) <= MOST_TERMS]
    rows = np.arange(len(reward))
    if len(rows) * _count(columns, numbers, tried[-1]) > NUMBERS_OF_FIT:
        kept = max(1, NUMBERS_OF_FIT // _count(columns, numbers, tried[-1]))
        rows = np.sort(np.random.default_rng(0).choice(len(rows), kept, replace=False))
    x = standardised(scaling, log.observation_table[log.observation_index[rows]])
    u, intercept, best = (action[rows] - mean) / std, float(reward.mean()), None
    for terms in tried:
        z = np.concatenate([_of_observations(x, terms), _of_actions(x, u, terms)], axis=1)
        center, size = z.mean(0), _spread(z)
        path = ridge((z - center) / size, reward[rows] - intercept)
        errors = (path.left_out**2).sum(1)
        at = int(errors.argmin())
        if best is None or errors[at] < best[0]:
            best = float(errors[at]), terms, center, size, path.coefficients[at], path.left_out[at]
    assert best is not None
    _, terms, center, size, coefficients, left_out = best
    low, high = float(reward.min()), float(reward.max())
    found = ResponseSurface(scaling, mean, std, terms, center, size, intercept, coefficients, low, high, left_out)
    if len(rows) == len(reward):
        return found
    residual = reward - found.of_actions(log.observation, log.action)
    residual[rows] = left_out
    return dataclasses.replace(found, residual=residual)


def _of_observations(x: Float[NumpyArray, "M D"], terms: int) -> Float[NumpyArray, "M _"]:
    """The products that no action is in."""
    return np.concatenate([x, _pairs(x)], axis=1) if terms > 3 else x


def _of_actions(x: Float[NumpyArray, "M D"], u: Float[NumpyArray, "M A"], terms: int) -> Float[NumpyArray, "M _"]:
    """The products that an action is in."""
    found = [u]
    if terms > 1:
        found.append(_pairs(u))
    if terms > 2:
        found.append((x[:, :, None] * u[:, None, :]).reshape(len(x), -1))
    return np.concatenate(found, axis=1)


def _pairs(values: Float[NumpyArray, "M D"]) -> Float[NumpyArray, "M P"]:
    """Products of every two columns, squares among them."""
    row, column = np.triu_indices(values.shape[1])
    return values[:, row] * values[:, column]


def _count(columns: int, numbers: int, terms: int) -> int:
    """How many products the first `terms` sets have."""
    sets = (columns + numbers, numbers * (numbers + 1) // 2, columns * numbers, columns * (columns + 1) // 2)
    return sum(sets[:terms])


def _spread(values: Float[NumpyArray, "M E"]) -> Float[NumpyArray, " E"]:
    """Standard deviations; 1 for columns that do not vary."""
    std = values.std(0)
    return np.where(std > 1e-12 * np.maximum(np.abs(values).max(0, initial=0.0), 1e-300), std, 1.0)
