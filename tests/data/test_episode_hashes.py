"""An episode has one hash in every split, order and format, and another if anything in it differs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from worlds import next_observations, random_continuous_log, random_log, schema_of, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.dataset import Dataset


def rows(log: Dataset) -> dict[str, np.ndarray]:
    """A log as columns, an observation of several numbers as several columns."""
    seen = {f"seen{j}": log.observation[:, j] for j in range(log.observation_size)}
    return seen | {
        "episode": log.episode_of_transition,
        "action": log.action,
        "reward": log.reward,
        "terminated": log.terminated,
        "truncated": log.truncated,
    }


def schema_of_rows(log: Dataset) -> st.Schema:
    names = [f"seen{j}" for j in range(log.observation_size)]
    roles = {name: name for name in ("episode", "action", "reward", "terminated", "truncated")}
    return st.Schema(roles | {"observation": names}, num_actions=3)


def test_the_same_episodes_in_another_file(tmp_path: Path) -> None:
    log = random_log(with_masks=False)
    expected = log.episode_hashes
    assert len(np.unique(expected)) == 40
    backwards = np.argsort(-log.episode_of_transition, kind="stable")
    saved = {name: column[backwards] for name, column in rows(log).items()}
    pa.csv.write_csv(pa.table(saved), tmp_path / "log.csv")
    again = st.read(tmp_path / "log.csv", schema_of_rows(log))
    assert sorted(again.episode_hashes) == sorted(expected)
    stored = st.convert(tmp_path / "log.csv", tmp_path / "store", schema=schema_of_rows(log))
    assert sorted(st.read(stored).episode_hashes) == sorted(expected)
    parquet = st.convert(tmp_path / "log.csv", tmp_path / "log.parquet", schema=schema_of_rows(log))
    assert sorted(st.read(parquet).episode_hashes) == sorted(expected)
    # A row less, the first of the last episode: that one is another episode, and no other.
    gone = int(log.episode_start[-2])
    shorter = st.read({name: np.delete(column, gone) for name, column in rows(log).items()}, schema_of_rows(log))
    np.testing.assert_array_equal(shorter.episode_hashes[:-1], expected[:-1])
    assert shorter.episode_hashes[-1] != expected[-1]


@pytest.mark.parametrize("log", [random_log(), random_continuous_log()], ids=["discrete", "continuous"])
def test_neither_the_split_nor_the_table_counts(log: Dataset) -> None:
    places = np.array([30, 4, 11])
    part = log.select_episodes(places)
    np.testing.assert_array_equal(part.episode_hashes, log.episode_hashes[places])
    np.testing.assert_array_equal(part.compact().episode_hashes, log.episode_hashes[places])
    joined = part.concat(log)
    np.testing.assert_array_equal(joined.episode_hashes, np.append(log.episode_hashes[places], log.episode_hashes))


def test_what_is_not_content_does_not_count() -> None:
    columns = tiny_columns()
    renamed = tiny_log(episode=columns["episode"] + 100, source=np.array(list("ababab")))
    np.testing.assert_array_equal(renamed.episode_hashes, tiny_log().episode_hashes)
    np.testing.assert_array_equal(
        tiny_log(next_observation=next_observations()).episode_hashes, tiny_log().episode_hashes
    )
    columns["observation"][0, 0] = -0.0
    np.testing.assert_array_equal(st.read(columns, schema_of(columns)).episode_hashes, tiny_log().episode_hashes)


@pytest.mark.parametrize("name", ["observation", "action", "reward"])
def test_a_changed_number_changes_its_episode_and_no_other(name: str) -> None:
    log, columns = tiny_log(), tiny_columns()
    columns[name][3] = columns[name][3] + 1
    changed = st.read(columns, schema_of(columns)).episode_hashes != log.episode_hashes
    assert changed.tolist() == [False, True, False]


def test_the_end_and_the_order_of_the_rows_change_the_episode() -> None:
    log = tiny_log()
    cut = dataclasses.replace(log, terminated=log.truncated, truncated=log.terminated)
    assert (cut.episode_hashes != log.episode_hashes).all()
    columns = tiny_columns()
    for name in ("observation", "action", "reward"):
        columns[name][:2] = columns[name][1::-1]
    changed = st.read(columns, schema_of(columns)).episode_hashes != log.episode_hashes
    assert changed.tolist() == [True, False, False]


def test_a_log_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, nested = random_log().episode_hashes, random_log().nested_hashes
    monkeypatch.setattr("stitchrl.data.row_hashes.HASHED_ROWS", 7)
    np.testing.assert_array_equal(random_log().episode_hashes, expected)
    np.testing.assert_array_equal(random_log().nested_hashes, nested)


def test_nested_hashes_know_observations_actions_and_rewards_apart() -> None:
    log, columns = tiny_log(), tiny_columns()
    for changed, name in enumerate(["observation", "action", "reward"]):
        other = columns | {name: columns[name].copy()}
        other[name][3] = other[name][3] + 1
        differs = st.read(other, schema_of(other)).nested_hashes != log.nested_hashes
        assert differs.any(0).tolist() == [level >= changed for level in range(3)], name
        assert not differs[[0, 2]].any()
