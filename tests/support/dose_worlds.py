"""Single decisions on a dose, with exact values: doses that work with a probability of exp(-|a - A s|^2 / 2), or do not."""

from __future__ import annotations

import dataclasses

import linear_worlds as lw
import numpy as np

from stitchrl.data.dataset import Dataset

BETTER, BEHAVIOR, STD = lw.BETTER, lw.BEHAVIOR, lw.STD


def value(gain: np.ndarray, std: np.ndarray) -> float:
    """Exact chance that a dose works, det(I + C)^(-1/2): a - A s is normal about 0 with covariance C."""
    away = gain - BETTER
    spread = np.eye(len(std)) + lw.WORLD.initial**2 * away @ away.T + np.diag(std**2)
    return float(np.linalg.det(spread) ** -0.5)


def alone(log: Dataset, reward: np.ndarray) -> Dataset:
    """A log of single steps as one of single decisions, with these rewards."""
    over = np.ones(log.num_transitions, bool)
    return dataclasses.replace(log, reward=reward.astype(np.float32), terminated=over, truncated=~over)


def distance(log: Dataset) -> np.ndarray:
    """(N,) |a - A s|^2 of the logged doses."""
    return ((log.action - log.observation @ BETTER.T).astype(np.float64) ** 2).sum(1)


def log(decisions: int, seed: int) -> Dataset:
    """Doses of the behaviour."""
    steps = lw.log(decisions, 1, seed)
    works = np.random.default_rng([seed, 1]).random(decisions) < np.exp(-0.5 * distance(steps))
    return alone(steps, works)
