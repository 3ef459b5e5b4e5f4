"""Two worlds whose answers are known, and what every algorithm learns in them.

Both logs have 384 rows and observations of nine numbers, so that an algorithm compiles once for both.

- The stitching world (`stitchrl.mdp.stitching`): does an algorithm join pieces of different episodes?
- The loop: one state, from which an episode ends with probability 0.1. Action 0 costs 0.8 and action 1 costs 0.2; action 2,
  which costs 2, is not in the log. The best of the logged ones is worth -2 in all. A critic starts near 0, so that the action
  that nobody took looks best: does an algorithm choose it, or believe in it?
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from algorithm_cases import ALL, fitted
from worlds import schema_of

import stitchrl as st
from stitchrl.algorithms.base import Algorithm
from stitchrl.mdp.stitching import STATES, stitching_columns, stitching_world

__all__ = ["LEARNED", "LOOP_VALUE", "Stitched", "learner", "looped", "names", "stitched", "takes_unlogged"]

UPDATES = 1000
TIMES = 48
LOOP_VALUE = -2.0
"""The value of always taking action 1 in the loop."""


class Stitched(NamedTuple):
    """What was learned in the stitching world.

    Attributes:
        route: where the policy's mode leads from s1: "s7", "s8" or "s9".
        splits: whether the policy as trained still divides itself at s1 and at s3, as the log does.
        q: Q of the way from s1 to s3, by the algorithm's own critic; NaN where it has none.
    """

    route: str
    splits: bool
    q: float


class Looped(NamedTuple):
    """What was learned in the loop.

    Attributes:
        probability: of the unlogged action, by the policy as trained.
        chosen: whether the mode is the unlogged action.
        claimed: the value of the state by the algorithm's own critic; NaN where it has none.
    """

    probability: float
    chosen: bool
    claimed: float


LEARNED: dict[str, tuple[dict[str, Any], str]] = {
    "BC": ({}, "splits"),
    "FilteredBC": ({"top_fraction": 2 / 3}, "s8"),
    "AWR": ({}, "s8"),
    "AdvantageBC": ({"learning_rate": 1e-3}, "s8"),
    "IQL, expectile 0.5": ({"expectile": 0.5}, "s8"),
    "IQL": ({"expectile": 0.7}, "s9"),
    "IQL, expectile 0.9": ({"expectile": 0.9}, "s9"),
    "SQL": ({}, "s9"),
    "EQL": ({}, "s9"),
    "XQL": ({}, "s9"),
    "AWAC": ({}, "s9"),
    "CQL": ({}, "s9"),
    "BCQ": ({"threshold": 0.3}, "s9"),
    "BCQIQL": ({"threshold": 0.3}, "s9"),
    "SACN": ({"num_critics": 10}, "s9"),
    "SAC": ({"entropy_share": 0.3}, "s9"),
    "CQL, penalty behavior": ({"penalty": "behavior", "behavior_updates": 300}, "s9"),
    "DQN": ({}, "s9"),
}
"""Algorithm, with what is set -> the settings, and where it arrives from s1."""
FOOLED = ("SACN",)
"""Algorithms without a `caution` that still take the action that nobody took: critics have nothing to disagree about there."""


def names() -> list[str]:
    """The algorithms of the comparison."""
    return list(LEARNED)


def takes_unlogged(name: str) -> bool:
    """Whether an algorithm takes, and believes in, the action of the loop that nobody took."""
    kind = name.partition(",")[0]
    return bool(ALL[kind].caution) or kind in FOOLED


def learner(name: str) -> Algorithm:
    """An algorithm as the comparison trains it."""
    settings = LEARNED[name][0] | {"hidden_sizes": (32,), "decay_updates": UPDATES}
    algorithm = ALL[name.partition(",")[0]]
    if hasattr(algorithm, "gamma"):
        settings |= {"gamma": 1.0}
    return dataclasses.replace(algorithm, **settings)


@cache
def stitching_log() -> st.Dataset:
    """Each of the three routes `TIMES` times."""
    columns = stitching_columns(TIMES)
    return st.read(columns, schema_of(columns, 3, 1.0))


@cache
def loop_log() -> st.Dataset:
    """Episodes of the loop; the last one ends where the rows end."""
    rng = np.random.default_rng(0)
    count = stitching_log().num_transitions
    ends = rng.random(count) < 0.1
    ends[-1] = True
    action = (rng.random(count) < 0.3).astype(np.int64)
    columns = {
        "episode": np.cumsum(ends) - ends,
        "observation": np.eye(len(STATES), dtype=np.float32)[np.zeros(count, int)],
        "action": action,
        "reward": np.array([-0.8, -0.2])[action],
        "terminated": ends,
    }
    return st.read(columns, schema_of(columns, 3, 1.0))


def _trained(name: str, log: st.Dataset) -> Any:
    return fitted(learner(name), log, updates=UPDATES, log_every_updates=UPDATES, standardize=False)


@cache
def stitched(name: str) -> Stitched:
    """What an algorithm learns in the stitching world."""
    run, obs = _trained(name, stitching_log()), np.eye(len(STATES), dtype=np.float32)
    probs, mode = np.asarray(run.policy.probs(obs)), np.asarray(run.policy.greedy().probs(obs))
    end = {3.0: "s7", 7.0: "s8", 10.0: "s9"}
    joined = stitching_world().policy_value(mode[:, :2] / np.maximum(mode[:, :2].sum(1, keepdims=True), 1e-9))
    q = float("nan") if run.values[0] is None else float(np.asarray(run.values[0].q_all(obs))[0, 0])
    return Stitched(end[joined], bool((np.abs(probs[[0, 2], 0] - 0.5) < 0.15).all()), q)


@cache
def looped(name: str) -> Looped:
    """What an algorithm learns in the loop."""
    run, obs = _trained(name, loop_log()), np.eye(len(STATES), dtype=np.float32)[:1]
    probs = np.asarray(run.policy.probs(obs))[0]
    claimed = float("nan") if run.values[0] is None else float(np.asarray(run.values[0].v(obs))[0])
    return Looped(float(probs[2]), int(np.asarray(run.policy.greedy().mode(obs))[0]) == 2, claimed)
