"""What the main job trains by default, and a trained policy as it would be deployed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.behavior import BC
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.dqn import DQN
from stitchrl.algorithms.filtered_bc import FilteredBC
from stitchrl.algorithms.iql import IQL
from stitchrl.data.dataset import Dataset
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import DiscreteValue

__all__ = ["Candidate", "default_algorithms"]


def default_algorithms(gamma: float) -> tuple[Algorithm, ...]:
    """The candidates of a run: small networks, rewards scaled to unit spread of returns.

    IQL's inverse temperature and CQL's weight are in those units. The mode of a mildly weighted IQL actor keeps to
    actions the log supports well, so that what it gains can also be shown.
    """
    small: dict[str, Any] = {"hidden_sizes": (128, 128), "learning_rate": 1e-3}
    value = small | {"gamma": gamma, "target_rate": 0.02}
    return (
        BC(**small),
        FilteredBC(**small),
        IQL(expectile=0.8, inverse_temperature=10.0, **value),
        CQL(cql_weight=0.2, **value),
        DQN(**value),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One (algorithm, seed) as it would be deployed."""

    algorithm: Algorithm
    seed: int
    policy: DiscretePolicy
    value: DiscreteValue | None

    @property
    def label(self) -> str:
        """As shown in tables, e.g. "IQL seed 1, greedy"."""
        form = "" if self.algorithm.acts == "as trained" else f", {self.algorithm.acts}"
        return f"{self.algorithm.name} seed {self.seed}{form}"

    def claimed(self, log: Dataset) -> float | None:
        """The value its own critics claim, over the first observations of a log; None without critics."""
        if self.value is None:
            return None
        first = log.episode_start[:-1]
        obs = log.observation_table[log.observation_index[first]]
        mask = None if log.action_mask is None else log.action_mask[first]
        q = np.asarray(self.value.q_all(obs), np.float64)
        return float((np.asarray(self.policy.probs(obs, action_mask=mask)) * q).sum(1).mean())
