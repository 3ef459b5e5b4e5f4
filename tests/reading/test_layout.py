"""Rows are put in order and cut into episodes: bandits, ends, gaps, groups, and logs without identifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tables import rows_with
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError


def test_bandits_need_no_episodes_or_ends() -> None:
    log = st.read(
        {"x": np.eye(4), "a": np.array([0, 1, 1, 0]), "r": np.ones(4), "p": np.array([0.5, 0.25, 0.25, 0.5])},
        Schema({"observation": "x", "action": "a", "reward": "r", "propensity": "p"}, num_actions=2, bandit=True),
    )
    assert (log.num_episodes, log.terminated.all(), log.truncated.any()) == (4, True, False)
    assert log.behavior_log_prob is not None
    np.testing.assert_allclose(log.behavior_log_prob, np.log([0.5, 0.25, 0.25, 0.5]), rtol=1e-6)
    assert log.step.tolist() == [0] * 4


def test_no_episode_column() -> None:
    roles = {r: r for r in tiny_columns() if r not in ("episode", "step")}
    log = rows_with(Schema(roles, num_actions=3), episode=None, step=None)
    assert log.episode_start.tolist() == [0, 3, 5, 6]
    assert log.episode_id.tolist() == [0, 1, 2]
    open_end = np.zeros(6, bool)
    with pytest.raises(DataError, match="episode 2 of the dict has no end"):
        rows_with(Schema(roles, num_actions=3), episode=None, step=None, terminated=np.array([0, 0, 1, 0, 0, 0], bool))
    ended = rows_with(
        Schema(roles, num_actions=3, end="truncated"), episode=None, step=None, terminated=open_end, truncated=open_end
    )
    assert (ended.num_episodes, ended.truncated.tolist()) == (1, [False] * 5 + [True])
    with pytest.raises(SchemaError, match=r"names no column for 'episode'.*bandit = true"):
        Schema({r: r for r in ("observation", "action", "reward")}, num_actions=3, end="truncated")


@pytest.mark.parametrize("end", ["truncated", "terminated"])
def test_the_rule_of_the_end(end: str) -> None:
    roles = {r: r for r in tiny_columns() if r not in ("terminated", "truncated")}
    log = rows_with(Schema(roles, num_actions=3, end=end), terminated=None, truncated=None)
    assert getattr(log, end).tolist() == [False, False, True, False, True, True]
    assert any(f"3 episodes had no end marked and count as {end}." in note for note in log.notes)


@pytest.mark.parametrize("kind", ["numbers", "uint", "dates"])
def test_gaps_cut_episodes_and_pieces_stay_together(kind: str) -> None:
    seconds = np.array([0, 60, 4000, 4060, 9000, 9001])
    times = {
        "numbers": seconds.astype(float),
        "uint": seconds.astype(np.uint32),
        "dates": np.datetime64("2026-01-31T00:00:00", "s") + seconds,
    }
    roles = {r: r for r in ("episode", "observation", "action", "reward", "time")}
    schema = Schema(roles, num_actions=3, end="terminated", gap=3600)
    columns = {r: tiny_columns()[r] for r in ("observation", "action", "reward")}
    log = st.read(columns | {"episode": np.array([7, 7, 7, 7, 7, 8]), "time": times[kind]}, schema)
    # 7 pauses after rows 1 and 3; the last pieces end as the schema says, the others were cut.
    assert log.episode_start.tolist() == [0, 2, 4, 5, 6]
    assert log.episode_id.tolist() == ["7", "7/2", "7/3", "8"]
    assert log.group is not None
    assert log.group.tolist() == [7, 7, 7, 8]
    assert log.truncated.tolist() == [False, True, False, True, False, False]
    assert log.terminated.tolist() == [False, False, False, False, True, True]
    assert any("2 gaps of more than 3600 cut episodes in two" in note for note in log.notes)
    order = [3, 5, 0, 4, 2, 1]
    shuffled = {name: column[order] for name, column in columns.items()}
    again = st.read(shuffled | {"episode": np.array([7, 8, 7, 7, 7, 7]), "time": times[kind][order]}, schema)
    assert again.content_hash == log.content_hash


def test_groups_are_one_an_episode() -> None:
    schema = Schema({r: r for r in (*tiny_columns(), "group")}, num_actions=3)
    log = rows_with(schema, group=np.array(["p1", "p1", "p1", "p2", "p2", "p1"]))
    assert log.group is not None
    assert log.group.tolist() == ["p1", "p2", "p1"]
    with pytest.raises(
        DataError, match="group of the dict must be the same in every row of an episode; it changes in row 1"
    ):
        rows_with(schema, group=np.array(["p1", "p2", "p1", "p2", "p2", "p1"]))
    order = np.array([5, 4, 3, 2, 1, 0])
    columns = {name: column[order] for name, column in tiny_columns().items()}
    with pytest.raises(DataError, match="it changes in row 4"):
        st.read(columns | {"group": np.array(list("abbcdc"))}, schema)


def test_the_row_that_goes_on_is_the_callers() -> None:
    order = np.array([5, 4, 3, 2, 1, 0])
    columns = {name: column[order] for name, column in tiny_columns().items()}
    columns["terminated"][4] = True  # step 1 of episode 7
    with pytest.raises(DataError, match="episode 7 of the dict goes on after terminated or truncated in row 4"):
        st.read(columns)


def without_episodes(**changes: Any) -> dict[str, Any]:
    """Two episodes of four rows, one after the other in time."""
    columns = {
        "time": np.arange(8.0),
        "observation": np.arange(8.0)[:, None],
        "action": np.zeros(8, np.int32),
        "reward": np.arange(8.0),
        "terminated": np.arange(8) % 4 == 3,
    }
    return columns | changes


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_without_episodes_are_put_in_the_order_of_time_before_they_are_cut(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(8)
    log = st.read({name: column[order] for name, column in without_episodes().items()})
    assert log.observation[:, 0].tolist() == list(range(8))
    assert log.episode_start.tolist() == [0, 4, 8]
    assert any("sorted by time" in note for note in log.notes)


def test_each_group_has_its_own_time() -> None:
    log = st.read(without_episodes(group=np.arange(8) % 2, terminated=np.arange(8) >= 6))
    assert log.observation[:, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert log.episode_start.tolist() == [0, 4, 8]
    assert log.group.tolist() == [0, 1]


def test_a_step_that_does_not_rise_begins_another_episode() -> None:
    columns = without_episodes(step=np.array([0, 1, 2, 0, 1, 2, 3, 4]), terminated=np.zeros(8, bool))
    del columns["time"]
    with pytest.raises(DataError, match="Every episode must end"):
        st.read(columns)
    roles = {role: role for role in columns}
    log = st.read(columns, Schema(roles, num_actions=2, end="truncated"))
    assert log.episode_start.tolist() == [0, 3, 8]
    assert np.flatnonzero(log.truncated).tolist() == [2, 7]


def test_a_gap_in_time_alone_makes_sessions() -> None:
    columns = {"t": [0, 1, 50, 51, 0, 3], "u": list("aaaabb"), "o": np.arange(6.0), "a": [0] * 6, "r": np.ones(6)}
    roles = {"observation": "o", "action": "a", "reward": "r", "time": "t", "group": "u"}
    log = st.read(
        {name: np.array(column) for name, column in columns.items()},
        Schema(roles, num_actions=2, end="truncated", gap=10.0),
    )
    assert log.episode_start.tolist() == [0, 2, 4, 6]
    assert log.group.tolist() == ["a", "a", "b"]


def test_the_end_of_a_file_ends_an_episode(tmp_path: Path) -> None:
    for name, first in (("a", 1.0), ("b", 101.0)):
        table = {
            "observation": [first, first + 1, first + 2],
            "action": [0, 1, 0],
            "reward": [0.0, 0.0, 1.0],
            "terminated": [False, False, name == "b"],
        }
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="Every episode must end"):
        st.read(tmp_path / "*.parquet")
    roles = {role: role for role in ("observation", "action", "reward", "terminated")}
    log = st.read(tmp_path / "*.parquet", Schema(roles, num_actions=2, end="truncated"))
    assert log.episode_start.tolist() == [0, 3, 6]
    assert (log.truncated.tolist()[2], log.terminated.tolist()[5]) == (True, True)
    joined = st.read(tmp_path / "*.parquet", Schema(roles, num_actions=2, files="joined"))
    assert joined.episode_start.tolist() == [0, 6]
