"""What a linear fit would be without each of its episodes, exactly and without fitting it again.

The fit solves A theta = b, where every episode i adds its own part to both sides:

    (1)  A = sum_i U_i^T W_i + ridge,   b = sum_i U_i^T y_i

with a row of U, W and y for each transition. Least squares has U = W = psi; the value of a policy by temporal differences
(LSTD, Bradtke and Barto 1996) has U = ratio psi_t, W = psi_t - gamma psi_{t+1} and y = r_t, which is fitted Q evaluation
with linear features, iterated to its fixed point. Let d_i = y_i - W_i theta be the residuals of the rows of an episode, and
P_i = W_i A^{-1} U_i^T, a square matrix with one row for each step of the episode. The Woodbury identity gives

    (2)  theta - theta_without_i = A^{-1} U_i^T x_i,   x_i = (I - P_i)^{-1} d_i

so that one inverse serves all episodes. From x_i follow the change of any number that is linear in theta, and how far the fit
moves:

    (3)  moved_i = (theta - theta_without_i)^T S (theta - theta_without_i)

with S the mean of psi psi^T over the rows of the log. It is the mean square, over these rows, of the change of the fitted number:
Cook's distance (1977) of an episode. For least squares the sum of (3) over the episodes is the jackknife's estimate of the
variance of the fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from stitchrl.evaluation.linear_system import dense, scaled
from stitchrl.types import NumpyArray

__all__ = ["EpisodeInfluence", "LinearFit"]

ROWS_AT_ONCE = 8192
"""Rows whose products with the inverse are held at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeInfluence:
    """What leaving out each of n episodes changes in a fit, by equations (2) and (3).

    Attributes:
        held_out: (N, K) y - W theta_without_i of every row of episode i: by how much the fit to all other episodes misses it.
        moved: (n,) mean square, over the rows of the log, of the change of the fitted numbers, summed over targets.
        readout: (n,) by how much `direction @ theta` falls when the episode is left out, for the first target; zeros where no
            direction was given.
        first: (n,) by how much the fitted number at the first row of the episode itself falls then, for the first target.
    """

    held_out: Float[NumpyArray, "N K"]
    moved: Float[NumpyArray, " n"]
    readout: Float[NumpyArray, " n"]
    first: Float[NumpyArray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearFit:
    """A solved system of equation (1).

    Attributes:
        instruments: (N, H) U, dense or sparse.
        features: (N, H) W.
        target: (N, K) y.
        start: (n + 1,) first row of each episode, then N.
        ridge: what is added to the diagonal of A; it stays what it is when an episode is left out.
    """

    instruments: Any
    features: Any
    target: Float[NumpyArray, "N K"]
    start: Int[NumpyArray, " n_plus_1"]
    ridge: float

    @cached_property
    def matrix(self) -> Float[NumpyArray, "H H"]:
        """A without its ridge."""
        return dense(self.instruments.T @ self.features)

    @cached_property
    def inverse(self) -> Float[NumpyArray, "H H"]:
        """A^{-1}."""
        return np.linalg.inv(self.matrix + self.ridge * np.eye(len(self.matrix)))

    @cached_property
    def theta(self) -> Float[NumpyArray, "H K"]:
        """The solution."""
        return self.inverse @ (self.instruments.T @ self.target)

    def theta_with(self, ridge: float) -> Float[NumpyArray, "H K"]:
        """The solution with another ridge."""
        return np.linalg.solve(self.matrix + ridge * np.eye(len(self.matrix)), self.instruments.T @ self.target)

    def counting(self, rows: Float[NumpyArray, " N"]) -> LinearFit:
        """The fit in which each row counts as often as given: 0 where it is left out."""
        return dataclasses.replace(self, instruments=scaled(self.instruments, rows))

    def residual(self, theta: Float[NumpyArray, "H K"]) -> Float[NumpyArray, "N K"]:
        """y - W theta."""
        return self.target - self.features @ theta

    def influence(self, states: Any, direction: Float[NumpyArray, " H"] | None = None) -> EpisodeInfluence:
        """Equations (2) and (3) for every episode.

        Args:
            states: (N, H) psi, the rows at which a change of the fit is measured.
            direction: (H,) coefficients of a number that is linear in the first target's theta, such as the mean features of
                first states; None: no such number is asked for.
        """
        n = len(self.start) - 1
        held_out = self.residual(self.theta)
        moved, readout, first = np.zeros(n), np.zeros(n), np.zeros(n)
        metric = self.inverse.T @ (dense(states.T @ states) / len(self.target)) @ self.inverse
        carry = None if direction is None else self.inverse.T @ direction
        for rows, episodes in _alike(self.start):
            instruments = self.instruments[rows.reshape(-1)]
            ahead = _dense_block(instruments, rows.shape)
            change = _dense_block(instruments @ self.inverse.T, rows.shape)
            x = self._left_out(change, _dense_block(self.features[rows.reshape(-1)], rows.shape), held_out[rows])
            held_out[rows] = x
            begin = _dense(states[rows[:, 0]])
            first[episodes] = np.einsum("et,et->e", np.einsum("eh,eth->et", begin, change), x[:, :, 0])
            pulled = np.matmul(np.swapaxes(ahead, 1, 2), x)  # (e, H, K), however long the episodes are
            moved[episodes] = np.einsum("ehk,ehk->e", pulled, np.matmul(metric, pulled))
            if carry is not None:
                readout[episodes] = np.einsum("et,et->e", (instruments @ carry).reshape(rows.shape), x[:, :, 0])
        return EpisodeInfluence(held_out, np.maximum(moved, 0.0), readout, first)

    @staticmethod
    def _left_out(change: NumpyArray, features: NumpyArray, residual: NumpyArray) -> NumpyArray:
        """x of equation (2), by whichever of two systems is smaller: steps by steps, or features by features.

        Args:
            change: (episodes, T, H), whose rows are A^{-1} U^T of each transition.
            features: (episodes, T, H) W.
            residual: (episodes, T, K) d.
        """
        steps, width = change.shape[1:]
        back = np.swapaxes(change, 1, 2)
        if steps <= width:
            found: NumpyArray = np.linalg.solve(np.eye(steps) - np.matmul(features, back), residual)
            return found
        # (I - W B)^{-1} = I + W (I - B W)^{-1} B
        inner = np.linalg.solve(np.eye(width) - np.matmul(back, features), np.matmul(back, residual))
        return residual + np.matmul(features, inner)


def _alike(start: Int[NumpyArray, " n_plus_1"]) -> Iterator[tuple[Int[NumpyArray, "e T"], Int[NumpyArray, " e"]]]:
    """Batches of episodes of equal length T: the rows of each, and which episodes they are."""
    lengths = np.diff(start)
    order = np.argsort(lengths, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        steps = int(lengths[same[0]])
        at_once = max(1, ROWS_AT_ONCE // steps)
        for first in range(0, len(same), at_once):
            episodes = same[first : first + at_once]
            yield start[episodes][:, None] + np.arange(steps), episodes


def _dense_block(rows_of: Any, shape: tuple[int, ...]) -> Float[NumpyArray, "e T H"]:
    """The rows of some episodes of equal length as one dense array."""
    return _dense(rows_of).reshape(*shape, -1)


def _dense(rows_of: Any) -> Float[NumpyArray, "rows H"]:
    found: NumpyArray = rows_of.toarray() if sparse.issparse(rows_of) else rows_of
    return found
