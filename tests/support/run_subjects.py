"""Runs, logs and subjects of a diagnosis that are made by hand: no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import stitchrl as st
from stitchrl.data.scaling import Scaling
from stitchrl.diagnosis.subject import Member, Shared, Subject
from stitchrl.training.history import History

__all__ = ["codes_of", "episodes_log", "run_of", "subjects_of"]


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
    actions = None if action.dtype.kind == "f" else int(max(action.max() + 1, 2))
    return st.read(given, st.Schema.infer(list(given), gamma=gamma, num_actions=actions))


def run_of(
    algorithm: Any, log: st.Dataset, rows: Sequence[Mapping[str, Any]] = (), *, seeds: int = 1, **scaling: Any
) -> st.Run:
    """A run with these settings and metrics, which learned nothing."""
    scaled = Scaling.of(log)
    scaled = Scaling(scaled.mean, scaled.std, 1.0, scaled.action_center, scaled.action_half_width, **scaling)
    return st.Run(algorithm, tuple(range(seeds)), [], scaled, History.of_rows(rows), 100)


def subjects_of(run: st.Run, log: st.Dataset, *, newer: st.Dataset | None = None) -> list[Subject]:
    """One subject a seed of a run, with neither policy nor values."""
    shared = Shared(log, newer=newer)
    return [Subject(Member(f"seed {seed}", None, algorithm=run.algorithm, run=run), shared) for seed in run.seeds]


def codes_of(check: Callable[[Sequence[Subject]], Iterator[st.Finding]], subjects: Sequence[Subject]) -> list[str]:
    """The codes of what a check finds."""
    return [finding.code for finding in check(subjects)]
