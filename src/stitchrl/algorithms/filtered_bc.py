"""FilteredBC: behaviour cloning of the episodes with the highest returns ("%BC").

    (1)  keep the ceil(top_fraction E) of E episodes with the highest undiscounted returns, and all tied with the last
    (2)  L = -E_kept[ log pi(a | s) ]

Two definitions are in print: Chen et al. 2021 (decision-transformer repository) keep top episodes until a share of
TIMESTEPS is reached; CORL keeps a share of EPISODES by discounted return. Here: a share of episodes, undiscounted.
Deviation: every episode tied with the threshold is kept, so with a 0-or-1 outcome the filter keeps all successes,
however small top_fraction is; no tie is broken by chance.

Imitation cannot stitch: it never does better than its kept episodes' own actions. Metrics: as BC.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.behavior import BC, BCState
from stitchrl.algorithms.heads import Actor
from stitchrl.algorithms.settings import setting
from stitchrl.data.dataset import Dataset
from stitchrl.jax_types import Batch, Key, Metrics

__all__ = ["FilteredBC"]


@dataclasses.dataclass(frozen=True)
class FilteredBC(Algorithm):
    """Behaviour cloning of the best episodes."""

    needs: ClassVar[tuple[str, ...]] = BC.needs

    top_fraction: float = setting(
        0.1, "(0, 1]", "Share of episodes kept; smaller is pickier and learns from less.", static=True
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size.")
    hidden_sizes: tuple[int, ...] = setting((256, 256), "at least 1", "Width of each hidden layer.")

    @property
    def _bc(self) -> BC:
        same = {
            name: getattr(self, name)
            for name in ("hidden_sizes", "max_gradient_norm", "warmup_updates", "decay_updates")
        }
        return BC(**same).with_inputs({"learning_rate": self.learning_rate})

    def prepare(self, log: Dataset) -> Dataset:
        returns = log.episode_returns()
        kept = int(np.ceil(self.top_fraction * len(returns)))
        threshold = np.sort(returns)[-kept]
        return log.select_episodes(np.flatnonzero(returns >= threshold))

    def init(self, key: Key, spec: Spec) -> BCState:
        return self._bc.init(key, spec)

    def update(self, state: BCState, batch: Batch, key: Key) -> tuple[BCState, Metrics]:
        return self._bc.update(state, batch, key)

    def policy(self, state: BCState) -> Actor:
        return self._bc.policy(state)
