"""Ridge regressions with several penalties at once, and their errors with each row left out, in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from stitchrl.data.scaling import Scaling
from stitchrl.types import NumpyArray

__all__ = ["PENALTIES", "Path", "ridge", "standardised"]

PENALTIES = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 1e4, np.inf)
"""Ridge penalties that are tried, in decisions: a penalty of 100 halves an effect that rests on 100 decisions."""
SMALLEST = 1e-12
"""Eigenvalues that are a smaller share of the largest count as rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
    """Ridge regressions with each of the `PENALTIES`: coefficients (P, E), and (P, M) errors without the row itself."""

    coefficients: Float[NumpyArray, "P E"]
    left_out: Float[NumpyArray, "P M"]


def ridge(z: Float[NumpyArray, "M E"], target: Float[NumpyArray, " M"]) -> Path:
    """Ridge regression without a constant of its own, by the eigenvectors of the smaller of z^T z and z z^T."""
    penalties = np.asarray(PENALTIES)[:, None]
    wide = z.shape[1] > z.shape[0]
    values, vectors = np.linalg.eigh(z @ z.T if wide else z.T @ z)
    kept = values > SMALLEST * max(float(values[-1]) if len(values) else 0.0, 1e-300)
    values, vectors = values[kept], vectors[:, kept]
    # u: (M, r) with orthonormal columns; right: (E, r), so that z = u sqrt(values) right^T.
    size = np.sqrt(values)
    u = vectors if wide else (z @ vectors) / size
    right = (z.T @ vectors) / size if wide else vectors
    along = u.T @ target
    shrunk = values / (values + penalties)
    coefficients = (shrunk * along / size) @ right.T
    leverage = np.minimum(shrunk @ (u**2).T, 1.0 - 1e-9)
    return Path(coefficients, (target - (shrunk * along) @ u.T) / (1.0 - leverage))


def standardised(scaling: Scaling, obs: Float[NumpyArray, "rows D"]) -> Float[NumpyArray, "rows D"]:
    """Observations with mean 0 and standard deviation 1; missing and infinite numbers are set to the mean."""
    with np.errstate(invalid="ignore"):
        scaled = (obs.astype(np.float64) - scaling.mean) / scaling.std
    return np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0)
