"""Worlds with a hidden cause, and for each a policy that its log makes look better than it is; values by simulation.

Only the simulations of `tests/support/hidden_worlds.py` and NumPy are used, so that older versions can be run on the logs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stitchrl.data.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import hidden_worlds

HEEDED = np.array([[0.8, -0.4, 0.0], [-0.5, 0.6, 0.3], [0.0, 0.3, -0.6]])
"""How the vital signs decide the behaviour's actions in the worlds that are walks."""
SEPSIS_STEPS = 20
SIMULATED = 100_000
"""Episodes behind a value."""


class Logits:
    """A policy that is a softmax of logits of the observation; NumPy in and out."""

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray]) -> None:
        self.logits = logits

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """(B, A) probabilities."""
        found = self.logits(np.asarray(obs, np.float64))
        found = np.exp(found - found.max(1, keepdims=True))
        return (found / found.sum(1, keepdims=True)).astype(np.float32)


class Hidden(NamedTuple):
    """A world with a hidden cause and a candidate.

    Attributes:
        draw: (episodes, seed) -> the log, its cause hidden and without propensities.
        policy: the candidate.
        gain: its gain over the behaviour, by simulation.
        error: standard error of that.
    """

    draw: Callable[[int, int], Dataset]
    policy: Logits
    gain: float
    error: float


def both_extremes(seen: np.ndarray) -> np.ndarray:
    """As the behaviour without its knowledge of the cause, but less often the middle action: where the cause decides, both
    extremes are taken when they are good, and look good."""
    return seen[:, :3] @ HEEDED + np.array([0.6, 0.0, 1.4])


def columns_of(log: Dataset) -> dict[str, np.ndarray]:
    """A log as arrays that any version reads; a limit of time is an end, and the observation tells the time."""
    time = (log.position / SEPSIS_STEPS).astype(np.float32)[:, None]
    last = log.terminated | log.truncated
    return {
        "episode": np.repeat(np.arange(log.num_episodes), log.episode_lengths),
        "step": log.position,
        "observation": np.concatenate([log.observation, time], 1),
        "next_observation": np.concatenate([log.next_observation, time + np.float32(1 / SEPSIS_STEPS)], 1),
        "action": log.action,
        "reward": log.reward,
        "terminated": last,
        "truncated": np.zeros(len(last), bool),
    }


@cache
def more_ventilation() -> Logits:
    """More ventilation than the doctors': a stay is discharged when all is normal without treatment, and doctors who see more
    than the log ventilate those who will need it."""
    log = hidden_worlds.sepsis(60_000, 77, False)
    visits = np.full((144, 8), 0.1)
    np.add.at(visits, (_codes(log.observation), log.action), 1.0)
    b = visits / visits.sum(1, keepdims=True)
    ventilated = np.array([action >> 1 & 1 for action in range(8)])
    logits = np.where(b >= 0.03, np.log(b) + 2.0 * ventilated, -30.0)
    return Logits(lambda obs: logits[_codes(obs)])


def _codes(obs: np.ndarray) -> np.ndarray:
    """Heart rate, pressure, oxygen and three treatments as one number."""
    heart, pressure, oxygen, *on = np.rint(np.asarray(obs)[:, :6]).astype(int).T
    found = (heart * 3 + pressure) * 2 + oxygen
    for one in on:
        found = found * 2 + one
    return found


@cache
def hidden_cases() -> dict[str, Hidden]:
    """Name -> world and candidate."""
    worlds = {
        "hidden severity": (hidden_worlds.severity, Logits(both_extremes)),
        "hidden slow drift": (hidden_worlds.drift, Logits(both_extremes)),
        "hidden cause without memory": (hidden_worlds.unseen_noise, Logits(both_extremes)),
        "sepsis, glucose and diabetes hidden": (hidden_worlds.sepsis, more_ventilation()),
    }
    found = {}
    for name, (world, policy) in worlds.items():
        with_policy, without = (
            world(SIMULATED, 1, False, act=policy.logits).episode_returns(),
            world(SIMULATED, 2, False).episode_returns(),
        )
        error = float(np.hypot(with_policy.std(), without.std()) / np.sqrt(SIMULATED))
        gain = float(with_policy.mean() - without.mean())
        found[name] = Hidden(lambda n, seed, w=world: w(n, seed, False), policy, gain, error)
    return found
