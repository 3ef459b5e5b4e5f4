"""Logs with planted faults that an audit must find, for tests/auditing and benchmarks/audit_faults.py.

Three clean logs: hospital stays (the embedded log), a bandit log of the form of the Open Bandit Dataset, and a pendulum
under a noisy controller. Each `Fault` spoils one of them at several strengths: the first as it is met in practice, the
others weaker, so that a table can say from which strength on a fault is found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from scipy import special

import stitchrl as st
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.icu_sepsis import compact_table, demo_log, icu_sepsis

__all__ = [
    "CHECKS_OF_CODE",
    "FAULTS",
    "KNOWN_MISSES",
    "Fault",
    "bandit_form",
    "bandit_log",
    "clean_logs",
    "control_log",
    "hospital_log",
]

ITEMS, POSITIONS = 80, 3
CONTROL_STEPS = 150
STAYS, IMPRESSIONS, SWINGS = 1500, 10_000, 120


# --- the clean logs ----------------------------------------------------------------------------------------------


def hospital_log(stays: int = STAYS) -> Dataset:
    """The first stays of the embedded log, an observation a row."""
    return rowwise(demo_log().select_episodes(range(stays)))


def bandit_log(rows: int = IMPRESSIONS, *, seed: int = 0) -> Dataset:
    """Impressions in the form of the Open Bandit Dataset: 80 items, 3 positions, the probability of the shown item, clicks
    in half a percent. The logging policy prefers some items, others in each position."""
    rng = np.random.default_rng(seed)
    position = rng.integers(0, POSITIONS, rows)
    user = np.stack([rng.choice(k, rows, p=rng.dirichlet(np.full(k, 3.0))) for k in (3, 6, 8, 6)], 1)
    affinity = np.where(rng.random((rows, 4)) < 0.05, rng.exponential(1, (rows, 4)), 0)
    preference = rng.dirichlet(np.full(ITEMS, 1.5), POSITIONS) * 0.8 + 0.2 / ITEMS
    item = (preference[position].cumsum(1) < rng.random((rows, 1))).sum(1).clip(0, ITEMS - 1)
    appeal = np.exp(rng.normal(0, 0.5, ITEMS))[item] * np.array([1.2, 1.0, 0.8])[position]
    click = rng.random(rows) < 0.005 * appeal
    time = np.cumsum(rng.exponential(60.0, rows))
    return bandit_form(position, user, affinity, item, click, preference[position, item], time)


def bandit_form(
    position: np.ndarray,
    user: np.ndarray,
    affinity: np.ndarray,
    item: np.ndarray,
    click: np.ndarray,
    propensity: np.ndarray,
    time: np.ndarray,
) -> Dataset:
    """Impressions as a log of one-step episodes: position and user features one-hot, then affinities."""
    hot = [position[:, None] == np.unique(position)]
    hot += [column[:, None] == np.unique(column) for column in user.T]
    columns = {
        "episode": np.arange(len(item)),
        "observation": np.concatenate([*hot, affinity], 1).astype(np.float32),
        "action": item.astype(np.int32),
        "reward": click.astype(np.float32),
        "terminated": np.ones(len(item), bool),
        "behavior_log_prob": np.log(propensity).astype(np.float32),
        "time": time,
    }
    return st.read(columns, Schema({name: name for name in columns}, num_actions=ITEMS, gamma=1.0, name="bandit"))


@cache
def control_log(
    swings: int = SWINGS,
    *,
    seed: int = 0,
    noise: float = 0.6,
    random_share: float = 0.0,
    sources: bool = False,
) -> Dataset:
    """A pendulum swung up by energy and held by a spring, with normal noise cut to the torque's bounds and its density
    logged. A share of the episodes takes uniform torques instead."""
    rng = np.random.default_rng(seed)
    env = gym.make("Pendulum-v1", max_episode_steps=CONTROL_STEPS)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("episode", "observation", "action", "reward", "truncated", "next_observation", "log_prob")
    }
    random = rng.permutation(swings) < round(random_share * swings)
    for episode in range(swings):
        seen, _ = env.reset(seed=int(seed * 10_000 + episode))
        ended = False
        while not ended:
            cos, sin, speed = (float(v) for v in seen)
            energy = 0.5 * speed**2 / 3 + 5 * (cos - 1)
            wish = -8 * sin - 2 * speed if cos > 0.85 else -np.sign(speed * energy + 1e-9) * 1.2
            wish = float(np.clip(wish, -1.6, 1.6))
            if random[episode]:
                torque, log_prob = rng.uniform(-2, 2), -np.log(4.0)
            else:  # a normal cut to [-2, 2], by its distribution function
                low, high = special.ndtr((-2 - wish) / noise), special.ndtr((2 - wish) / noise)
                torque = wish + noise * float(special.ndtri(rng.uniform(low, high)))
                log_prob = -0.5 * ((torque - wish) / noise) ** 2 - np.log(noise * np.sqrt(2 * np.pi) * (high - low))
            following, reward, terminated, truncated, _ = env.step(np.array([torque], np.float32))
            ended = terminated or truncated
            values = (episode, seen, [torque], reward, truncated, following, log_prob)
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)
            seen = following
    columns: dict[str, np.ndarray] = {
        "episode": np.asarray(rows["episode"], np.int64),
        "observation": np.asarray(rows["observation"], np.float32),
        "action": np.asarray(rows["action"], np.float32),
        "reward": np.asarray(rows["reward"], np.float32),
        "terminated": np.zeros(len(rows["reward"]), bool),
        "truncated": np.asarray(rows["truncated"], bool),
        "next_observation": np.asarray(rows["next_observation"], np.float32),
        "behavior_log_prob": np.asarray(rows["log_prob"], np.float32),
    }
    if sources:
        columns["source"] = np.where(random[columns["episode"]], "random", "controller")
    return st.read(columns, Schema({name: name for name in columns}, name="pendulum"))


@cache
def clean_logs() -> dict[str, Dataset]:
    """The three logs without faults."""
    return {"hospital": hospital_log(), "bandit": bandit_log(), "control": control_log()}


# --- tools -------------------------------------------------------------------------------------------------------


def rowwise(log: Dataset) -> Dataset:
    """The same log with an observation a row, so that one row's can be changed; known last ones follow behind."""
    count = log.num_transitions
    following = np.arange(1, count + 1)
    last = log.episode_start[1:] - 1
    following[last] = NO_OBSERVATION
    # Where what follows is not the next row's observation, and at known ends.
    known = log.next_observation_index != NO_OBSERVATION
    apart = np.flatnonzero(known & ~log.continues)
    following[apart] = count + np.arange(len(apart))
    table = np.concatenate([log.observation, log.observation_table[log.next_observation_index[apart]]])
    return dataclasses.replace(
        log,
        observation_table=table,
        observation_index=np.arange(count, dtype=np.int32),
        next_observation_index=following.astype(np.int32),
    )


def some(count: int, share: float, seed: int = 1) -> np.ndarray:
    """(count,) true for a share of places, at least one."""
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(seed).permutation(count)[: max(1, round(share * count))]] = True
    return chosen


def put(log: Dataset, name: str, where: Any, value: Any) -> Dataset:
    """The log with values written into a copy of one array."""
    column = np.array(getattr(log, name))
    column[where] = value
    return dataclasses.replace(log, **{name: column})


def column(log: Dataset, values: np.ndarray, j: int = 3) -> Dataset:
    """The log with observation column j replaced by values, one a row."""
    table = np.array(log.observation_table)
    table[: log.num_transitions, j] = values
    for row in np.flatnonzero(log.next_observation_index >= log.num_transitions):  # known ends: as the row before
        table[log.next_observation_index[row], j] = values[row]
    return dataclasses.replace(log, observation_table=table)


def without(log: Dataset, *names: str) -> Dataset:
    """The log without some optional columns."""
    return dataclasses.replace(log, **dict.fromkeys(names))


def take_rows(log: Dataset, rows: np.ndarray, start: np.ndarray, **changes: Any) -> Dataset:
    """A log of chosen rows in order; `start` (episodes + 1,) cuts them into episodes, renumbered."""
    names = ("observation_index", "next_observation_index", "action", "reward", "terminated", "truncated", "step")
    optional = ("behavior_log_prob", "behavior_probs", "action_mask", "source", "weight", "time", "observation_id")
    taken = {n: np.array(getattr(log, n)[rows]) for n in (*names, *optional) if getattr(log, n) is not None}
    return dataclasses.replace(log, **(taken | changes), episode_start=start, episode_id=np.arange(len(start) - 1))


def column_after(log: Dataset) -> np.ndarray:
    """(N,) the reward of the next row of the same episode; 0 at the end."""
    following = np.append(log.reward[1:], 0)
    following[log.episode_start[1:] - 1] = 0
    return following


def half_of_rows(log: Dataset, share: float = 0.5) -> np.ndarray:
    """(N,) true in the last part of the log."""
    return np.arange(log.num_transitions) >= (1 - share) * log.num_transitions


def last_rows(log: Dataset) -> np.ndarray:
    """(E,) the last row of each episode."""
    return log.episode_start[1:] - 1


# --- faults of any log -------------------------------------------------------------------------------------------


def lost_values(log: Dataset, share: float) -> Dataset:
    rows = np.flatnonzero(some(log.num_transitions, share))
    return put(log, "observation_table", (log.observation_index[rows], 2), np.nan)


def lost_actions(log: Dataset, share: float) -> Dataset:
    return put(log, "action", some(log.num_transitions, share), np.nan)


def infinite_rewards(log: Dataset, share: float) -> Dataset:
    return put(log, "reward", some(log.num_transitions, share), np.inf)


def constant_column(log: Dataset, value: float) -> Dataset:
    return put(log, "observation_table", (slice(None), 1), value)


def copied_column(log: Dataset, noise: float) -> Dataset:
    table = log.observation_table
    other = table[:, 2] + noise * table[:, 2].std() * np.random.default_rng(1).normal(size=len(table))
    return put(log, "observation_table", (slice(None), 1), other)


def placeholder(log: Dataset, share: float) -> Dataset:
    values = np.array(log.observation[:, 2])
    values[some(log.num_transitions, share)] = -999
    return column(log, values, 2)


def mistyped(log: Dataset, times: float) -> Dataset:
    values = np.array(log.observation[:, 2])
    usual = np.median(values)
    values[log.num_transitions // 3] = usual + times * np.abs(values - usual).max()
    return column(log, values, 2)


def later_shift(log: Dataset, size: float) -> Dataset:
    values = log.observation[:, 2] + np.where(half_of_rows(log, 0.4), size * log.observation[:, 2].std(), 0)
    return column(log, values, 2)


def copied_episodes(log: Dataset, share: float) -> Dataset:
    count = log.num_episodes
    copies = round(share * count)
    chosen = np.random.default_rng(1).choice(count - copies, copies, replace=copies > count - copies)
    return log.select_episodes(np.concatenate([np.arange(count - copies), chosen]))


def leaked_action(log: Dataset, noise: float) -> Dataset:
    action = log.action if log.num_actions else log.action[:, 0]
    spread = max(float(action.std()), 1.0) * noise
    return column(log, action + spread * np.random.default_rng(1).normal(size=len(action)), 0)


def leaked_outcome(log: Dataset, flipped: float) -> Dataset:
    good = log.episode_returns() > np.median(log.episode_returns())
    good = (log.episode_returns() > log.episode_returns().min()) if len(np.unique(log.episode_returns())) == 2 else good
    good = good ^ (np.random.default_rng(1).random(len(good)) < flipped)
    code = np.repeat(good, log.episode_lengths) + 0.1 * np.random.default_rng(2).random(log.num_transitions)
    return column(log, code, 0)


def one_action_here(log: Dataset, share: float) -> Dataset:
    """In part of the states (the highest of a column), the commonest action only."""
    seen = log.observation[:, 5]
    here = seen >= np.quantile(seen, 1 - share)
    return without(
        put(log, "action", here, np.bincount(log.action).argmax()), "behavior_probs", "behavior_log_prob", "action_mask"
    )


# --- hospital ----------------------------------------------------------------------------------------------------


def masks_of_others(log: Dataset, share: float) -> Dataset:
    assert log.action_mask is not None
    rows = np.flatnonzero(some(log.num_transitions, share))
    return put(log, "action_mask", rows, np.roll(log.action_mask, 1, 0)[rows])


def masks_empty(log: Dataset, share: float) -> Dataset:
    return put(log, "action_mask", some(log.num_transitions, share), False)


def zero_propensities(log: Dataset, share: float) -> Dataset:
    return put(log, "behavior_log_prob", some(log.num_transitions, share), -np.inf)


def other_propensities(log: Dataset, share: float) -> Dataset:
    """In some rows, the probability as an earlier version of the policy had it: 20% off."""
    assert log.behavior_log_prob is not None
    return put(log, "behavior_log_prob", some(log.num_transitions, share), log.behavior_log_prob.min() + np.log(1.2))


def flattened(log: Dataset, part: float) -> Dataset:
    """Probabilities before exploration was turned down: mixed with a uniform over the allowed actions."""
    assert log.behavior_probs is not None
    assert log.action_mask is not None
    uniform = log.action_mask / log.action_mask.sum(1, keepdims=True)
    probs = ((1 - part) * log.behavior_probs + part * uniform).astype(np.float32)
    chosen = probs[np.arange(len(probs)), log.action]
    return dataclasses.replace(log, behavior_probs=probs, behavior_log_prob=np.log(chosen))


def propensities_of_next_row(log: Dataset, share: float) -> Dataset:
    """Probabilities joined to the wrong rows in a part of the log."""
    assert log.behavior_log_prob is not None
    rows = half_of_rows(log, share)
    moved = np.where(rows, np.roll(log.behavior_log_prob, 7), log.behavior_log_prob)
    return dataclasses.replace(log, behavior_probs=None, behavior_log_prob=moved)


def steps_left(log: Dataset, noise: float) -> Dataset:
    length = np.repeat(log.episode_lengths, log.episode_lengths)
    left = length - log.position + noise * length.std() * np.random.default_rng(1).normal(size=len(length))
    return column(log, left, 4)


def all_survive(log: Dataset, share: float) -> Dataset:
    ends = last_rows(log)[some(log.num_episodes, share)]
    return put(log, "reward", ends, 1.0)


def early_by_one(log: Dataset, share: float) -> Dataset:
    """The reward column read one row early in part of the stays."""
    chosen = np.repeat(some(log.num_episodes, share), log.episode_lengths)
    return dataclasses.replace(log, reward=np.where(chosen, column_after(log), log.reward).astype(np.float32))


def late_by_one(log: Dataset, share: float) -> Dataset:
    """The reward column written one row late in part of the episodes."""
    chosen = np.repeat(some(log.num_episodes, share), log.episode_lengths)
    before = np.append(0, log.reward[:-1]).astype(np.float32)
    before[log.episode_start[:-1]] = 0
    return dataclasses.replace(log, reward=np.where(chosen, before, log.reward).astype(np.float32))


def wild_rewards(log: Dataset, size: float) -> Dataset:
    return put(log, "reward", np.flatnonzero(some(log.num_transitions, 0.0005)), np.float32(size))


def lost_rows(log: Dataset, share: float) -> Dataset:
    """Rows that never arrived, in a log that names what followed each row."""
    following = np.array(log.next_observation_index)
    keep = np.ones(log.num_transitions, bool)
    inside = np.setdiff1d(np.flatnonzero(log.continues), log.episode_start[:-1])
    keep[inside[some(len(inside), share)]] = False
    counts = np.add.reduceat(keep, log.episode_start[:-1])
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return take_rows(dataclasses.replace(log, next_observation_index=following), np.flatnonzero(keep), start)


def ends_as_cuts(log: Dataset, share: float) -> Dataset:
    ends = last_rows(log)[some(log.num_episodes, share)]
    return put(put(log, "terminated", ends, False), "truncated", ends, True)


def broken_off_starts(log: Dataset, share: float) -> Dataset:
    """The first row of some episodes under an identifier of its own."""
    chosen = np.flatnonzero(some(log.num_episodes, share) & (log.episode_lengths > 1))
    firsts = log.episode_start[:-1][chosen]
    start = np.unique(np.concatenate([log.episode_start, firsts + 1])).astype(np.int64)
    cut = put(log, "truncated", firsts, True)
    return take_rows(cut, np.arange(log.num_transitions), start)


def row_episodes(log: Dataset, share: float) -> Dataset:
    """The row number read as the episode, in part of the episodes."""
    chosen = np.repeat(some(log.num_episodes, share), log.episode_lengths)
    start = np.unique(np.concatenate([log.episode_start, np.flatnonzero(chosen)])).astype(np.int64)
    ends = start[1:] - 1
    return take_rows(put(log, "truncated", ends, ~log.terminated[ends]), np.arange(log.num_transitions), start)


def first_only(log: Dataset, episodes: float) -> Dataset:
    return log.select_episodes(range(int(episodes)))


def recoded(log: Dataset, actions: float) -> Dataset:
    """Some actions written as their neighbours."""
    gone = np.argsort(-np.bincount(log.action))[: int(actions)]
    action = np.where(np.isin(log.action, gone), (log.action + 1) % (log.num_actions or 1), log.action)
    action = np.where(np.isin(action, gone), (action + 1) % (log.num_actions or 1), action).astype(np.int32)
    return dataclasses.replace(without(log, "action_mask", "behavior_probs", "behavior_log_prob"), action=action)


def random_doctors(log: Dataset, share: float) -> Dataset:
    """A share of the stays under uniformly random allowed actions, without a word about it."""
    world = icu_sepsis()
    count = log.num_episodes
    mask = world.mask / np.maximum(world.mask.sum(1, keepdims=True), 1)
    uniform = world.mdp.draw(np.where(world.mask.any(1, keepdims=True), mask, 0), round(share * count), seed=3)
    own = world.mdp.draw(world.clinicians, count - round(share * count), seed=4)
    parts = [demo_log(compact_table(draw), propensities=False) for draw in (uniform, own)]
    both = rowwise(parts[0]), rowwise(parts[1])
    return shuffled(stacked(both))


def stacked(logs: Sequence[Dataset]) -> Dataset:
    """Logs of one form, one after the other; nothing is known after their ends."""
    names = ("action", "reward", "terminated", "truncated", "step", "action_mask", "behavior_log_prob")
    parts = {n: np.concatenate([getattr(log, n) for log in logs]) for n in names if getattr(logs[0], n) is not None}
    start = np.concatenate([[0], np.cumsum(np.concatenate([log.episode_lengths for log in logs]))]).astype(np.int64)
    count = int(start[-1])
    following = np.arange(1, count + 1, dtype=np.int32)
    following[start[1:] - 1] = NO_OBSERVATION
    return dataclasses.replace(
        logs[0],
        observation_table=np.concatenate([log.observation for log in logs]),
        observation_index=np.arange(count, dtype=np.int32),
        next_observation_index=following,
        episode_start=start,
        episode_id=np.arange(len(start) - 1),
        observation_id=None,
        **parts,
    )


def shuffled(log: Dataset) -> Dataset:
    """Its episodes in random order."""
    return log.select_episodes(np.random.default_rng(5).permutation(log.num_episodes))


def new_protocol(log: Dataset, part: float) -> Dataset:
    """From the middle of the log on, part of the decisions follow a protocol: the commonest action."""
    chosen = half_of_rows(log) & (np.random.default_rng(1).random(log.num_transitions) < part)
    return put(without(log, "behavior_probs", "behavior_log_prob", "action_mask"), "action", chosen, 0)


def better_later(log: Dataset, odds: float) -> Dataset:
    """From the middle of the log on, some good outcomes are recorded as bad: the odds fall by a factor."""
    ends = last_rows(log)
    good = (log.reward[ends] > 0) & half_of_rows(log)[ends]
    share = log.reward[ends].mean()
    new = share / odds / (1 - share + share / odds)
    lost = good & (np.random.default_rng(1).random(len(ends)) > new / share)
    return put(log, "reward", ends[lost], 0.0)


def limit_as_end(log: Dataset, steps: float) -> Dataset:
    """Stays are followed for so many steps only, and what is then left out is marked as an end."""
    limit = int(steps)
    keep = log.position < limit
    counts = np.minimum(log.episode_lengths, limit)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    cut = take_rows(log, np.flatnonzero(keep), start)
    return put(put(cut, "terminated", start[1:] - 1, True), "next_observation_index", start[1:] - 1, NO_OBSERVATION)


def weighed(log: Dataset, _: float) -> Dataset:
    return dataclasses.replace(log, weight=np.ones(log.num_transitions, np.float32))


def cut_stays(log: Dataset, share: float) -> Dataset:
    """Stays still open at the export: cut, without what came next."""
    chosen = some(log.num_episodes, share)
    counts = np.where(chosen, np.maximum(log.episode_lengths // 2, 1), log.episode_lengths)
    keep = log.position < np.repeat(counts, log.episode_lengths)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    cut = take_rows(log, np.flatnonzero(keep), start)
    ends = start[1:][chosen] - 1
    cut = put(put(cut, "terminated", ends, False), "truncated", ends, True)
    return put(cut, "next_observation_index", ends, NO_OBSERVATION)


def shared_episodes(log: Dataset, share: float) -> tuple[Dataset, Dataset]:
    half = log.num_episodes // 2
    test = np.concatenate([np.arange(half, log.num_episodes), np.arange(round(share * half))])
    return log.select_episodes(range(half)), log.select_episodes(test)


# --- bandit ------------------------------------------------------------------------------------------------------


def scaled_propensities(log: Dataset, factor: float) -> Dataset:
    assert log.behavior_log_prob is not None
    return dataclasses.replace(log, behavior_log_prob=(log.behavior_log_prob + np.log(factor)).astype(np.float32))


def not_logarithms(log: Dataset, _: float) -> Dataset:
    assert log.behavior_log_prob is not None
    return dataclasses.replace(log, behavior_log_prob=np.exp(log.behavior_log_prob))


def floored(log: Dataset, probability: float) -> Dataset:
    """Zeros that someone made 'safe'."""
    return put(log, "behavior_log_prob", some(log.num_transitions, 0.001), np.log(probability))


def no_propensities(log: Dataset, _: float) -> Dataset:
    return without(log, "behavior_log_prob", "behavior_probs")


def exported_twice(log: Dataset, share: float) -> Dataset:
    return copied_episodes(log, share / (1 + share))


def more_clicks(log: Dataset, factor: float) -> Dataset:
    """From the middle on, a bug counts some impressions as clicks: so many times as many."""
    rate = float(log.reward.mean())
    chosen = half_of_rows(log) & (np.random.default_rng(1).random(log.num_transitions) < rate * (factor - 1))
    return put(log, "reward", chosen, 1.0)


def other_policy_later(log: Dataset, part: float) -> Dataset:
    """From the middle on, a part of the impressions come from another policy."""
    rng = np.random.default_rng(1)
    chosen = half_of_rows(log) & (rng.random(log.num_transitions) < part)
    items = rng.choice(ITEMS, log.num_transitions, p=rng.dirichlet(np.full(ITEMS, 0.5))).astype(np.int32)
    return put(without(log, "behavior_log_prob"), "action", chosen, items[chosen])


def never_at_position(log: Dataset, part: float) -> Dataset:
    """The commonest items are not shown in the first position: others take their place."""
    common = np.argsort(-np.bincount(log.action, minlength=ITEMS))[: round(part * ITEMS)]
    others = np.setdiff1d(np.arange(ITEMS), common)
    here = np.flatnonzero((log.observation[:, 0] == 1) & np.isin(log.action, common))
    items = np.random.default_rng(1).choice(others, len(here)).astype(np.int32)
    return put(without(log, "behavior_log_prob"), "action", here, items)


def clock_column(log: Dataset, offset: float) -> Dataset:
    """Seconds since 1970 among the features, in float32."""
    assert log.time is not None
    return column(log, offset + log.time, 5)


def one_item(log: Dataset, _: float) -> Dataset:
    return dataclasses.replace(log, action=np.zeros_like(log.action))


# --- control -----------------------------------------------------------------------------------------------------


def other_unit(log: Dataset, share: float) -> Dataset:
    """Some rows in percent."""
    rows = some(log.num_transitions, share)
    return put(log, "action", rows, 100 * log.action[rows])


def clipped(log: Dataset, bound: float) -> Dataset:
    return dataclasses.replace(log, action=np.clip(log.action, -bound, bound))


def quantised(log: Dataset, levels: float) -> Dataset:
    step = 4 / levels
    return dataclasses.replace(log, action=((np.floor(log.action / step) + 0.5) * step).astype(np.float32))


def gears(log: Dataset, count: float) -> Dataset:
    action = np.clip(np.floor((log.action + 2) / 4 * count), 0, count - 1)
    return dataclasses.replace(log, action=action.astype(np.float32))


def no_action(log: Dataset, _: float) -> Dataset:
    return dataclasses.replace(log, action=np.zeros_like(log.action))


def doubled_action(log: Dataset, noise: float) -> Dataset:
    other = log.action + noise * np.random.default_rng(1).normal(size=log.action.shape).astype(np.float32)
    return dataclasses.replace(log, action=np.concatenate([log.action, other], 1))


def leaked_reward(log: Dataset, noise: float) -> Dataset:
    return column(log, log.reward + noise * log.reward.std() * np.random.default_rng(1).normal(size=len(log.reward)), 2)


def leaked_future(log: Dataset, noise: float) -> Dataset:
    return column(log, column_after(log) + noise * np.random.default_rng(1).normal(size=len(log.reward)), 2)


def glued(log: Dataset, share: float) -> Dataset:
    """Pairs of episodes under one identifier: the second begins in the middle of nowhere."""
    pairs = np.flatnonzero(some(log.num_episodes // 2, share)) * 2
    start = np.delete(log.episode_start, pairs + 1)
    inner = log.episode_start[pairs + 1] - 1
    joined = put(put(log, "truncated", inner, False), "next_observation_index", inner, log.observation_index[inner + 1])
    return take_rows(joined, np.arange(log.num_transitions), start)


def out_of_order(log: Dataset, share: float) -> Dataset:
    """Rows swapped with others of their episode, and what follows told from the new order."""
    order = np.arange(log.num_transitions)
    inside = np.flatnonzero(some(log.num_transitions, share) & (log.position > 0) & log.continues)
    partner = log.episode_start[log.episode_of_transition[inside]] + (log.position[inside] * 7919) % (CONTROL_STEPS - 1)
    for a, b in zip(inside, partner, strict=True):
        order[a], order[b] = order[b], order[a]
    following = np.append(log.observation_index[order][1:], NO_OBSERVATION)
    last = last_rows(log)
    following[last] = log.next_observation_index[last]
    moved = take_rows(log, order, np.array(log.episode_start), next_observation_index=following.astype(np.int32))
    return dataclasses.replace(moved, terminated=log.terminated, truncated=log.truncated, step=log.step)


def frozen(log: Dataset, share: float) -> Dataset:
    """A sensor that keeps its number for ten steps, now and then."""
    values = np.array(log.observation[:, 2])
    starts = np.flatnonzero(some(log.num_transitions // 10, share)) * 10
    for start in starts:
        values[start : start + 10] = values[start]
    return column(log, values, 2)


def random_torques(log: Dataset, share: float) -> Dataset:
    return without(control_log(log.num_episodes, random_share=share), "behavior_log_prob")


def drowned_source(log: Dataset, share: float) -> Dataset:
    return control_log(log.num_episodes, random_share=share, sources=True)


def little_noise(log: Dataset, noise: float) -> Dataset:
    """A controller that is a linear rule of what is seen, with little noise."""
    seen = log.observation
    wish = np.clip(0.9 * seen[:, 1] - 0.15 * seen[:, 2], -2, 2)
    action = wish + noise * np.random.default_rng(1).normal(size=len(wish))
    return dataclasses.replace(without(log, "behavior_log_prob"), action=action[:, None].astype(np.float32))


def ends_for_limits(log: Dataset, share: float) -> Dataset:
    ends = last_rows(log)[some(log.num_episodes, share)]
    return put(put(log, "truncated", ends, False), "terminated", ends, True)


def other_money(log: Dataset, factor: float) -> Dataset:
    return dataclasses.replace(log, reward=(log.reward * factor).astype(np.float32))


def density_off(log: Dataset, offset: float) -> Dataset:
    """Log-densities without a term (of the squashing, or of the scale)."""
    assert log.behavior_log_prob is not None
    return dataclasses.replace(log, behavior_log_prob=(log.behavior_log_prob - offset).astype(np.float32))


def torque_offset(log: Dataset, size: float) -> Dataset:
    """An actuator re-calibrated in the middle of the log."""
    action = log.action + np.where(half_of_rows(log)[:, None], size * log.action.std(), 0)
    return dataclasses.replace(without(log, "behavior_log_prob"), action=action.astype(np.float32))


def reward_offset(log: Dataset, size: float) -> Dataset:
    """A reward that is counted otherwise in the last third."""
    return dataclasses.replace(
        log, reward=(log.reward + np.where(half_of_rows(log, 0.33), size * log.reward.std(), 0)).astype(np.float32)
    )


# --- parts of a log ------------------------------------------------------------------------------------------------------


def taken_only(log: Dataset) -> Dataset:
    """The log with the probability of the taken action alone."""
    return without(log, "behavior_probs")


def half_scaled(log: Dataset, factor: float) -> Dataset:
    """The probabilities of every second action times a factor, the others as they were."""
    rows = log.action % 2 == 0
    return part_scaled(log, rows, factor)


def place_scaled(log: Dataset, factor: float) -> Dataset:
    """The probabilities where a column is high times a factor."""
    seen = log.observation[:, 5]
    return part_scaled(log, seen >= np.quantile(seen, 0.8), factor)


def part_scaled(log: Dataset, rows: np.ndarray, factor: float) -> Dataset:
    assert log.behavior_log_prob is not None
    moved = np.where(rows, np.minimum(log.behavior_log_prob + np.log(factor), 0), log.behavior_log_prob)
    return dataclasses.replace(taken_only(log), behavior_log_prob=moved.astype(np.float32))


def place_flattened(log: Dataset, part: float) -> Dataset:
    """Whole rows of probabilities mixed with a uniform over the allowed actions, where a column is high."""
    assert log.behavior_probs is not None
    assert log.behavior_log_prob is not None
    seen = log.observation[:, 5]
    rows, flat = seen >= np.quantile(seen, 0.8), flattened(log, part)
    return dataclasses.replace(
        log,
        behavior_probs=np.where(rows[:, None], flat.behavior_probs, log.behavior_probs),
        behavior_log_prob=np.where(rows, flat.behavior_log_prob, log.behavior_log_prob),
    )


def mixed_within(log: Dataset, share: float) -> Dataset:
    """Actions joined by episode alone: in random order, in part of the episodes."""
    rng = np.random.default_rng(1)
    order = np.lexsort((rng.random(log.num_transitions), log.episode_of_transition))
    chosen = np.repeat(some(log.num_episodes, share), log.episode_lengths)
    order = np.where(chosen, order, np.arange(log.num_transitions))
    return dataclasses.replace(
        without(log, "behavior_probs", "behavior_log_prob", "action_mask"), action=log.action[order]
    )


def two_hospitals(log: Dataset, codes: float) -> tuple[Dataset, np.ndarray]:
    """Half of the episodes with some of the commonest codes moved on by one; and (E,) which episodes these are."""
    common = np.argsort(-np.bincount(log.action, minlength=log.num_actions or 1))[: int(codes)]
    new = np.arange(log.num_actions or 1)
    new[common] = np.roll(common, 1)
    second = some(log.num_episodes, 0.5)
    action = np.where(np.repeat(second, log.episode_lengths), new[log.action], log.action).astype(log.action.dtype)
    plain = without(log, "behavior_probs", "behavior_log_prob", "action_mask")
    return dataclasses.replace(plain, action=action), second


def codes_by_source(log: Dataset, codes: float) -> Dataset:
    mixed, second = two_hospitals(log, codes)
    return dataclasses.replace(mixed, source=np.where(np.repeat(second, log.episode_lengths), "north", "south"))


def codes_by_group(log: Dataset, codes: float) -> Dataset:
    mixed, second = two_hospitals(log, codes)
    return dataclasses.replace(mixed, group=np.where(second, "north", "south"))


def codes_by_column(log: Dataset, codes: float) -> Dataset:
    mixed, second = two_hospitals(log, codes)
    return column(mixed, np.repeat(second, log.episode_lengths).astype(float), 0)


def some_followed(log: Dataset, share: float) -> Dataset:
    """Part of the stays are followed for twelve steps only, and what is then left out is marked as an end."""
    short = some(log.num_episodes, share)
    counts = np.where(short, np.minimum(log.episode_lengths, 12), log.episode_lengths)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    cut = take_rows(log, np.flatnonzero(log.position < np.repeat(counts, log.episode_lengths)), start)
    return put(put(cut, "terminated", start[1:] - 1, True), "next_observation_index", start[1:] - 1, NO_OBSERVATION)


def cut_anywhere(log: Dataset, share: float) -> Dataset:
    """Stays still open at the export, cut at any step and marked as ends."""
    cut = cut_stays(log, share)
    return put(put(cut, "terminated", last_rows(cut), True), "truncated", last_rows(cut), False)


# --- the list ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fault:
    """One way to spoil a log.

    Attributes:
        name: what happened.
        log: of `clean_logs`.
        code: of the finding that must tell it.
        plant: the clean log and a strength -> the spoiled log, or that and another it must not overlap.
        strengths: the first as one meets it, then weaker.
        unit: what a strength is.
    """

    name: str
    log: str
    code: str
    plant: Callable[[Dataset, float], Any]
    strengths: tuple[float, ...]
    unit: str

    def spoiled(self, clean: Dataset, strength: float | None = None) -> tuple[Dataset, Dataset | None]:
        """The spoiled log (at the first strength), and the one it must not overlap."""
        planted = self.plant(clean, self.strengths[0] if strength is None else strength)
        return planted if isinstance(planted, tuple) else (planted, None)


IN_PART = "propensities-uncalibrated-in-part"
ROWS, EPISODES, NOISE = "share of rows", "share of episodes", "noise, in sd"

FAULTS: tuple[Fault, ...] = (
    Fault("lab values lost", "hospital", "missing-values", lost_values, (0.05, 0.001, 0.0001), ROWS),
    Fault("infinite rewards", "hospital", "infinite-values", infinite_rewards, (0.01, 0.0001), ROWS),
    Fault("masks of other rows", "hospital", "action-outside-mask", masks_of_others, (0.1, 0.01, 0.001), ROWS),
    Fault("masks empty", "hospital", "empty-mask", masks_empty, (0.01, 0.0001), ROWS),
    Fault("probabilities of zero", "hospital", "propensity-impossible", zero_propensities, (0.01, 0.0001), ROWS),
    Fault(
        "probabilities of an old policy", "hospital", "propensities-disagree", other_propensities, (0.1, 0.001), ROWS
    ),
    Fault(
        "probabilities too flat",
        "hospital",
        "propensities-uncalibrated",
        flattened,
        (0.5, 0.2, 0.1, 0.05),
        "part uniform",
    ),
    Fault(
        "probabilities of other rows",
        "hospital",
        "propensities-uncalibrated",
        propensities_of_next_row,
        (1, 0.5, 0.25, 0.1),
        ROWS,
    ),
    Fault("a column is empty", "hospital", "observation-constant", constant_column, (0.0,), "value"),
    Fault("a column twice", "hospital", "observation-duplicate", copied_column, (0, 1e-4, 1e-2), NOISE),
    Fault("-999 for missing", "hospital", "observation-placeholder", placeholder, (0.05, 0.01, 0.002, 0.001), ROWS),
    Fault("one value mistyped", "hospital", "observation-far-out", mistyped, (30, 10, 5), "times the farthest value"),
    Fault(
        "discharge code among features",
        "hospital",
        "observation-leaks-outcome",
        leaked_outcome,
        (0, 0.0005, 0.01),
        "flipped",
    ),
    Fault("days left among features", "hospital", "observation-leaks-time-left", steps_left, (0, 0.02, 0.1), NOISE),
    Fault("the dose among features", "hospital", "observation-leaks-action", leaked_action, (0, 0.02, 0.1), NOISE),
    Fault("everyone survives", "hospital", "returns-constant", all_survive, (1, 0.99), "share of ends"),
    Fault("reward a row early", "hospital", "reward-misaligned", early_by_one, (1, 0.9, 0.5), EPISODES),
    Fault("rewards of 9999", "hospital", "reward-outlier", wild_rewards, (9999, 120, 50), "size"),
    Fault(
        "stays exported twice", "hospital", "episodes-duplicated", copied_episodes, (0.2, 0.05, 0.02, 0.01), EPISODES
    ),
    Fault("rows lost", "hospital", "rows-missing", lost_rows, (0.05, 0.01, 0.0001), ROWS),
    Fault("ends marked as cuts", "hospital", "cuts-look-like-ends", ends_as_cuts, (1, 0.6, 0.4), EPISODES),
    Fault("stays open at the export", "hospital", "cut-without-next-observation", cut_stays, (0.1, 0.001), EPISODES),
    Fault(
        "first rows under another identifier",
        "hospital",
        "some-episodes-of-one-step",
        broken_off_starts,
        (0.4, 0.2, 0.1, 0.03),
        EPISODES,
    ),
    Fault("row number as episode", "hospital", "episodes-of-one-step", row_episodes, (1, 0.5, 0.05), EPISODES),
    Fault("fifty stays", "hospital", "few-episodes", first_only, (50, 99, 150), "episodes"),
    Fault("common actions recoded", "hospital", "action-unused", recoded, (2, 1), "actions"),
    Fault("most stays at random", "hospital", "mostly-random", random_doctors, (0.9, 0.7, 0.6), EPISODES),
    Fault(
        "an instrument re-calibrated",
        "hospital",
        "observation-drift",
        later_shift,
        (1, 0.5, 0.3, 0.2, 0.1),
        "shift, in sd",
    ),
    Fault("a new protocol", "hospital", "action-drift", new_protocol, (0.6, 0.3, 0.15, 0.1), "part of decisions"),
    Fault("outcomes recorded otherwise", "hospital", "reward-drift", better_later, (3, 2, 1.5, 1.2), "odds ratio"),
    Fault("stays in training and test", "hospital", "episodes-in-both", shared_episodes, (0.2, 0.05, 0.01), EPISODES),
    Fault("one treatment for the sickest", "hospital", "region-one-action", one_action_here, (0.3, 0.15, 0.05), ROWS),
    Fault("followed for twelve steps", "hospital", "time-limit-as-terminal", limit_as_end, (12, 20, 30), "steps"),
    Fault("a weight column", "hospital", "weight-unused", weighed, (1,), "-"),
    Fault(
        "probabilities too small", "bandit", "propensities-uncalibrated", scaled_propensities, (0.5, 0.8, 0.9), "factor"
    ),
    Fault("probabilities, not logarithms", "bandit", "propensity-impossible", not_logarithms, (1,), "-"),
    Fault("zeros made safe", "bandit", "propensity-too-small", floored, (1e-8, 1e-6, 1e-5), "probability"),
    Fault("no probabilities", "bandit", "propensities-missing", no_propensities, (1,), "-"),
    Fault("hours exported twice", "bandit", "rows-duplicated", exported_twice, (0.2, 0.05, 0.02, 0.01), ROWS),
    Fault("clicks among features", "bandit", "observation-leaks-outcome", leaked_outcome, (0, 0.0005, 0.01), "flipped"),
    Fault("the item among features", "bandit", "observation-leaks-action", leaked_action, (0, 0.02, 0.1), NOISE),
    Fault("clicks counted otherwise", "bandit", "reward-drift", more_clicks, (6, 4, 3, 2), "times as many"),
    Fault("another policy later", "bandit", "action-drift", other_policy_later, (0.6, 0.3, 0.15), "part of decisions"),
    Fault(
        "items kept off a position",
        "bandit",
        "action-missing-in-region",
        never_at_position,
        (0.3, 0.1, 0.05),
        "part of items",
    ),
    Fault("a clock among features", "bandit", "observation-scale", clock_column, (1.5e10, 1e9), "offset, s"),
    Fault("one item only", "bandit", "action-constant", one_item, (1,), "-"),
    Fault("impressions in training and test", "bandit", "rows-in-both", shared_episodes, (0.2, 0.05, 0.02, 0.01), ROWS),
    Fault("values lost", "bandit", "missing-values", lost_values, (0.01, 0.0001), ROWS),
    Fault("common items recoded", "bandit", "action-unused", recoded, (5, 1), "actions"),
    Fault("actions lost", "control", "missing-values", lost_actions, (0.01, 0.0001), ROWS),
    Fault("torques in percent", "control", "action-outside-bounds", other_unit, (0.02, 0.002, 0.0002), ROWS),
    Fault("torques clipped", "control", "action-saturated", clipped, (0.8, 1.2, 1.6, 1.9, 1.99), "bound of 2"),
    Fault("torques quantised", "control", "action-effectively-discrete", quantised, (5, 32, 64, 256), "levels"),
    Fault("gears stored as floats", "control", "action-integers-as-floats", gears, (5, 64, 400), "gears"),
    Fault("no torque", "control", "action-constant", no_action, (1,), "-"),
    Fault("one torque twice", "control", "action-duplicate", doubled_action, (0, 1e-3), "noise"),
    Fault("reward a row late", "control", "reward-misaligned", late_by_one, (1, 0.75, 0.5, 0.25), EPISODES),
    Fault("the reward among features", "control", "observation-leaks-reward", leaked_reward, (0, 0.02, 0.1), NOISE),
    Fault(
        "the next reward among features", "control", "observation-leaks-future", leaked_future, (0, 0.02, 0.5), NOISE
    ),
    Fault("episodes glued together", "control", "observation-jumps", glued, (1, 0.5, 0.1), "share of pairs"),
    Fault("rows out of order", "control", "observation-jumps", out_of_order, (0.1, 0.01, 0.001), ROWS),
    Fault("a sensor that freezes", "control", "observation-stuck", frozen, (0.2, 0.05, 0.02, 0.01), ROWS),
    Fault("nine tenths random, told", "control", "source-drowned", drowned_source, (0.9, 0.7), EPISODES),
    Fault("nine tenths random, untold", "control", "mostly-random", random_torques, (0.9, 0.7, 0.6), EPISODES),
    Fault("a better tenth", "control", "quality-drowned", random_torques, (0.9, 0.7), EPISODES),
    Fault("hardly any noise", "control", "behavior-deterministic", little_noise, (0.01, 0.05, 0.1), "noise of torque"),
    Fault(
        "time limits marked terminated",
        "control",
        "time-limit-as-terminal",
        ends_for_limits,
        (1, 0.3, 0.05, 0.02),
        EPISODES,
    ),
    Fault("rewards in another currency", "control", "reward-scale", other_money, (1e4, 100), "factor"),
    Fault("rewards of a lost sensor", "control", "reward-outlier", wild_rewards, (-99999, -1000, -100), "size"),
    Fault("densities without a term", "control", "propensities-beaten", density_off, (2, 1, 0.5, 0.2), "nats"),
    Fault("an actuator re-calibrated", "control", "action-drift", torque_offset, (1, 0.5, 0.3, 0.1), "shift, in sd"),
    Fault("a reward re-defined", "control", "reward-drift", reward_offset, (1, 0.5, 0.3, 0.1), "shift, in sd"),
    Fault("-999 for missing", "control", "observation-placeholder", placeholder, (0.05, 0.002, 0.001), ROWS),
    Fault("one value mistyped", "control", "observation-far-out", mistyped, (30, 10, 5), "times the farthest value"),
    Fault(
        "a thermometer re-calibrated", "control", "observation-drift", later_shift, (1, 0.5, 0.3, 0.1), "shift, in sd"
    ),
    Fault("probabilities of half of the actions", "hospital", IN_PART, half_scaled, (0.8, 0.9, 0.95), "factor"),
    Fault("probabilities of some states", "hospital", IN_PART, place_scaled, (0.8, 0.9, 0.95), "factor"),
    Fault("whole rows too flat in some states", "hospital", IN_PART, place_flattened, (0.5, 0.3, 0.1), "part uniform"),
    Fault("probabilities of half of the items", "bandit", IN_PART, half_scaled, (0.8, 0.9, 0.95), "factor"),
    Fault("treatments mixed within stays", "hospital", "actions-shuffled", mixed_within, (1, 0.98, 0.9), EPISODES),
    Fault("torques mixed within swings", "control", "actions-shuffled", mixed_within, (1, 0.98, 0.9), EPISODES),
    Fault("two code books, with a source", "hospital", "action-codes-differ", codes_by_source, (5, 2), "codes"),
    Fault("two code books, with groups", "hospital", "action-codes-differ", codes_by_group, (5, 2), "codes"),
    Fault("two code books, a column tells", "hospital", "action-codes-differ", codes_by_column, (5, 2), "codes"),
    Fault(
        "some followed for twelve steps", "hospital", "time-limit-as-terminal", some_followed, (0.5, 0.3, 0.1), EPISODES
    ),
)
"""Every planted fault."""


def logged_twice(log: Dataset, share: float) -> Dataset:
    """Some rows twice in a row, as a message that was sent again."""
    again = some(log.num_transitions, share) & log.continues
    rows = np.repeat(np.arange(log.num_transitions), 1 + again)
    start = np.concatenate([[0], np.cumsum(np.add.reduceat(1 + again, log.episode_start[:-1]))]).astype(np.int64)
    following = np.append(np.arange(1, len(rows)), 0).astype(np.int32)
    following[start[1:] - 1] = NO_OBSERVATION
    return take_rows(
        log,
        rows,
        start,
        observation_index=np.arange(len(rows), dtype=np.int32),
        next_observation_index=following,
        observation_table=log.observation[rows],
    )


def clicks_shifted(log: Dataset, _: float) -> Dataset:
    """Clicks joined to the impression before."""
    return dataclasses.replace(log, reward=np.roll(log.reward, -1))


CHECKS_OF_CODE: dict[str, tuple[str, ...]] = {
    "missing-values": ("missing_values",),
    "infinite-values": ("infinite_values",),
    "action-outside-mask": ("logged_action_outside_mask",),
    "empty-mask": ("empty_mask",),
    "propensity-impossible": ("propensities_impossible",),
    "propensities-disagree": ("propensities_disagree",),
    "propensities-uncalibrated": ("propensities_uncalibrated",),
    "propensities-uncalibrated-in-part": ("propensities_uncalibrated_in_part",),
    "actions-shuffled": ("actions_shuffled",),
    "action-codes-differ": ("action_codes_differ",),
    "propensities-beaten": ("propensities_beaten",),
    "propensity-too-small": ("propensities_too_small",),
    "propensities-missing": ("propensities_missing",),
    "observation-constant": ("observation_constant",),
    "observation-duplicate": ("observation_twins",),
    "observation-placeholder": ("observation_placeholder",),
    "observation-far-out": ("observation_far_out",),
    "observation-scale": ("observation_scale",),
    "observation-stuck": ("observation_stuck",),
    "observation-jumps": ("observation_jumps",),
    "observation-drift": ("observation_drift",),
    "observation-leaks-outcome": ("leaks_outcome",),
    "observation-leaks-time-left": ("leaks_time_left",),
    "observation-leaks-action": ("leaks_action",),
    "observation-leaks-reward": ("leaks_reward",),
    "observation-leaks-future": ("leaks_future_reward",),
    "returns-constant": ("returns_constant",),
    "reward-misaligned": ("reward_misaligned", "reward_beside_end"),
    "reward-outlier": ("reward_outliers",),
    "reward-scale": ("reward_scale",),
    "reward-drift": ("reward_drift",),
    "episodes-duplicated": ("duplicated_episodes",),
    "rows-duplicated": ("duplicated_rows",),
    "rows-missing": ("rows_missing",),
    "cuts-look-like-ends": ("cut_at_odd_places",),
    "cut-without-next-observation": ("cut_without_next",),
    "some-episodes-of-one-step": ("some_episodes_of_one_step",),
    "episodes-of-one-step": ("episodes_of_one_step",),
    "few-episodes": ("few_episodes",),
    "time-limit-as-terminal": ("terminated_at_limit",),
    "weight-unused": ("weights_unused",),
    "action-unused": ("actions_unused",),
    "action-drift": ("action_drift",),
    "action-constant": ("action_constant",),
    "action-outside-bounds": ("action_outside_bounds",),
    "action-saturated": ("action_saturated",),
    "action-effectively-discrete": ("action_few_values",),
    "action-integers-as-floats": ("action_integers",),
    "action-duplicate": ("action_twins",),
    "action-missing-in-region": ("actions_missing_in_region",),
    "region-one-action": ("region_of_one_action",),
    "source-drowned": ("source_drowned",),
    "quality-drowned": ("returns_multimodal",),
    "mostly-random": ("mostly_random",),
    "behavior-deterministic": ("behavior_deterministic",),
    "episodes-in-both": ("episodes_in_both",),
    "rows-in-both": ("rows_in_both",),
}
"""Which checks may say a code."""


def one_action_by_score(log: Dataset, share: float) -> Dataset:
    """As `one_action_here`, where a sum of eight columns is high: no end of a column, no region of its own."""
    seen = log.observation[:, :8].sum(1)
    here = seen >= np.quantile(seen, 1 - share)
    plain = without(log, "behavior_probs", "behavior_log_prob", "action_mask")
    return put(plain, "action", here, np.bincount(log.action).argmax())


KNOWN_MISSES: tuple[Fault, ...] = (
    Fault("rows logged twice", "hospital", "rows-duplicated", logged_twice, (0.2, 0.05), ROWS),
    Fault("one treatment by a score", "hospital", "region-one-action", one_action_by_score, (0.3, 0.15), ROWS),
    Fault("clicks of the next impression", "bandit", "reward-misaligned", clicks_shifted, (1,), "-"),
    Fault("reward a row early", "control", "reward-misaligned", early_by_one, (1, 0.5), EPISODES),
    Fault("half of the stays mixed", "hospital", "actions-shuffled", mixed_within, (0.5,), EPISODES),
    Fault("open stays marked as ends", "hospital", "time-limit-as-terminal", cut_anywhere, (0.3, 0.1), EPISODES),
)
"""Faults the checks do not see: rows like those of patients whose state stays the same; a place that is no end of a column
and no region of its own; sixty clicks that follow from nothing seen; rewards of the state that a step leads to; actions of
which half stand in their own rows; cuts at any step."""
