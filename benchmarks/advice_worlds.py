"""The logs by which the advice is judged: each with the value of its behaviour and a way to value any policy truly.

In the hospital and in the grids values are solved exactly; in the games of Gymnasium they are means over played episodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.mdp.icu_sepsis import ExactValues, compact_table, demo_log, icu_sepsis

PLAYED = 60
"""Episodes by which a policy is valued in a game."""
STEPS = {"CartPole-v1": 20_000, "Pendulum-v1": 6_000, "Acrobot-v1": 30_000}
"""Steps on which the learner behind the log of a game is trained."""
SPAN = {"hospital": 0.2, "CartPole-v1": 480.0, "Pendulum-v1": 1_000.0, "Acrobot-v1": 400.0, "grid": 1.0}
"""About the difference between the best policy and a poor one, in the units of the returns."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A log of the benchmark.

    Attributes:
        name: what the table calls it.
        world: a name of `SPAN`.
        log: the log itself.
        behavior: the true value of what logged it.
        value: gives the true value of a policy, acting greedily (True) or by draws from its probabilities (False).
    """

    name: str
    world: str
    log: Dataset
    behavior: float
    value: Callable[[Any, bool], float]


# --- the hospital ------------------------------------------------------------------------------------------------------


def hospital_policy(kind: str) -> np.ndarray:
    """(S, A) probabilities of a behaviour: "clinicians", "noisier" (half of them uniform), "near-random" (nine
    tenths), "random" (all of them) or "expert"."""
    world = icu_sepsis()
    uniform = world.mask / np.maximum(world.mask.sum(1, keepdims=True), 1)
    if kind == "expert":
        best = world.mdp.optimal_policy(allowed=world.mask)
        return np.where(world.mdp.terminal[:, None], world.clinicians, 0.95 * best + 0.05 * uniform)
    share = {"clinicians": 0.0, "noisier": 0.5, "near-random": 0.9, "random": 1.0}[kind]
    return (1 - share) * world.clinicians + share * uniform


def hospital_log(probs: np.ndarray, stays: int, seed: int) -> Dataset:
    """Stays under a policy, with its exact propensities."""
    log = demo_log(compact_table(icu_sepsis().mdp.draw(probs, stays, seed=seed)))
    assert log.observation_id is not None
    rows = probs[log.observation_id].astype(np.float32)
    chosen = rows[np.arange(len(rows)), log.action]
    return dataclasses.replace(log, behavior_probs=rows, behavior_log_prob=np.log(chosen))


def hospital(name: str, parts: dict[str, int], seed: int) -> Case:
    """Stays of one or several behaviours, each with as many as `parts` says, in random order."""
    logs = [hospital_log(hospital_policy(kind), stays, seed + k) for k, (kind, stays) in enumerate(parts.items())]
    log = logs[0].concat(*logs[1:]) if len(logs) > 1 else logs[0]
    order = np.random.default_rng(seed).permutation(log.num_episodes)
    values = [icu_sepsis().mdp.policy_value(hospital_policy(kind)) for kind in parts]
    truth = float(np.average(values, weights=list(parts.values())))

    def exact(policy: Any, greedy: bool) -> float:
        return ExactValues().value(policy.greedy() if greedy else policy)

    return Case(name, "hospital", log.select_episodes(order), truth, exact)


# --- grids -------------------------------------------------------------------------------------------------------------

ROOMS = ("S...#...", "....#...", "........", "....#..X", "##.##...", "...X#...", "....#..G")
CORRIDOR = ("S.........", ".XX.XX.X..", "..........", ".X.XX.XX.G")


def grid(name: str, rows: tuple[str, ...], random_share: float, episodes: int, seed: int, slip: float = 0.1) -> Case:
    """Walks in a grid by its best policy, of whose moves a share is uniform."""
    world = GridWorld(rows, slip=slip, gamma=0.95)
    best = world.optimal_policy()
    probs = (1 - random_share) * best + random_share / 4
    log = world.draw(probs, episodes, seed=seed, max_steps=60)
    seen = np.eye(world.num_states, dtype=np.float32)

    def value(policy: Any, greedy: bool) -> float:
        table = np.asarray((policy.greedy() if greedy else policy).probs(seen), np.float64)
        return world.mdp.policy_value(table / table.sum(1, keepdims=True), gamma=world.gamma)

    return Case(name, "grid", log, world.mdp.policy_value(probs, gamma=world.gamma), value)


# --- games -------------------------------------------------------------------------------------------------------------


def game(name: str, environment: str, parts: dict[str, int], seed: int, **given: Any) -> Case:
    """Episodes collected by one or several recipes of `st.collect`, each with as many as `parts` says, in random order."""
    logs = [
        st.collect(
            environment, recipe=recipe, episodes=count, steps=STEPS[environment], seed=seed, progress=False, **given
        )
        for recipe, count in parts.items()
    ]
    # "medium-replay" has as many episodes as the learner needed: what it did last is the best of it, so all are kept.
    log = logs[0].concat(*logs[1:]) if len(logs) > 1 else logs[0]
    log = log.select_episodes(np.random.default_rng(seed).permutation(log.num_episodes))
    returns = np.add.reduceat(log.reward.astype(np.float64), log.episode_start[:-1])

    def value(policy: Any, greedy: bool) -> float:
        return st.rollout(policy, environment, episodes=PLAYED, seed=1_000 + seed, mode=greedy, num_envs=PLAYED).mean

    return Case(name, environment, log, float(returns.mean()), value)


# --- the logs ----------------------------------------------------------------------------------------------------------

DEVELOPMENT: dict[str, Callable[[str], Case]] = {
    **{
        f"hospital, {kind}, {stays:,} stays": lambda name, kind=kind, stays=stays: hospital(name, {kind: stays}, 10)  # type: ignore[misc]
        for stays in (300, 4_000)
        for kind in ("clinicians", "noisier", "near-random")
    },
    "hospital, 5% expert in near-random, 3,000 stays": lambda name: hospital(
        name, {"near-random": 2_850, "expert": 150}, 20
    ),
    "hospital, expert alone, 2,000 stays": lambda name: hospital(name, {"expert": 2_000}, 30),
    "grid of rooms, 60% random, 300 walks": lambda name: grid(name, ROOMS, 0.6, 300, 40),
    "grid of rooms, random alone, 1,000 walks": lambda name: grid(name, ROOMS, 1.0, 1_000, 41),
    "CartPole, random alone, 400 episodes": lambda name: game(name, "CartPole-v1", {"random": 400}, 50),
    "CartPole, medium, 150 episodes": lambda name: game(name, "CartPole-v1", {"medium": 150}, 51),
    "CartPole, expert alone, 60 episodes": lambda name: game(name, "CartPole-v1", {"expert": 60}, 52),
    "Pendulum, random alone, 100 episodes": lambda name: game(name, "Pendulum-v1", {"random": 100}, 60),
    "Pendulum, medium, 60 episodes": lambda name: game(name, "Pendulum-v1", {"medium": 60}, 61),
    "Pendulum, 10% expert in random, 100 episodes": lambda name: game(
        name, "Pendulum-v1", {"random": 90, "expert": 10}, 62
    ),
}
"""Logs on which the rules were found."""
HELD_OUT: dict[str, Callable[[str], Case]] = {
    "CartPole, 10% expert in random, 300 episodes": lambda name: game(
        name, "CartPole-v1", {"random": 270, "expert": 30}, 152
    ),
    "CartPole, medium-replay": lambda name: game(name, "CartPole-v1", {"medium-replay": 100}, 153),
    "CartPole, expert alone, 120 episodes": lambda name: game(name, "CartPole-v1", {"expert": 120}, 154),
    "Pendulum, random alone, 200 episodes": lambda name: game(name, "Pendulum-v1", {"random": 200}, 160),
    "Pendulum, medium-replay": lambda name: game(name, "Pendulum-v1", {"medium-replay": 100}, 161),
    "Pendulum, half medium, half expert, 80 episodes": lambda name: game(name, "Pendulum-v1", {"mixed": 80}, 162),
    "Pendulum, expert alone, 50 episodes": lambda name: game(name, "Pendulum-v1", {"expert": 50}, 163),
    "grid of a corridor, 30% random, 150 walks": lambda name: grid(name, CORRIDOR, 0.3, 150, 140),
    "grid of a corridor, random alone, 400 walks": lambda name: grid(name, CORRIDOR, 1.0, 400, 141),
    "grid of a corridor, expert alone, 200 walks": lambda name: grid(name, CORRIDOR, 0.05, 200, 142),
    **{
        f"hospital, {kind}, {stays:,} stays": lambda name, kind=kind, stays=stays: hospital(name, {kind: stays}, 110)  # type: ignore[misc]
        for stays in (1_000, 10_000)
        for kind in ("clinicians", "noisier", "near-random")
    },
    "hospital, 10% expert in clinicians, 2,000 stays": lambda name: hospital(
        name, {"clinicians": 1_800, "expert": 200}, 120
    ),
    "hospital, random alone, 2,000 stays": lambda name: hospital(name, {"random": 2_000}, 130),
}
"""Logs made after the rules were fixed."""
