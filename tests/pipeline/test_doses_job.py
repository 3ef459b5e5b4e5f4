"""The main job on single decisions with continuous actions and logged densities: which estimators judge what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dose_worlds as dw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stitchrl as st
from stitchrl.data.dataset import Dataset

SCHEMA = """[columns]
observation = "observation"
action = "action"
reward = "reward"
behavior_log_prob = "behavior_log_prob"
{more}
[action]
kind = "continuous"

[episodes]
{episodes}
"""
QUICK: dict[str, Any] = {"updates": 20, "evaluation_updates": 4, "seeds": 1}
ALGORITHMS = [st.BC(hidden_sizes=(8,)), st.TD3BC(hidden_sizes=(8,))]


def write(folder: Path, log: Dataset, *, steps: int = 1) -> Path:
    """Single decisions, or episodes of several steps, of which a horizon of 1 makes single decisions."""
    columns: dict[str, Any] = {
        "observation": log.observation.tolist(),
        "action": log.action.tolist(),
        "reward": log.reward,
        "behavior_log_prob": log.behavior_log_prob,
    }
    more, episodes = "", "bandit = true"
    if steps > 1:
        columns |= {"episode": np.arange(log.num_transitions) // steps, "step": np.arange(log.num_transitions) % steps}
        more, episodes = 'episode = "episode"\nstep = "step"\n', 'end = "truncated"'
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "doses.parquet")
    (folder / "doses.toml").write_text(SCHEMA.format(more=more, episodes=episodes), encoding="utf-8")
    return folder / "doses.parquet"


def ranked(run: Path) -> dict[str, dict[str, Any]]:
    """Title -> its row in the order of candidates."""
    found = json.loads((run / "ranking.json").read_text(encoding="utf-8"))
    return {found["candidates"][row["index"]]["title"]: row for row in found["order"]}


@pytest.mark.parametrize(
    "steps", [pytest.param(1, marks=pytest.mark.slow), 3], ids=["single decisions", "the first of three"]
)
def test_rungs_are_ranked_by_their_densities_and_can_be_confirmed(tmp_path: Path, steps: int) -> None:
    log = write(tmp_path, dw.log(1200 * steps, 1), steps=steps)
    outcome = st.run(log, tmp_path / "run", algorithms=ALGORITHMS, horizon=None if steps == 1 else 1, **QUICK)
    rows = ranked(tmp_path / "run")
    assert rows["BC seed 0"]["estimator"] == "reward-dr"
    assert rows["TD3BC seed 0, greedy"]["estimator"] is None  # nothing weighs what has no density; its rungs have one
    rungs = {title: row for title, row in rows.items() if "ladder" in title}
    assert len(rungs) == 2
    assert all(row["estimator"] == "reward-dr" and row["confirmable"] for row in rungs.values())
    assert outcome.selected in rows
    assert outcome.verdict.primary == "reward-dr"


def test_without_a_ladder_policies_without_a_density_are_judged_by_lstdq(tmp_path: Path) -> None:
    log = write(tmp_path, dw.log(600, 2))
    st.run(log, tmp_path / "run", algorithms=ALGORITHMS[1:], ladder=False, **QUICK)
    (row,) = ranked(tmp_path / "run").values()
    assert row["estimator"] == "lstdq"
    assert not row["confirmable"]


def test_a_race_ranks_doses_by_their_densities() -> None:
    small = {"budget": 60, "evaluation_updates": 4, "grid": {"BC.learning_rate": [1e-3]}}
    found = st.race(dw.log(1200, 3), algorithms=ALGORITHMS, **small)
    rows = [row for one in found.rounds for row in one.rows]
    assert any(row.reach is not None for row in rows)
    assert {row.estimator for row in rows} == {"reward-dr"}
