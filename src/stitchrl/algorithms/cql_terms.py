"""The parts of CQL's variants that do not depend on the kind of action: equations (8), (11), (12) and (13) of `cql`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.cql_settings import CQLSettings
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.data.dataset import Dataset
from stitchrl.jax_types import Array, Batch
from stitchrl.types import NumpyArray

__all__ = ["logged_value", "multiplier_of", "multiplier_step", "rarity", "return_weights"]

LARGEST_MULTIPLIER = 1e6
LEAST_RARITY = 1e-6
"""Weight of an action that the behaviour always takes: its logarithm stays finite."""
LEAST_WEIGHT, MOST_WEIGHT = 0.1, 10.0
"""Ends of the weights by return, before they are divided by their mean."""


def multiplier_of(log_multiplier: Trainable[Array]) -> Float[Array, ""]:
    """alpha' of equation (8), at most 1e6."""
    return jnp.clip(jnp.exp(log_multiplier.model), 0.0, LARGEST_MULTIPLIER)


def multiplier_step(
    settings: CQLSettings, log_multiplier: Trainable[Array], multiplier: Array, penalty: Float[Array, " C"]
) -> Trainable[Array]:
    """Equation (8): one gradient step on log alpha' that lowers -alpha' (cql_weight penalty - lagrange_gap)."""
    difference = jnp.mean(settings.cql_weight * penalty) - settings.lagrange_gap
    return log_multiplier.step(settings.adam(settings.learning_rate), -difference * multiplier)


def rarity(log_share: Float[Array, "..."]) -> Float[Array, "..."]:
    """log omega of equation (11), given log b: 0 where b is 0, and the further below 0 the larger b is."""
    b = jnp.exp(log_share)
    return jnp.log(jnp.maximum((1.0 - b) / (1.0 + b), LEAST_RARITY))


def return_weights(log: Dataset) -> Float[NumpyArray, " N"]:
    """(N,) u of equation (12) for each row: the same for all rows of an episode, with mean 1 over rows."""
    returns = log.episode_returns()
    spread = returns.std()
    standardized = (returns - returns.mean()) / spread if spread > 0 else np.zeros_like(returns)
    weights = np.repeat(np.clip(np.exp(standardized), LEAST_WEIGHT, MOST_WEIGHT), log.episode_lengths)
    return (weights / weights.mean()).astype(np.float32)


def logged_value(q_data: Float[Array, "C B"], batch: Batch) -> Float[Array, "C B"]:
    """The data term of the penalty: Q of the logged actions, times u of equation (12) where the batch has it."""
    return q_data * batch["return_weight"][None, :] if "return_weight" in batch else q_data
