"""Doubly robust estimation over episodes: dr (Jiang and Li 2016) and wdr (Thomas and Brunskill 2016).

With Q fitted on other episodes, V(s) = E_{a ~ policy} Q(s, a), w_t the cumulative weight and w_{-1} = 1:

    dr    (1/n) sum_i sum_t gamma^t [ w_t (r_t - Q(s_t, a_t)) + w_{t-1} V(s_t) ]
    wdr   the same with w_t / sum_j w_t^j in place of w_t / n

Q = 0 gives pdis and pdwis; an exact Q leaves only the spread of V(s_0) and of the transitions. Terminated and cut
episodes count in the denominators as in importance sampling. At a cut the tail is carried by the fitted V of the next
state where the log has it; where it does not, the last step has no target and weight 0.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.evaluation.base import Contributions, Episodes
from stitchrl.types import NumpyArray

__all__ = ["FittedValues", "doubly_robust", "weighted_doubly_robust"]


@dataclasses.dataclass(frozen=True, eq=False)
class FittedValues:
    """A fitted Q on a log's transitions, in return units.

    Attributes:
        q: (N,) of the logged action.
        v: (N,) of the policy.
        next_v: (N,) V of the next state; used where an episode was cut.
        usable: (N,) False where the next state is unknown.
    """

    q: Float[NumpyArray, " N"]
    v: Float[NumpyArray, " N"]
    next_v: Float[NumpyArray, " N"]
    usable: Bool[NumpyArray, " N"]


def doubly_robust(
    episodes: Episodes, weight: Float[NumpyArray, "n T"], fitted: FittedValues, gamma: float
) -> Contributions:
    """dr."""
    residual, value = _terms(episodes, fitted, gamma)
    before = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)
    return Contributions.average((weight * residual + before * value) @ episodes.discount)


def weighted_doubly_robust(
    episodes: Episodes, weight: Float[NumpyArray, "n T"], fitted: FittedValues, gamma: float
) -> Contributions:
    """wdr: each step's weights are normalised over the episodes that count at it."""
    residual, value = _terms(episodes, fitted, gamma)
    counts = episodes.valid | episodes.terminated[:, None]
    now = np.where(counts, weight, 0.0)
    before = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)
    before = np.where(np.concatenate([np.ones((len(weight), 1), bool), counts[:, :-1]], axis=1), before, 0.0)
    numerator = np.concatenate([now * residual, before * value], axis=1) * np.tile(episodes.discount, 2)
    denominator = np.concatenate([now, before], axis=1)
    used = (numerator != 0).any(0) & (denominator.sum(0) > 0)
    if not used.any():
        return Contributions.average(np.zeros(len(weight)))
    return Contributions(numerator[:, used], denominator[:, used])


def _terms(
    episodes: Episodes, fitted: FittedValues, gamma: float
) -> tuple[Float[NumpyArray, "n T"], Float[NumpyArray, "n T"]]:
    """r - Q and V on each step, with the tail of a cut episode in its last residual; both 0 in the padding."""
    residual = episodes.reward - episodes.pad(fitted.q)
    last = episodes.valid.sum(1) - 1
    cut = np.flatnonzero(~episodes.terminated)
    residual[cut, last[cut]] += gamma * episodes.pad(fitted.next_v)[cut, last[cut]]
    usable = np.where(episodes.valid, episodes.pad(fitted.usable.astype(np.float64)) > 0, False)
    return np.where(usable, residual, 0.0), episodes.pad(fitted.v)
