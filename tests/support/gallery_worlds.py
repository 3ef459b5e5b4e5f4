"""Small logs for the gallery of planted failures: hospital stays, a linear system with continuous actions, and a small grid.

All logs of one kind have the same number of rows whatever their seed, so that what is learned from them compiles once.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import NamedTuple

import numpy as np

import stitchrl as st
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.mdp.icu_sepsis import compact_table, demo_log, draw_log
from stitchrl.mdp.linear_gaussian import LinearGaussian

__all__ = ["GAIN", "Parts", "control", "grid", "hospital", "parts", "rowwise", "with_column"]

STAYS, HOSPITAL_ROWS = 2000, (11_000, 4_000)
SYSTEM = LinearGaussian(
    transition=np.array([[0.95, 0.2], [0.0, 0.9]]),
    control=np.array([[0.0], [0.5]]),
    state_cost=np.eye(2),
    action_cost=np.array([[0.1]]),
)
GAIN = np.array([[-0.5, -0.6]])
"""A controller that holds the system, although not as well as one can."""


class Parts(NamedTuple):
    """What is learned from, and what is held out for the probe and the diagnosis."""

    train: Dataset
    held_out: Dataset


@cache
def hospital(seed: int) -> Parts:
    """2,000 simulated stays in intensive care, in two parts of as many decisions whatever the seed."""
    return parts(demo_log(compact_table(draw_log(STAYS, seed=1000 + seed))), HOSPITAL_ROWS)


def parts(log: Dataset, rows: tuple[int, int]) -> Parts:
    """Two sets of whole episodes with exactly so many rows."""
    first = _episodes_of(log.episode_lengths, rows[0], np.ones(log.num_episodes, bool))
    others = np.ones(log.num_episodes, bool)
    others[first] = False
    return Parts(
        *(log.select_episodes(chosen) for chosen in (first, _episodes_of(log.episode_lengths, rows[1], others)))
    )


def _episodes_of(lengths: np.ndarray, rows: int, free: np.ndarray) -> np.ndarray:
    """Numbers of free episodes with so many rows in all: the first ones that fit, one exchanged for a longer one at the end."""
    chosen, left = [], rows
    for episode in np.flatnonzero(free):
        if lengths[episode] <= left:
            chosen.append(int(episode))
            left -= int(lengths[episode])
    if left:
        spare = set(np.flatnonzero(free).tolist()) - set(chosen)
        out, into = next((a, b) for a in chosen for b in sorted(spare) if lengths[b] - lengths[a] == left)
        chosen[chosen.index(out)] = into
    return np.sort(chosen)


@cache
def control(
    seed: int,
    *,
    std: float = 0.5,
    gain: float = 1.0,
    steps: int = 20,
    rows: int = 6000,
    gamma: float = 0.9,
    share: float = 1.0,
    bound: float | None = None,
) -> Parts:
    """Episodes of the linear system under a noisy controller; a third is held out.

    Args:
        seed: of the simulation.
        std: noise of the actions.
        gain: factor on the controller.
        steps: of each episode, after which it is cut.
        rows: decisions of both parts.
        gamma: what the schema says.
        share: of the episodes by that controller, named "controller" in the column of sources; the others' actions are noise.
        bound: what the schema says actions lie within; their own range by default.
    """
    good = round(share * rows / steps)
    columns = SYSTEM.log(gain * GAIN, np.array([std]), episodes=good, steps=steps, seed=seed)
    if share < 1:
        others = SYSTEM.log(0 * GAIN, np.array([1.0]), episodes=rows // steps - good, steps=steps, seed=seed + 500)
        others["episode"] = others["episode"] + good
        source = np.repeat(["controller", "noise"], [len(columns["reward"]), len(others["reward"])])
        columns = {name: np.concatenate([columns[name], others[name]]) for name in columns} | {"source": source}
        if share < 1:
            columns.pop("behavior_log_prob")
    bounds = {} if bound is None else {"action_low": (-bound,), "action_high": (bound,)}
    log = st.read(columns, Schema({name: name for name in columns}, gamma=gamma, name="linear system", **bounds))
    third = rows // steps // 3
    order = np.random.default_rng(seed).permutation(log.num_episodes)
    return Parts(log.select_episodes(np.sort(order[third:])), log.select_episodes(np.sort(order[:third])))


@cache
def grid(seed: int) -> Parts:
    """Walks at random, 8 steps at most, in a grid of 4 x 4 cells with a goal and a pit: every action is seen in every state."""
    world = GridWorld(rows=("S..S", "....", "..X.", "S..G"), gamma=0.9, step_reward=-0.05)
    behavior = np.full((world.num_states, 4), 0.25)
    return parts(world.draw(behavior, 1200, seed=seed, max_steps=30), (6000, 2000))


def rowwise(log: Dataset) -> Dataset:
    """The same log with an observation a row, so that one row's can be changed."""
    from audit_corpus import rowwise as one_a_row

    return one_a_row(log)


def with_column(log: Dataset, values: np.ndarray, j: int | None = None) -> Dataset:
    """The log with an observation a row, in which column j holds these values of the rows; a new column by default."""
    log = rowwise(log)
    table = log.observation_table.copy()
    if j is None:
        table, j = np.concatenate([table, np.zeros((len(table), 1), np.float32)], 1), table.shape[1]
    table[: log.num_transitions, j] = values
    return dataclasses.replace(log, observation_table=table.astype(np.float32), observation_names=())


def cut_after(log: Dataset, steps: int) -> tuple[Dataset, np.ndarray]:
    """The first so many steps of every episode with what followed them, cut there; and which rows are such cuts."""
    keep = log.position < steps
    following = log.next_observation_index
    starts = np.concatenate([[0], np.cumsum(np.minimum(log.episode_lengths, steps))])
    changes = {
        field.name: value[keep]
        for field in dataclasses.fields(log)
        if isinstance(value := getattr(log, field.name), np.ndarray)
        and field.name not in ("observation_table", "episode_start", "episode_id", "group")
        and len(value) == log.num_transitions
    }
    rows = np.flatnonzero(keep)
    cut = np.zeros(len(rows), bool)
    cut[starts[1:] - 1] = ~log.terminated[rows[starts[1:] - 1]]
    assert (following[rows[cut]] != NO_OBSERVATION).all()
    changes["truncated"] = changes["truncated"] | cut
    return dataclasses.replace(log, **changes, episode_start=starts), cut
