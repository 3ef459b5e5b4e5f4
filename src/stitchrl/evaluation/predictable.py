"""The variance that an estimate is expected to have from its ratios, rather than the one its sample happened to show.

Rare actions that the policy prefers have large ratios pi / b. Where none of them happens to be in the sample, the sample's
own spread is too small and the estimate tends to be high, so that an interval from that spread says GO too easily. But the
ratio's mean square is known without the rare action, since E_b[rho^2 | s] = sum_a pi(a|s)^2 / b(a|s) = chi(s). With w(s)
the ratio of state visits and e_t the TD error that is left at step t, the difference between the values of two policies
j and k from the same n episodes has the variance (martingale differences; Kallus and Uehara 2020, arXiv 1908.08526)

    (1/n^2) sum_t e_t^2 (w_j^2 chi_jj - 2 w_j w_k chi_jk + w_k^2 chi_kk),   chi_jk(s) = sum_a pi_j(a|s) pi_k(a|s) / b(a|s)

plus, for a single value, the variance of the first states' values over n. The behaviour itself has w = 1 and chi_jk = 1, which
gives w^2 chi - 2 w + 1 for a gain over it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from stitchrl.types import NumpyArray

__all__ = [
    "LoggedWeights",
    "Ratios",
    "VisitRatios",
    "expected_square",
    "variance_of_difference",
    "variance_of_value",
]

ROWS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True, eq=False)
class VisitRatios:
    """What the weights of an estimate are made of, at N transitions with A actions.

    Attributes:
        visits: (N,) w(s), the ratio of state visits.
        probs: (N, A) the policy's probabilities; None: the behaviour's own.
        behavior: (N, A) the behaviour's probabilities.
        residual: (N,) e_t, the TD error that is left; None: take that of the estimate it is compared with.
        first: (n,) value of the first state of each episode; None: it is not modelled.
    """

    visits: Float[NumpyArray, " N"]
    probs: Float[NumpyArray, "N A"] | None
    behavior: Float[NumpyArray, "N A"]
    residual: Float[NumpyArray, " N"] | None = None
    first: Float[NumpyArray, " n"] | None = None

    def largest(self) -> Float[NumpyArray, " N"]:
        """(N,) the largest w(s) pi(a|s) / b(a|s) over all actions that the behaviour may take there, taken or not."""
        if self.probs is None:
            return np.abs(self.visits)
        found = np.empty(len(self.visits))
        for rows in _pieces(len(found)):
            found[rows] = _divided(self.probs[rows], self.behavior[rows]).max(1)
        return np.abs(self.visits) * found

    def never_tried(self, n: int) -> float:
        """How many actions of behaviour probability 0 the policy takes in an episode, on average; n episodes were logged."""
        if self.probs is None:
            return 0.0
        outside = np.concatenate(
            [(self.probs[rows] * (self.behavior[rows] <= 0)).sum(1) for rows in _pieces(len(self.visits))]
        )
        return float(np.maximum(self.visits, 0.0) @ outside / n)


@dataclasses.dataclass(frozen=True, eq=False)
class LoggedWeights:
    """What the weights of an estimate are at the logged actions alone, where sums over all actions are not known.

    The variance is then that of the martingale differences as they were seen, (1/n^2) sum_t (w_j e_j - w_k e_k)^2.

    Attributes:
        weights: (N,) weight of each transition, state and action together.
        residual: (N,) e_t, the TD error that is left; None: take that of the estimate it is compared with.
        first: (n,) value of the first state of each episode; None: it is not modelled.
    """

    weights: Float[NumpyArray, " N"]
    residual: Float[NumpyArray, " N"] | None = None
    first: Float[NumpyArray, " n"] | None = None

    def largest(self) -> Float[NumpyArray, " N"]:
        """(N,) absolute values of the logged weights, since those of other actions are not known."""
        return np.abs(self.weights)

    def never_tried(self, n: int) -> float:
        """0, since in a continuum no action is taken twice, so that none can be counted as never tried."""
        del n
        return 0.0


Ratios = VisitRatios | LoggedWeights
"""What the variance to be expected of an estimate is computed from."""


def variance_of_value(ratios: Ratios, n: int) -> float | None:
    """Variance of the value of one policy from n episodes; None where the TD error is not known."""
    if ratios.residual is None:
        return None
    first = 0.0 if ratios.first is None else float(ratios.first.var()) / n
    if isinstance(ratios, LoggedWeights):
        return first + float(((ratios.weights * ratios.residual) ** 2).sum()) / n**2
    return first + float(ratios.residual**2 @ (ratios.visits**2 * _chi(ratios, ratios))) / n**2


def variance_of_difference(one: Ratios, other: Ratios, n: int) -> float | None:
    """Variance of the value of one policy minus that of another, from the same n episodes; None where it is not known."""
    if one.residual is None:
        return None
    other_residual = one.residual if other.residual is None else other.residual
    if isinstance(one, LoggedWeights) or isinstance(other, LoggedWeights):
        mine, theirs = (
            ratios.weights if isinstance(ratios, LoggedWeights) else ratios.visits for ratios in (one, other)
        )
        return float(((mine * one.residual - theirs * other_residual) ** 2).sum()) / n**2
    mine, theirs = one.residual * one.visits, other_residual * other.visits
    total = mine**2 @ _chi(one, one) - 2 * (mine * theirs) @ _chi(one, other) + theirs**2 @ _chi(other, other)
    return max(float(total), 0.0) / n**2


def expected_square(probs: Float[NumpyArray, "N A"], behavior: Float[NumpyArray, "N A"]) -> Float[NumpyArray, " N"]:
    """(N,) mean square of the ratio over the actions that the behaviour takes, sum_a pi(a|s)^2 / b(a|s)."""
    ratios = VisitRatios(np.ones(len(probs)), probs, behavior)
    return _chi(ratios, ratios)


def _chi(one: VisitRatios, other: VisitRatios) -> Float[NumpyArray, " N"]:
    """(N,) sum over the actions of pi_j pi_k / b; where one of the two is the behaviour, 1."""
    if one.probs is None or other.probs is None:
        return np.ones(len(one.visits))
    found = np.empty(len(one.visits))
    for rows in _pieces(len(found)):
        found[rows] = (_divided(one.probs[rows], one.behavior[rows]) * other.probs[rows]).sum(1)
    return found


def _divided(probs: Float[NumpyArray, "N A"], behavior: Float[NumpyArray, "N A"]) -> Float[NumpyArray, "N A"]:
    """Ratios of probabilities; 0 where the behaviour's is 0, which `never_tried` counts."""
    upper = probs.astype(np.float64)
    return np.divide(upper, behavior, out=np.zeros_like(upper), where=behavior > 0)


def _pieces(count: int) -> list[slice]:
    return [slice(start, start + ROWS_AT_ONCE) for start in range(0, count, ROWS_AT_ONCE)]
