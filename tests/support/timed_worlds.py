"""A semi-Markov world that is known exactly: how long a decision waits for the next one depends on state and action."""

from __future__ import annotations

import dataclasses

import numpy as np
from evaluation_worlds import small_world

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read

GAMMA = 0.6
"""Discount of an hour."""
SECONDS_AN_HOUR = 3600.0


def timed_world() -> FiniteMDP:
    """The small world, every step of which pays 1 more, so that it matters how soon steps come."""
    world, _, _ = small_world()
    return dataclasses.replace(world, reward=world.reward + 1.0)


def hours() -> np.ndarray:
    """(S, A) mean time until the next decision: the second action waits long, so it makes what follows worth less."""
    return np.stack([np.linspace(0.05, 0.2, 5), np.linspace(0.5, 0.9, 5)], axis=1)


def exact_value(probs: np.ndarray) -> float:
    """The value of a policy by a linear solve: V = sum_a pi(a|s) (r(s, a) + E[gamma^dt | s, a] sum_s' P(s'|s, a) V(s')).

    Waiting times are exponential with mean m, so that E[gamma^dt] = 1 / (1 - m log gamma).
    """
    world = timed_world()
    live = ~world.terminal
    falls = 1.0 / (1.0 - hours() * np.log(GAMMA))
    step = np.einsum("sa,sat->st", (probs * falls)[live], world.transition[live])[:, live]
    reward = (probs * world.expected_reward).sum(1)[live]
    return float(world.initial[live] @ np.linalg.solve(np.eye(live.sum()) - step, reward))


def timed_log(
    seed: int, episodes: int, *, time_unit: float | None = 1.0, dates: bool = False, **kwargs: int
) -> Dataset:
    """A log of the small world in which every decision has a time: in hours, or as a date in microseconds."""
    world, (_, behavior, _) = timed_world(), small_world()
    e = world.draw(behavior, episodes, seed=seed, **kwargs)
    rng = np.random.default_rng(seed + 10_000)
    waits = rng.exponential(hours()[e.state, e.action])
    total = np.cumsum(waits) - waits
    begins = np.flatnonzero(e.step == 0)
    since = total - np.repeat(total[begins], np.diff(np.append(begins, len(total))))
    time: np.ndarray = since + np.repeat(rng.uniform(0, 1000, len(begins)), np.diff(np.append(begins, len(total))))
    if dates:
        time = np.datetime64("2026-01-01", "us") + (time * 3.6e9).astype("timedelta64[us]")
    columns = {
        "episode": e.episode,
        "step": e.step,
        "time": time,
        "observation": np.eye(5, dtype=np.float32)[e.state],
        "next_observation": np.eye(5, dtype=np.float32)[e.next_state],
        "observation_id": e.state,
        "action": e.action,
        "reward": e.reward,
        "terminated": e.terminated,
        "truncated": e.truncated,
        "behavior_probs": behavior[e.state],
    }
    schema = Schema({c: c for c in columns}, num_actions=2, gamma=GAMMA, time_unit=time_unit)
    return read(columns, schema)
