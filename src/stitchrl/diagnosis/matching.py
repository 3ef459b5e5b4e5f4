"""Weights under which the rows of one log have the means of another, so that the two can be compared as if they were alike.

The weights are exponential in the features: of all weights that match the means they are nearest to equal ones (entropy
balancing, Hainmueller 2012). Where few rows have nearly all the weight, the logs cannot be compared.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.types import NumpyArray

__all__ = ["effective_share", "matching_weights"]

STEPS = 50
PENALTY = 1e-4
"""Weight of the squared coefficients in the loss, so that they stay finite where the means cannot be matched."""
CLOSE = 1e-6


def matching_weights(old: Float[NumpyArray, "n k"], new: Float[NumpyArray, "m k"]) -> Float[NumpyArray, " n"]:
    """(n,) weights of mean 1 under which the means of `old` are those of `new`, or come near to them.

    Args:
        old, new: features, on a scale of about 1.
    """
    away = old - new.mean(0)
    coefficient = np.zeros(away.shape[1])

    def objective(at: Float[NumpyArray, " k"]) -> tuple[float, Float[NumpyArray, " n"]]:
        exponent = away @ at
        top = exponent.max()
        weight = np.exp(exponent - top)
        return float(np.log(weight.sum()) + top + PENALTY * at @ at / 2), weight / weight.sum()

    value, weight = objective(coefficient)
    for _ in range(STEPS):
        mean = weight @ away
        gradient = mean + PENALTY * coefficient
        if np.abs(gradient).max() < CLOSE:
            break
        curvature = (away * weight[:, None]).T @ away - np.outer(mean, mean)
        curvature[np.diag_indices(len(curvature))] += PENALTY
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-4:
            found, other = objective(coefficient - size * step)
            if found < value:
                break
            size /= 2
        else:
            break
        coefficient, value, weight = coefficient - size * step, found, other
    return weight * len(weight)


def effective_share(weight: Float[NumpyArray, " n"]) -> float:
    """The share of the rows that count under these weights."""
    return float(weight.sum() ** 2 / (weight**2).sum() / len(weight))
