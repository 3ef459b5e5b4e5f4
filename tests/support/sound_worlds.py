"""Simulated worlds whose logs have no fault, for counting what an audit says of them all the same.

Each world is a function `(episodes, seed) -> Dataset`; `EPISODES` holds how many episodes of it make a log of some five
thousand rows. `DESERVED` names the findings that are right about a world although nothing is wrong with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import audit_corpus
import evaluation_worlds
import exact_worlds
import hidden_worlds
import linear_worlds
import numpy as np
from bandit_worlds import BanditWorld

from stitchrl.data.dataset import Dataset

__all__ = ["DESERVED", "EPISODES", "SOUND_WORLDS"]

Draw = Callable[[int, int], Dataset]


def _exact(name: str, *, propensities: bool = True) -> Draw:
    return lambda episodes, seed: exact_worlds.world_named(name).log(episodes, seed, propensities=propensities)


def _small(episodes: int, seed: int) -> Dataset:
    world, behavior, _ = evaluation_worlds.small_world()
    return evaluation_worlds.draw(world, behavior, episodes, seed)


def _corridor(episodes: int, seed: int) -> Dataset:
    world, behavior, _ = evaluation_worlds.corridor()
    return evaluation_worlds.draw(world, behavior, episodes, seed)


def _fresh_target(episodes: int, seed: int) -> Dataset:
    return hidden_worlds.target(episodes, seed, True)


def _sticky(episodes: int, seed: int) -> Dataset:
    """Twelve states of eight numbers each, which nine steps of ten do not change."""
    base = exact_worlds.world_named("tabular, 12 states")
    stay = np.eye(base.mdp.num_states)[:, None, :] * np.ones((1, base.mdp.num_actions, 1))
    transition = 0.9 * stay + 0.1 * base.mdp.transition
    mdp = dataclasses.replace(base.mdp, transition=np.where(base.mdp.terminal[:, None, None], stay, transition))
    return base._replace(mdp=mdp).log(episodes, seed)


def _two_hospitals(name: str) -> Draw:
    """Two sources whose policies have nothing in common, in one world with one code book."""

    def draw(episodes: int, seed: int) -> Dataset:
        world = exact_worlds.world_named(name)
        logits = 1.2 * np.random.default_rng(99).normal(size=world.behavior.shape)
        other = world._replace(behavior=np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
        logs = [each.log(episodes // 2, seed, propensities=False) for each in (world, other)]
        names = np.repeat(["north", "south"], [log.num_transitions for log in logs])
        return dataclasses.replace(audit_corpus.stacked(logs), source=names)

    return draw


SOUND_WORLDS: dict[str, Draw] = {
    "hospital": _exact(exact_worlds.HOSPITAL),
    "hospital, no propensities": _exact(exact_worlds.HOSPITAL, propensities=False),
    "12 states": _exact("tabular, 12 states"),
    "100 states": _exact("tabular, 100 states"),
    "100 states, no propensities": _exact("tabular, 100 states", propensities=False),
    "4 states": _small,
    "corridor of 5 states": _corridor,
    "bandit": lambda episodes, seed: BanditWorld().log(episodes, seed),
    "bandit, taken action only": lambda episodes, seed: BanditWorld().log(episodes, seed, every=False),
    "12 states that seldom change": _sticky,
    "12 states, two policies by source": _two_hospitals("tabular, 12 states"),
    "100 states, two policies by source": _two_hospitals("tabular, 100 states"),
    "sepsis": lambda episodes, seed: hidden_worlds.sepsis(episodes, seed, True),
    "linear-Gaussian": lambda episodes, seed: linear_worlds.log(episodes, 30, seed),
    "a cart with a target that is moved": _fresh_target,
    "joints under a network": hidden_worlds.control,
    "network policy": hidden_worlds.network_policy,
    "network policy, nearly deterministic": hidden_worlds.decided_policy,
    "boxes, nearly deterministic": hidden_worlds.threshold_policy,
    "forty fresh numbers": hidden_worlds.wide_observation,
}
"""The worlds, by the name they have in tables."""

EPISODES: dict[str, int] = {
    "hospital": 750,
    "hospital, no propensities": 750,
    "12 states": 750,
    "100 states": 750,
    "100 states, no propensities": 750,
    "4 states": 1500,
    "corridor of 5 states": 150,
    "bandit": 5_000,
    "bandit, taken action only": 5_000,
    "12 states that seldom change": 100,
    "12 states, two policies by source": 1500,
    "100 states, two policies by source": 1500,
    "sepsis": 750,
    "linear-Gaussian": 200,
    "a cart with a target that is moved": 200,
    "joints under a network": 200,
    "network policy": 400,
    "network policy, nearly deterministic": 400,
    "boxes, nearly deterministic": 400,
    "forty fresh numbers": 500,
}
"""How many episodes of a world make a log."""

DESERVED: dict[str, tuple[str, ...]] = {
    "network policy, nearly deterministic": ("action-missing-in-region",),
    "network policy": ("action-missing-in-region",),
    "a cart with a target that is moved": ("steps-binned",),
}
"""Findings that a world deserves: a behaviour that hardly hesitates leaves out actions in large parts of the states (the less
certain one in 1 draw of 20, in 375 rows), and a target that stays where it was put looks like a number that is carried forward.
"""
