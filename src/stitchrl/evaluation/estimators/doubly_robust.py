"""Doubly robust estimation over episodes: dr (Jiang and Li 2016) and wdr (Thomas and Brunskill 2016).

With Q fitted on other episodes, V(s) = E_{a ~ policy} Q(s, a), w_t the cumulative weight and w_{-1} = 1:

    dr    (1/n) sum_i sum_t gamma^t [ w_t (r_t - Q(s_t, a_t)) + w_{t-1} V(s_t) ]
    wdr   the same with w_t / sum_j w_t^j in place of w_t / n

Q = 0 gives pdis and pdwis; an exact Q leaves only the spread of V(s_0) and of the transitions. Cut episodes leave at
the cut and hand on their weight as in importance sampling, so no value of an unknown next state is needed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.contributions import Contributions, Episodes
from stitchrl.evaluation.fits import FittedValues
from stitchrl.evaluation.weights import Weights
from stitchrl.types import NumpyArray

__all__ = ["doubly_robust", "weighted_doubly_robust"]


def doubly_robust(episodes: Episodes, weight: Weights, fitted: FittedValues) -> Contributions:
    """dr."""
    residual, value = _terms(episodes, fitted)
    return Contributions.average((weight.now * residual + weight.before * value) @ episodes.discount)


def weighted_doubly_robust(episodes: Episodes, weight: Weights, fitted: FittedValues) -> Contributions:
    """wdr: each step's weights are normalised over the episodes that count at it."""
    residual, value = _terms(episodes, fitted)
    numerator = np.concatenate([weight.now * residual, weight.before * value], axis=1) * np.tile(episodes.discount, 2)
    denominator = np.concatenate([weight.now, weight.before], axis=1)
    used = (numerator != 0).any(0) & (denominator.sum(0) > 0)
    if not used.any():
        return Contributions.average(np.zeros(len(numerator)))
    return Contributions(numerator[:, used], denominator[:, used])


def _terms(episodes: Episodes, fitted: FittedValues) -> tuple[Float[NumpyArray, "n T"], Float[NumpyArray, "n T"]]:
    """r - Q and V on each step, 0 in the padding."""
    return episodes.reward - episodes.pad(fitted.q), episodes.pad(fitted.v)
