"""How a policy differs from the behaviour, decision by decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["MOST_ACTIONS", "SUPPORT", "Agreement", "agreement"]

SUPPORT = 0.02
"""Behaviour probability from which an action counts as supported."""
Pieces = Callable[[], Iterable[tuple[slice, NumpyArray]]]
"""A function that gives a policy's probabilities piece by piece: the rows of a piece, and their (rows, A) numbers."""
MOST_ACTIONS = 64
"""The most actions that the matrix of pairs tells apart; where there are more, the rarer ones are counted together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """Agreement of a policy with a log of N decisions between A actions.

    Attributes:
        policy: mean probability that the policy gives the logged action.
        behavior: mean probability that the behaviour itself gives it.
        supported: share of the policy's decisions that are actions which the behaviour takes with a probability of at least
            `support`; None where only the logged action's probability is known.
        matrix: (K, K) joint shares of logged action (row) and the policy's action (column); sums to 1. Each action has a row
            and a column. Where there are more than `MOST_ACTIONS`, the last row and column hold all that are not in `actions`.
        actions: which actions the matrix has, ascending.
        support: behaviour probability from which an action counts as supported.
    """

    policy: float
    behavior: float
    supported: float | None
    matrix: Float[NumpyArray, "K K"]
    actions: Int[NumpyArray, " _"]
    support: float = SUPPORT

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "policy": self.policy,
            "behavior": self.behavior,
            "supported": self.supported,
            "support": self.support,
            "matrix": self.matrix.tolist(),
            "actions": self.actions.tolist(),
        }


def agreement(
    log: Dataset,
    probs: Float[NumpyArray, "N A"] | Pieces,
    behavior_log_prob: Float[NumpyArray, " N"],
    behavior_probs: Float[NumpyArray, "N A"] | None,
) -> Agreement:
    """Compare a policy's probabilities with what was logged.

    Args:
        log: N decisions between discrete actions.
        probs: (N, A) the policy's probabilities; or a function that gives them piece by piece, where all would not fit in
            memory.
        behavior_log_prob: (N,) logarithm of the behaviour's probability of the logged action.
        behavior_probs: (N, A) the behaviour's probability of every action; None where it is not known.
    """
    pieces: Pieces = probs if callable(probs) else lambda: [(slice(0, log.num_transitions), probs)]
    chosen, supported = np.empty(log.num_transitions, np.float32), np.empty(log.num_transitions, np.float32)
    for rows, piece in pieces():
        chosen[rows] = np.take_along_axis(piece, log.action[rows, None].astype(np.int64), 1)[:, 0]
        if behavior_probs is not None:
            supported[rows] = (piece * (behavior_probs[rows] >= SUPPORT)).sum(1)
    actions, matrix = _pairs(log.action, pieces, log.num_actions or 1)
    return Agreement(
        float(chosen.mean(dtype=np.float64)),
        float(np.exp(behavior_log_prob).mean()),
        None if behavior_probs is None else float(supported.mean(dtype=np.float64)),
        matrix / max(log.num_transitions, 1),
        actions,
    )


def _pairs(
    logged: Int[NumpyArray, " N"], pieces: Pieces, count: int
) -> tuple[Int[NumpyArray, " _"], Float[NumpyArray, "K K"]]:
    """Which actions are shown, and the sums of the policy's probabilities by logged action and by the policy's action."""
    shown = np.arange(count)
    if count > MOST_ACTIONS:
        often = np.bincount(logged, minlength=count).astype(np.float64)
        for _, piece in pieces():
            often += piece.sum(0, dtype=np.float64)
        shown = np.sort(np.argsort(-often, kind="stable")[:MOST_ACTIONS])
    place = np.full(count, len(shown))
    place[shown] = np.arange(len(shown))
    matrix = np.zeros((len(shown) + (len(shown) < count), count))
    # Summed by logged action in float64, in a fixed order: the numbers are written to files that must not vary.
    for rows, piece in pieces():
        of_row = place[logged[rows]]
        for k in range(len(matrix)):
            matrix[k] += piece[of_row == k].sum(0, dtype=np.float64)
    if len(shown) < count:
        kept = matrix[:, shown]
        matrix = np.concatenate([kept, matrix.sum(1, keepdims=True) - kept.sum(1, keepdims=True)], axis=1)
    return shown, matrix
