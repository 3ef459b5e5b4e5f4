"""The overestimation world: two states in which an error about an untried action feeds on itself.

    A   action 1 leads to B and pays 0
    B   action 0 ends the episode and pays 0; actions 2 and 3 end it and cost 1; action 1 stays in B and pays 0

The best possible return is 0, so all that a critic claims above 0 is error. In the log action 1 is taken in A only: its value
in B is not in the log, and a critic extrapolates it from A. The observation is one number, 0 in A and 1 in B, so a
critic without hidden layers is Q(obs, a) = bias_a + weight_a obs, and no row of the log ever moves weight_1:

    (1)  Q(B, 1) = Q(A, 1) + eps                        eps = weight_1, the extrapolation error, of either sign
    (2)  Q(A, 1) <- gamma max_a Q(B, a)                 the target of Q-learning
    (3)  E_{k+1} = eps + gamma E_k                      for E = Q(B, 1) and eps > 0: the maximum in (2) is action 1
    (4)  E_k = eps (1 - gamma^k) / (1 - gamma), which tends to eps / (1 - gamma)

A small error is multiplied by the horizon 1 / (1 - gamma). A learner whose target contains only values of logged actions has
E = 0 for every gamma, whatever value its critic gives to action 1 in B.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.mdp.finite import FiniteMDP

__all__ = ["overestimation_columns", "overestimation_world"]

A, B, END = 0, 1, 2
ACTIONS = 4


def overestimation_world() -> FiniteMDP:
    """The world, of three states and four actions: A, where it starts and all actions lead to B; B; and the end."""
    transition, reward = np.zeros((3, ACTIONS, 3)), np.zeros((3, ACTIONS, 3))
    transition[A, :, B] = 1.0
    transition[B, :, END] = 1.0
    transition[B, 1] = np.eye(3)[B]
    reward[B, 2:, END] = -1.0
    return FiniteMDP(transition, reward, np.eye(3)[A], np.arange(3) == END)


def overestimation_columns(times: int) -> dict[str, Any]:
    """The columns of a log of two-step episodes: action 1 in A, then one of the actions 0, 0, 2 and 3 in B.

    Args:
        times: episodes of each of these four kinds. Observations are (N, 1), 0 in A and 1 in B.
    """
    episodes = 4 * times
    action = np.ones((episodes, 2), np.int64)
    action[:, 1] = np.tile([0, 0, 2, 3], times)
    state = np.tile([A, B], episodes)
    return {
        "episode": np.repeat(np.arange(episodes), 2),
        "step": np.tile([0, 1], episodes),
        "observation": (state == B).astype(np.float32)[:, None],
        "action": action.ravel(),
        "reward": np.where(action.ravel() >= 2, -1.0, 0.0),
        "terminated": state == B,
    }
