"""Softmax regression of the action on the standardised observation, with a squared penalty.

    (1)  log b(a|s) = phi(s)^T W_a - log sum over the allowed actions,   phi(s) = (1, standardised s)
    (2)  L(W) = -sum_rows log b(a|s) + penalty |W|^2 / 2

The minimum is found by L-BFGS (Liu and Nocedal 1989). Rows with the same observation and the same mask enter as one, so that
the time depends on the number of distinct observations and not on that of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Array
from stitchrl.nn.distributions import masked_log_softmax
from stitchrl.types import NumpyArray

__all__ = ["MOST_ROWS", "ActionCounts", "action_counts", "regress", "softmax_features"]

MOST_ROWS = 32_768
"""The most rows of a fit; more would hardly change a model as small as this one."""
MOST_STEPS, LEAST_STEP = 300, 1e-9
"""The most steps of the search, and the relative improvement by a step below which it ends."""


class ActionCounts(NamedTuple):
    """How often each action was taken at each of M observations.

    Attributes:
        phi: (M, D) features.
        taken: (M, A) how often each action was taken.
        allowed: (M, A) which actions the masks allow; None where the log has no masks.
    """

    phi: Float[NumpyArray, "M D"]
    taken: Float[NumpyArray, "M A"]
    allowed: Bool[NumpyArray, "M A"] | None


def softmax_features(log: Dataset, scaling: Scaling, rows: NumpyArray) -> Float[NumpyArray, "B D"]:
    """phi at some rows of a log."""
    scaled = scaling.observations(log.observation_table[log.observation_index[rows]])
    return np.concatenate([np.ones((len(rows), 1)), scaled], axis=1)


def action_counts(log: Dataset, scaling: Scaling) -> ActionCounts:
    """The counts of a log; of a sample where it has more than `MOST_ROWS` rows of different observations."""
    actions = log.num_actions
    assert actions is not None
    _, first, place = np.unique(log.observation_index, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    mask = log.action_mask
    if len(first) > MOST_ROWS or (mask is not None and (mask != mask[first][place]).any()):
        first = np.arange(log.num_transitions)
        if len(first) > MOST_ROWS:
            first = np.sort(np.random.default_rng(0).choice(len(first), MOST_ROWS, replace=False))
        cells = np.arange(len(first)) * actions + log.action[first]
    else:
        cells = place * actions + log.action
    count = np.bincount(cells, minlength=len(first) * actions).reshape(len(first), actions).astype(np.float64)
    return ActionCounts(softmax_features(log, scaling, first), count, None if mask is None else mask[first])


def regress(
    data: ActionCounts, penalty: float, start: Float[NumpyArray, "D A"] | None = None
) -> Float[NumpyArray, "D A"]:
    """(D, A) the weights W that minimise equation (2).

    Args:
        data: the counts of the actions.
        penalty: the penalty, at least 0.
        start: (D, A) where the search starts; None: at 0.
    """
    shape = (data.phi.shape[1], data.taken.shape[1])
    allowed = np.ones(data.taken.shape, bool) if data.allowed is None else data.allowed
    arrays = (jnp.asarray(data.phi, jnp.float32), jnp.asarray(data.taken, jnp.float32), jnp.asarray(allowed))
    share = jnp.float32(penalty / max(float(data.taken.sum()), 1.0))

    def loss(flat: NumpyArray) -> tuple[float, NumpyArray]:
        value, slope = _loss_and_slope(jnp.asarray(flat.reshape(shape), jnp.float32), *arrays, share)
        return float(value), np.asarray(slope, np.float64).ravel()

    begin = np.zeros(shape) if start is None else start
    options = {"maxiter": MOST_STEPS, "ftol": LEAST_STEP}
    found = optimize.minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x).reshape(shape)


@jax.jit
@jax.value_and_grad
def _loss_and_slope(
    weight: Float[Array, "D A"],
    phi: Float[Array, "M D"],
    count: Float[Array, "M A"],
    allowed: Bool[Array, "M A"],
    penalty: Float[Array, ""],
) -> Float[Array, ""]:
    """Equation (2) divided by the number of rows, and its gradient; `penalty` is divided by that number as well."""
    logs = masked_log_softmax(jnp.matmul(phi, weight, precision="highest"), allowed)
    likelihood = jnp.sum(jnp.where(count > 0, count * logs, 0.0)) / jnp.sum(count)
    return 0.5 * penalty * jnp.sum(weight**2) - likelihood
