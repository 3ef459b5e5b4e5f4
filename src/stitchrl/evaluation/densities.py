"""Log-densities that a policy over continuous actions gives to logged actions, native or duck-typed, checked."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.probabilities import ROWS_AT_ONCE, PolicyLike
from stitchrl.jax_types import Array
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.types import NumpyArray

__all__ = ["log_densities"]


def log_densities(policy: PolicyLike, log: Dataset) -> Float[NumpyArray, " N"]:
    """(N,) logarithm of the density, in logged units, of each logged action; -inf where the policy cannot take it.

    Raises:
        EvaluationError: no `log_prob`, no density, a wrong shape, or a number that is no log-density.
    """
    if not hasattr(policy, "log_prob") or not getattr(policy, "has_density", True):
        raise EvaluationError(
            f"{type(policy).__name__} has no density of continuous actions: it needs `log_prob(obs, action)`."
        )
    ask = _compiled if isinstance(policy, ContinuousPolicy) else _plain
    parts, count = [], log.num_transitions
    for start in range(0, count, ROWS_AT_ONCE):
        # The last piece reaches back, so that every piece has one shape and compiles once.
        first = max(0, min(start, count - ROWS_AT_ONCE))
        rows = slice(first, first + ROWS_AT_ONCE)
        obs = log.observation_table[log.observation_index[rows]]
        parts.append(np.asarray(ask(policy, obs, log.action[rows]), dtype=np.float64)[start - first :])
    found = np.concatenate(parts)
    if found.shape != (count,):
        raise EvaluationError(
            f"`log_prob` must give one number an action; got shape {found.shape} for {count:,} actions."
        )
    if np.isnan(found).any() or (found == np.inf).any():
        raise EvaluationError("`log_prob` must be a number or -inf for every logged action; it is not.")
    return found


@jax.jit
def _compiled(policy: ContinuousPolicy, obs: Array, action: Array) -> Array:
    return policy.log_prob(obs, action)


def _plain(policy: PolicyLike, obs: NumpyArray, action: NumpyArray) -> Any:
    return policy.log_prob(obs, action)
