"""The ratio of discounted state visits, fitted without any Q: minimax weight learning in closed form.

The discounted visits of a state s are gamma^t P(S_t = s) summed over t, and w(s) is how many times as often a policy visits s as
the behaviour does. For every function f of the state it obeys the balance of visits (Liu, Li, Tang, Zhou 2018, arXiv 1810.12429)

    (1)  E[ f(s_0) ] = E[ sum_t gamma^t w(s_t) rho_t (f(s_t) - gamma (1 - terminated) f(s_{t+1})) ],   rho = policy / behaviour

Minimax weight learning (Uehara, Huang, Jiang 2020, arXiv 1910.12809) takes the w whose worst violation of (1), over functions
f of mean square 1, is least. With features phi, w = 1 + phi^T beta and f in the span of phi, it has the closed form

    (2)  beta = argmin (z - A beta)^T D^{-1} (z - A beta) + ridge beta^T D beta
    (3)  A = E[ sum_t gamma^t rho_t (phi_t - gamma (1 - terminated) phi_{t+1}) phi_t^T ],   D = E[ sum_t gamma^t phi_t phi_t^T ]
         z = E[phi_0] - E[ sum_t gamma^t rho_t (phi_t - gamma (1 - terminated) phi_{t+1}) ]

The ridge pulls w to 1, that is to the behaviour's own visits, and is chosen by the violation of (1) on episodes that beta was
not fitted to. Where there are few distinct observations, the features are one indicator for each, which makes w exact in the
limit; otherwise they are random Fourier features (Rahimi and Recht 2007). They share nothing with the network that is fitted
for Q.

Visits are counted over whole episodes and not divided by 1 - gamma, so that at gamma 1 they are finite where episodes end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg, sparse

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.linear_system import Matrix, dense, scaled
from stitchrl.evaluation.refit import ratio_of
from stitchrl.types import NumpyArray

__all__ = ["FitVisits", "StateFeatures", "VisitModel", "balance_terms", "solve_visits"]

MOST_INDICATORS = 1000
"""The most distinct observations of which each gets a feature of its own."""
FOURIER = 200
"""Random Fourier features where there are more distinct observations."""
RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0)
"""Ridges that are tried."""
FLOOR = 1e-6
"""Added to the diagonal of D, as a share of its mean, so that D has an inverse where some feature was never visited."""
ROWS_AT_ONCE = 16_384


@dataclasses.dataclass(frozen=True, eq=False)
class StateFeatures:
    """Features phi of an observation.

    Attributes:
        count: how many features there are.
        known: the distinct observations, as bytes, each with its number; empty where features are Fourier features.
        mean, scale: what observations are standardised by for Fourier features.
        frequency, phase: frequencies and phases of the Fourier features, to which a constant is added.
    """

    count: int
    known: dict[bytes, int]
    mean: Float[NumpyArray, " D"] | None = None
    scale: Float[NumpyArray, " D"] | None = None
    frequency: Float[NumpyArray, "D K"] | None = None
    phase: Float[NumpyArray, " K"] | None = None

    @classmethod
    def fit(cls, log: Dataset, *, seed: int) -> StateFeatures:
        """Indicators of the observations of a log where they are few, else Fourier features with the median distance as width."""
        table = log.observation_table[np.unique(log.observation_index)]
        rng = np.random.default_rng(seed)
        sample = table[rng.choice(len(table), min(len(table), 4 * MOST_INDICATORS), replace=False)]
        if len(np.unique(sample, axis=0)) <= MOST_INDICATORS:
            distinct = np.unique(table, axis=0)
            if len(distinct) <= MOST_INDICATORS:
                return cls(len(distinct), {row.tobytes(): number for number, row in enumerate(distinct)})
        seen = sample.astype(np.float64)
        mean, scale = seen.mean(0), seen.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        seen = (seen[:500] - mean) / scale
        distance = np.sqrt(((seen[:, None] - seen[None]) ** 2).sum(2))
        width = max(float(np.median(distance[np.triu_indices(len(seen), 1)])), 1e-6)
        frequency = rng.normal(size=(table.shape[1], FOURIER)) / width
        return cls(FOURIER + 1, {}, mean, scale, frequency, rng.uniform(0, 2 * np.pi, FOURIER))

    def on(self, log: Dataset) -> tuple[Matrix, Matrix]:
        """(N, K) phi of the observation of each row, and of the next one; 0 where there is no next one that counts.

        Where features are indicators, an observation that was not among those of the fit has none, so that its w is 1.
        """
        following = np.where(log.terminated, NO_OBSERVATION, log.next_observation_index)
        if self.frequency is None:
            numbers = np.array([self.known.get(row.tobytes(), -1) for row in log.observation_table], np.int64)
            return self._indicators(numbers[log.observation_index]), self._indicators(
                np.where(following == NO_OBSERVATION, -1, numbers[following])
            )
        of_table = self._fourier(log.observation_table)
        after = of_table[following]
        after[following == NO_OBSERVATION] = 0.0
        return of_table[log.observation_index], after

    def _indicators(self, number: NumpyArray) -> sparse.csr_array:
        rows = np.flatnonzero(number >= 0)
        shape = (len(number), self.count)
        return sparse.csr_array((np.ones(len(rows)), (rows, number[rows])), shape=shape)

    def _fourier(self, table: NumpyArray) -> Float[NumpyArray, "M K"]:
        assert self.frequency is not None
        assert self.mean is not None
        found = np.ones((len(table), self.count))
        for start in range(0, len(table), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            angle = ((table[rows].astype(np.float64) - self.mean) / self.scale) @ self.frequency + self.phase
            found[rows, :-1] = np.sqrt(2.0 / FOURIER) * np.cos(angle)
        return found


class BalanceTerms(NamedTuple):
    """Equation (3) on some episodes."""

    matrix: Float[NumpyArray, "K K"]
    second_moment: Float[NumpyArray, "K K"]
    target: Float[NumpyArray, " K"]


def balance_terms(
    log: Dataset, here: Matrix, after: Matrix, ratio: Float[NumpyArray, " N"], *, gamma: float
) -> BalanceTerms:
    """Equation (3); rows whose next observation is unknown are left out.

    Args:
        log: the episodes.
        here, after: what `StateFeatures.on` gives for them.
        ratio: (N,) policy / behaviour probability of the logged actions.
        gamma: discount.
    """
    n, share = log.num_episodes, np.power(float(gamma), log.position) * log.can_bootstrap / log.num_episodes
    weighted = share * ratio
    change = here - gamma * after
    first = here[log.episode_start[:-1]]
    target = np.asarray(first.sum(0)).reshape(-1) / n - np.asarray(change.T @ weighted).reshape(-1)
    return BalanceTerms(dense(change.T @ scaled(here, weighted)), dense(here.T @ scaled(here, share)), target)


def solve_visits(whole: BalanceTerms, halves: Sequence[BalanceTerms] = ()) -> Float[NumpyArray, " K"]:
    """(K,) beta of equation (2), with the ridge whose beta violates (1) least on the half that it was not fitted to.

    Args:
        whole: the terms of all episodes.
        halves: those of each half; without them the ridge is the least of those that are tried.
    """
    ridge = RIDGES[0]
    if halves:
        losses = np.zeros(len(RIDGES))
        for mine, other in (halves, halves[::-1]):
            betas = _betas(mine, RIDGES)
            left = other.target[:, None] - other.matrix @ betas
            losses += (linalg.solve_triangular(_root(other), left, lower=True) ** 2).sum(0)
        ridge = RIDGES[int(losses.argmin())]
    found: NumpyArray = _betas(whole, (ridge,))[:, 0]
    return found


def _root(terms: BalanceTerms) -> NumpyArray:
    second = terms.second_moment
    floor = FLOOR * max(float(np.trace(second)) / len(second), 1e-300)
    found: NumpyArray = np.linalg.cholesky(second + floor * np.eye(len(second)))
    return found


def _betas(terms: BalanceTerms, ridges: Sequence[float]) -> Float[NumpyArray, "K R"]:
    """Equation (2) for several ridges, in coordinates in which D is the identity."""
    root = _root(terms)
    inner = linalg.solve_triangular(root, linalg.solve_triangular(root, terms.matrix, lower=True).T, lower=True).T
    left, size, right = np.linalg.svd(inner)
    shown = left.T @ linalg.solve_triangular(root, terms.target, lower=True)
    shrunk = shown[:, None] * size[:, None] / (size[:, None] ** 2 + np.asarray(ridges)[None, :])
    found: NumpyArray = linalg.solve_triangular(root.T, right.T @ shrunk, lower=False)
    return found


class VisitModel(NamedTuple):
    """A fitted w(s) = 1 + phi(s)^T beta."""

    features: StateFeatures
    beta: Float[NumpyArray, " K"]

    def on(self, log: Dataset) -> Float[NumpyArray, " N"]:
        """(N,) w of the observation of each row; negative ones are set to 0, since no state is visited less often than never."""
        here, _ = self.features.on(log)
        return np.maximum(1.0 + np.asarray(here @ self.beta).reshape(-1), 0.0)


@dataclasses.dataclass(frozen=True)
class FitVisits:
    """The request for w(s) at each transition, (N,), fitted on other episodes than those it is used on."""

    def fit(self, data: FitData) -> list[VisitModel]:
        """w of every policy; two halves of the episodes choose the ridge."""
        log = data.timed_log
        features = StateFeatures.fit(log, seed=data.settings.seed)
        half_of = np.random.default_rng(data.settings.seed).permutation(log.num_episodes) % 2
        halves = [np.flatnonzero(half_of == half) for half in (0, 1)]
        logs = [log.select_episodes(half) for half in halves if len(half)]
        rows = [half_of[log.episode_of_transition] == half for half in (0, 1)]
        read = [features.on(part) for part in logs]
        found = []
        for policy in range(data.policies):
            log_ratio = data.log_ratio(policy)
            assert log_ratio is not None  # actions are discrete
            ratio = ratio_of(log_ratio)
            terms = [
                balance_terms(part, *of_part, ratio[of_rows], gamma=data.gamma)
                for part, of_part, of_rows in zip(logs, read, rows, strict=False)
            ]
            share = np.array([part.num_episodes for part in logs]) / log.num_episodes
            whole = BalanceTerms(
                *(sum(s * one for s, one in zip(share, of, strict=True)) for of in zip(*terms, strict=True))
            )
            found.append(VisitModel(features, solve_visits(whole, terms if len(terms) == 2 else ())))
        return found

    def apply(self, model: VisitModel, fold: Fold, policy: int) -> Float[NumpyArray, " N"]:
        """w at the rows of a fold."""
        return model.on(fold.timed_log)

    def join(self, parts: Sequence[Float[NumpyArray, " _"]], order: Order) -> Float[NumpyArray, " N"]:
        """w at all rows, in the order of the log."""
        found: NumpyArray = order.per_row(parts)
        return found
