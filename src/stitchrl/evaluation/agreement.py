"""How a policy differs from the behaviour, decision by decision."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["SUPPORT", "Agreement", "agreement"]

SUPPORT = 0.02
"""Behaviour probability from which an action counts as supported."""


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """Of a policy with a log of N decisions between A actions.

    Attributes:
        policy: mean probability the policy gives the logged action.
        behavior: the same of the behaviour itself.
        supported: share of the policy's decisions on actions the behaviour takes at least 2% of the time; None where
            only the logged action's probability is known.
        matrix: (A, A) joint shares of logged action (row) and the policy's action (column); sums to 1.
    """

    policy: float
    behavior: float
    supported: float | None
    matrix: Float[NumpyArray, "A A"]

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "policy": self.policy,
            "behavior": self.behavior,
            "supported": self.supported,
            "matrix": self.matrix.tolist(),
        }


def agreement(
    log: Dataset,
    probs: Float[NumpyArray, "N A"],
    behavior_log_prob: Float[NumpyArray, " N"],
    behavior_probs: Float[NumpyArray, "N A"] | None,
) -> Agreement:
    """Compare a policy's probabilities with what was logged."""
    chosen = np.take_along_axis(probs, log.action[:, None].astype(np.int64), 1)[:, 0]
    # Summed by logged action in float64, in a fixed order: the numbers are written to files that must not vary.
    matrix = np.stack([probs[log.action == a].sum(0, dtype=np.float64) for a in range(probs.shape[1])])
    supported = None
    if behavior_probs is not None:
        supported = float((probs * (behavior_probs >= SUPPORT)).sum(1).mean(dtype=np.float64))
    return Agreement(
        float(chosen.mean(dtype=np.float64)),
        float(np.exp(behavior_log_prob).mean()),
        supported,
        matrix / max(len(probs), 1),
    )
