"""Worlds that are known exactly, for benchmarks of estimates: logs, exact gains, and policies that are tables.

Nothing here but the simulation and the data model of stitchrl is used, so that older versions of it can be run on the same
logs and policies.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.icu_sepsis import DEATH, compact_table, demo_log, draw_log, icu_sepsis

HOSPITAL = "hospital"
TABULAR = {"tabular, 12 states": (12, 3, 11), "tabular, 100 states": (100, 8, 12)}
"""Name -> states, actions, seed of a random world."""


class TablePolicy:
    """Probabilities of the live states of a world, found by the observation; duck-typed, NumPy in and out.

    Args:
        features: (L, D) the observation of each live state; some column must differ between all of them.
        table: (L, A) probabilities.
    """

    def __init__(self, features: np.ndarray, table: np.ndarray) -> None:
        distinct = [k for k in range(features.shape[1]) if len(np.unique(features[:, k])) == len(features)]
        self._column = distinct[0]
        self._order = np.argsort(features[:, self._column])
        self._sorted = features[self._order, self._column]
        self.table = table.astype(np.float32)

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """(B, A) the rows of the observations."""
        place = np.searchsorted(self._sorted, np.asarray(obs)[:, self._column])
        return self.table[self._order[place]]


class World(NamedTuple):
    """A finite world, the behaviour that logs it, and what is observed; L live states come before the terminal ones.

    Attributes:
        name: of the world.
        mdp: exact.
        behavior: (S, A) probabilities of the behaviour.
        features: (L, D) float32 observation of each live state.
        mask: (L, A) the actions that may be taken; None: all.
    """

    name: str
    mdp: FiniteMDP
    behavior: np.ndarray
    features: np.ndarray
    mask: np.ndarray | None

    @property
    def live(self) -> int:
        """How many states are not terminal."""
        return len(self.features)

    def log(self, episodes: int, seed: int, *, propensities: bool = True) -> Dataset:
        """A fresh log under the behaviour."""
        if self.name == HOSPITAL:
            return demo_log(compact_table(draw_log(episodes, seed=seed)), propensities=propensities)
        return _log(self, episodes, seed, propensities)

    def gain(self, table: np.ndarray) -> float:
        """Exact gain over the behaviour of a policy over the live states."""
        whole = np.array(self.behavior)
        whole[: self.live] = table
        return self.mdp.policy_value(whole) - self.mdp.policy_value(self.behavior)

    def policy(self, table: np.ndarray) -> TablePolicy:
        """A policy of probabilities of the live states."""
        return TablePolicy(self.features, table)


@cache
def world_named(name: str) -> World:
    """The world of a name."""
    if name == HOSPITAL:
        found = icu_sepsis()
        return World(name, found.mdp, found.clinicians, found.features[:DEATH].astype(np.float32), found.mask[:DEATH])
    return _random_world(name, *TABULAR[name])


def _random_world(name: str, states: int, actions: int, seed: int) -> World:
    """Each action leads to five states; about one step in eight ends; observations are eight numbers without meaning."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((states + 1, actions, states + 1))
    for state in range(states):
        for action in range(actions):
            reached = rng.choice(states, min(5, states), replace=False)
            end = rng.uniform(0.05, 0.2)
            transition[state, action, reached] = (1 - end) * rng.dirichlet(np.ones(len(reached)))
            transition[state, action, states] = end
    transition[states] = np.eye(states + 1)[states]
    reward = np.zeros((states + 1, actions, states + 1))
    reward[:states] = 0.3 * rng.normal(size=(states, actions, 1)) + 0.5 * rng.normal(size=(states, actions, states + 1))
    initial = np.append(rng.dirichlet(np.ones(states)), 0.0)
    mdp = FiniteMDP(transition, reward, initial, np.arange(states + 1) == states)
    logits = 1.2 * rng.normal(size=(states + 1, actions))
    behavior = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return World(name, mdp, behavior, rng.normal(size=(states, 8)).astype(np.float32), None)


def _log(world: World, episodes: int, seed: int, propensities: bool) -> Dataset:
    drawn = world.mdp.draw(world.behavior, episodes, seed=seed)
    state, action = drawn.state.astype(np.int32), drawn.action.astype(np.int32)
    start = np.append(np.flatnonzero(drawn.step == 0), len(state)).astype(np.int64)
    following = np.append(state[1:], 0).astype(np.int32)
    following[start[1:] - 1] = -1
    names = ["episode", "step", "observation", "action", "reward", "terminated", "truncated", "observation_id"]
    names += ["behavior_log_prob", "behavior_probs"] if propensities else []
    probs = world.behavior[state].astype(np.float32)
    return Dataset(
        observation_table=world.features,
        observation_index=state,
        next_observation_index=following,
        action=action,
        reward=drawn.reward.astype(np.float32),
        terminated=drawn.terminated,
        truncated=drawn.truncated,
        step=drawn.step.astype(np.int64),
        episode_start=start,
        episode_id=np.arange(len(start) - 1),
        schema=Schema.infer(names, num_actions=world.mdp.num_actions, gamma=1.0),
        behavior_log_prob=np.log(probs[np.arange(len(state)), action]) if propensities else None,
        behavior_probs=probs if propensities else None,
        observation_id=state,
    )


def of_rows(log: Dataset, rows: int) -> Dataset:
    """Episodes of a log that together have exactly so many rows, so that all fits on such logs share compiled programs."""
    lengths = log.episode_lengths
    rng, order = np.random.default_rng(0), np.arange(log.num_episodes)
    for _ in range(200):
        kept = max(int(np.searchsorted(np.cumsum(lengths[order]), rows - 3 * lengths.max())), 0)
        chosen, left = list(order[:kept]), rows - int(lengths[order[:kept]].sum())
        for episode in order[kept:]:
            if lengths[episode] <= left:
                chosen.append(episode)
                left -= int(lengths[episode])
            if left == 0:
                return log.select_episodes(np.sort(chosen))
        order = rng.permutation(log.num_episodes)
    raise ValueError(f"No episodes of this log together have {rows} rows; {left} are left.")


def tilted(behavior: np.ndarray, score: np.ndarray, *, power: float = 1.0, floor: float = 0.0) -> np.ndarray:
    """behavior^power exp(score), on actions of at least a floor of behaviour probability; the behaviour where none has it."""
    kept = (behavior > 0) & (behavior >= floor)
    with np.errstate(divide="ignore"):
        logits = np.where(kept, power * np.log(np.maximum(behavior, 1e-300)) + score, -np.inf)
    none = ~kept.any(1)
    logits[none] = np.log(np.maximum(behavior[none], 1e-300))
    found = np.exp(logits - logits.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


class TableQ:
    """A fitted Q, tabled: its value and features of every action of every live state.

    Args:
        phi: (L, A, H) features.
        q: (L, A) values.
    """

    def __init__(self, phi: np.ndarray, q: np.ndarray) -> None:
        self.phi, self.q = phi, q

    def on(self, log: Dataset, probs: np.ndarray, next_probs: np.ndarray) -> dict[str, np.ndarray]:
        """What the network gives on a log for a policy: `FittedQ.on`."""
        return self.on_many(log, [(probs, next_probs)])[0]

    def on_many(self, log: Dataset, of_policies: list[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """`on` for several policies. A policy's table is read off its rows: every state that goes on is one of them."""
        state = log.observation_id
        assert state is not None
        following = np.append(state[1:], 0)
        seen, first = np.unique(state, return_index=True)
        found = []
        for probs, _ in of_policies:
            table = np.zeros(self.q.shape)
            table[seen] = probs[first]
            psi = np.einsum("sa,sah->sh", table.astype(np.float32), self.phi)
            v = (table * self.q).sum(1)
            found.append(
                {
                    "q": self.q[state, log.action],
                    "v": v[state],
                    "next_v": v[following],
                    "psi": psi[state],
                    "next_psi": psi[following],
                }
            )
        return found
