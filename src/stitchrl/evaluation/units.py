"""The independent units of a log: its episodes, or groups of episodes that are not independent of one another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped

from stitchrl.types import NumpyArray

__all__ = ["Units", "effective_sample_size"]


class Units:
    """Which episodes belong together.

    Args:
        episodes: how many episodes there are.
        group: (episodes,) the group of each episode; None: episodes are independent of each other.
        noun: what one episode is called in messages.

    Attributes:
        episodes: how many episodes there are.
        count: how many independent units there are.
        noun: what one unit is called in messages: "group" where there are groups, else `episode_noun`.
        episode_noun: what one episode is called: "episode", or "decision" where each has one step.
    """

    def __init__(self, episodes: int, group: Shaped[NumpyArray, " n"] | None = None, *, noun: str = "episode") -> None:
        self.episodes = self.count = episodes
        self.episode_noun = noun
        self.noun = noun if group is None else "group"
        self._unit_of: Int[NumpyArray, " n"] | None = None
        if group is not None:
            self._unit_of = np.unique(group, return_inverse=True)[1].reshape(-1)
            self._order = np.argsort(self._unit_of, kind="stable")
            self._first = np.flatnonzero(np.diff(self._unit_of[self._order], prepend=-1))
            self.count = len(self._first)

    def sums(self, per_episode: Float[NumpyArray, "n ..."]) -> Float[NumpyArray, "units ..."]:
        """Sums over the episodes of each unit."""
        if self._unit_of is None:
            return per_episode
        return np.add.reduceat(per_episode[self._order], self._first, axis=0)

    def spread(self, per_unit: Float[NumpyArray, "R units"]) -> Float[NumpyArray, "R n"]:
        """Each unit's number given to all of its episodes."""
        return per_unit if self._unit_of is None else np.take(per_unit, self._unit_of, axis=1)

    def effective(self, weight: Float[NumpyArray, " n"]) -> float:
        """Effective sample size of the episodes' weights, summed by unit: how many equally weighted units they are worth."""
        return effective_sample_size(self.sums(weight))

    def largest_share(self, weight: Float[NumpyArray, " n"]) -> float:
        """Largest share of all weight that one unit has."""
        per_unit = self.sums(np.abs(weight))
        return float(per_unit.max() / max(per_unit.sum(), 1e-300))


def effective_sample_size(weights: Float[NumpyArray, " n"]) -> float:
    """(sum |w|)^2 / sum w^2 (Kish 1965): how many equally weighted items the weights are worth; 0 when all are 0."""
    largest = float(np.abs(weights).max(initial=0.0))
    if not largest > 0:
        return 0.0
    share = weights / largest  # squares of small weights would leave the range of float64
    return float(np.abs(share).sum() ** 2 / (share**2).sum())
