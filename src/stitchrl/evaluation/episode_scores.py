"""How far each episode stands out from what all other episodes of its log say, and how hard it pulls at what is fitted.

Each model of `log_models.py`, fitted to the other episodes, predicts the rows of an episode. By how much it misses them,
beyond what is usual, is summed over the T rows of the episode. The sum is divided by T^p, with p between 0 and 1/2 chosen such
that the sums of long episodes spread as far as those of short ones: p is 1/2 where every row adds its own noise, and 0 where
only the end of an episode decides. How many episodes would be so far out by chance is read off the tail of the log's own
episodes: between their quantiles at 80% and 95% the tail falls off by a factor of 4, and it is continued at this rate,

    (1)  expected_i = n (1 - .8) exp(-(s_i - q_80) / beta),   beta = (q_95 - q_80) / log 4

with s_i the score of episode i. A few episodes beyond q_95, however wild, do not change it. Where fewer than `FEW` are expected,
the episode stands apart.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.leave_one_out import EpisodeInfluence
from stitchrl.evaluation.log_features import LogFeatures
from stitchrl.evaluation.log_models import LogModel, fit_models, fit_values
from stitchrl.types import NumpyArray

__all__ = ["FEW", "ORDERS", "EpisodeScores", "score_episodes"]

FEW = 0.05
"""An episode stands apart where fewer than so many episodes of its log are expected to be as far out by chance."""
NEAR, FAR = 0.80, 0.95
"""Quantiles between which the tail is measured."""
FEWEST_ALIKE = 50
"""The fewest short episodes, and the fewest long ones, whose spreads are compared."""
NO_WIDTH = 1e-6
"""Width of a tail, as a share of the largest score, that counts as rounding."""
ORDERS = {
    "harm": "how much worse the other episodes predict an episode than is usual",
    "value": "how far the value of the behaviour moves when an episode is left out",
    "fit": "how far the fitted values move when an episode is left out",
}
"""What episodes can be ranked by."""


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeScores:
    """What leaving out each of n episodes says about it.

    Attributes:
        models: the models, fitted to all episodes.
        influence: for each model, what leaving out each episode changes.
        values: the model of values with the least ridge, off which values are read; a larger ridge pulls them to the average.
        of_values: what leaving out each episode changes in `values`.
        excess: (N,) for each model, by how much each row is predicted worse than usual by the other episodes.
        out: (n, models) minus the logarithm of how many episodes are expected to be as far out, equation (1).
    """

    models: tuple[LogModel, ...]
    influence: tuple[EpisodeInfluence, ...]
    values: LogModel
    of_values: EpisodeInfluence
    excess: tuple[Float[NumpyArray, " N"], ...]
    out: Float[NumpyArray, "n models"]

    @property
    def value(self) -> float:
        """Mean fitted value of the logged first states."""
        return float(self.firsts.mean())

    @cached_property
    def firsts(self) -> Float[NumpyArray, " n"]:
        """(n,) fitted value of the first state of each episode."""
        values = self.values
        start = values.fit.start[:-1]
        return np.asarray(values.states[start] @ values.fit.theta)[:, 0] + values.base[0]

    @cached_property
    def value_without(self) -> Float[NumpyArray, " n"]:
        """(n,) the value without each episode: it is left out of the fit and of the average over first states."""
        n, change = len(self.firsts), self.of_values
        return (n * (self.value - change.readout) - (self.firsts - change.first)) / (n - 1)

    @property
    def harm(self) -> Float[NumpyArray, " n"]:
        """(n,) the largest of `out` over the models, less the logarithm of their number, as there are so many chances."""
        return self.out.max(1) - np.log(self.out.shape[1])

    @property
    def expected(self) -> Float[NumpyArray, " n"]:
        """(n,) how many episodes are expected to be as far out by chance in any of the models, at most all."""
        return np.minimum(np.exp(-np.minimum(self.harm, 700.0)), float(len(self.out)))

    @property
    def apart(self) -> Int[NumpyArray, " _"]:
        """The episodes that stand apart, the farthest out first."""
        found = np.flatnonzero(self.expected < FEW)
        return found[np.argsort(-self.harm[found], kind="stable")]

    @property
    def moved(self) -> Float[NumpyArray, " n"]:
        """(n,) how far the fitted values move without each episode, as a multiple of the average over episodes."""
        moved = self.of_values.moved
        return moved * len(moved) / max(float(moved.sum()), 1e-300)

    def order(self, by: str) -> Int[NumpyArray, " n"]:
        """All episodes, the worst first, by one of `ORDERS`."""
        score = {"harm": self.harm, "value": np.abs(self.value_without - self.value), "fit": self.moved}[by]
        return np.argsort(-score, kind="stable")


def score_episodes(log: Dataset, features: LogFeatures, gamma: float) -> EpisodeScores:
    """Fit the models to a log, and score its episodes."""
    models = tuple(fit_models(log, features, gamma))
    influence = tuple(one.fit.influence(one.states) for one in models)
    values = fit_values(log, dataclasses.replace(features, ridge={}), gamma)
    first = np.asarray(values.states[log.episode_start[:-1]].mean(0)).reshape(-1)
    of_values = values.fit.influence(values.states, first)
    excess = tuple(one.excess(log, features, left.held_out) for one, left in zip(models, influence, strict=True))
    out = [_tail(log, one, row) for one, row in zip(models, excess, strict=True)]
    return EpisodeScores(models, influence, values, of_values, excess, np.stack(out, axis=1))


def _tail(log: Dataset, model: LogModel, excess: Float[NumpyArray, " N"]) -> Float[NumpyArray, " n"]:
    """(n,) minus the logarithm of equation (1). Where the tail has no width, as in a deterministic world, the standard
    deviation of the scores takes its place."""
    start = log.episode_start[:-1]
    rows = np.add.reduceat(model.known.astype(np.float64), start)
    total, rows = np.add.reduceat(excess, start), np.maximum(rows, 1.0)
    score = total / rows ** _power(total, rows)
    near, far = np.quantile(score, (NEAR, FAR))
    width = (far - near) / np.log((1 - NEAR) / (1 - FAR))
    everywhere = -np.log(len(score))
    if not width > NO_WIDTH * float(np.abs(score).max()):
        width = float(score.std())
    if not width > 0:
        return np.full(len(score), everywhere)
    return np.maximum((score - near) / width - np.log(len(score) * (1 - NEAR)), everywhere)


def _power(total: Float[NumpyArray, " n"], rows: Float[NumpyArray, " n"]) -> float:
    """p, from 0 to 1/2: the power of its number of rows by which the upper spread of an episode's sum grows; 1/2 where that
    cannot be told."""
    long = rows > np.median(rows)
    if not FEWEST_ALIKE <= long.sum() <= len(rows) - FEWEST_ALIKE:
        return 0.5
    middle, far = zip(*(np.quantile(total[part], (0.5, FAR)) for part in (~long, long)), strict=True)
    spreads = np.subtract(far, middle)
    if not (spreads > 0).all():
        return 0.5
    growth = np.log(spreads[1] / spreads[0]) / np.log(rows[long].mean() / rows[~long].mean())
    return float(np.clip(growth, 0.0, 0.5))
