"""A world with a hidden cause without memory that acts in every decision, as strong as an odds ratio allows."""

from __future__ import annotations

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read


def confounded(
    world: FiniteMDP, behavior: np.ndarray, outcome: np.ndarray, odds_ratio: float
) -> tuple[FiniteMDP, np.ndarray]:
    """The world with the cause among its states, and a behaviour that sees it. Its log, with the cause left out, is
    distributed as one of `world` under `behavior`.

    In every decision the cause is bad or good. Where it is bad, action 1 is taken less often, by the odds ratio, and leads to
    the least share tau = 1 / (odds ratio + 1) of the outcomes that the log shows for it. Action 0 knows no cause. State
    s of the world becomes 2 s (bad) and 2 s + 1 (good); a terminal state 2 s alone.

    Args:
        world: what the log will show.
        behavior: (S, 2) what the log will show of the behaviour.
        outcome: (S, A, S) what next states are worth, by which the bad ones are chosen.
        odds_ratio: of the cause.
    """
    states = world.num_states
    tau, b = 1 / (odds_ratio + 1), behavior[:, 1]
    alpha, beta = b + (1 - b) / odds_ratio, b + odds_ratio * (1 - b)
    bad = np.where(world.terminal, 1.0, beta * tau)
    cause = np.stack([bad, 1 - bad], axis=1)
    sees = np.stack([b / beta, b / alpha], axis=1)
    transition = np.zeros((2 * states, 2, 2 * states))
    seen = np.zeros((2 * states, 2))
    for s in range(states):
        chance = world.transition[s, 1]
        order = np.argsort(outcome[s, 1], kind="stable")
        tail, left = np.zeros(states), tau
        for following in order:
            tail[following] = min(chance[following], left)
            left -= tail[following]
        for u, of_one in enumerate((tail / tau, (chance - tail) / (1 - tau))):
            seen[2 * s + u] = 1 - sees[s, u], sees[s, u]
            for action, of_next in enumerate((world.transition[s, 0], of_one)):
                transition[2 * s + u, action] = (of_next[:, None] * cause).reshape(-1)
    reward = np.repeat(np.repeat(world.reward, 2, axis=0), 2, axis=2)
    initial = (world.initial[:, None] * cause).reshape(-1)
    return FiniteMDP(transition, reward, initial, np.repeat(world.terminal, 2)), seen


def draw_confounded(
    world: FiniteMDP, hidden: FiniteMDP, seen: np.ndarray, behavior: np.ndarray, episodes: int, seed: int
) -> Dataset:
    """A log of the confounded world without its cause, whose propensities are those that a fit without it would find."""
    e = hidden.draw(seen, episodes, seed=seed)
    eye = np.eye(world.num_states, dtype=np.float32)
    columns = {
        "episode": e.episode,
        "step": e.step,
        "observation": eye[e.state // 2],
        "next_observation": eye[e.next_state // 2],
        "observation_id": e.state // 2,
        "action": e.action,
        "reward": e.reward,
        "terminated": e.terminated,
        "truncated": e.truncated,
        "behavior_probs": behavior[e.state // 2],
    }
    return read(columns, Schema.infer(list(columns), num_actions=2, gamma=1.0))
