"""Playing every member's policy in an environment while it learns: optional, and only where an environment exists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.scaling import Scaling
from stitchrl.nn.units import unscaled_policy
from stitchrl.rollouts import rollout
from stitchrl.training.loop import Play
from stitchrl.training.updates import MemberState
from stitchrl.types import PyTree

__all__ = ["playing"]


def playing(
    algorithms: Sequence[Algorithm],
    environment: str | Callable[[], Any],
    scaling: Scaling,
    given: PyTree,
    *,
    episodes: int,
) -> Play:
    """A function that plays the mode of every member's policy in episodes whose seeds are the same each time.

    Args:
        algorithms: one per member.
        environment: id of a Gymnasium environment, or a function that makes one.
        scaling: what the policies were trained in.
        given: what the algorithm's `prepare` gave.
        episodes: played each time.
    """

    def play(state: Callable[[int], MemberState], left_out: Collection[int]) -> dict[str, list[float]]:
        returns = []
        for k, algorithm in enumerate(algorithms):
            if k in left_out:
                returns.append(float("nan"))
                continue
            member = jax.tree.map(np.array, state(k))
            inner = algorithm.policy(member.algorithm, given) if member.average is None else member.average
            played = rollout(unscaled_policy(inner, scaling), environment, episodes=episodes, seed=0)
            returns.append(float(played.mean))
        return {"online/return": returns}

    return play
