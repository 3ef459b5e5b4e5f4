"""Type names of JAX arrays, shared by every layer that computes with JAX. Imports nothing of stitchrl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import jax
import numpy as np

__all__ = ["AnyArray", "Array", "Batch", "Key", "Metrics", "Scalar"]


Array: TypeAlias = jax.Array


AnyArray: TypeAlias = jax.Array | np.ndarray
"""What a policy or value function takes: NumPy arrays from callers, JAX arrays inside compiled programs."""


Key: TypeAlias = jax.Array
"""A typed JAX PRNG key. Always passed by keyword, never used twice."""


Batch: TypeAlias = Mapping[str, jax.Array]
"""Arrays of one sampled batch, the batch axis first; `feeds.batches.FIELDS` names them, beside `obs`, `next_obs`, `row`."""


Metrics: TypeAlias = dict[str, jax.Array]


Scalar: TypeAlias = float | jax.Array
"""A setting as a loss takes it: a number, or an array of shape () inside a compiled program."""
