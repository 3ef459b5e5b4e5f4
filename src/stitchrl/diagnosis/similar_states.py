"""The actions that were logged in similar states, and how far an action is from the nearest of them.

Observations and actions are measured in standard deviations of the log. The similar states of a row are its nearest rows among
the other episodes, so that neighbouring steps of one episode do not count as support for each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["Discrepancy", "SimilarStates", "action_discrepancy", "distance_to_nearest", "similar_states"]

SIMILAR = 20
"""Rows that count as similar to a row."""
ASKED = 4
"""This many times `SIMILAR` nearest rows are searched for, of which those of other episodes are taken."""
MOST_ROWS = 4096
"""Rows that are compared with each other, at most, evenly spread over the log."""
MOST_PAIRED_ROWS = 512
"""The same where every row is compared with every other one."""
FLIPS = 200
"""How often the policy's and the logged actions of whole episodes are exchanged at random, to see what chance alone gives."""


class SimilarStates(NamedTuple):
    """Some rows of a log, and the rows that are similar to each.

    Attributes:
        rows: (n,) numbers of the rows, ascending.
        similar: (n, K) positions in `rows` of the similar ones; -1 where there are fewer.
        obs, action: (n, D) and (n, A) in standard deviations of the log.
        centre, spread: (A,) mean and standard deviation of each dimension of the logged actions.
        episode: (n,) the episode of each row.
    """

    rows: Int[NumpyArray, " n"]
    similar: Int[NumpyArray, "n K"]
    obs: Float[NumpyArray, "n D"]
    action: Float[NumpyArray, "n A"]
    centre: Float[NumpyArray, " A"]
    spread: Float[NumpyArray, " A"]
    episode: Int[NumpyArray, " n"]

    def of_rows(self, action: Float[NumpyArray, "N A"]) -> Float[NumpyArray, "n A"]:
        """(n, A) the actions of these rows in standard deviations of the log, given those of all rows in logged units."""
        found: NumpyArray = (action[self.rows].astype(np.float64) - self.centre) / self.spread
        return found


def similar_states(log: Dataset) -> SimilarStates:
    """The similar states of the rows of a log with plain observations and continuous actions."""
    count = log.num_transitions
    rows = np.unique(np.linspace(0, count - 1, min(count, MOST_ROWS)).astype(np.int64))
    obs, _, _ = _standardised(log.observation_table[log.observation_index[rows]])
    action, centre, spread = _standardised(log.action[rows])
    episode = log.episode_of_transition[rows]
    asked = min(len(rows), ASKED * SIMILAR)
    near = np.reshape(cKDTree(obs).query(obs, k=asked)[1], (len(rows), asked))
    other = episode[near] != episode[:, None]
    alone = ~other.any(1)  # all near rows are of its own episode
    other[alone] = near[alone] != np.flatnonzero(alone)[:, None]
    taken = other & (np.cumsum(other, axis=1) <= SIMILAR)
    return SimilarStates(rows, np.where(taken, near, -1), obs, action, centre, spread, episode)


def distance_to_nearest(states: SimilarStates, action: Float[NumpyArray, "n A"]) -> Float[NumpyArray, " n"]:
    """(n,) distance of one action per row to the nearest logged action in similar states, in standard deviations of the logged
    ones; infinite where no other row is known.

    Args:
        states: the rows.
        action: (n, A) in standard deviations of the log, as `states.action`.
    """
    apart = np.linalg.norm(states.action[states.similar] - action[:, None, :], axis=2)
    nearest: NumpyArray = np.where(states.similar >= 0, apart, np.inf).min(1)
    return nearest


class Discrepancy(NamedTuple):
    """The maximum mean discrepancy between a policy's and the logged actions at similar states.

    Attributes:
        mmd: 0 where they are alike, at most the square root of 2.
        by_chance: what chance alone exceeds in one of twenty logs.
    """

    mmd: float
    by_chance: float


def action_discrepancy(states: SimilarStates, action: Float[NumpyArray, "n A"]) -> Discrepancy:
    """Compare actions over pairs of different rows, each pair weighted by how similar its states are (Gretton et al. 2012).

    With k a Gaussian kernel of width 1 over actions and w one over states, whose width is the median distance to a row's
    similar states: the weighted mean of k(p, p') - k(p, b') - k(b, p') + k(b, b') over pairs, p the policy's action and b the
    logged one. The root of it is taken; less than 0 counts as 0.
    """
    some = np.unique(np.linspace(0, len(states.rows) - 1, min(len(states.rows), MOST_PAIRED_ROWS)).astype(np.int64))
    near = states.similar[some]
    apart = np.linalg.norm(states.obs[near] - states.obs[some][:, None, :], axis=2)
    width = max(float(np.median(apart[near >= 0])) if (near >= 0).any() else 1.0, 1e-6)
    obs, policy, logged, episode = states.obs[some], action[some], states.action[some], states.episode[some]
    weight = _kernel(obs, obs, width)
    np.fill_diagonal(weight, 0.0)
    crossed = _kernel(policy, logged, 1.0)
    pairs = weight * (_kernel(policy, policy, 1.0) + _kernel(logged, logged, 1.0) - crossed - crossed.T)
    total = max(float(weight.sum()), 1e-12)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, int(episode.max()) + 1))[:, episode]
    chance = np.einsum("fi,ij,fj->f", signs, pairs, signs, optimize=True) / total
    return Discrepancy(_root(pairs.sum() / total), _root(float(np.quantile(chance, 0.95))))


def _root(squared: float) -> float:
    return float(np.sqrt(max(float(squared), 0.0)))


def _kernel(a: NumpyArray, b: NumpyArray, width: float) -> Float[NumpyArray, "n m"]:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    kernel: NumpyArray = np.exp(-np.maximum(squared, 0.0) / (2 * width**2))
    return kernel


def _standardised(
    values: NumpyArray,
) -> tuple[Float[NumpyArray, "n D"], Float[NumpyArray, " D"], Float[NumpyArray, " D"]]:
    """Values in standard deviations from their mean, the mean, and the standard deviation; 1 where nothing varies."""
    found = values.astype(np.float64)
    centre, spread = found.mean(0), found.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    return (found - centre) / spread, centre, spread
