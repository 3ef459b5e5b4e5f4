"""Planted faults of the treatment and of time: columns that overlap with the action, habits, irregular times, left-out causes.

They spoil the clean logs of `audit_corpus`, and are found by checks of their own. Every fault takes a seed, so that a
benchmark can plant it several times.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from audit_corpus import NOISE, Fault, column, without

from stitchrl.data.dataset import Dataset

__all__ = ["CHECKS_OF_CODE", "FAULTS"]

PROBABILITIES = ("behavior_log_prob", "behavior_probs", "action_mask")


def rng_of(log: Dataset) -> np.random.Generator:
    """Draws that are the same for the same log, and others for another."""
    return np.random.default_rng(int(log.action.astype(np.float64).sum() * 1000) % 2**32)


def running_total(log: Dataset, noise: float) -> Dataset:
    """What was given in the episode so far, with what this row gives."""
    given = np.array([0.0, 40.0, 150.0, 500.0, 900.0])[log.action % 5] if log.num_actions else np.abs(log.action[:, 0])
    total = np.cumsum(given)
    total = total - np.repeat((total - given)[log.episode_start[:-1]], log.episode_lengths)
    return column(log, total + noise * given.std() * rng_of(log).normal(size=len(total)), 0)


def score_with_dose(log: Dataset, weight: float) -> Dataset:
    """A severity score that a treatment raises: a column's own number, and so many of its deviations for the highest dose."""
    own = log.observation[:, 3]
    return column(log, own + weight * own.std() * (log.action % 5), 3)


def table_of_actions(log: Dataset, noise: float) -> Dataset:
    """A number that belongs to the action, in no order of the actions: a price, a drug's code."""
    table = np.random.default_rng(1).permutation(log.num_actions or 1).astype(float)
    return column(log, table[log.action] + noise * table.std() * rng_of(log).normal(size=len(log.action)), 0)


def treated_flag(log: Dataset, wrong: float) -> Dataset:
    """Whether anything was given in this row, with a share of wrong entries."""
    flag = (log.action % 5 > 0) ^ (rng_of(log).random(log.num_transitions) < wrong)
    return column(log, flag.astype(float), 0)


def dose_of_bin(log: Dataset, noise: float) -> Dataset:
    """The dose among the observations, where the action is the bin of four into which it falls."""
    level = log.action // 7
    rng = rng_of(log)
    dose = level + rng.random(len(level)) + noise * rng.normal(size=len(level))
    spoiled = column(without(log, *PROBABILITIES), np.exp(dose), 0)
    return dataclasses.replace(spoiled, action=level.astype(np.int32))


def habit(log: Dataset, share: float) -> Dataset:
    """A share of the actions repeats the last one; the others are drawn by lot."""
    rng = rng_of(log)
    if log.num_actions is None:
        action = rng.normal(size=log.action.shape)
        for row in np.flatnonzero(log.position > 0):
            action[row] = share * action[row - 1] + np.sqrt(1 - share**2) * action[row]
        return dataclasses.replace(without(log, "behavior_log_prob"), action=action.astype(np.float32))
    action = np.where(rng.random(log.num_transitions) < 0.5, 0, rng.integers(0, 5, log.num_transitions))
    for row in np.flatnonzero((rng.random(log.num_transitions) < share) & (log.position > 0)):
        action[row] = action[row - 1]
    return dataclasses.replace(without(log, *PROBABILITIES), action=action.astype(np.int32))


def own_level(log: Dataset, noise: float) -> Dataset:
    """Rewards of a level that each episode has for itself."""
    rng = rng_of(log)
    level = np.repeat(rng.normal(size=log.num_episodes), log.episode_lengths)
    return dataclasses.replace(log, reward=(level + noise * rng.normal(size=len(level))).astype(np.float32))


def irregular(log: Dataset, ratio: float) -> Dataset:
    """Waits of which the longest lasts so many times as long as the shortest, under a discount that counts steps."""
    waits = 600 * ratio ** rng_of(log).random(log.num_transitions)
    time = np.datetime64("2026-01-01") + np.cumsum(waits).astype("timedelta64[s]")
    return dataclasses.replace(log, time=time, schema=dataclasses.replace(log.schema, gamma=0.99))


def broken_off(log: Dataset, hours: float) -> Dataset:
    """About an hour from row to row, and in one of two hundred so many hours more, as when a patient comes back."""
    rng = rng_of(log)
    waits = rng.uniform(0.7, 1.3, log.num_transitions) + hours * (rng.random(log.num_transitions) < 0.005)
    time = np.datetime64("2026-01-01") + (3600 * np.cumsum(waits)).astype("timedelta64[s]")
    return dataclasses.replace(log, time=time)


def two_sites(log: Dataset, strength: float) -> Dataset:
    """Two sites that the observation leaves out: one treats more by itself, and its patients fare worse by themselves."""
    rng = rng_of(log)
    south = np.repeat(rng.random(log.num_episodes) < 0.5, log.episode_lengths)
    action = np.where(south & (rng.random(len(south)) < 0.4 * strength), 1, log.action).astype(np.int32)
    reward = log.reward - strength * log.reward.std() * south
    return dataclasses.replace(
        without(log, *PROBABILITIES),
        action=action,
        reward=reward.astype(np.float32),
        source=np.where(south, "south", "north"),
    )


FAULTS: tuple[Fault, ...] = (
    Fault("a running total of doses", "hospital", "observation-made-of-action", running_total, (0, 0.1, 0.3), NOISE),
    Fault("a score that a dose raises", "hospital", "observation-made-of-action", score_with_dose, (3, 1, 0.3), "deviations"),
    Fault("any treatment in this window", "hospital", "observation-made-of-action", treated_flag, (0, 0.01, 0.05), "wrong"),
    Fault("a drug's code", "hospital", "observation-made-of-action", table_of_actions, (0, 0.1, 0.3), NOISE),
    Fault("the price of the item", "bandit", "observation-made-of-action", table_of_actions, (0, 0.1, 0.3), NOISE),
    Fault("a running total of torque", "control", "observation-made-of-action", running_total, (0, 0.1, 0.3), NOISE),
    Fault("the dose of which the action is a bin", "hospital", "column-decides-action", dose_of_bin, (0, 0.02, 0.1), "bins"),
    Fault("actions that go on as before", "hospital", "action-repeats", habit, (0.95, 0.8, 0.5, 0.2), "share that repeat"),
    Fault("torques that go on as before", "control", "action-repeats", habit, (0.97, 0.9, 0.8, 0.5), "correlation"),
    Fault("rewards of a level", "hospital", "reward-repeats", own_level, (0.2, 0.5, 1, 2), NOISE),
    Fault("visits at any time", "hospital", "time-irregular", irregular, (60, 5, 3, 2, 1.3), "longest by shortest"),
    Fault("patients who come back", "hospital", "time-broken-off", broken_off, (500, 50, 10, 5), "hours"),
    Fault("two sites, left out", "hospital", "left-out-common-cause", two_sites, (1, 0.5, 0.2), "strength"),
)  # fmt: skip
"""Every planted fault, in the form of `audit_corpus.FAULTS`."""

CHECKS_OF_CODE: dict[str, tuple[str, ...]] = {
    "observation-made-of-action": ("column_made_of_action",),
    "column-decides-action": ("column_decides_action",),
    "action-repeats": ("action_repeats",),
    "reward-repeats": ("reward_repeats",),
    "time-irregular": ("time_irregular",),
    "time-broken-off": ("time_broken_off",),
    "left-out-common-cause": ("left_out_common_cause",),
}
"""Which checks may say a code."""
