"""Runs, logs and subjects of a diagnosis that are made by hand: no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import stitchrl as st
from stitchrl.data.scaling import Scaling
from stitchrl.diagnosis.subject import Member, Shared, Subject
from stitchrl.nn.value import DiscreteValue
from stitchrl.training.history import History

__all__ = ["PointPolicy", "TablePolicy", "TableValue", "codes_of", "episodes_log", "run_of", "subjects_of"]


class TablePolicy:
    """Probabilities of actions in each state; an observation is the number of its state."""

    def __init__(self, table: np.ndarray) -> None:
        self._table = np.asarray(table, np.float64)

    def probs(self, obs: np.ndarray, *, action_mask: np.ndarray | None = None) -> np.ndarray:
        return self._table[np.asarray(obs)[:, 0].astype(int)]


class PointPolicy:
    """Continuous actions: in each state one."""

    def __init__(self, table: np.ndarray) -> None:
        self._table = np.asarray(table, np.float64)

    def mode(self, obs: np.ndarray, *, action_mask: np.ndarray | None = None) -> np.ndarray:
        return self._table[np.asarray(obs)[:, 0].astype(int)]


class TableValue(DiscreteValue):
    """Claimed values of actions in each state; an observation is the number of its state."""

    table: Any

    def q_all(self, obs: Any) -> Any:
        return jnp.asarray(self.table)[jnp.asarray(obs)[:, 0].astype(int)]

    def v(self, obs: Any, *, action_mask: Any = None) -> Any:
        raise NotImplementedError


def episodes_log(
    rewards: Sequence[Sequence[float]], *, cut: bool = False, gamma: float = 1.0, **columns: Any
) -> st.Dataset:
    """A log of these episodes, which end by themselves, or are all cut. Observations and actions are 0 unless they are given."""
    lengths = [len(one) for one in rewards]
    rows = sum(lengths)
    ends = np.zeros(rows, bool)
    ends[np.cumsum(lengths) - 1] = True
    observation = np.asarray(columns.pop("observation", np.zeros((rows, 1))), np.float32)
    following = np.concatenate([observation[1:], observation[-1:]])
    action = np.asarray(columns.pop("action", np.zeros(rows, np.int64)))
    given = {
        "episode": np.repeat(np.arange(len(lengths)), lengths),
        "step": np.concatenate([np.arange(length) for length in lengths]),
        "observation": observation,
        "next_observation": columns.pop("next_observation", following),
        "action": action,
        "reward": np.concatenate([np.asarray(one, np.float32) for one in rewards]),
        "terminated": ends & (not cut),
        "truncated": ends & cut,
        **columns,
    }
    known = np.shape(columns.get("behavior_probs", np.zeros((1, 2))))[1]
    actions = None if action.dtype.kind == "f" else max(int(action.max()) + 1, known)
    return st.read(given, st.Schema.infer(list(given), gamma=gamma, num_actions=actions))


def run_of(
    algorithm: Any, log: st.Dataset, rows: Sequence[Mapping[str, Any]] = (), *, seeds: int = 1, **scaling: Any
) -> st.Run:
    """A run with these settings and metrics, which learned nothing."""
    scaled = Scaling.of(log)
    scaled = Scaling(scaled.mean, scaled.std, 1.0, scaled.action_center, scaled.action_half_width, **scaling)
    return st.Run(algorithm, tuple(range(seeds)), [], scaled, History.of_rows(rows), 100)


def subjects_of(
    run: st.Run,
    log: st.Dataset,
    *,
    newer: st.Dataset | None = None,
    policies: Sequence[Any] = (),
    values: Sequence[Any] = (),
    estimates: Sequence[Any] = (),
) -> list[Subject]:
    """One subject a seed of a run, with what is given for each seed, and None for the rest."""
    shared = Shared(log, newer=newer)
    found = []
    for i, seed in enumerate(run.seeds):
        policy, value, estimate = (given[i] if len(given) else None for given in (policies, values, estimates))
        found.append(Subject(Member(f"seed {seed}", policy, value, run.algorithm, estimate, run=run), shared))
    return found


def codes_of(check: Callable[[Sequence[Subject]], Iterator[st.Finding]], subjects: Sequence[Subject]) -> list[str]:
    """The codes of what a check finds."""
    return [finding.code for finding in check(subjects)]
