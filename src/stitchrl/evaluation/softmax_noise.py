"""What the noise of a softmax regression does to numbers that are computed with its probabilities.

The regression has logits phi(s)^T W of d features and A actions, the score of a row is S = phi(s) (1{a} - b(.|s))^T, and its
information is the sum of the variances of the scores over the rows of the fit, with a penalty p on W:

    (1)  I(V) = sum_rows phi [b * (phi^T V - sum_a b phi^T V)] + p V

A number whose derivative by log b(a_t|s_t) is g_t has the derivative D = sum_t g_t S_t by W. A row of the fit with score S
moves W by I^{-1} S (maximum likelihood, to first order), and the number by

    (2)  u = <I^{-1} D, S>

These are its influence values; their variance, if the model is right, is <D, I^{-1} D> (the delta method). The matrix I is never
formed: I^{-1} D comes from conjugate gradients, for all numbers together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behavior_model import FitEffect, by_episode
from stitchrl.evaluation.probabilities import policy_probabilities
from stitchrl.jax_types import Array
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.types import NumpyArray

__all__ = ["SoftmaxNoise", "solve_information"]

ROWS_OF_INFORMATION = 8_192
"""Size of the sample of rows that equation (1) is computed from."""
ROWS_AT_ONCE = 16_384
STEPS, CLOSE = 200, 1e-3
"""The most steps of conjugate gradients, and the size of the residual, as a share of D, at which they end."""


@dataclasses.dataclass(frozen=True, eq=False)
class SoftmaxNoise:
    """Equations (1) and (2) for the last layer of a model of the behaviour.

    Attributes:
        features: gives phi, a constant among them, at each row of a log.
        policy: the fitted behaviour.
        penalty: p.
        fit_on: the episodes of the fit.
    """

    features: Callable[[Dataset, slice], NumpyArray]
    policy: DiscretePolicy
    penalty: float
    fit_on: Dataset

    def effect(self, log: Dataset, gradient: Float[NumpyArray, "N K"]) -> FitEffect:
        """What the fit does to K numbers that were computed from `log`."""
        derivative = self._derivative(log, gradient)
        direction = self._solve(derivative)
        moved = np.empty((self.fit_on.num_transitions, gradient.shape[1]))
        for rows in _pieces(self.fit_on.num_transitions):
            phi, probs = self._model(self.fit_on, rows)
            action = self.fit_on.action[rows]
            for k in range(gradient.shape[1]):
                along = phi @ direction[:, :, k]
                moved[rows, k] = along[np.arange(len(action)), action] - (probs * along).sum(1)
        expected = np.einsum("dak,daj->kj", derivative, direction)
        return FitEffect(by_episode(moved, self.fit_on.episode_start[:-1]), (expected + expected.T) / 2)

    def _model(self, log: Dataset, rows: slice) -> tuple[NumpyArray, NumpyArray]:
        """Features and probabilities at some rows of a log."""
        mask = None if log.action_mask is None else log.action_mask[rows]
        obs = log.observation_table[log.observation_index[rows]]
        return self.features(log, rows).astype(np.float64), policy_probabilities(self.policy, obs, mask)

    def _derivative(self, log: Dataset, gradient: Float[NumpyArray, "N K"]) -> Float[NumpyArray, "D A K"]:
        found: NumpyArray | float = 0.0
        for rows in _pieces(log.num_transitions):
            phi, probs = self._model(log, rows)
            score = -probs.astype(np.float64)
            score[np.arange(len(score)), log.action[rows]] += 1.0
            found = found + np.stack([phi.T @ (score * one[:, None]) for one in gradient[rows].T], axis=-1)
        assert isinstance(found, np.ndarray)
        return found

    def _solve(self, derivative: Float[NumpyArray, "D A K"]) -> Float[NumpyArray, "D A K"]:
        """I^{-1} D, with the information of a sample of the rows of the fit."""
        count = self.fit_on.num_transitions
        rows = np.arange(count)
        if count > ROWS_OF_INFORMATION:
            rows = np.sort(np.random.default_rng(0).choice(count, ROWS_OF_INFORMATION, replace=False))
        pieces = [self._model(self.fit_on, part) for part in _pieces(count)]
        phi = np.concatenate([features for features, _ in pieces])[rows]
        probs = np.concatenate([probabilities for _, probabilities in pieces])[rows]
        return solve_information(phi, probs, np.full(len(rows), count / len(rows)), self.penalty, derivative)


def solve_information(
    phi: Float[NumpyArray, "M D"],
    probs: Float[NumpyArray, "M A"],
    count: Float[NumpyArray, " M"],
    penalty: float,
    derivative: Float[NumpyArray, "D A K"],
) -> Float[NumpyArray, "D A K"]:
    """I^{-1} D of equation (1), in which each of M rows counts as many times as `count` says."""
    # Features and numbers are scaled to a size of about 1: conjugate gradients need fewer steps, and nothing underflows.
    unit = np.sqrt((phi**2).mean(0))[:, None, None]
    unit = np.where(unit > 0, unit, 1.0)
    rows = max(float(count.sum()), 1.0)
    size = np.maximum(np.abs(derivative / unit).max((0, 1)), 1e-300)
    found = _conjugate_gradients(
        jnp.asarray(derivative / unit / size, jnp.float32),
        jnp.asarray(phi / unit[:, 0, 0], jnp.float32),
        jnp.asarray(probs, jnp.float32),
        jnp.asarray(count / rows, jnp.float32),
        jnp.asarray(penalty / rows / unit**2, jnp.float32),
    )
    return np.asarray(found, np.float64) / unit * size / rows


@jax.jit
def _conjugate_gradients(
    derivative: Float[Array, "D A K"],
    phi: Float[Array, "M D"],
    probs: Float[Array, "M A"],
    share: Float[Array, " M"],
    ridge: Float[Array, "D 1 1"],
) -> Float[Array, "D A K"]:
    """I^{-1} D by conjugate gradients, with a step length of its own for each number."""

    def information(v: Array) -> Array:
        along = jnp.einsum("md,dak->mak", phi, v, precision="highest")
        spread = probs[:, :, None] * (along - jnp.sum(probs[:, :, None] * along, axis=1, keepdims=True))
        return jnp.einsum("md,mak->dak", phi * share[:, None], spread, precision="highest") + ridge * v

    def norms(v: Array) -> Array:
        return jnp.sum(v**2, axis=(0, 1))

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        step, solution, left, towards, size = state
        active = size > least
        image = information(towards)
        length = jnp.where(active, size / jnp.maximum(jnp.sum(towards * image, axis=(0, 1)), 1e-30), 0.0)
        solution = solution + length[None, None, :] * towards
        left = left - length[None, None, :] * image
        new = norms(left)
        turn = jnp.where(active, new / jnp.maximum(size, 1e-30), 0.0)
        return step + 1, solution, left, left + turn[None, None, :] * towards, jnp.where(active, new, size)

    least = CLOSE**2 * norms(derivative)
    start: tuple[Array, ...] = (jnp.int32(0), jnp.zeros_like(derivative), derivative, derivative, norms(derivative))
    found = jax.lax.while_loop(lambda state: (state[0] < STEPS) & jnp.any(state[4] > least), body, start)
    return found[1]


def _pieces(count: int) -> list[slice]:
    return [slice(start, min(start + ROWS_AT_ONCE, count)) for start in range(0, count, ROWS_AT_ONCE)]
