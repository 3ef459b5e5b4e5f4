"""Draws of actions from policies in NumPy and in JAX alike, by a seed, a NumPy generator, or a JAX key."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.deployment.numpy_continuous import NumpyContinuousPolicy
from stitchrl.errors import ConfigurationError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = ["drawn_discretely", "draws", "generator"]


def generator(seed: Any, key: Any = None) -> np.random.Generator:
    """A NumPy generator from a seed, a generator, or None for other draws each time; or from a JAX key.

    Raises:
        ConfigurationError: the seed is none of these.
    """
    if key is not None:
        import jax

        return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is None or (isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0):
        return np.random.default_rng(seed)
    raise ConfigurationError(
        f"`seed` must be a whole number that is at least 0, a NumPy generator or None; got {shown(seed)}."
    )


def drawn_discretely(probs: NumpyArray, rng: np.random.Generator) -> NumpyArray:
    """(B,) an action drawn from each row of probabilities."""
    rising = probs.cumsum(1, dtype=np.float64)
    drawn: NumpyArray = (rng.random((len(rising), 1)) * rising[:, -1:] >= rising).sum(1)
    return drawn


def draws(policy: Any, rows: NumpyArray, action_mask: NumpyArray | None, chance: Any) -> NumpyArray:
    """Actions drawn by a policy itself.

    Args:
        policy: of NumPy or of JAX.
        rows: (B, D) its input.
        action_mask: (B, A) or None.
        chance: a NumPy generator, or a key of JAX.
    """
    of_numpy = isinstance(chance, np.random.Generator)
    if isinstance(policy, NumpyContinuousPolicy):
        found = policy.sample(rows, rng=chance if of_numpy else generator(None, chance))
        return found.astype(np.float32)
    if not hasattr(policy, "sample"):  # a discrete one of NumPy
        rng = chance if of_numpy else generator(None, chance)
        return drawn_discretely(policy.probs(rows, action_mask=action_mask), rng)
    if of_numpy:
        import jax

        chance = jax.random.key(int(chance.integers(2**31)))
    return np.asarray(policy.sample(rows, key=chance, action_mask=action_mask))
