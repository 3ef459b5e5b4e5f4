"""A world in which the behaviour reacts to what happens inside a bin of time, exact, and logs of it in bins of any width.

A patient is poor, fair or well, and moves by chance from moment to moment. The behaviour treats readily when the patient is
well; the treatment only hampers recovery. In the log a row is a bin of some moments: the state at its beginning, whether there
was any treatment within it, and the time that was spent well.
"""

from __future__ import annotations

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.reading.read import read

UP, DOWN, END = 0.12, 0.10, 0.04
"""Chances of a moment: to get better or worse by one state without treatment, and to be discharged."""
HARM = 0.06
"""By how much a treatment lowers the chance to get better in its moment."""
TREATS = np.array([0.06, 0.12, 0.45])
"""How likely the behaviour treats a poor, fair or well patient in one moment."""
FIRST = np.array([0.5, 0.3, 0.2])
WIDTHS = (1, 2, 4, 8)
TREAT = 0.95
"""How likely the policy treats at the beginning of a bin, whatever the state."""


class Treat:
    """The policy."""

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return np.tile([1.0 - TREAT, TREAT], (len(obs), 1))


def moment() -> np.ndarray:
    """(2, 3, 3) chances of the next state of one moment without and with treatment; what is missing is the discharge."""
    moves = np.zeros((2, 3, 3))
    for action in (0, 1):
        for state in range(3):
            up = (UP - HARM * action) * (state < 2)
            down = DOWN * (state > 0)
            moves[action, state, min(state + 1, 2)] += up
            moves[action, state, max(state - 1, 0)] += down
            moves[action, state, state] += 1.0 - up - down
    return (1.0 - END) * moves


def value(first: np.ndarray, later: np.ndarray, width: int) -> float:
    """The expected time spent well where a patient is treated with chance `first` (3,) at the beginning of a bin, by its
    state, and with chance `later` (3,) at its other moments."""
    plain, treated = moment()
    chain = [plain + p[:, None] * (treated - plain) for p in (first, *[later] * (width - 1))]
    total, gain = np.eye(3), np.zeros(3)
    for step in chain:
        gain = gain + total @ np.array([0.0, 0.0, 1.0])
        total = total @ step
    return float(FIRST @ np.linalg.solve(np.eye(3) - total, gain))


def true_gain(width: int) -> float:
    """Of the policy over the behaviour."""
    return value(np.full(3, TREAT), np.zeros(3), width) - value(TREATS, TREATS, width)


def gain_in_the_bins(width: int) -> float:
    """The gain that a perfect estimator finds in an endless binned log: it takes the bins for the decisions.

    It knows the chances and the mean reward of a bin given the state at its beginning and whether there was any treatment.
    """
    moves, well = moment(), np.array([0.0, 0.0, 1.0])
    chance, reward = np.zeros((3, 2, 3)), np.zeros((3, 2))
    for state in range(3):
        mass, gained = np.zeros((2, 3)), np.zeros((2, 3))  # by whether there was a treatment so far, and by state
        mass[0, state] = 1.0
        left, taken = np.zeros(2), np.zeros(2)  # the same of those who were discharged
        for _ in range(width):
            gained = gained + mass * well
            following = [np.zeros((2, 3)), np.zeros((2, 3))]
            for before in (0, 1):
                for act, how_often in ((0, 1.0 - TREATS), (1, TREATS)):
                    flag = max(before, act)
                    for k, one in enumerate((mass, gained)):
                        following[k][flag] += (one[before] * how_often) @ moves[act]
                    left[flag] += END * (mass[before] * how_often).sum()
                    taken[flag] += END * (gained[before] * how_often).sum()
            mass, gained = following
        share = mass.sum(1) + left
        chance[state], reward[state] = mass / share[:, None], (gained.sum(1) + taken) / share
    treats = np.full(3, TREAT)
    probs = np.stack([1.0 - treats, treats], axis=1)
    step, mean = np.einsum("sa,sat->st", probs, chance), (probs * reward).sum(1)
    return float(FIRST @ np.linalg.solve(np.eye(3) - step, mean)) - value(TREATS, TREATS, width)


def any_treatment(width: int) -> np.ndarray:
    """(3,) the chance of any treatment in a bin, by the state at its beginning; a discharged patient gets none."""
    plain, _ = moment()
    none = np.ones(3)
    for _ in range(width):
        none = (1.0 - TREATS) * (plain @ none + END)
    return 1.0 - none


def binned_log(width: int, episodes: int, seed: int) -> Dataset:
    """A log of the behaviour, in bins of so many moments."""
    rng, chances = np.random.default_rng(seed), np.cumsum(moment(), axis=2)
    running = np.arange(episodes)
    state = rng.choice(3, p=FIRST, size=episodes)
    parts: list[tuple[np.ndarray, ...]] = []
    for step in range(10_000):
        began, there = state.copy(), np.ones(len(state), bool)
        treated, well = np.zeros(len(state), np.int32), np.zeros(len(state))
        for _ in range(width):
            well += there & (state == 2)
            act = there & (rng.random(len(state)) < TREATS[state])
            treated |= act
            place = (chances[act.astype(int), state] <= rng.random(len(state))[:, None]).sum(1)
            there &= place < 3
            state = np.where(there, place, state)
        parts.append((running, np.full(len(running), step), began, treated, well, ~there))
        running, state = running[there], state[there]
        if not len(running):
            break
    names = ("episode", "step", "state", "action", "reward", "terminated")
    columns = dict(zip(names, (np.concatenate(column) for column in zip(*parts, strict=True)), strict=True))
    order = np.lexsort((columns["step"], columns["episode"]))
    columns = {name: column[order] for name, column in columns.items()}
    began = columns.pop("state")
    treats = any_treatment(width)[began]
    columns["time"] = columns["step"] * float(width)
    columns["observation"] = np.eye(3, dtype=np.float32)[began]
    columns["behavior_probs"] = np.stack([1.0 - treats, treats], axis=1)
    return read(columns, Schema({name: name for name in columns}, num_actions=2, gamma=1.0))
