"""The ward: an exact world of five days and eight doses, the best of them rarely given; its logs, and Q-learning on counts."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.mdp.finite import FiniteMDP
from stitchrl.types import NumpyArray

__all__ = ["DAYS", "DOSES", "GIVEN", "IMPROVES", "Counted", "counted", "likely", "limited", "ward"]

DAYS = 5
IMPROVES = np.array([0.25, 0.35, 0.45, 0.5, 0.55, 0.75, 0.35, 0.1])
"""Chance that a day with this dose is a good one."""
GIVEN = np.array([0.02, 0.08, 0.22, 0.36, 0.2, 0.07, 0.03, 0.02])
"""How often each dose is given, in every state."""
DOSES = len(GIVEN)
UNSEEN = 0.01
"""Added to every count, as a model with a softmax gives some probability to every action."""


@cache
def ward() -> FiniteMDP:
    """Five days, eight doses a day. A good day pays 1, a bad one costs 1; the state is the day and how the one before it was.

    State 0 is the first day, 1 + 2 d and 2 + 2 d follow a good and a bad day d; the last two are the ends.
    """
    states = 1 + 2 * DAYS
    transition, reward = np.zeros((states, DOSES, states)), np.zeros((states, DOSES, states))
    for state in range(states - 2):
        day = 0 if state == 0 else (state + 1) // 2
        good, bad = 1 + 2 * day, 2 + 2 * day
        transition[state, :, good], transition[state, :, bad] = IMPROVES, 1 - IMPROVES
        reward[state, :, good], reward[state, :, bad] = 1.0, -1.0
    terminal = np.arange(states) >= states - 2
    return FiniteMDP(transition, reward, np.eye(states)[0], terminal)


@dataclasses.dataclass(frozen=True, eq=False)
class Counted:
    """What a log says of the ward.

    Attributes:
        share: (S, A) of the doses in each state, never quite 0.
        count: (S, A) how often each was given.
        reward: (S, A) mean reward; 0 where never given.
        transition: (S, A, S) shares of the next states; 0 where never given.
    """

    share: Float[NumpyArray, "S A"]
    count: Float[NumpyArray, "S A"]
    reward: Float[NumpyArray, "S A"]
    transition: Float[NumpyArray, "S A S"]


@cache
def counted(episodes: int, seed: int) -> Counted:
    """The counts of a log of so many episodes."""
    world = ward()
    drawn = world.draw(np.tile(GIVEN, (world.num_states, 1)), episodes, seed=seed)
    pairs, count = (drawn.state, drawn.action), np.zeros((world.num_states, DOSES))
    reward, following = np.zeros_like(count), np.zeros(world.transition.shape)
    np.add.at(count, pairs, 1)
    np.add.at(reward, pairs, drawn.reward)
    np.add.at(following, (*pairs, drawn.next_state), 1)
    seen = np.maximum(count, 1)
    share = (count + UNSEEN) / (count + UNSEEN).sum(1, keepdims=True)
    return Counted(share, count, reward / seen, following / seen[:, :, None])


def likely(share: Float[NumpyArray, "S A"], threshold: float) -> Bool[NumpyArray, "S A"]:
    """BCQ's set: {a : b(a|s) / max_b b(.|s) > threshold} (Fujimoto et al. 2019, arXiv 1910.01708)."""
    return share / share.max(1, keepdims=True) > threshold


def limited(found: Counted, threshold: float) -> tuple[Float[NumpyArray, "S A"], float, float]:
    """Q-learning on the counts with the maximum over the likely actions; Q of what was never given stays at 0.

    Returns:
        (S, A) Q; the value that it claims for the first day; the exact value of its policy.
    """
    world, allowed = ward(), likely(found.share, threshold)
    q = np.zeros_like(found.count)
    for _ in range(DAYS):
        value = np.where(world.terminal, 0.0, np.where(allowed, q, -np.inf).max(1))
        q = np.where(found.count > 0, found.reward + found.transition @ value, 0.0)
    inside = np.where(allowed, q, -np.inf)
    return q, float(inside[0].max()), world.policy_value(np.eye(DOSES)[inside.argmax(1)])
