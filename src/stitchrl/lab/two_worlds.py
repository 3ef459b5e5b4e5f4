"""Two exact worlds, one that rewards joining episodes and one that punishes belief in the unseen, and what is learned in them.

The joining world. Two ways begin in it and three end; each stretch takes `length` steps:

    A   S - X - low end      pays 3            the log has A, B and C equally often
    B   T - X - high end     pays 10
    C   S - (twice as long) - middle end, pays 7

A learner starts in S. The best, S - X - high end, was never done as a whole. The trap. Every day of treatment costs something; of
four treatments the log has two, and the two others, never given, cost most. A critic that starts near 0 believes them free.

With `noise` each end, and each day, pays so much more or less, by the toss of a coin. All logs have as many rows, actions and
numbers in an observation, and no network has hidden layers, so that an algorithm compiles once for all worlds and learns a table.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from stitchrl.algorithms.awac import AWAC
from stitchrl.algorithms.awr import AWR
from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.bcq import BCQ
from stitchrl.algorithms.behavior import BC
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.dqn import DQN
from stitchrl.algorithms.filtered_bc import FilteredBC
from stitchrl.algorithms.iql import IQL
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read
from stitchrl.training.fit import fit

__all__ = [
    "ALGORITHMS",
    "DAYS",
    "LENGTHS",
    "NOISES",
    "SEEDS",
    "SEEN",
    "UPDATES",
    "Learned",
    "joining_log",
    "joining_world",
    "learned",
    "trap_log",
    "trap_world",
]

UPDATES, SEEDS, ROWS, SEEN, ACTIONS = 1000, 3, 1536, 32, 4
LENGTHS, DAYS, NOISES = (1, 4), (3, 8), (0.0, 6.0)
"""Steps of a stretch and days of treatment, short and long; and how far from its mean an end of the joining world pays."""
PAYS = (3.0, 10.0, 7.0)
"""What the low, the high and the middle end pay on average."""
COSTS = (-2.0, -1.0, -4.0, -4.0)
"""Mean reward of a day with each treatment; the last two were never given."""
GIVEN = (0.7, 0.3, 0.0, 0.0)
TABLE: dict[str, Any] = {"hidden_sizes": (), "learning_rate": 0.1}
CRITIC: dict[str, Any] = TABLE | {"gamma": 1.0, "decay_updates": UPDATES, "target_rate": 0.05}
ALGORITHMS: dict[str, Algorithm] = {
    "BC": BC(**TABLE),
    "FilteredBC": FilteredBC(top_fraction=2 / 3, **TABLE),
    "AWR": AWR(gamma=1.0, returns_every_updates=100, **TABLE),
    "AWAC": AWAC(**CRITIC),
    "IQL": IQL(**CRITIC),
    "CQL": CQL(cql_weight=0.1, **CRITIC),
    "BCQ": BCQ(threshold=0.3, **CRITIC),
    "DQN": DQN(**CRITIC),
}
"""Name -> the algorithm as it is trained here, with a table in place of a network."""
SCALES = {"BCQ": 0.05}
"""Factor on the rewards while learning. Beyond 1 BCQ's error is absolute, by which a noisy reward is learned as its median."""


class Learned(NamedTuple):
    """What one seed of an algorithm learned in a world.

    Attributes:
        reached: the exact value of its policy from the start, the policy acting as its algorithm means it to.
        claimed: that value by its own critic; NaN where it has none.
        unlogged: the probability that its policy gives to actions never logged there, mean over the states of the log.
    """

    reached: float
    claimed: float
    unlogged: float


@cache
def joining_world(length: int, noise: float) -> FiniteMDP:
    """The joining world. Actions 2 and 3, which nobody took, end the episode and pay nothing."""
    routes, ends = _routes(length)
    first_end = 1 + max(state for route in routes for state, _, _ in route)
    states = first_end + len(ends) * 2 + 1
    transition, reward = np.zeros((states, ACTIONS, states)), np.zeros((states, ACTIONS, states))
    transition[:first_end, 2:, states - 1] = 1.0
    for route in routes:
        for state, action, following in route:
            for taken in (0, 1) if state > 2 or state == 1 else (action,):
                if following >= 0:
                    transition[state, taken, following] = 1.0
                else:
                    at = first_end + 2 * (-following - 1)
                    transition[state, taken, at : at + 2] = 0.5
                    reward[state, taken, at : at + 2] = ends[-following - 1] + noise * np.array([-1.0, 1.0])
    return FiniteMDP(transition, reward, np.eye(states)[0], np.arange(states) >= first_end)


def _routes(length: int) -> tuple[list[list[tuple[int, int, int]]], tuple[float, ...]]:
    """The moves of the routes A, B and C, and what each end pays.

    A move is (state, action, next state), where a next state of -1 - k stands for end k; the
    states S, T and X have the numbers 0, 1 and 2.
    """
    free = iter(range(3, 1000))

    def stretch(start: int, action: int, steps: int, end: int) -> list[tuple[int, int, int]]:
        at = [start, *(next(free) for _ in range(steps - 1))]
        taken = [action] + [0] * (steps - 1)
        return list(zip(at, taken, [*at[1:], end], strict=True))

    a, b = stretch(0, 0, length, 2), stretch(1, 0, length, 2)
    low, high = stretch(2, 0, length, -1), stretch(2, 1, length, -2)
    return [a + low, b + high, stretch(0, 1, 2 * length, -3)], PAYS


@cache
def joining_log(length: int, noise: float) -> Dataset:
    """`ROWS` rows in which A, B and C take turns."""
    routes, ends = _routes(length)
    episodes, rng = ROWS // (2 * length), np.random.default_rng(0)
    rows = [(e, *step) for e in range(episodes) for step in routes[e % len(routes)]]
    episode, state, action, following = (np.array(column) for column in zip(*rows, strict=True))
    ended = following < 0
    pays = np.array(ends)[np.where(ended, -following - 1, 0)] + noise * rng.choice([-1.0, 1.0], len(rows))
    return _log(episode, state, action, np.where(ended, pays, 0.0), ended)


@cache
def trap_world(days: int, noise: float) -> FiniteMDP:
    """The trap. State 0 is the first day, 2 d - 1 and 2 d are day d after a dear and a cheap one; the last two are the ends."""
    states = 2 * days + 1
    transition, reward = np.zeros((states, ACTIONS, states)), np.zeros((states, ACTIONS, states))
    for state in range(states - 2):
        day = (state + 1) // 2
        following = slice(2 * day + 1, 2 * day + 3)
        transition[state, :, following] = 0.5
        reward[state, :, following] = np.array(COSTS)[:, None] + noise * np.array([-1.0, 1.0])
    return FiniteMDP(transition, reward, np.eye(states)[0], np.arange(states) >= states - 2)


@cache
def trap_log(days: int, noise: float) -> Dataset:
    """About `ROWS` rows under a behaviour that gives the first treatment seven times in ten and the second otherwise."""
    world = trap_world(days, noise)
    drawn = world.draw(np.tile(GIVEN, (world.num_states, 1)), ROWS // days, seed=0)
    return _log(drawn.episode, drawn.state, drawn.action, drawn.reward, drawn.terminated)


def _log(episode: Any, state: Any, action: Any, reward: Any, terminated: Any) -> Dataset:
    columns = {
        "episode": episode,
        "observation": np.eye(SEEN, dtype=np.float32)[state],
        "action": action,
        "reward": reward,
        "terminated": terminated,
    }
    return read(columns, Schema({name: name for name in columns}, num_actions=ACTIONS))


@cache
def learned(name: str, world: str, size: int, noise: float) -> tuple[Learned, ...]:
    """What each of `SEEDS` seeds of an algorithm learns; `world` is "joining" or "trap", `size` its length or its days.

    The noise of the trap is a third of what is given.
    """
    if world == "joining":
        mdp, log = joining_world(size, noise), joining_log(size, noise)
    else:
        mdp, log = trap_world(size, noise / 3), trap_log(size, noise / 3)
    algorithm = ALGORITHMS[name]
    run = fit(
        algorithm, log, updates=UPDATES, seeds=SEEDS, log_every_updates=UPDATES, standardize=False, progress=False,
        reward_scale=SCALES.get(name, 1.0),
    )  # fmt: skip
    obs, state = np.eye(SEEN, dtype=np.float32), log.observation.argmax(1)
    logged = np.zeros((SEEN, ACTIONS), bool)
    logged[state, log.action] = True
    made = []
    for policy, value in zip(run.policies, run.values, strict=True):
        acting: Any = policy.greedy() if algorithm.acts == "greedy" else policy
        probs = np.asarray(acting.probs(obs), np.float64)[: mdp.num_states]
        probs /= probs.sum(1, keepdims=True)
        claimed = (
            float("nan") if value is None else float(mdp.initial @ np.asarray(value.v(obs), float)[: mdp.num_states])
        )
        known = np.unique(state)
        unlogged = float((probs * ~logged[: mdp.num_states]).sum(1)[known].mean())
        made.append(Learned(mdp.policy_value(probs), claimed, unlogged))
    return tuple(made)
