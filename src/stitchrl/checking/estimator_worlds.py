"""The exact worlds that estimators are checked against, and their logs."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation.cases import cases_of
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.estimator import Case
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read

__all__ = ["EPISODES", "GAMMA", "Worlds", "take"]

GAMMA = 0.9
EPISODES = 400
"""Episodes of a log on which identities are checked."""

FITS = FitSettings(updates=200, batch_size=64, hidden_sizes=(16,))


class _Table:
    """A policy by its probabilities in each state; observations are one-hot."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def probs(self, obs: Any, action_mask: Any = None) -> np.ndarray:
        return self.table[np.asarray(obs).argmax(1)]


class Worlds:
    """Two exact worlds of seven states: in one, every episode has 3 steps, which keeps all shapes equal; in the other,
    an episode may end at any step. Returns lie well above 0, so that weights which do not sum to 1 are noticed. With `single`
    every episode of both has one step, in one of two states."""

    def __init__(self, *, single: bool = False) -> None:
        rng = np.random.default_rng(3)
        transition = np.zeros((7, 2, 7))
        for layer in range(3):
            here, following = slice(2 * layer, 2 * layer + 2), slice(2 * layer + 2, min(2 * layer + 4, 7))
            width = following.stop - following.start
            transition[here, :, following] = rng.dirichlet(np.ones(width) * 2, size=(2, 2))
        if single:
            transition[:] = 0.0
            transition[..., 6] = 1.0
        transition[6, :, 6] = 1.0
        reward = rng.normal(1.0, 1.0, size=(7, 2, 7))
        initial, terminal = np.array([0.5, 0.5, 0, 0, 0, 0, 0]), np.arange(7) == 6
        self.even = FiniteMDP(transition, reward, initial, terminal)
        ending = 0.7 * transition
        ending[..., 6] += 0.3
        self.uneven = FiniteMDP(ending, reward, initial, terminal)
        self.behavior, self.policy = rng.dirichlet([4, 4], size=7), rng.dirichlet([4, 4], size=7)
        self._fits: dict[tuple[bytes, int | None], Fits] = {}

    def plain(self) -> Case:
        """The case of the policy on a log of the uneven world."""
        return self.case(self.log(self.rows(self.uneven, EPISODES, seed=1)))

    def rows(self, world: FiniteMDP, episodes: int, seed: int, **options: Any) -> dict[str, np.ndarray]:
        """Simulated episodes under the behaviour, as columns."""
        return vars(world.draw(self.behavior, episodes, seed=seed, **options))

    def log(self, rows: dict[str, np.ndarray]) -> Dataset:
        """The columns as a log with propensities."""
        columns = {
            "episode": rows["episode"],
            "step": rows["step"],
            "observation": np.eye(7, dtype=np.float32)[rows["state"]],
            "next_observation": np.eye(7, dtype=np.float32)[rows["next_state"]],
            "action": rows["action"],
            "reward": rows["reward"],
            "terminated": rows["terminated"],
            "truncated": rows["truncated"],
            "behavior_probs": self.behavior[rows["state"]],
        }
        return read(columns, Schema.infer(list(columns), num_actions=2, gamma=GAMMA))

    def logs(self, world: FiniteMDP, episodes: int, count: int, seed: int) -> list[Dataset]:
        """Several logs of equally many episodes, which are read as one log and then cut apart."""
        whole = self.log(self.rows(world, episodes * count, seed=seed))
        return [whole.select_episodes(np.arange(k * episodes, (k + 1) * episodes)) for k in range(count)]

    def case(self, log: Dataset, policy: np.ndarray | None = None, horizon: int | None = None) -> Case:
        """The case of a policy on a log; whatever is fitted is fitted once a policy, on other episodes."""
        table = self.policy if policy is None else policy
        key = table.tobytes(), horizon
        if key not in self._fits:
            other = self.log(self.rows(self.even, EPISODES, seed=99))
            estimand = Estimand(GAMMA, horizon)
            self._fits[key] = Fits([_Table(table)], other, other, estimand=estimand, settings=FITS)
        (case,) = cases_of(self._fits[key].on(log), Units(log.num_episodes))
        return case


def take(rows: dict[str, np.ndarray], episodes: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of the given episodes, in this order and as often as they occur, as episodes of their own."""
    start = np.searchsorted(rows["episode"], np.arange(rows["episode"][-1] + 2))
    index = [np.arange(start[e], start[e + 1]) for e in episodes]
    new = np.repeat(np.arange(len(episodes)), [len(one) for one in index])
    return {name: column[np.concatenate(index)] for name, column in rows.items()} | {"episode": new}
