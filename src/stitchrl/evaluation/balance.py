"""Tests of ratios on functions that they were not made from: could they be the ratios of this policy on this log?

For any function g of the observation, right ratios rho = policy / behaviour and right ratios of state visits w obey

    calibration   E[ sum_t (rho_t - 1) g(s_t) ] = 0
    balance       E[ g(s_0) - sum_t w_t rho_t (g(s_t) - gamma (1 - terminated) g(s_{t+1})) ] = 0

Calibration fails where propensities, logged or fitted, are wrong. Balance fails where the log does not go where the policy
goes (the balance of visits is that of Liu, Li, Tang, Zhou 2018, arXiv 1810.12429). Weights that were solved for on some
features obey balance on these by construction, so g must be other functions: here indicators of regions of the observation
space, which sum to 1 and so include the constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from stitchrl.auditing.regions import Regions
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = [
    "JointTest",
    "RegionIndex",
    "balance_of_actions",
    "balance_of_choices",
    "balance_test",
    "calibration_test",
    "joint_p_value",
    "mass_test",
    "unseen_spread",
]

SAMPLE_ROWS = 32_768
"""Rows that regions are found on, at most; and rows whose regions are looked up at once."""
DRAWS_LOOKED_AT = 4
"""How many of the drawn actions of each state a test of balance uses."""


class JointTest(NamedTuple):
    """A test that several expectations are all 0.

    Attributes:
        size: how far from 0 they are together, as a share; each test says of what.
        p_value: chance of a deviation as large or larger if all were 0; 1 where nothing can be tested.
    """

    size: float
    p_value: float


class RegionIndex:
    """The region of each observation of a log, before and after each action; regions hold about equally many rows.

    Images are all in one region.
    """

    def __init__(self, log: Dataset) -> None:
        self.count, of_table = _regions_of(log)
        self.here = of_table[log.observation_index]
        self.next = np.where(log.next_observation_index == NO_OBSERVATION, 0, of_table[log.next_observation_index])
        self.episode = log.episode_of_transition
        self.first = log.episode_start[:-1]

    def sums(self, region: NumpyArray, values: Float[NumpyArray, " N"]) -> Float[NumpyArray, "n K"]:
        """(n, K) the sums over each episode of the (N,) numbers of its transitions, by the (N,) region of each."""
        n = len(self.first)
        cells = np.bincount(self.episode * self.count + region, values, minlength=n * self.count)
        return cells.reshape(n, self.count)


def _regions_of(log: Dataset) -> tuple[int, Int[NumpyArray, " M"]]:
    """How many regions there are, and that of each stored observation."""
    table = log.observation_table
    if table.ndim != 2:
        return 1, np.zeros(len(table), np.int64)
    rows = log.observation_index
    if len(rows) > SAMPLE_ROWS:
        rows = rows[np.sort(np.random.default_rng(0).choice(len(rows), SAMPLE_ROWS, replace=False))]
    seen = _plain(table[rows])
    mean, spread = seen.mean(0), seen.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    regions = Regions.fit((seen - mean) / spread)
    found = np.empty(len(table), np.int64)
    for start in range(0, len(table), SAMPLE_ROWS):
        piece = slice(start, start + SAMPLE_ROWS)
        found[piece] = regions.of((_plain(table[piece]) - mean) / spread)
    return regions.count, found


def _plain(table: NumpyArray) -> Float[NumpyArray, "rows D"]:
    return np.nan_to_num(table.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def calibration_test(
    regions: RegionIndex,
    ratio: Float[NumpyArray, " N"],
    units: Units,
    noise: Float[NumpyArray, "K K"] | None = None,
) -> JointTest:
    """Whether the ratios of the logged actions average 1 in every region; `size` is the mean over rows of |average - 1|.

    Args:
        regions: the regions of the log's observations.
        ratio: (N,) policy / behaviour probability of each logged action.
        units: which episodes are independent.
        noise: (K, K) covariance, over the regions, of the sums of the ratios that these rows do not show by themselves: the
            part that comes from the fit of the behaviour, or `unseen_spread`.
    """
    found = regions.sums(regions.here, ratio - 1.0)
    rows = np.bincount(regions.here, minlength=regions.count)
    return JointTest(float(np.abs(found.sum(0)).sum() / rows.sum()), joint_p_value(found, units, noise))


def balance_of_choices(
    regions: RegionIndex,
    probs: Float[NumpyArray, "N A"],
    action: Int[NumpyArray, " N"],
    weights: Float[NumpyArray, " N"],
    units: Units,
) -> JointTest:
    """Whether weighted discrete actions are as likely under the policy as the policy's own, in every region.

    Right weights W of state and action together obey E[ sum_t W_t (pi(a_t|s_t) - sum_a pi(a|s_t)^2) g(s_t) ] = 0; weights that
    follow the policy's states but not its actions do not. `size` is the deviation as a share of the second term.

    Args:
        regions: the regions of the log's observations.
        probs: (N, A) the policy's probabilities.
        action: (N,) the logged actions.
        weights: (N,) weight of each transition.
        units: which episodes are independent.
    """
    likely = np.take_along_axis(probs, action[:, None].astype(np.int64), 1)[:, 0].astype(np.float64)
    own = (probs.astype(np.float64) ** 2).sum(1)
    found = regions.sums(regions.here, weights * (likely - own))
    total = float(np.abs(weights) @ own)
    return JointTest(float(np.abs(found.sum(0)).sum()) / max(total, 1e-300), joint_p_value(found, units, None))


def unseen_spread(
    regions: RegionIndex, ratio: Float[NumpyArray, " N"], expected_square: Float[NumpyArray, " N"]
) -> Float[NumpyArray, "K K"]:
    """(K, K) diagonal: the variance that the ratios of each region should have, less what they show.

    Where rare actions have large ratios and none of them was drawn, all ratios of a region are a little below 1 and hardly
    differ. A test by their own spread would then call right propensities wrong.

    Args:
        regions: the regions of the log's observations.
        ratio: (N,) policy / behaviour probability of each logged action.
        expected_square: (N,) mean square of the ratio over the actions of the behaviour, sum_a pi(a|s)^2 / b(a|s).
    """
    with np.errstate(over="ignore"):
        missing = np.bincount(regions.here, expected_square - 1.0 - (ratio - 1.0) ** 2, minlength=regions.count)
    return np.diag(np.maximum(missing, 0.0))


def balance_test(
    log: Dataset,
    regions: RegionIndex,
    weights: Float[NumpyArray, " N"],
    gamma: float,
    units: Units,
    *,
    start: Float[NumpyArray, " n"] | None = None,
) -> JointTest:
    """Whether the weights carry the first states through the regions; `size` is the share that is gained or lost on the way.

    Args:
        log: the log that the weights are on.
        regions: the regions of its observations.
        weights: (N,) weight of each transition, gamma^t included.
        gamma: discount.
        units: which episodes are independent.
        start: (n,) how much each first state counts, 1 on average; None: each counts 1.
    """
    go_on = weights * log.discount(gamma) * log.can_bootstrap
    found = regions.sums(regions.next, go_on) - regions.sums(regions.here, weights)
    found[np.arange(len(found)), regions.here[regions.first]] += 1.0 if start is None else start
    # In long episodes more flows through each region: the share is that of all arrivals, first states and later ones.
    through = 1.0 + float(np.abs(go_on).sum()) / len(found)
    return JointTest(float(np.abs(found.mean(0)).sum()) / through, joint_p_value(found, units))


def mass_test(log: Dataset, weights: Float[NumpyArray, " N"], gamma: float, units: Units) -> JointTest:
    """Whether the weights carry every episode to one end: E[ sum_t W_t (1 - gamma (1 - terminated)) ] = 1, the balance of g = 1.

    `balance_test` compares with all that flows through the regions, so that in long episodes it does not notice weights that
    are all too large by a common factor. `size` is the share of the episodes that is gained or lost.

    Args:
        log: the log that the weights are on.
        weights: (N,) weight of each transition, gamma^t included.
        gamma: discount.
        units: which episodes are independent.
    """
    left = weights * (1.0 - log.discount(gamma) * log.can_bootstrap)
    found = np.add.reduceat(left, log.episode_start[:-1])[:, None] - 1.0
    return JointTest(float(np.abs(found.mean())), joint_p_value(found, units))


def balance_of_actions(
    log: Dataset,
    draws: Float[NumpyArray, "N K D"],
    next_draws: Float[NumpyArray, "N K D"],
    weights: Float[NumpyArray, " N"],
    gamma: float,
    units: Units,
) -> JointTest:
    """Whether the weights carry the first states and actions through regions of observation and action together.

    `size` is the share that is gained or lost on the way.

    Args:
        log: a log with continuous actions.
        draws, next_draws: (N, K, D) actions of the policy at the states and at the next states.
        weights: (N,) weight of each logged transition, state and action together, gamma^t included.
        gamma: discount.
        units: which episodes are independent.
    """
    images = log.observation_table.ndim != 2  # of which regions are not made
    table = np.zeros((len(log.observation_table), 0)) if images else _plain(log.observation_table)
    rows = log.observation_index
    sample = np.arange(len(rows))
    if len(rows) > SAMPLE_ROWS:
        sample = np.sort(np.random.default_rng(0).choice(len(rows), SAMPLE_ROWS, replace=False))
    # Half of the regions' cuts should be about actions, however many columns an observation has.
    scales = [_scale(table[rows[sample]]), _scale(log.action[sample].astype(np.float64))]

    def joined(obs: NumpyArray, action: NumpyArray) -> NumpyArray:
        return np.concatenate([(obs - scales[0][0]) / scales[0][1], (action - scales[1][0]) / scales[1][1]], axis=1)

    regions = Regions.fit(joined(table[rows[sample]], log.action[sample]))

    def shares(index: NumpyArray, actions: Float[NumpyArray, "M K D"]) -> Float[NumpyArray, "M regions"]:
        found = np.zeros((len(index), regions.count))
        count = min(actions.shape[1], DRAWS_LOOKED_AT)
        for start in range(0, len(index), SAMPLE_ROWS):
            piece = np.arange(start, min(start + SAMPLE_ROWS, len(index)))
            for k in range(count):
                found[piece, regions.of(joined(table[index[piece]], actions[piece, k]))] += 1.0 / count
        return found

    first = log.episode_start[:-1]
    go_on = weights * log.discount(gamma) * log.can_bootstrap
    flow = go_on[:, None] * shares(np.maximum(log.next_observation_index, 0), next_draws)
    flow -= weights[:, None] * shares(rows, log.action[:, None, :])
    found = np.add.reduceat(flow, first, axis=0) + shares(rows[first], draws[first])
    through = 1.0 + float(np.abs(go_on).sum()) / len(found)
    return JointTest(float(np.abs(found.mean(0)).sum()) / through, joint_p_value(found, units))


def _scale(values: Float[NumpyArray, "rows D"]) -> tuple[NumpyArray, NumpyArray]:
    """Centre and width of columns, such that all together have a variance of 1."""
    spread = values.std(0)
    return values.mean(0), np.where(spread > 0, spread, 1.0) * np.sqrt(values.shape[1])


def joint_p_value(
    found: Float[NumpyArray, "n K"], units: Units, noise: Float[NumpyArray, "K K"] | None = None
) -> float:
    """Hotelling's test (1931) that the means of all columns are 0, over independent units.

    Args:
        found: (n, K) numbers of each episode.
        units: which episodes are independent.
        noise: (K, K) further covariance of the columns' sums over all units; None: no more than the units show.

    Returns:
        The chance of so large a deviation if all means were 0. It is 1 where there are too few units to tell, and 0 where
        the numbers are the same in all units and are not 0, or not finite.
    """
    if not found.shape[1]:
        return 1.0
    sums = units.sums(found)
    used = np.abs(sums).max(0) > 0
    sums = sums[:, used]
    n, k = sums.shape
    if k == 0:
        return 1.0
    if n <= k + 1:
        return 1.0
    mean = sums.mean(0)
    with np.errstate(over="ignore", invalid="ignore"):
        covariance = np.cov(sums, rowvar=False).reshape(k, k)
    if noise is not None:
        covariance = covariance + noise[np.ix_(used, used)] / n
    if not np.isfinite(covariance).all():
        return 0.0
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-12 * max(float(values.max()), 1e-300)
    along = vectors.T @ mean
    # A direction in which no unit differs from any other is not a matter of chance.
    if (np.abs(along[~kept]) > 1e-9 * max(float(np.abs(sums).max()), 1e-300)).any():
        return 0.0
    rank = int(kept.sum())
    if rank == 0:
        return 1.0
    statistic = n * float((along[kept] ** 2 / values[kept]).sum())
    return float(stats.f.sf(statistic * (n - rank) / (rank * (n - 1)), rank, n - rank))
