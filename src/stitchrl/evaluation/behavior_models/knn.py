"""The k nearest neighbours: at an observation, the shares of the actions among the k most similar ones of the fit.

Two observations are similar where their Euclidean distance in standardised columns is small. Only the neighbours' actions that
are allowed count, and a share e of a uniform choice among the allowed actions A(s) is mixed in:

    (1)  b(a|s) = (1 - e) #{neighbours that took a} / #{neighbours that took an allowed action} + e / |A(s)|

Rows with the same observation count together: the nearest distinct observations are taken with all their rows, until these are
k or more. Of the numbers k whose likelihood on held-out episodes is within one standard error of the best, the largest is taken,
which is the smoothest; the neighbours of held-out episodes are sought among the others. Then all episodes are searched.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.behavior_model import UNIFORM, BehaviorData, FittedBehavior, first_of_the_best, log_likelihoods
from stitchrl.types import NumpyArray

__all__ = ["Neighbors", "NeighborsPolicy"]

NEIGHBORS = (200, 100, 50, 20, 10, 5)
"""Numbers of neighbours that are tried, the smoothest first."""
MOST_COLUMNS, MOST_ROWS = 16, 100_000
"""In more columns than this a tree of neighbours is hardly faster than comparing all rows, and more rows take minutes."""
ROWS_AT_ONCE = 8_192


class NeighborsPolicy:
    """Equation (1): a policy with `probs` alone, in NumPy. It is no network, so it cannot be compiled or saved.

    Args:
        scaling: scaling of the observations.
        obs: (N, D) observations of the fit, in raw units.
        action: (N,) the action that was taken at each.
        actions: how many actions there are.
        neighbors: k.
    """

    has_density = True

    def __init__(
        self,
        scaling: Scaling,
        obs: Float[NumpyArray, "N D"],
        action: Int[NumpyArray, " N"],
        *,
        actions: int,
        neighbors: int,
    ) -> None:
        self._scaling, self._actions = scaling, actions
        table, place = np.unique(scaling.observations(obs), axis=0, return_inverse=True)
        cell = place.reshape(-1) * actions + action
        self._taken = np.bincount(cell, minlength=len(table) * actions).reshape(len(table), actions).astype(np.float64)
        self._tree = cKDTree(table)
        self.neighbors = neighbors

    def with_neighbors(self, neighbors: int) -> NeighborsPolicy:
        """The same policy with another k; the search tree is shared."""
        other = object.__new__(NeighborsPolicy)
        other.__dict__.update(self.__dict__)
        other.neighbors = neighbors
        return other

    def probs(
        self, obs: Float[NumpyArray, "B D"], *, action_mask: Bool[NumpyArray, "B A"] | None = None
    ) -> Float[NumpyArray, "B A"]:
        """(B, A) probability of every action; rows sum to 1 over the actions that the mask allows."""
        obs = np.asarray(obs)
        allowed = np.ones((len(obs), self._actions)) if action_mask is None else np.asarray(action_mask, np.float64)
        taken = np.empty((len(obs), self._actions))
        for start in range(0, len(obs), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            taken[rows] = self._among_neighbors(obs[rows])
        uniform = allowed / allowed.sum(1, keepdims=True)
        taken *= allowed
        total = taken.sum(1, keepdims=True)
        shares = np.where(total > 0, taken / np.maximum(total, 1.0), uniform)
        return (1 - UNIFORM) * shares + UNIFORM * uniform

    def _among_neighbors(self, obs: Float[NumpyArray, "B D"]) -> Float[NumpyArray, "B A"]:
        """(B, A) how many of the neighbours took each action."""
        most = min(self.neighbors, len(self._taken))
        near = self._tree.query(self._scaling.observations(obs), k=np.arange(1, most + 1))[1]
        found, counted = np.zeros((len(obs), self._actions)), np.zeros(len(obs))
        for one in near.T:
            here = self._taken[one] * (counted < self.neighbors)[:, None]
            found += here
            counted += here.sum(1)
        return found


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The k nearest neighbours. The noise of this fit is not known, so that `FittedBehavior.noise` is None."""

    name: str = "knn"
    title: str = "shares of the actions among the nearest observations"
    maximum_likelihood: bool = False

    def refusal(self, log: Dataset) -> str | None:
        """It refuses images, continuous actions, and logs in which the search would be slow."""
        if log.num_actions is None or log.observation_table.ndim != 2:
            return "Nearest neighbours need discrete actions and observations that are vectors."
        if log.observation_size > MOST_COLUMNS or log.num_transitions > MOST_ROWS:
            return (
                f"Nearest neighbours are searched in at most {MOST_COLUMNS} columns and {MOST_ROWS:,} rows; this log has "
                f"{log.observation_size:,} and {log.num_transitions:,}, in which the search would be slow."
            )
        return None

    def fit(self, data: BehaviorData) -> FittedBehavior:
        """Equation (1) on all episodes, with the k that held-out episodes choose."""
        scaling, actions = Scaling.fit(data.whole), data.whole.num_actions
        assert actions is not None
        train, whole = data.train, data.whole
        tried = NeighborsPolicy(scaling, train.observation, train.action, actions=actions, neighbors=max(NEIGHBORS))
        scores = [log_likelihoods(tried.with_neighbors(k), data.held_out) for k in NEIGHBORS]
        chosen = first_of_the_best(scores, data.held_out)
        policy = NeighborsPolicy(scaling, whole.observation, whole.action, actions=actions, neighbors=NEIGHBORS[chosen])
        return FittedBehavior(self.name, policy, scores[chosen], None)
