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
from stitchrl.training.program import MemberState
from stitchrl.types import PyTree

__all__ = ["playing"]


def playing(
    algorithms: Sequence[Algorithm],
    environment: str | Callable[[], Any],
    scaling: Scaling,
    given: PyTree,
    *,
    updates: int,
    every_updates: int,
    chunk_updates: int,
    episodes: int,
) -> Play:
    """A function that plays the mode of every member's policy when due, the same episodes' seeds each time.

    Args:
        algorithms: one a member.
        environment: id of a Gymnasium environment, or a function that makes one.
        scaling: what the policies were trained in.
        given: what the algorithm's `prepare` gave.
        updates: of the whole run; its end is always played.
        every_updates: due at the first chunk end at or after each multiple.
        chunk_updates: length of a chunk.
        episodes: played each time.
    """

    def play(done: int, state: Callable[[int], MemberState], left_out: Collection[int]) -> dict[str, list[float]]:
        start = max(0, (done - 1) // chunk_updates * chunk_updates)  # of the chunk that ends at `done`
        if done // every_updates == start // every_updates and done != updates:
            return {}
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
