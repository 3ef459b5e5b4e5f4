"""`st.read` gives one log for every kind of source, with and without a schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tables import RENAMED, arrow_table, renamed_columns, write_parquet
from worlds import full_columns, masks, next_observations, probabilities, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.errors import SchemaError
from stitchrl.reading.infer import guess_columns


def assert_is_tiny(log: st.Dataset) -> None:
    expected = tiny_columns()
    for name in ("action", "reward", "terminated", "truncated", "step", "observation"):
        np.testing.assert_array_equal(getattr(log, name), expected[name], err_msg=name)
    assert log.episode_id.tolist() == [7, 8, 9]
    assert log.episode_start.tolist() == [0, 3, 5, 6]
    assert log.num_actions == 3
    assert log.reward.dtype == np.float32
    assert log.observation.dtype == np.float32
    assert log.action.dtype == np.int32
    assert log.terminated.dtype == bool


def test_read_parquet_with_a_list_column_needs_no_schema(tmp_path: Path) -> None:
    assert_is_tiny(st.read(write_parquet(tmp_path / "log.parquet", tiny_columns())))
    assert_is_tiny(st.read(str(tmp_path / "log.parquet")))


def test_read_parquet_with_fixed_size_lists_and_several_row_groups(tmp_path: Path) -> None:
    columns = tiny_columns()
    table = arrow_table({name: column for name, column in columns.items() if name != "observation"})
    lists = pa.FixedSizeListArray.from_arrays(pa.array(columns["observation"].reshape(-1)), 2)
    pq.write_table(table.append_column("observation", lists), tmp_path / "log.parquet", row_group_size=2)
    assert_is_tiny(st.read(tmp_path / "log.parquet"))


def test_schema_beside_the_log_is_picked_up(tmp_path: Path) -> None:
    write_parquet(tmp_path / "stays.parquet", renamed_columns())
    with pytest.raises(
        SchemaError, match=r"Without a schema, the names of the columns of stays\.parquet must tell their roles"
    ):
        st.read(tmp_path / "stays.parquet")
    (tmp_path / "stays.toml").write_text(RENAMED + '[task]\nname = "ward 3"\n')
    log = st.read(tmp_path / "stays.parquet")
    assert_is_tiny(log)
    assert log.schema.name == "ward 3"


def test_a_given_schema_goes_before_the_one_beside_the_log(tmp_path: Path) -> None:
    write_parquet(tmp_path / "stays.parquet", renamed_columns())
    (tmp_path / "stays.toml").write_text("not toml at all [")
    (tmp_path / "other.toml").write_text(RENAMED)
    assert_is_tiny(st.read(tmp_path / "stays.parquet", tmp_path / "other.toml"))
    assert_is_tiny(st.read(tmp_path / "stays.parquet", Schema.load(tmp_path / "other.toml")))


def test_read_arrow_table_with_and_without_schema(tmp_path: Path) -> None:
    assert_is_tiny(st.read(arrow_table(tiny_columns())))
    (tmp_path / "s.toml").write_text(RENAMED)
    assert_is_tiny(st.read(arrow_table(renamed_columns()), tmp_path / "s.toml"))


def test_read_pandas_frame_with_and_without_schema(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    columns = tiny_columns()
    frame = pandas.DataFrame({name: list(column) for name, column in columns.items()}, index=range(10, 16))
    assert_is_tiny(st.read(frame))
    (tmp_path / "s.toml").write_text(RENAMED)
    assert_is_tiny(st.read(pandas.DataFrame(renamed_columns()), tmp_path / "s.toml"))


def test_read_dict_with_and_without_schema(tmp_path: Path) -> None:
    assert_is_tiny(st.read(tiny_columns()))
    assert_is_tiny(st.read({name: column.tolist() for name, column in tiny_columns().items()}))
    (tmp_path / "s.toml").write_text(RENAMED)
    assert_is_tiny(st.read(renamed_columns(), tmp_path / "s.toml"))


def test_all_sources_give_one_content_hash(tmp_path: Path) -> None:
    columns = tiny_columns()
    hashes = {
        st.read(columns).content_hash,
        st.read(pa.table({name: pa.array(list(column)) for name, column in columns.items()})).content_hash,
    }
    pq.write_table(pa.table({name: pa.array(list(column)) for name, column in columns.items()}), tmp_path / "x.parquet")
    hashes.add(st.read(tmp_path / "x.parquet").content_hash)
    assert len(hashes) == 1


def test_every_optional_column_is_kept() -> None:
    columns = full_columns()
    log = tiny_log(**columns)
    for name in (
        "behavior_probs",
        "behavior_log_prob",
        "action_mask",
        "source",
        "weight",
        "time",
        "observation_id",
    ):
        np.testing.assert_array_equal(getattr(log, name), columns[name], err_msg=name)
    np.testing.assert_array_equal(log.next_observation, next_observations())


def test_columns_that_are_no_role_are_left_out(tmp_path: Path) -> None:
    extra = tiny_columns() | {"patient_name": np.array(list("abcdef"))}
    assert_is_tiny(st.read(write_parquet(tmp_path / "x.parquet", extra)))
    assert_is_tiny(st.read(extra))


def test_truncated_and_step_may_be_absent() -> None:
    columns = tiny_columns()
    columns["terminated"] = columns["terminated"] | columns["truncated"]
    del columns["truncated"], columns["step"]
    log = st.read(columns)
    assert not log.truncated.any()
    assert log.step.tolist() == [0, 1, 2, 0, 1, 0]


def test_number_of_actions_is_inferred_from_masks_or_the_largest_seen() -> None:
    columns = tiny_columns()
    assert st.read(columns).num_actions == 3
    wide = np.concatenate([masks(), np.ones((6, 2), bool)], axis=1)
    assert st.read(columns | {"action_mask": wide}).num_actions == 5
    assert st.read(columns | {"action": np.zeros(6, np.int32)}).num_actions == 2
    continuous = st.read(columns | {"action": np.linspace(0, 1, 6, dtype=np.float32)})
    assert continuous.num_actions is None
    assert continuous.action.shape == (6, 1)


def test_propensities_are_read_from_the_probabilities() -> None:
    log = tiny_log(behavior_probs=probabilities())
    assert log.behavior_log_prob is not None
    np.testing.assert_allclose(np.exp(log.behavior_log_prob), [0.5, 0.25, 0.5, 1, 0.4, 1], rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_out_of_order_are_sorted_by_episode_then_step(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(6)
    shuffled = {name: column[order] for name, column in full_columns().items()}
    log = tiny_log(**shuffled)
    # Episodes come by first appearance; inside each, every column follows its own step.
    first = list(dict.fromkeys(shuffled["episode"].tolist()))
    assert log.episode_id.tolist() == first
    ordered = tiny_log(**full_columns())
    again = ordered.select_episodes([[7, 8, 9].index(episode) for episode in first])
    for name in (
        "observation",
        "next_observation",
        "action",
        "reward",
        "step",
        "terminated",
        "behavior_probs",
    ):
        np.testing.assert_array_equal(getattr(log, name), getattr(again, name), err_msg=name)
    for name in ("action_mask", "weight", "source", "time", "observation_id"):
        np.testing.assert_array_equal(getattr(log, name), getattr(again, name), err_msg=name)


def test_without_a_step_column_the_rows_keep_their_order() -> None:
    columns = tiny_columns()
    del columns["step"]
    order = np.array([0, 3, 1, 5, 4, 2])  # interleaved, each episode in its own order
    log = st.read({name: column[order] for name, column in columns.items()})
    np.testing.assert_array_equal(log.reward, columns["reward"])


def test_the_callers_arrays_stay_writable_and_unchanged() -> None:
    columns = full_columns()
    order = np.arange(6)[::-1]
    columns = {name: np.array(column[order]) for name, column in columns.items()}
    before = {name: column.copy() for name, column in columns.items()}
    log = tiny_log(**columns)
    for name, column in columns.items():
        assert column.flags.writeable, name
        np.testing.assert_array_equal(column, before[name])
    reward = log.reward.copy()
    columns["reward"][:] = 99
    columns["observation"][:] = 99
    np.testing.assert_array_equal(log.reward, reward)
    assert log.observation.max() == 32


def test_names_that_make_roles_plain() -> None:
    assert guess_columns(["Episode", "Obs_1", "Obs_0", "ACTION", "reward", "Done"]) == {
        "episode": "Episode",
        "observation": ("Obs_0", "Obs_1"),
        "action": "ACTION",
        "reward": "reward",
        "terminated": "Done",
    }
    names = ["stay_id", "state", "a_0", "a_1", "a_10", "a_2", "rewards", "dones", "pscore", "user_id"]
    assert guess_columns(names) == {
        "episode": "stay_id",
        "observation": "state",
        "action": ("a_0", "a_1", "a_2", "a_10"),
        "reward": "rewards",
        "terminated": "dones",
        "propensity": "pscore",
        "group": "user_id",
    }
    assert guess_columns(["obs_" + "9" * 5000, "obs_0", "x"]) == {}


def test_what_was_assumed_about_actions_is_said() -> None:
    assert any("count as 3 discrete ones; 3 occur." in note for note in st.read(tiny_columns()).notes)
    doses = st.read(tiny_columns() | {"action": np.array([0, 250, 1000, 0, 250, 0])})
    assert any("look like doses" in note for note in doses.notes)
    signed = st.read(tiny_columns() | {"action": np.array([-1, 0, 1, 0, 1, -1])})
    assert signed.num_actions is None
    assert any("count as continuous" in note for note in signed.notes)


def test_numbers_that_32_bits_cannot_tell_apart_are_said() -> None:
    big = tiny_columns() | {"observation": np.full((6, 2), 2**24 + 1, np.int64)}
    assert any("above 16,777,216, which were rounded" in note for note in st.read(big).notes)
