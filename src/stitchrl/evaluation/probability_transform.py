"""The calibration of a density of continuous actions: how high each logged action lies in the fitted distribution.

The probability integral transform of action dimension j is F_j(a_j|s), the fitted probability that the dimension is at most
what was logged. Under the right density it is uniform on [0, 1] in every dimension (Rosenblatt 1952; Diebold, Gunther and Tay
1998). A bound that actions are clipped to has a probability of its own, across which F_j jumps; the value is drawn at random
between the two sides of the jump, so that it is uniform all the same (Brockwell 2007).

Too many values near 0 and 1 say that the fitted density is too narrow, too many in the middle that it is too wide. A single
action that was logged again and again, such as a bound, stands out as one bin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Shaped

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.units import Units
from stitchrl.jax_types import Array
from stitchrl.nn.units import RescaledPolicy
from stitchrl.types import NumpyArray

__all__ = ["TransformCurve", "probability_transform", "transform_curve"]

BINS = 10
"""Equal bins of [0, 1]: right densities put a tenth of the actions into each."""
ROWS_AT_ONCE = 16_384


@dataclasses.dataclass(frozen=True)
class TransformCurve:
    """Shares of the transformed actions in equal bins of [0, 1], for each action dimension.

    Attributes:
        bins: how many bins there are.
        shares: for each dimension, the share of the actions in each bin; 1 / bins if the density is right.
        error: standard error of each share, by independent units.
        expected_error: half the sum over the bins of |share - 1 / bins|, in the dimension where it is largest: the share of the
            actions that lie in a wrong bin.
        by_chance: what `expected_error` would be on average for a right density, in the same dimension.
    """

    bins: int
    shares: tuple[tuple[float, ...], ...]
    error: tuple[tuple[float, ...], ...]
    expected_error: float
    by_chance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


def probability_transform(policy: RescaledPolicy, log: Dataset) -> Float[NumpyArray, "N action"]:
    """(N, action) the fitted probability that each dimension of an action is at most what was logged.

    On an atom it is a number drawn between that and the probability that the dimension is less than what was logged.
    """
    parts = []
    for start in range(0, log.num_transitions, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, log.num_transitions))
        obs = log.observation_table[log.observation_index[rows]]
        parts.append([np.asarray(one, np.float64) for one in _marginal_cdf(policy, obs, log.action[rows])])
    below, upto = (np.concatenate(one) for one in zip(*parts, strict=True))
    return below + np.random.default_rng(0).random(below.shape) * (upto - below)


def transform_curve(
    values: Sequence[Float[NumpyArray, "_ action"]],
    logs: Sequence[Dataset],
    group: Shaped[NumpyArray, " n"] | None = None,
) -> TransformCurve:
    """The curve of transformed actions on the episodes of one log, or of several that have no episode in common.

    Args:
        values: for each log, what `probability_transform` gives.
        logs: the logs, whose episodes the fitted density did not see.
        group: the group of each episode of the logs, one log after the other; None: episodes are independent.
    """
    count = sum(len(one) for one in values)
    by_episode = np.concatenate([_counts(one, log) for one, log in zip(values, logs, strict=True)])
    units = Units(len(by_episode), group)
    rows = units.sums(by_episode.sum(2)[:, 0])
    inside = units.sums(by_episode)
    shares = inside.sum(0) / count
    gaps = inside - rows[:, None, None] * shares
    error = np.sqrt((gaps**2).sum(0)) / count
    off = np.abs(shares - 1 / BINS).sum(1) / 2
    worst = int(off.argmax())
    right = inside - rows[:, None, None] / BINS
    by_chance = np.sqrt(2 / np.pi) * (np.sqrt(units.count) * right.std(0)[worst]).sum() / count / 2
    return TransformCurve(
        BINS, tuple(map(tuple, shares.tolist())), tuple(map(tuple, error.tolist())), float(off[worst]), float(by_chance)
    )


def _counts(values: Float[NumpyArray, "N action"], log: Dataset) -> Float[NumpyArray, "n action bins"]:
    """How many actions of each episode lie in each bin."""
    episodes = log.num_episodes
    first = np.repeat(np.arange(episodes) * BINS, np.diff(log.episode_start))
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    counted = [np.bincount(first + of_one, minlength=episodes * BINS).reshape(episodes, BINS) for of_one in bins.T]
    return np.stack(counted, axis=1).astype(np.float64)


@jax.jit
def _marginal_cdf(policy: RescaledPolicy, obs: Array, action: Array) -> tuple[Array, Array]:
    return policy.marginal_cdf(obs, action, below=True), policy.marginal_cdf(obs, action)
