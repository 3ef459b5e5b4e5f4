"""Ratios of visits that are linear in features, solved on the episodes of the estimate: the weights of smis and samis.

The linear form of all such methods is one system of equations, that of `evaluation/refit.py` with Q = 0 (Uehara, Huang, Jiang
2020, arXiv 1910.12809, section 5):

    (1)  W_t = E[psi_0]^T A^{-1} psi_t rho_t                    a ratio for the state, times that of the action
    (2)  W_t = E[psi_0]^T A^{-1} phi(s_t, a_t)                  one for state and action together, without any propensity

with A as there, gamma^t included in the ratio. psi are features of the last layer of the Q network. No ratio tells (2) which
actions the policy takes, so its features must. Where there are at most `MOST_PAIRS` pairs of an observation and an action, each
pair is a feature and W is exact in the limit. Where there are more, the features are those of a network that was fitted to Q
and not to W: what they cannot represent of both is a bias that no number of episodes removes and no interval contains. On a world
of 100 states and 8 actions 65 such features left 34 to 45% of the spread of the exact Q unexplained, and the exact limit of
(2) was 0.24 to 0.41 below a value of 1.44, with the ridge or without.

Two numbers are read off the same weights: the reward that they carry, and the share of episodes that they carry to an end,

    (3)  R = (1/n) sum W_t r_t,   M = (1/n) sum W_t (1 - gamma (1 - terminated)),   value = R / M

M is 1 in expectation for right weights, at gamma 1 as well, where it is the chance of ending; nothing is divided by 1 - gamma.
Each is kept as one number an episode, equation (4) of `refit.py`: its spread contains the noise of A, and its mean is corrected
for the ridge to first order. So R is the refit of a Q that is 0 everywhere, and M is the same for a reward of
1 - gamma (1 - terminated), whose value is 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import sparse

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import FittedQ
from stitchrl.evaluation.linear_system import Matrix
from stitchrl.evaluation.refit import FitQ, Refit, ratio_of, refit, refit_without_ratios
from stitchrl.evaluation.visits import StateFeatures
from stitchrl.types import NumpyArray

__all__ = ["FitMarginal", "Marginal", "marginal_weights", "pair_features"]

MOST_PAIRS = 2000
"""Pairs of an observation and an action up to which each is a feature of its own."""


class Marginal(NamedTuple):
    """Marginal weights on n episodes of N transitions.

    Attributes:
        reward: the refit of Q = 0; its weights are W, and its residuals are those of a linear model of the value.
        carried: (n,) contributions to R.
        ended: (n,) contributions to M.
        ended_residual: (N,) residuals of the linear model of M.
    """

    reward: Refit
    carried: Float[NumpyArray, " n"]
    ended: Float[NumpyArray, " n"]
    ended_residual: Float[NumpyArray, " N"]

    @property
    def residual(self) -> Float[NumpyArray, " N"]:
        """(N,) derivative of R / M by the weight of each transition, times n M."""
        value = self.carried.mean() / self.ended.mean()
        found: NumpyArray = self.reward.residual - value * self.ended_residual
        return found


def marginal_weights(
    log: Dataset, fitted: dict[str, Matrix], ratio: Float[NumpyArray, " N"] | None, *, gamma: float
) -> Marginal:
    """Equations (1) and (3), or without ratios (2) and (3).

    Args:
        log: the episodes of the estimate.
        fitted: features as `FittedQ.on` gives them.
        ratio: (N,) policy / behaviour probability of the logged actions; None: equation (2).
        gamma: discount.
    """
    zero = np.zeros(log.num_transitions)
    nothing = fitted | {"q": zero, "v": zero, "next_v": zero}
    leaving = dataclasses.replace(log, reward=1.0 - gamma * (1.0 - log.terminated))
    reward, ended = (
        refit_without_ratios(one, nothing, gamma=gamma) if ratio is None else refit(one, nothing, ratio, gamma=gamma)
        for one in (log, leaving)
    )
    return Marginal(reward, reward.contributions, ended.contributions, ended.residual)


def pair_features(
    features: StateFeatures, log: Dataset, probs: Float[NumpyArray, "N A"], next_probs: Float[NumpyArray, "N A"]
) -> dict[str, Matrix]:
    """One indicator for each pair of an observation and an action, sparse, as `FittedQ.on` names features."""
    here, after = features.on(log)
    taken = np.eye(probs.shape[1])[log.action]
    return {"phi": _pairs(here, taken), "psi": _pairs(here, probs), "next_psi": _pairs(after, next_probs)}


def _pairs(states: Matrix, weights: Float[NumpyArray, "N A"]) -> Matrix:
    """(N, S A) the weight of each action at the column of its pair with the state of the row; 0 where that is unknown."""
    rows, state = states.nonzero()
    actions = weights.shape[1]
    columns = state[:, None] * actions + np.arange(actions)
    shape = (len(weights), states.shape[1] * actions)
    found = sparse.csr_array(
        (weights[rows].astype(np.float64).reshape(-1), (np.repeat(rows, actions), columns.reshape(-1))), shape=shape
    )
    found.eliminate_zeros()
    return found


@dataclasses.dataclass(frozen=True)
class FitMarginal:
    """The request for marginal weights in the features of the policy's Q.

    Attributes:
        actions: whether weights are of state and action together, equation (2), and not of equation (1).
    """

    actions: bool

    def fit(self, data: FitData) -> Sequence[list[FittedQ]]:
        """The policies' Q, which other estimators ask for as well."""
        found: Sequence[list[FittedQ]] = data.models(FitQ())
        return found

    def apply(self, model: list[FittedQ], fold: Fold, policy: int) -> Marginal:
        """The weights on the episodes of a fold."""
        log, ratio = fold.timed_log, None
        if not self.actions:
            log_ratio = fold.log_ratio(policy)
            assert log_ratio is not None
            ratio = ratio_of(log_ratio)
        features = StateFeatures.fit(fold.data.timed_log, seed=fold.data.settings.seed) if self.actions else None
        probs, next_probs = fold.choices(policy), fold.next_choices(policy)
        if features is not None and 0 < len(features.known) * probs.shape[1] <= MOST_PAIRS:
            fitted = pair_features(features, log, probs, next_probs)
        else:
            fitted = model[0].on(log, probs, next_probs, logged=self.actions)
        return marginal_weights(log, fitted, ratio, gamma=fold.data.gamma)

    def join(self, parts: Sequence[Marginal], order: Order) -> Marginal:
        """The weights on all episodes; each fold keeps its own linear model."""
        return Marginal(
            Refit(
                order.per_episode([one.reward.contributions for one in parts]),
                0.0,
                order.per_row([one.reward.visits for one in parts]),
                order.per_row([one.reward.weights for one in parts]),
                order.per_row([one.reward.residual for one in parts]),
                order.per_episode([one.reward.first for one in parts]),
                max(one.reward.imbalance for one in parts),
            ),
            order.per_episode([one.carried for one in parts]),
            order.per_episode([one.ended for one in parts]),
            order.per_row([one.ended_residual for one in parts]),
        )
