"""What the noise of the last layer of a density network does to numbers that are computed with its density.

The last layer has outputs o = phi^T W of d features. With s = d log b(a|s) / d o, taken by automatic differentiation, the score
of a row is S = phi s^T, and the information of the layer is the sum of the variances of the scores over the rows of the fit,
with a penalty p on W:

    (1)  I(V) = sum_rows phi E_b[s s^T] V^T phi + p V

whose expectation is over actions drawn from the fitted density at each row. As in `softmax_noise.py`, a number whose
derivative by log b(a_t|s_t) is g_t has the derivative D = sum_t g_t S_t by W. One row of the fit moves it by

    (2)  u = <I^{-1} D, S>

and the expected variance of these effects, if the model is right, is <D, I^{-1} D>. The noise of the features themselves is left
out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behavior_model import FitEffect, by_episode
from stitchrl.jax_types import Array, Key
from stitchrl.nn.continuous_policy import MixturePolicy
from stitchrl.nn.networks import MLP, standardized
from stitchrl.nn.units import RescaledPolicy
from stitchrl.types import NumpyArray

__all__ = ["ScoreNoise"]

ROWS_OF_INFORMATION = 8_192
"""Size of the sample of rows that equation (1) is computed from."""
DRAWS = 8
"""Actions drawn at each of these rows."""
ROWS_AT_ONCE = 16_384
STEPS, CLOSE = 200, 1e-3
"""The most steps of conjugate gradients, and the size of the residual, as a share of D, at which they end."""


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreNoise:
    """Equations (1) and (2) for the last layer of a mixture density network on vectors.

    Attributes:
        policy: the fitted behaviour: a mixture policy in logged units.
        penalty: p.
        fit_on: the episodes of the fit.
    """

    policy: RescaledPolicy
    penalty: float
    fit_on: Dataset

    def effect(self, log: Dataset, gradient: Float[NumpyArray, "N K"]) -> FitEffect:
        """What the fit does to K numbers that were computed from `log`."""
        derivative: NumpyArray | float = 0.0
        for rows, phi, score in self._rows(log):
            derivative = derivative + np.einsum("nd,no,nk->dok", phi, score, gradient[rows], optimize=True)
        assert isinstance(derivative, np.ndarray)
        direction = self._solve(derivative)
        moved = np.empty((self.fit_on.num_transitions, gradient.shape[1]))
        for rows, phi, score in self._rows(self.fit_on):
            moved[rows] = np.einsum("nd,no,dok->nk", phi, score, direction, optimize=True)
        expected = np.einsum("dok,doj->kj", derivative, direction)
        return FitEffect(by_episode(moved, self.fit_on.episode_start[:-1]), (expected + expected.T) / 2)

    def _rows(self, log: Dataset) -> Iterator[tuple[slice, NumpyArray, NumpyArray]]:
        """Rows of a log with their features and scores."""
        count = log.num_transitions
        for start in range(0, count, ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, count))
            obs = log.observation_table[log.observation_index[rows]]
            phi, score = _scores(self.policy, obs, log.action[rows])
            yield rows, np.asarray(phi, np.float64), np.asarray(score, np.float64)

    def _solve(self, derivative: Float[NumpyArray, "D O K"]) -> Float[NumpyArray, "D O K"]:
        """I^{-1} D, with the information of a sample of the rows of the fit."""
        fit_on, count = self.fit_on, self.fit_on.num_transitions
        rows = np.arange(count)
        if count > ROWS_OF_INFORMATION:
            rows = np.sort(np.random.default_rng(0).choice(count, ROWS_OF_INFORMATION, replace=False))
        obs = fit_on.observation_table[fit_on.observation_index[rows]]
        phi, spread = (np.asarray(one, np.float64) for one in _spreads(self.policy, obs, key=jax.random.key(0)))
        # Features, outputs and numbers are scaled to a size of about 1: fewer steps are needed, and nothing underflows.
        by_feature = _or_one(np.sqrt((phi**2).mean(0)))
        by_output = _or_one(np.sqrt(np.einsum("moo->mo", spread).mean(0)))
        unit = np.outer(by_feature, by_output)
        size = np.maximum(np.abs(derivative / unit[:, :, None]).max((0, 1)), 1e-300)
        found = _conjugate_gradients(
            jnp.asarray(derivative / unit[:, :, None] / size, jnp.float32),
            jnp.asarray(phi / by_feature, jnp.float32),
            jnp.asarray(spread / np.outer(by_output, by_output), jnp.float32),
            jnp.asarray(self.penalty / count / unit**2, jnp.float32),
        )
        return np.asarray(found, np.float64) / unit[:, :, None] * size / count


def _or_one(scale: NumpyArray) -> NumpyArray:
    """The scales, with 1 in place of 0, as for the logit of a single component, whose score is always 0."""
    return np.where(scale > 0, scale, 1.0)


@jax.jit
def _scores(policy: RescaledPolicy, obs: Array, action: Array) -> tuple[Float[Array, "N D"], Float[Array, "N O"]]:
    """Features, a constant first, and the derivative of the log-density by the outputs, at logged actions."""
    network, phi = _features(policy, obs)
    inner = standardized(action, policy.action_center, policy.action_half_width)
    return phi, _derivative(policy.policy, _outputs(network, phi), inner)


@jax.jit
def _spreads(policy: RescaledPolicy, obs: Array, *, key: Key) -> tuple[Float[Array, "M D"], Float[Array, "M O O"]]:
    """Features, and the variance of the scores of the outputs under the fitted density."""
    network, phi = _features(policy, obs)
    outputs = _outputs(network, phi)

    def one(draw: Key) -> Float[Array, "M O"]:
        action = policy.policy.of_outputs(outputs).sample(key=draw)  # type: ignore[attr-defined]
        return _derivative(policy.policy, outputs, action)

    score = jax.lax.map(one, jax.random.split(key, DRAWS))
    return phi, jnp.einsum("kmi,kmj->mij", score, score) / DRAWS


def _features(policy: RescaledPolicy, obs: Array) -> tuple[MLP, Float[Array, "N D"]]:
    mixture = policy.policy
    assert isinstance(mixture, MixturePolicy)
    assert isinstance(mixture.network, MLP)
    hidden = mixture.network.hidden(standardized(obs, policy.mean, policy.std))
    return mixture.network, jnp.concatenate([jnp.ones((hidden.shape[0], 1), hidden.dtype), hidden], axis=1)


def _outputs(network: MLP, phi: Float[Array, "N D"]) -> Float[Array, "N O"]:
    return jnp.matmul(phi, jnp.concatenate([network.biases[-1][None, :], network.weights[-1]]), precision="highest")


def _derivative(policy: object, outputs: Float[Array, "N O"], action: Float[Array, "N action"]) -> Float[Array, "N O"]:
    assert isinstance(policy, MixturePolicy)
    return jax.grad(lambda o: jnp.sum(policy.of_outputs(o).log_prob(action)))(outputs)


@jax.jit
def _conjugate_gradients(
    derivative: Float[Array, "D O K"],
    phi: Float[Array, "M D"],
    spread: Float[Array, "M O O"],
    ridge: Float[Array, "D O"],
) -> Float[Array, "D O K"]:
    """I^{-1} D by conjugate gradients, solved for each number separately."""

    def information(v: Float[Array, "D O"]) -> Float[Array, "D O"]:
        along = jnp.einsum("moi,mi->mo", spread, jnp.matmul(phi, v, precision="highest"), precision="highest")
        return jnp.matmul(phi.T, along, precision="highest") / phi.shape[0] + ridge * v

    def solve(one: Float[Array, "D O"]) -> Float[Array, "D O"]:
        return jax.scipy.sparse.linalg.cg(information, one, tol=CLOSE, maxiter=STEPS)[0]

    return jnp.moveaxis(jax.lax.map(solve, jnp.moveaxis(derivative, 2, 0)), 0, 2)
