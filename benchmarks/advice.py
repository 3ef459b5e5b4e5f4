"""Is the advice right? `st.advise` on logs of varied quality, held against what every candidate is truly worth.

    python benchmarks/advice.py [--only WORDS] [--updates 1500] [--out results/advice.md] [--state results/advice.jsonl]

On every log of `advice_worlds.py` a fixed set of candidates (each algorithm at a few settings) is trained with the same budget,
as the main job trains them, and each is valued truly: exactly where the world is known, otherwise by playing. Then
`st.advise(log)` names its first candidate. Regret is (best candidate - advised) / (best candidate - behaviour): 0 is the best
choice that there was, 1 is no better than going on as before. Where the best candidate is hardly better than the behaviour, the
denominator is `LEAST` of the world's span, so that noise does not count as regret. Every line of the state file is one
trained candidate, so a benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from advice_worlds import DEVELOPMENT, HELD_OUT, SPAN, Case
from environment import describe
from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.tabular_model import numbers_states
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import unit_return_scale
from stitchrl.pipeline.candidates import job_algorithm

SEEDS = 2
LEAST = 0.05
"""Least denominator of a regret, as a share of the world's span."""
RESULTS = Path(__file__).parent / "results"


def candidates(log: Dataset) -> dict[str, Algorithm]:
    """The fixed set: each algorithm with the main job's settings, and a few values of its first knob."""
    continuous = log.num_actions is None

    def of(kind: Any, **settings: Any) -> Algorithm:
        return dataclasses.replace(job_algorithm(kind, log.schema.gamma, continuous=continuous), **settings)

    small: dict[str, Any] = {"hidden_sizes": (128, 128), "learning_rate": 1e-3}
    found = {"BC": of(st.BC)} | {f"FilteredBC {top:g}": of(st.FilteredBC, top_fraction=top) for top in (0.1, 0.3)}
    if continuous:
        found |= {
            f"IQL {expectile:g}, {heat:g}": of(st.IQL, expectile=expectile, inverse_temperature=heat)
            for expectile, heat in ((0.7, 3.0), (0.9, 3.0), (0.7, 10.0), (0.9, 10.0))
        }
        found |= {f"TD3BC {weight:g}": of(st.TD3BC, q_weight=weight) for weight in (1.0, 2.5, 10.0)}
        found |= {f"CQL {weight:g}": of(st.CQL, cql_weight=weight) for weight in (1.0, 5.0)}
        return found
    found |= {f"IQL {expectile:g}": of(st.IQL, expectile=expectile) for expectile in (0.6, 0.8, 0.95)}
    found |= {"IQL 0.8, 3": of(st.IQL, inverse_temperature=3.0)}
    found |= {f"CQL {weight:g}": of(st.CQL, cql_weight=weight) for weight in (0.05, 0.2, 1.0, 5.0)}
    value = small | {"target_rate": 0.02}
    found |= {f"BCQ {share:g}": of(st.BCQ, threshold=share, **value) for share in (0.1, 0.3, 0.6)}
    if numbers_states(log):
        found |= {"SPIBB": of(st.SPIBB), "VILCB": of(st.VILCB)}
    return found | {"DQN": of(st.DQN)}


def settings_of(algorithm: Algorithm) -> str:
    """Name and settings, as the state file knows a candidate."""
    return f"{algorithm.name} {json.dumps(dataclasses.asdict(algorithm), sort_keys=True)}"


def true_values(case: Case, algorithm: Algorithm, updates: int) -> list[float]:
    """What each seed of a candidate is truly worth, trained and acting as in the main job."""
    seeds = 1 if algorithm.closed_form else SEEDS
    scale = unit_return_scale(case.log)
    run = st.fit(algorithm, case.log, updates=updates, seeds=seeds, reward_scale=scale, progress=False)
    values = []
    for policy in run.policies:
        policy = dataclasses.replace(policy) if dataclasses.is_dataclass(policy) and not isinstance(policy, type) else policy
        greedy = case.log.num_actions is None or algorithm.acts == "greedy"
        values.append(case.value(policy.greedy() if greedy else policy))
    return values


@dataclasses.dataclass
class State:
    """The file of what was trained: one line a candidate of a log."""

    file: Path

    def __post_init__(self) -> None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def find(self, log: str, settings: str) -> dict[str, Any] | None:
        """The line of a candidate; None where it was not trained."""
        return next((row for row in self.rows if row["log"] == log and row["settings"] == settings), None)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append a line."""
        self.rows.append(row)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


def train(state: State, case: Case, found: Mapping[str, Algorithm], updates: int) -> dict[str, float]:
    """Label -> true value, the mean of its seeds; trained where the state file does not have it."""
    values = {}
    for label, algorithm in found.items():
        row = state.find(case.name, settings_of(algorithm))
        if row is None:
            begun = time.perf_counter()
            row = {"log": case.name, "label": label, "settings": settings_of(algorithm)}
            row["values"] = true_values(case, algorithm, updates)
            row |= {"behavior": case.behavior, "world": case.world, "seconds": round(time.perf_counter() - begun, 1)}
            state.add(row)
            print(f"{case.name}: {label} {np.mean(row['values']):.4g} ({row['seconds']} s)", flush=True)
        values[label] = float(np.mean(row["values"]))
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=RESULTS / "advice.md")
    parser.add_argument("--state", type=Path, default=RESULTS / "advice.jsonl")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    state = State(args.state)
    for group in (DEVELOPMENT, HELD_OUT):
        for name, make in group.items():
            if args.only in name:
                case = make(name)
                values = train(state, case, candidates(case.log), args.updates)
                best = max(values, key=values.__getitem__)
                print(f"{name}: behaviour {case.behavior:.4g}, best {best} {values[best]:.4g}", flush=True)


if __name__ == "__main__":
    main()
