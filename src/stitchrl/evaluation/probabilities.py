"""Action probabilities of a policy, of this library or of any other kind, with checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.shared_observations import SHARED
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.logged_policy import LoggedPolicy
from stitchrl.evaluation.pieces import pieces
from stitchrl.jax_types import Array
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.types import NumpyArray

__all__ = [
    "PolicyLike",
    "action_probabilities",
    "next_probabilities",
    "of_actions",
    "policy_probabilities",
    "probabilities_on",
    "probability_pieces",
    "taken",
]

PolicyLike = Any
"""Anything with `probs(obs, action_mask=...)` returning (B, A), NumPy or JAX."""


ROWS_AT_ONCE = 16384
CELLS_AT_ONCE = 2**26
"""The most probabilities in one piece, 256 MB of them, where those of all rows and actions would not fit in memory."""


def policy_probabilities(policy: PolicyLike, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
    """(B, A) float32 probabilities that a policy gives every action, checked.

    Args:
        policy: anything with `probs(obs, action_mask=...)`.
        obs: (B, ...) observations.
        action_mask: (B, A) which actions are allowed; None: all.

    Raises:
        EvaluationError: no `probs`, a `LoggedPolicy`, a wrong shape, rows that are not probabilities, or a probability above 0
            of a forbidden action.
    """
    if not hasattr(policy, "probs"):
        raise EvaluationError(
            f"A policy over discrete actions needs `probs(obs, action_mask=...)`; {type(policy).__name__} has none."
        )
    if isinstance(policy, LoggedPolicy):
        raise EvaluationError(
            "The probabilities of a `LoggedPolicy` belong to the rows of a log: at other observations nothing is known of it."
        )
    ask = _compiled_probs if isinstance(policy, DiscretePolicy) else _plain_probs
    parts = []
    for first, start, stop in pieces(len(obs), ROWS_AT_ONCE):
        rows = slice(first, stop)
        mask = None if action_mask is None else action_mask[rows]
        parts.append(np.asarray(ask(policy, obs[rows], mask), dtype=np.float32)[start - first :])
    probs = np.concatenate(parts)
    if probs.ndim != 2 or len(probs) != len(obs):
        raise EvaluationError(f"`probs` must give one row of probabilities an observation; got shape {probs.shape}.")
    if action_mask is not None and probs.shape != action_mask.shape:
        raise EvaluationError(f"The policy has {probs.shape[1]} actions; the log has {action_mask.shape[1]}.")
    if not np.isfinite(probs).all() or (probs < 0).any() or (np.abs(probs.sum(1) - 1) > 1e-3).any():
        raise EvaluationError(
            f"`probs` must be at least 0 and sum to 1 in every row; those of {type(policy).__name__} do not."
        )
    if action_mask is not None and (np.where(action_mask, 0.0, probs) > 1e-6).any():
        raise EvaluationError(
            f"A policy must give probability 0 to forbidden actions; {type(policy).__name__} does not. Honour `action_mask` in "
            "`probs`."
        )
    return probs


@jax.jit
def _compiled_probs(policy: DiscretePolicy, obs: Array, action_mask: Array | None) -> Array:
    return policy.probs(obs, action_mask=action_mask)


def _plain_probs(policy: PolicyLike, obs: NumpyArray, action_mask: NumpyArray | None) -> Any:
    return policy.probs(obs, action_mask=action_mask)


def probability_pieces(policy: PolicyLike, log: Dataset) -> Iterator[tuple[slice, NumpyArray]]:
    """A policy's probabilities at the logged states, some rows at a time: each piece's rows, and (rows, A) numbers."""
    at_once = max(1, min(ROWS_AT_ONCE, CELLS_AT_ONCE // (log.num_actions or 1)))
    for start in range(0, log.num_transitions, at_once):
        rows = slice(start, min(start + at_once, log.num_transitions))
        if isinstance(policy, LoggedPolicy):
            yield rows, policy.probs_on(log, rows)
            continue
        mask = None if log.action_mask is None else log.action_mask[rows]
        yield rows, _at(policy, log.observation_table, log.observation_index[rows], mask)


def probabilities_on(policy: PolicyLike, log: Dataset) -> NumpyArray:
    """A policy's probabilities (N, A) at every logged state."""
    if isinstance(policy, LoggedPolicy):
        return policy.probs_on(log)
    return _at(policy, log.observation_table, log.observation_index, log.action_mask)


def action_probabilities(policy: PolicyLike, log: Dataset) -> tuple[NumpyArray, NumpyArray]:
    """A policy's probabilities at every logged state and at every next state, (N, A) each."""
    here = probabilities_on(policy, log)
    return here, next_probabilities(policy, log, here)


def next_probabilities(policy: PolicyLike, log: Dataset, here: NumpyArray) -> NumpyArray:
    """A policy's probabilities (N, A) at every next state, given those at the logged states.

    The probabilities at a next state are those of the next row. Where the next row does not follow but the next observation is
    stored, they are computed there, under `next_action_mask` where the log has it. Where there is no next observation they are
    uniform, and have weight 0.
    """
    following = np.empty_like(here)
    following[:-1] = here[1:]
    following[~log.continues] = 1.0 / here.shape[1]
    known = np.flatnonzero(~log.continues & (log.next_observation_index >= 0) & ~log.terminated)
    if len(known):
        mask = None if log.next_action_mask is None else log.next_action_mask[known]
        following[known] = _at(policy, log.observation_table, log.next_observation_index[known], mask)
    return following


def _at(policy: PolicyLike, table: NumpyArray, index: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
    """(B, A) probabilities at the observations `table[index]`.

    Where rows share observations, a policy of this library is asked once for each observation and mask that differ.
    """
    if not isinstance(policy, DiscretePolicy) or SHARED * len(table) > len(index):
        return policy_probabilities(policy, table[index], action_mask)
    key = np.ascontiguousarray(index, np.int64).view(np.uint8).reshape(len(index), 8)
    if action_mask is not None:
        key = np.concatenate([key, np.packbits(action_mask, axis=1)], axis=1)
    _, first, place = np.unique(key.view(f"V{key.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    # As many as the next power of two, so that logs with other numbers of observations need not compile anew.
    asked = np.concatenate([first, np.repeat(first[:1], 2 ** (len(first) - 1).bit_length() - len(first))])
    mask = None if action_mask is None else action_mask[asked]
    return policy_probabilities(policy, table[index[asked]], mask)[place]


def taken(probs: NumpyArray, log: Dataset) -> NumpyArray:
    """(N,) float64 probability of the logged action, from (N, A) of every action."""
    return of_actions(probs, log.action)


def of_actions(probs: NumpyArray, action: NumpyArray) -> NumpyArray:
    """(rows,) float64 probability of one action a row, from (rows, A) of every action."""
    return np.take_along_axis(probs, action[:, None].astype(np.int64), 1)[:, 0].astype(np.float64)
