"""Returns from each row of a log: sums of the rewards that follow, and mixtures of these with a value function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Array, Scalar

__all__ = ["returns_to_go", "td_lambda_returns"]


def returns_to_go(log: Dataset, scaling: Scaling, gamma: float) -> Float[np.ndarray, " N"]:
    """(N,) float32 discounted sum of the scaled rewards from each row to the end of its logged run."""
    returns = scaling.rewards(log.reward).astype(np.float64)
    discount = None if log.elapsed is None else log.discount(gamma)
    # From the last row of every run to the first, all runs at once.
    left = log.run_end - np.arange(log.num_transitions)
    order = np.argsort(left, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(left))[:-1])[1:]:
        returns[rows] += (gamma if discount is None else discount[rows]) * returns[rows + 1]
    return returns.astype(np.float32)


def td_lambda_returns(
    reward: Float[Array, " N"],
    v: Float[Array, " N"],
    next_v: Float[Array, " N"],
    terminated: Float[Array, " N"],
    continues: Float[Array, " N"],
    td_weight: Float[Array, " N"],
    gamma: Scalar,
    td_lambda: Scalar,
    elapsed: Float[Array, " N"] | None = None,
) -> Float[Array, " N"]:
    """(N,) TD(lambda) returns G_t = r_t + gamma ((1 - lambda) V(s_{t+1}) + lambda G_{t+1}) of all rows of a log, in its order.

    Nothing follows a true end; where the log was cut, gamma V of what followed stands for the rest; where that is unknown,
    G is V.

    Args:
        reward, v, next_v: r_t, V(s_t) and V(s_{t+1}).
        terminated: 1 at a true end.
        continues: 1 where the next row is the next moment of the same episode.
        td_weight: 0 where what followed is unknown.
        elapsed: time units until the next row, where the log has a `time_unit`; None counts every step as one.
    """
    # G_t = constant_t + factor_t G_{t+1}: a linear recurrence, solved from the end in a logarithmic number of steps.
    follows = (gamma if elapsed is None else gamma**elapsed) * (1.0 - terminated) * td_weight
    factor = follows * continues * td_lambda
    constant = jnp.where(td_weight > 0, reward + follows * next_v * (1.0 - continues * td_lambda), v)

    def compose(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] + earlier[1] * later[0], earlier[1] * later[1]

    returns, _ = jax.lax.associative_scan(compose, (constant, factor), reverse=True)
    return returns
