"""The stitching world: nine states, in which the best route was never taken as a whole.

The log holds three routes, equally often:

    A   s1 - s3 - s5 - s7   pays 3
    B   s4 - s3 - s6 - s9   pays 10
    C   s1 - s2 - s8        pays 7

From s1 the best way is s3 and then s6, which no episode took: the first half of A and the second half of B. A learner that
goes by whole returns takes C, since what followed s1 - s3 in the log paid 3. With the routes A and B alone s1 would have one
logged action, and every learner would arrive at s9; C is needed to tell them apart.

The value of going from s1 to s3 depends on how the two continuations at s3 are combined: it is 3 by the returns of the episodes
that began so, 6.5 by the mean of both (an expectile of 0.5), 7.9 and 9.3 by the expectiles 0.7 and 0.9, and 10 by the better one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.mdp.finite import FiniteMDP

__all__ = ["ROUTES", "STATES", "stitching_columns", "stitching_world"]

STATES = ("s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9")
NEXT = ((2, 1), (7, 7), (4, 5), (2, 2), (6, 6), (8, 8))
"""State -> the next state after action 0 and after action 1; the last three states are terminal."""
PAYS = {6: 3.0, 7: 7.0, 8: 10.0}
"""Terminal state -> the reward on arrival."""
ROUTES = {"A": ((0, 0), (2, 0), (4, 0)), "B": ((3, 0), (2, 1), (5, 0)), "C": ((0, 1), (1, 0))}
"""Route -> its states and actions."""


def stitching_world() -> FiniteMDP:
    """The world, of nine states and two actions. It starts in s1; gamma is 1."""
    count = len(STATES)
    transition, reward = np.zeros((count, 2, count)), np.zeros((count, 2, count))
    for state, following in enumerate(NEXT):
        for action, then in enumerate(following):
            transition[state, action, then] = 1.0
            reward[state, action, then] = PAYS.get(then, 0.0)
    terminal = np.isin(np.arange(count), list(PAYS))
    return FiniteMDP(transition, reward, np.eye(count)[0], terminal)


def stitching_columns(times: int) -> dict[str, Any]:
    """The columns of a log in which each route was taken `times` times; observations are (N, 9), 1 at the number of the state.

    Args:
        times: episodes of each route.
    """
    rows = [(episode, step, state, action) for episode, route in enumerate(list(ROUTES.values()) * times)
            for step, (state, action) in enumerate(route)]  # fmt: skip
    episode, step, state, action = (np.array(column) for column in zip(*rows, strict=True))
    then = np.array([NEXT[s][a] for s, a in zip(state, action, strict=True)])
    return {
        "episode": episode,
        "step": step,
        "observation": np.eye(len(STATES), dtype=np.float32)[state],
        "action": action,
        "reward": np.array([PAYS.get(int(s), 0.0) for s in then]),
        "terminated": np.isin(then, list(PAYS)),
    }
