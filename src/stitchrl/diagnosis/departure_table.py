"""The most frequent departures of a policy from the behaviour: which action it takes instead of which, how often, and with what
support. For continuous actions: by how much it moves each dimension of the action."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["Departure", "action_name", "departure_table", "moved_numbers"]

MOST_SHOWN = 10
"""Rows of the table."""


class Departure(NamedTuple):
    """One row of the table.

    Attributes:
        usual: name of the behaviour's most probable action.
        taken: name of the action that the policy takes instead.
        share: of all decisions.
        support: the behaviour's mean probability of the taken action in these decisions.
    """

    usual: str
    taken: str
    share: float
    support: float

    def __str__(self) -> str:
        return (
            f"{self.taken} instead of {self.usual} in {self.share:.1%} of all decisions, where the behaviour takes it in "
            f"{self.support:.1%}"
        )


def action_name(log: Dataset, action: int) -> str:
    """The name of an action in findings: its own name, or its number."""
    name = log.schema.action_names[action]
    return f"action {name}" if name == str(action) else name


def departure_table(
    log: Dataset, probs: Float[NumpyArray, "N A"], behavior: Float[NumpyArray, "N A"]
) -> tuple[Departure, ...]:
    """The departures between discrete actions, the most frequent first; empty where the policy takes the usual actions alone.

    Args:
        log: N decisions.
        probs: of the policy.
        behavior: of the behaviour.
    """
    usual, count = behavior.argmax(1), probs.shape[1]
    moved, seen = np.zeros((count, count)), np.zeros((count, count))
    for action in np.unique(usual):
        here = usual == action
        moved[action] = probs[here].sum(0, dtype=np.float64)
        seen[action] = (probs[here] * behavior[here]).sum(0, dtype=np.float64)
    np.fill_diagonal(moved, 0.0)
    order = np.argsort(-moved, axis=None, kind="stable")[:MOST_SHOWN]
    pairs = [np.unravel_index(place, moved.shape) for place in order]
    return tuple(
        Departure(
            action_name(log, int(pair[0])),
            action_name(log, int(pair[1])),
            float(moved[pair] / len(probs)),
            float(seen[pair] / moved[pair]),
        )
        for pair in pairs
        if moved[pair] > 0
    )


def moved_numbers(log: Dataset, action: Float[NumpyArray, "N D"]) -> list[dict[str, Any]]:
    """Each dimension of a continuous action: its logged mean, the policy's mean, and the difference in standard deviations.

    Args:
        log: N decisions.
        action: (N, D) what the policy does.
    """
    column = log.schema.columns["action"]
    names = (column,) if isinstance(column, str) else column
    logged = log.action.astype(np.float64)
    spread = logged.std(0)
    size = logged.shape[1]
    named = names if len(names) == size else tuple(f"action[{j}]" for j in range(size))
    return [
        {
            "name": named[j],
            "logged": float(logged[:, j].mean()),
            "policy": float(action[:, j].mean()),
            "moved": float((action[:, j] - logged[:, j]).mean() / (spread[j] or 1.0)),
        }
        for j in range(size)
    ]
