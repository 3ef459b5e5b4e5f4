"""Schemas from TOML; logs from Parquet, frames, tables and dicts: what is read, what is refused and how."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import full_columns, masks, next_observations, probabilities, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import REQUIRED_ROLES, Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.reading.infer import guess_columns
from stitchrl.reading.store import write_store

COLUMNS = """
[columns]
episode = "stay"
observation = ["heart", "lung"]
action = "dose"
reward = "outcome"
terminated = "ended"
"""


def arrow_table(columns: dict[str, np.ndarray]) -> pa.Table:
    return pa.table({name: pa.array(column.tolist()) for name, column in columns.items()})


def write_parquet(path: Path, columns: dict[str, np.ndarray]) -> Path:
    pq.write_table(arrow_table(columns), path)
    return path


# --- schema ---------------------------------------------------------------------------------------------


def test_schema_loads_what_the_toml_says(tmp_path: Path) -> None:
    file = tmp_path / "log.toml"
    file.write_text(COLUMNS + '[action]\nkind = "discrete"\ncount = 4\n[task]\ngamma = 1\nname = "ward"\n')
    schema = Schema.load(file)
    assert schema.columns["observation"] == ("heart", "lung")
    assert schema.columns["episode"] == "stay"
    assert (schema.num_actions, schema.gamma, schema.name) == (4, 1.0, "ward")


def test_schema_defaults_are_continuous_actions_and_gamma_099() -> None:
    schema = Schema.from_dict({"columns": {role: role for role in REQUIRED_ROLES}})
    assert (schema.num_actions, schema.gamma, schema.name) == (None, 0.99, "log")


@pytest.mark.parametrize("num_actions", [None, 2, 25])
def test_schema_round_trips_through_toml(tmp_path: Path, num_actions: int | None) -> None:
    columns = {role: role for role in REQUIRED_ROLES} | {"observation": ("a b", 'c"d', "é")}
    schema = Schema(columns, num_actions=num_actions, gamma=0.5, name='a "name" = 1')
    file = tmp_path / "s.toml"
    file.write_text(schema.to_toml(), encoding="utf-8")
    assert Schema.load(file) == schema
    assert Schema.from_dict(schema.to_dict()) == schema


DISCRETE = COLUMNS + '[action]\nkind = "discrete"\n'
SECTIONS = "has the sections [columns], [observation], [action], [reward], [episodes], [task]; got "
NO_NAME = "must be a name or a list of names; got "
COUNT = "A discrete action needs `count`, the number of actions"
LISTED = COUNT + ", or a list of them; got "
GAMMA = "`gamma` of [task] must be a number in [0, 1]; got "

BAD_TOML = {
    "unknown section": (COLUMNS + "[colums]\n", SECTIONS + "'colums'."),
    "section is no table": ("columns = 3\n", SECTIONS + "'columns'."),
    "unknown role": (COLUMNS + 'obs = "x"\n', "[columns] of the schema knows episode, step, observation"),
    "unknown role, named": (COLUMNS + 'obs = "x"\n', "got 'obs'."),
    "unknown action key": (
        COLUMNS + "[action]\nsize = 3\n",
        "[action] of the schema knows kind, count, bins, categories, low, high, unit; got 'size'.",
    ),
    "unknown task key": (
        COLUMNS + "[task]\nsize = 3\n",
        "[task] of the schema knows gamma, name; got 'size'.",
    ),
    "column is a number": (COLUMNS + "step = 3\n", "The column of 'step' " + NO_NAME + "3."),
    "column list of numbers": (COLUMNS + "action_mask = [1, 2]\n", NO_NAME + "[1, 2]."),
    "scalar role, two columns": (
        COLUMNS + 'step = ["a", "b"]\n',
        "The role 'step' takes one column; got 2: a, b. Only observation, next_observation",
    ),
    "unknown kind": (
        COLUMNS + '[action]\nkind = "box"\n',
        "`kind` of [action] must be discrete or continuous; got 'box'.",
    ),
    "no count": (DISCRETE, COUNT + "; got None."),
    "count true": (DISCRETE + "count = true\n", LISTED + "True."),
    "count 2.5": (DISCRETE + "count = 2.5\n", LISTED + "2.5."),
    "count 1": (DISCRETE + "count = 1\n", "`num_actions` must be at least 2; got 1."),
    "gamma is text": (COLUMNS + '[task]\ngamma = "0.9"\n', GAMMA + "'0.9'."),
    "gamma true": (COLUMNS + "[task]\ngamma = true\n", GAMMA + "True."),
    "gamma 1.5": (COLUMNS + "[task]\ngamma = 1.5\n", "`gamma` must be in [0, 1]; got 1.5."),
    "gamma negative": (COLUMNS + "[task]\ngamma = -0.1\n", "`gamma` must be in [0, 1]; got -0.1."),
    "gamma nan": (COLUMNS + "[task]\ngamma = nan\n", "`gamma` must be in [0, 1]; got nan."),
    "not TOML": ("[columns\n", "is not TOML"),
    "empty": (
        "",
        "names no column for 'episode', which every log needs. Add `episode = \"your_column\"` under [columns], or",
    ),
}


@pytest.mark.parametrize(("text", "fragment"), BAD_TOML.values(), ids=BAD_TOML.keys())
def test_bad_schema_is_refused_with_its_reason(tmp_path: Path, text: str, fragment: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(SchemaError) as caught:
        Schema.load(file)
    assert fragment in str(caught.value)
    assert issubclass(SchemaError, DataError)


@pytest.mark.parametrize("role", REQUIRED_ROLES)
def test_every_required_role_must_have_a_column(role: str) -> None:
    columns = {name: name for name in REQUIRED_ROLES if name != role}
    if role == "episode":  # could be told from the ends
        del columns["terminated"]
    with pytest.raises(SchemaError, match=f"names no column for '{role}'"):
        Schema(columns)


def test_schema_of_an_unknown_role_is_refused() -> None:
    with pytest.raises(SchemaError, match="gives a role 'obs'; roles are: episode, step"):
        Schema({role: role for role in REQUIRED_ROLES} | {"obs": "x"})


def test_missing_undecodable_and_unreadable_schema_files(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"There is no schema file .*nowhere.toml"):
        Schema.load(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SchemaError, match="is not TOML"):
        Schema.load(binary)
    with pytest.raises(SchemaError, match="cannot be read"):
        Schema.load(tmp_path)


# --- reading --------------------------------------------------------------------------------------------


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


def renamed_columns() -> dict[str, np.ndarray]:
    """`tiny_columns` under a hospital's names, the observation in two columns."""
    columns = tiny_columns()
    names = {"episode": "stay", "action": "dose", "reward": "outcome", "terminated": "ended"}
    renamed = {names.get(name, name): column for name, column in columns.items() if name != "observation"}
    return renamed | {"heart": columns["observation"][:, 0], "lung": columns["observation"][:, 1]}


RENAMED = COLUMNS + 'step = "step"\ntruncated = "truncated"\n[action]\nkind = "discrete"\ncount = 3\n'


def test_schema_beside_the_log_is_picked_up(tmp_path: Path) -> None:
    write_parquet(tmp_path / "stays.parquet", renamed_columns())
    with pytest.raises(SchemaError, match=r"Without a schema the columns of stays\.parquet must carry the role names"):
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


# --- what is refused ------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no log .*gone.parquet"):
        st.read(tmp_path / "gone.parquet")


@pytest.mark.parametrize("kind", ["empty", "truncated"])
def test_files_that_are_not_parquet(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log.parquet"
    if kind == "empty":
        path.write_bytes(b"")
    else:
        whole = write_parquet(tmp_path / "whole.parquet", tiny_columns()).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as Parquet") as caught:
        st.read(path)
    assert "log.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    columns = tiny_columns()
    columns["reward"] = np.arange(6, dtype=np.float32)
    path = write_parquet(tmp_path / "log.parquet", columns)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396  # the footer stays whole
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"log\.parquet cannot be read as Parquet"):
        st.read(path)


def test_a_column_the_schema_names_is_absent(tmp_path: Path) -> None:
    columns = renamed_columns()
    del columns["lung"]
    (tmp_path / "s.toml").write_text(RENAMED)
    path = write_parquet(tmp_path / "log.parquet", columns)
    with pytest.raises(SchemaError, match=r"observation is in column 'lung', which log\.parquet does not have"):
        st.read(path, tmp_path / "s.toml")
    with pytest.raises(SchemaError, match="observation is in column 'lung', which the dict does not have"):
        st.read(columns, tmp_path / "s.toml")
    with pytest.raises(SchemaError, match="observation is in column 'lung', which the table does not have"):
        st.read(arrow_table(columns), tmp_path / "s.toml")


def test_without_a_schema_the_missing_roles_are_named() -> None:
    columns = tiny_columns()
    del columns["reward"], columns["terminated"]
    with pytest.raises(SchemaError, match=r"must carry the role names; there is no reward, terminated\."):
        st.read(columns)


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(
        SchemaError,
        match="an Arrow table or a dict of arrays; got int",
    ):
        st.read(3)


def test_nulls_name_column_and_row() -> None:
    table = arrow_table(tiny_columns())
    reward = pa.array([1.0, None, 4.0, -1.0, None, 0.5])
    with pytest.raises(DataError, match=r"Column 'reward' \(reward\) of .* found 2, the first in row 1"):
        st.read(table.set_column(table.column_names.index("reward"), "reward", reward))
    lists = pa.array([[0.0, 1.0]] * 5 + [[None, 1.0]])
    with pytest.raises(DataError, match="The lists of observation of the table must have no"):
        st.read(table.set_column(table.column_names.index("observation"), "observation", lists))


def test_ragged_lists_are_refused() -> None:
    table = arrow_table(tiny_columns())
    for lists in ([[0.0, 1.0]] * 5 + [[1.0]], [[0.0, 1.0]] * 4 + [[1.0], [1.0, 2.0, 3.0]]):
        ragged = table.set_column(table.column_names.index("observation"), "observation", pa.array(lists))
        with pytest.raises(DataError, match=r"The lists of observation of the table must all have the same length"):
            st.read(ragged)


def test_lists_in_a_scalar_column_are_refused() -> None:
    table = arrow_table(tiny_columns())
    with pytest.raises(DataError, match="must hold one value a row; it holds lists"):
        st.read(table.set_column(table.column_names.index("reward"), "reward", pa.array([[1.0]] * 6)))


def changed(name: str, row: int, value: object, dtype: object = None) -> dict[str, np.ndarray]:
    column = np.array(tiny_columns()[name], dtype)
    column[row] = value
    return {name: column}


REFUSED = {
    "NaN reward": (
        changed("reward", 4, np.nan),
        r"reward of the dict must be finite; found NaN in row 4 \(1",
    ),
    "infinite observation": (
        changed("observation", 2, np.inf),
        "observation of the dict must be finite; found infinity in",
    ),
    "text reward": ({"reward": np.array(list("abcdef"))}, "reward of the dict must be numbers; got 'a' in row 0"),
    "action too large": (
        changed("action", 3, 3),
        "action of the dict must be an integer from 0 to 2; got 3 in row 3",
    ),
    "action negative": (changed("action", 5, -1), "must be an integer from 0 to 2; got -1 in row 5"),
    "action not whole": (
        changed("action", 1, 0.5, np.float32),
        "must be an integer from 0 to 2; got 0.5 in row 1",
    ),
    "action a vector": ({"action": np.zeros((6, 2), np.int32)}, r"one integer a row; got shape \(6, 2\)"),
    "no end": (changed("truncated", 4, False), r"episode 8 of the dict has no end \(1 such episode\)"),
    "goes on": (
        changed("terminated", 1, True),
        "episode 7 of the dict goes on after terminated",
    ),
    "goes on after a cut": (changed("truncated", 3, True), "episode 8 of the dict goes on after"),
    "flag of 2": (changed("terminated", 2, 2, np.int32), "terminated of the dict must be true or false"),
    "text flag": ({"truncated": np.array(["no"] * 6)}, "truncated of the dict must be true or false"),
    "narrow mask": (
        {"action_mask": np.ones((6, 2), bool)},
        r"action_mask of the dict must hold one number for each of the 3 actions; got shape \(6, 2\)",
    ),
    "wide probabilities": (
        {"behavior_probs": np.full((6, 4), 0.25, np.float32)},
        r"behavior_probs of the dict must hold one number for each of the 3 actions; got shape \(6, 4\)",
    ),
    "probabilities of .9": (
        {"behavior_probs": np.full((6, 3), 0.3, np.float32)},
        r"at least 0 and sum to 1 in every row; row 0 sums to 0\.9",
    ),
    "negative probability": (
        {"behavior_probs": np.tile(np.array([1.5, -0.5, 0.0], np.float32), (6, 1))},
        r"row 0 sums to 1 with minimum -0\.5",
    ),
    "NaN probability": (
        {"behavior_probs": np.full((6, 3), np.nan, np.float32)},
        "behavior_probs of the dict must be finite; found NaN in row 0",
    ),
    "unequal lengths": (
        {"weight": np.ones(5, np.float32)},
        "Every column of the dict needs one row a transition; weight has 5, reward 6",
    ),
    "next observation of other width": (
        {"next_observation": np.zeros((6, 3), np.float32)},
        "next_observation of the dict must have as many numbers as observation, 2; got 3",
    ),
    "half a next observation": (
        {"next_observation": np.where(np.arange(12).reshape(6, 2) == 8, np.nan, np.zeros(2)).astype(np.float32)},
        "next_observation of the dict must be finite; found NaN in row 4",
    ),
    "empty": ({name: column[:0] for name, column in tiny_columns().items()}, "the dict has no rows"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_logs_are_refused_with_their_reason(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tiny_log(**changes)


def test_the_row_named_is_the_callers_row_even_after_sorting() -> None:
    order = np.array([5, 4, 3, 2, 1, 0])
    columns = {name: column[order] for name, column in tiny_columns().items()}
    columns["reward"][1] = np.nan
    with pytest.raises(DataError, match="found NaN in row 1 "):
        tiny_log(**columns)
    columns = {name: column[order] for name, column in tiny_columns().items()}
    columns["action"][2] = 9
    with pytest.raises(DataError, match="got 9 in row 2 "):
        tiny_log(**columns)


def test_messages_name_the_column_behind_a_role(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(RENAMED)
    columns = renamed_columns()
    columns["outcome"] = np.array([1, 2, np.nan, 1, 1, 1], np.float32)
    with pytest.raises(DataError, match=r"reward \(column 'outcome'\) of the dict must be finite"):
        st.read(columns, tmp_path / "s.toml")


def test_empty_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(RENAMED)
    pq.write_table(arrow_table(renamed_columns()).slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"none\.parquet has no rows; a log needs at least one episode"):
        st.read(tmp_path / "none.parquet", tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.full(6, 1e300)}, "reward of the dict must be finite; found infinity"),
        ({"step": np.array([0.0, np.nan, 2, 0, 1, 0])}, "step of the dict must be whole numbers"),
        ({"step": np.array([0, 1, 1, 0, 1, 0])}, "episode 7 of the dict has step 1 twice"),
        (
            {"episode": np.array([7.0, 7, 7, 8, np.nan, 9])},
            "episode of the dict must name one in every row; row 4 has NaN",
        ),
        ({"action_mask": np.full((6, 3), 0.5)}, "action_mask of the dict must be true or false"),
        ({"reward": np.zeros((6, 1))}, "reward of the dict must have at most 1 axes"),
        ({"weight": -np.ones(6)}, r"weight of the dict must be in \[0, inf\]; got -1.0 in row 0"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        st.read(tiny_columns() | changes)


def test_a_count_means_discrete_and_a_continuous_action_has_none() -> None:
    columns = {r: r for r in ("episode", "observation", "action", "reward", "terminated")}
    assert Schema.from_dict({"columns": columns, "action": {"count": 25}}).num_actions == 25
    with pytest.raises(SchemaError, match="continuous action has no `count`"):
        Schema.from_dict({"columns": columns, "action": {"kind": "continuous", "count": 25}})


# --- what a schema can say --------------------------------------------------------------------------

FULL = Schema(
    {
        "episode": "stay",
        "step": "t",
        "observation": ("age", "ward", "labs"),
        "action": ("dose a", "dose b"),
        "terminated": "died",
        "truncated": "left",
        "propensity": "p",
        "time": "at",
        "group": "patient",
        "action_mask": "allowed",
    },
    gamma=1.0,
    name='ward "3"\n',
    observations={
        "age": ColumnRule(missing="previous", fill=40.0, indicator=True, low=0.0, high=120.0, unit="years"),
        "ward": ColumnRule(("ICU", "ER"), encoding="code", missing="value"),
    },
    action_bins=((0.5, 1.0), (2.0,)),
    action_low=(0.0, 0.0),
    action_high=(5.0, 5.0),
    action_unit="mg",
    reward_expression="10 * alive - `total cost` / 3",
    reward_low=-5.0,
    reward_high=5.0,
    end="truncated",
    gap=3600.0,
    files="separate",
)


@pytest.mark.parametrize(
    "schema",
    [
        FULL,
        dataclasses.replace(FULL, action_bins=None, num_actions=None, action_counts=None),
        Schema({r: r for r in REQUIRED_ROLES}, action_counts=(3, 4)),
        Schema({r: r for r in REQUIRED_ROLES}, action_categories=("up", "down", "7")),
        Schema({"observation": "x", "action": "a", "reward": "r"}, num_actions=10_000, bandit=True),
        Schema({r: r for r in REQUIRED_ROLES}, action_low=(-1.0,), reward_high=0.0),
    ],
)
def test_everything_a_schema_says_round_trips(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "s.toml").write_text(schema.to_toml(), encoding="utf-8")
    assert Schema.load(tmp_path / "s.toml") == schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def rows_with(schema: Schema, **columns: Any) -> st.Dataset:
    """Six rows of `tiny_columns`' two longer episodes and its short one, some columns replaced."""
    return st.read({k: v for k, v in (tiny_columns() | columns).items() if v is not None}, schema)


def observed(rule: ColumnRule, values: Any, *, name: str = "observation", **more: Any) -> st.Dataset:
    return rows_with(
        Schema({r: r for r in tiny_columns()}, num_actions=3, observations={name: rule}), observation=values
    )


def test_categories_as_one_hot_and_as_codes() -> None:
    wards = np.array(["ER", "ICU", "ER", "home", "ER", "ICU"])
    hot = observed(ColumnRule(("ICU", "ER", "home")), wards)
    assert hot.observation.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert hot.observation_names == ("observation=ICU", "observation=ER", "observation=home")
    codes = observed(ColumnRule(("ICU", "ER", "home"), encoding="code"), wards)
    assert codes.observation[:, 0].tolist() == [1, 0, 1, 2, 1, 0]
    assert codes.observation_names == ("observation",)
    with pytest.raises(
        DataError, match=r"must hold one of its 2 categories; got 'home' in row 3\. Add it to `categories`"
    ):
        observed(ColumnRule(("ICU", "ER")), wards)
    for numbers in (np.array([1, 2, 1, 3, 1, 2]), np.array([1, 2, 1, 3, 1, 2], np.float32)):
        named = observed(ColumnRule(("2", "1", "3"), encoding="code"), numbers)
        assert named.observation[:, 0].tolist() == [1, 0, 1, 2, 1, 0]
    flags = observed(ColumnRule(("true", "false"), encoding="code"), np.array([True, False] * 3))
    assert flags.observation[:, 0].tolist() == [0, 1] * 3


def table_with(**columns: Any) -> pa.Table:
    made = {name: pa.array(column.tolist()) for name, column in tiny_columns().items()}
    return pa.table(made | {name: pa.array(column) for name, column in columns.items()})


GAPS = [None, 1.0, None, None, 5.0, None]  # episodes of 3, 2 and 1 rows


@pytest.mark.parametrize("block_rows", [2, 3, 100])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Nothing stands before rows 0, 3 and 5 in their episodes.
        (ColumnRule(missing="value", fill=-1), [[-1], [1], [-1], [-1], [5], [-1]]),
        (ColumnRule(missing="previous", fill=9), [[9], [1], [1], [9], [5], [9]]),
        (ColumnRule(missing="previous", fill=9, indicator=True), [[9, 1], [1, 0], [1, 1], [9, 1], [5, 0], [9, 1]]),
        (ColumnRule(missing="value", indicator=True), [[0, 1], [1, 0], [0, 1], [0, 1], [5, 0], [0, 1]]),
    ],
)
def test_missing_numbers(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, rule: ColumnRule, expected: list[list[float]]
) -> None:
    monkeypatch.setattr("stitchrl.reading.sources.source.BLOCK_ROWS", block_rows)
    schema = Schema({r: r for r in tiny_columns()}, num_actions=3, observations={"observation": rule})
    log = st.read(table_with(observation=GAPS), schema)
    assert log.observation.tolist() == expected
    assert log.observation_names == (("observation", "observation missing") if rule.indicator else ("observation",))
    shuffled = [5, 3, 1, 4, 0, 2]
    again = st.read(table_with(observation=GAPS).take(shuffled), schema)
    assert sorted(again.observation.tolist()) == sorted(expected)
    with pytest.raises(DataError, match=r"Column 'observation' \(observation\) .* found [124], the first in row 0"):
        st.read(table_with(observation=GAPS), Schema({r: r for r in tiny_columns()}, num_actions=3))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ColumnRule(("a", "b"), missing="previous"), [[0, 1], [0, 1], [1, 0], [0, 0], [1, 0], [0, 1]]),
        (ColumnRule(("a", "b"), missing="value"), [[0, 1], [0, 0], [1, 0], [0, 0], [1, 0], [0, 1]]),
        (ColumnRule(("a", "b"), encoding="code", missing="previous", fill=7), [[1], [1], [0], [0], [0], [1]]),
        (ColumnRule(("a", "b"), encoding="code", missing="value", fill=7), [[1], [7], [0], [7], [0], [1]]),
        (
            ColumnRule(("a", "b"), missing="value", indicator=True),
            [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]],
        ),
    ],
)
def test_missing_categories(rule: ColumnRule, expected: list[list[float]]) -> None:
    schema = Schema({r: r for r in tiny_columns()}, num_actions=3, observations={"observation": rule})
    column = ["b", None, "a", None, "a", "b"]
    assert st.read(table_with(observation=column), schema).observation.tolist() == expected
    strict = dataclasses.replace(schema, observations={"observation": ColumnRule(("a", "b"))})
    with pytest.raises(DataError, match=r"Column 'observation' .* found 2, the first in row 1"):
        st.read(table_with(observation=column), strict)


def test_missing_flags_and_parts_of_lists() -> None:
    schema = Schema(
        {r: r for r in tiny_columns()}, num_actions=3, observations={"observation": ColumnRule(missing="previous")}
    )
    flags = st.read(table_with(observation=[True, None, False, None, True, None]), schema)
    assert flags.observation[:, 0].tolist() == [1, 1, 0, 0, 1, 0]
    lists = st.read(table_with(observation=[[1.0, 2], [None, 3], None, [None, 4], [5, 6], [7, 8]]), schema)
    assert lists.observation.tolist() == [[1, 2], [1, 3], [1, 3], [0, 4], [5, 6], [7, 8]]


def test_next_observations_follow_the_rules_too() -> None:
    rules = {"age": ColumnRule(missing="previous", fill=40), "ward": ColumnRule(("x", "y"))}
    roles = {r: r for r in tiny_columns() if r != "observation"}
    schema = Schema(
        roles | {"observation": ("age", "ward"), "next_observation": ("age2", "ward2")},
        num_actions=3,
        observations=rules,
    )
    table = table_with(
        age=[1.0, None, 3.0, None, 5.0, 6.0], ward=list("xyxyxy"),
        age2=[None, 3.0, None, 5.0, 8.0, 9.0], ward2=list("yxyxxx"),
    )  # fmt: skip
    log = st.read(table.drop_columns(["observation"]), schema)
    assert log.observation.tolist() == [[1, 1, 0], [1, 0, 1], [3, 1, 0], [40, 0, 1], [5, 1, 0], [6, 0, 1]]
    # After row 2, an end, the age is missing: it is that of row 2.
    assert log.next_observation[[2, 4, 5]].tolist() == [[3, 0, 1], [8, 1, 0], [9, 1, 0]]
    assert log.observation_names == ("age", "ward=x", "ward=y")


def test_bounds() -> None:
    roles = {r: r for r in tiny_columns()}
    ages = ColumnRule(low=0, high=4)
    with pytest.raises(
        DataError, match=r"observation of the dict must be in \[0, 4\]; got 5.0 in row 5 \(1 such\)\. Correct"
    ):
        observed(ages, np.array([0, 1, 2, 3, 4, 5]))
    assert observed(ages, np.array([0, 1, 2, 3, 4, 4.0])).num_transitions == 6
    with pytest.raises(DataError, match=r"reward of the dict must be in \[-inf, 3\]; got 4.0 in row 2"):
        rows_with(Schema(roles, num_actions=3, reward_high=3))
    # .1 is not a float32; a bound of .1 admits the float32 that stands for it.
    tenth = np.full(6, 0.1, np.float32)
    assert rows_with(Schema(roles, num_actions=3, reward_low=0.1, reward_high=0.1), reward=tenth).num_transitions == 6
    vector = np.array([[0.0, 0.5]] * 5 + [[0.0, 1.5]])
    with pytest.raises(
        DataError, match=r"action \(column 'action\[1\]'\) of the dict must be in \[0, 1\]; got 1.5 in row 5"
    ):
        rows_with(Schema(roles, action_low=(0, 0), action_high=(1, 1)), action=vector)
    with pytest.raises(DataError, match="action of the dict must have 1 components, as the schema says; got 2"):
        rows_with(Schema(roles, action_low=(0,)), action=vector)


def test_bins_and_back() -> None:
    roles = {r: r for r in tiny_columns()}
    one = Schema(roles, action_bins=((0.5, 1.0),))
    # k edges make k + 1 bins; a value on an edge is in the bin above it.
    log = rows_with(one, action=np.array([-3, 0.4999, 0.5, 0.75, 1.0, 99]))
    assert log.num_actions == 3
    assert log.action.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.action_components(log.action).tolist() == [[0], [0], [1], [1], [2], [2]]
    two = Schema(roles | {"action": ("a", "b")}, action_bins=((0.0,), (1.0, 2.0)))
    a, b = np.array([-1, -1, -1, 1, 1, 1.0]), np.array([0, 1, 2, 0, 1, 2.0])
    log = rows_with(two, action=None, a=a, b=b)
    assert log.action.tolist() == [0, 1, 2, 3, 4, 5]  # the last component changes fastest
    assert two.action_components(log.action).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    # Back: each bin's ends, open where nothing bounds the dose.
    bounds = two.action_bounds(np.array([0, 4]))
    assert bounds.tolist() == [[[-math.inf, 0.0], [-math.inf, 1.0]], [[0.0, math.inf], [1.0, 2.0]]]
    closed = dataclasses.replace(two, action_low=(-5, 0), action_high=(5, 9))
    assert closed.action_bounds(np.array([2])).tolist() == [[[-5.0, 0.0], [2.0, 9.0]]]
    values = np.stack([a, b], axis=1)
    inside = two.action_bounds(log.action)
    assert ((inside[..., 0] <= values) & (values < inside[..., 1])).all()
    assert two.action_names[:3] == ("a below 0, b below 1", "a below 0, b 1 to 2", "a below 0, b from 2")
    assert one.action_names == ("action below 0.5", "action 0.5 to 1", "action from 1")
    close = Schema(roles, action_bins=((1000000.1, 1000000.4),))
    assert close.action_names == ("action below 1000000.1", "action 1000000.1 to 1000000.4", "action from 1000000.4")
    short = dataclasses.replace(one, action_high=(0.7,))  # the last bin is empty
    assert short.action_bounds(np.array([1, 2])).tolist() == [[[0.5, 0.7]], [[0.7, 0.7]]]
    with pytest.raises(SchemaError, match="Actions must be 0 to 5; got 6 to 6"):
        two.action_bounds(np.array([6]))
    lists = Schema(roles | {"action": ("a", "b", "c")}, action_counts=(2, 1))
    assert lists.action_names == ("component 0 0, component 1 0", "component 0 1, component 1 0")
    with pytest.raises(SchemaError, match="Only binned actions stand for ranges"):
        Schema(roles, num_actions=3).action_bounds(np.zeros(2, np.int64))
    for kind in (np.float32, np.float64):  # .7 as float32 is below .7
        assert rows_with(Schema(roles, action_bins=((0.7,),)), action=np.full(6, 0.7, kind)).action.tolist() == [1] * 6
    with pytest.raises(DataError, match="must have 1 components, as the schema says; got 2"):
        rows_with(one, action=np.zeros((6, 2)))
    with pytest.raises(SchemaError, match="Only multi-discrete and binned actions have components"):
        Schema(roles, num_actions=3).action_components(np.zeros(2, np.int64))


def test_actions_have_names() -> None:
    roles = {r: r for r in tiny_columns()}
    assert Schema(roles).action_names == ()
    assert Schema(roles, num_actions=3).action_names == ("0", "1", "2")
    assert Schema(roles, action_categories=("wait", "treat")).action_names == ("wait", "treat")
    parts = Schema(roles | {"action": ("arm", "speed")}, action_counts=(2, 2))
    assert parts.action_names == ("arm 0, speed 0", "arm 0, speed 1", "arm 1, speed 0", "arm 1, speed 1")
    assert Schema(roles, action_counts=(2, 1)).action_names == (
        "component 0 0, component 1 0",
        "component 0 1, component 1 0",
    )


def test_several_discrete_parts_and_named_actions() -> None:
    roles = {r: r for r in tiny_columns()}
    parts = Schema(roles, action_counts=(2, 3))
    log = rows_with(parts, action=np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]))
    assert (log.num_actions, log.action.tolist()) == (6, [0, 1, 2, 3, 4, 5])
    with pytest.raises(
        DataError, match=r"action \(column 'action\[1\]'\) of the dict must be an integer from 0 to 2; got 3 in row 2"
    ):
        rows_with(parts, action=np.array([[0, 0], [0, 1], [0, 3], [1, 0], [1, 1], [1, 2]]))
    named = Schema(roles, action_categories=("stay", "go", "7"))
    assert rows_with(named, action=np.array(["go", "stay", "7", "go", "go", "7"])).action.tolist() == [1, 0, 2, 1, 1, 2]
    with pytest.raises(
        DataError, match=r"Column 'action' \(action\) of the dict must hold one of its 3 categories; got 'run' in row 5"
    ):
        rows_with(named, action=np.array(["go", "stay", "7", "go", "go", "run"]))
    numbered = Schema.from_dict({"columns": roles, "action": {"categories": [30, 10, 20]}})
    assert rows_with(numbered, action=np.array([10, 20, 30, 10, 10, 10])).action.tolist() == [1, 2, 0, 1, 1, 1]


@pytest.mark.parametrize("count", [10_000, 65_536])
def test_many_actions(tmp_path: Path, count: int) -> None:
    action = np.array([0, 1, count - 1, 5, 6, 7])
    schema = Schema({r: r for r in tiny_columns()} | {"action_mask": "action_mask"}, num_actions=count)
    mask = np.zeros((6, count), bool)
    mask[np.arange(6), action] = True
    log = rows_with(schema, action=action, action_mask=mask)
    assert log.action.tolist() == action.tolist()
    assert log.action_mask is not None
    assert log.action_mask.sum() == 6
    again = st.read(write_store(log, tmp_path / "store"))
    assert (again.num_actions, again.content_hash) == (count, log.content_hash)
    guessed = {k: v for k, v in tiny_columns().items() if k != "action"} | {"action": action}
    assert st.read(guessed).num_actions == count
    with pytest.raises(SchemaError, match=r"A log may have up to 65,536 discrete actions; got 65537\. Group them"):
        Schema({r: r for r in REQUIRED_ROLES}, num_actions=65_537)


# --- rewards by expression --------------------------------------------------------------------------

A, B = np.array([1.0, -2, 3, 4, 0.5, 6]), np.array([2.0, 2, -1, 4, 8, 0.25])
EXPRESSIONS: dict[str, np.ndarray] = {
    "a + b": A + B,
    "a - b - 1": A - B - 1,
    "a * -b": -A * B,
    "a / b": A / B,
    "2 ** a": 2**A,
    "-a ** 2": -(A**2),
    "2 ** 3 ** 2 + 0 * a": np.full(6, 512.0),
    "a % b": np.mod(A, B),
    "a + b * 2": A + 2 * B,
    "(a + b) * 2": 2 * (A + B),
    "+a": A,
    "a < b": (A < B) * 1.0,
    "a <= b": (A <= B) * 1.0,
    "a > b": (A > B) * 1.0,
    "a >= 4": (A >= 4) * 1.0,
    "a == b": (A == B) * 1.0,
    "a != b": (A != B) * 1.0,
    "10 * (a > b) - (b > 3)": 10.0 * (A > B) - (B > 3),
    "-(a > b)": -1.0 * (A > B),
    "a > 0 and b > 0 and a > 2": ((A > 0) & (B > 0) & (A > 2)) * 1.0,
    "a < 0 or b < 0": ((A < 0) | (B < 0)) * 1.0,
    "not a > b": (A <= B) * 1.0,
    "abs(a)": np.abs(A),
    "exp(b - 4)": np.exp(B - 4),
    "log(a ** 2)": np.log(A**2),
    "sqrt(abs(a))": np.sqrt(np.abs(A)),
    "min(a, b)": np.minimum(A, B),
    "max(a, 0)": np.maximum(A, 0),
    "clip(a, -1, 2)": np.clip(A, -1, 2),
    "where(a > b, a, -b)": np.where(A > B, A, -B),
    "`a b` * 2 + a": 2 * B + A,
    "`a b`+_column_0": B + A,
    "a\n+ b": A + B,
    " a ": A,
    "1.5": np.full(6, 1.5),
    "True + 1": np.full(6, 2.0),
    "1e-3 * a": 1e-3 * A,
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_rewards_by_expression(text: str) -> None:
    schema = Schema({r: r for r in tiny_columns() if r != "reward"}, num_actions=3, reward_expression=text)
    log = rows_with(schema, reward=None, a=A, b=B, **{"a b": B, "_column_0": A})
    np.testing.assert_allclose(log.reward, EXPRESSIONS[text].astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log(a)", r"reward of the dict must be finite; found NaN in row 1 \(1 such value\)"),
        ("sqrt(a)", "found NaN in row 1"),
        ("1 / (b - 2)", r"found infinity in row 0 \(2 such values\)"),
        ("(a - a) / (a - a)", "found NaN in row 0"),
        ("9**9**9**9 + 0 * a", "found infinity in row 0"),
        ("exp(1000 * b)", "found infinity in row 0"),
        ("where(c > 1, 1, 0)", r"reward \(column 'c'\) of the dict must be finite; found NaN in row 2"),
        ("word * 2", r"reward \(column 'word'\) of the dict must be numbers; got 'x' in row 0"),
        ("vector * 2", "Column 'vector' .reward. of the dict must hold one value a row"),
        ("absent + 1", "The schema says reward is in column 'absent', which the dict does not have"),
    ],
)
def test_rewards_that_are_not_defined(text: str, message: str) -> None:
    schema = Schema({r: r for r in tiny_columns() if r != "reward"}, num_actions=3, reward_expression=text)
    more = {"c": np.where(np.arange(6) == 2, np.nan, 2.0), "word": np.array(["x"] * 6), "vector": np.zeros((6, 2))}
    with pytest.raises(DataError, match=message):
        rows_with(schema, reward=None, a=A, b=B, **more)


# --- episodes ---------------------------------------------------------------------------------------


def test_bandits_need_no_episodes_or_ends() -> None:
    log = st.read(
        {"x": np.eye(4), "a": np.array([0, 1, 1, 0]), "r": np.ones(4), "p": np.array([0.5, 0.25, 0.25, 0.5])},
        Schema({"observation": "x", "action": "a", "reward": "r", "propensity": "p"}, num_actions=2, bandit=True),
    )
    assert (log.num_episodes, log.terminated.all(), log.truncated.any()) == (4, True, False)
    assert log.behavior_log_prob is not None
    np.testing.assert_allclose(log.behavior_log_prob, np.log([0.5, 0.25, 0.25, 0.5]), rtol=1e-6)
    assert log.step.tolist() == [0] * 4


def test_propensities_must_be_probabilities() -> None:
    schema = Schema({r: r for r in (*tiny_columns(), "propensity")}, num_actions=3)
    with pytest.raises(DataError, match=r"propensity of the dict must be in \[0, 1\]; got 1.5 in row 1"):
        rows_with(schema, propensity=np.array([1, 1.5, 1, 1, 1, 1]))
    zero = rows_with(schema, propensity=np.array([0, 1.0, 1, 1, 1, 1])).behavior_log_prob
    assert zero is not None  # the audit speaks of it
    assert zero[0] == -np.inf


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


# --- gaps in values, next observations and ends ------------------------------------------------------------------


def gappy(rule: ColumnRule, order: np.ndarray) -> tuple[st.Dataset, np.ndarray]:
    """60 episodes of 6 rows, a fifth of `a` missing; every second episode does not say what came last."""
    rng = np.random.default_rng(0)
    episodes, steps = 60, 6
    a, b = rng.normal(size=(2, episodes, steps + 1)).astype(np.float32)
    a[rng.random(a.shape) < 0.2] = np.nan
    after_a, after_b = a[:, 1:].copy(), b[:, 1:].copy()
    after_a[::2, -1] = after_b[::2, -1] = np.nan
    columns = {
        "episode": np.repeat(np.arange(episodes), steps),
        "step": np.tile(np.arange(steps), episodes),
        "a": a[:, :-1].ravel(),
        "b": b[:, :-1].ravel(),
        "next a": after_a.ravel(),
        "next b": after_b.ravel(),
        "action": np.tile([0, 1], episodes * steps // 2),
        "reward": np.ones(episodes * steps, np.float32),
        "truncated": np.tile(np.arange(steps) == steps - 1, episodes),
    }
    roles: dict[str, Any] = {role: role for role in ("episode", "step", "action", "reward", "truncated")}
    roles |= {"observation": ("a", "b"), "next_observation": ("next a", "next b")}
    schema = Schema(roles, num_actions=2, observations={"a": rule})
    return st.read({name: column[order] for name, column in columns.items()}, schema), a


RULES = [ColumnRule(missing="previous", fill=7.0, indicator=True), ColumnRule(missing="previous", fill=7.0)]
RULES += [ColumnRule(missing="value", fill=7.0)]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=["previous, marked", "previous", "value"])
def test_missing_values_neither_break_episodes_nor_invent_what_came_last(rule: ColumnRule, shuffled: bool) -> None:
    order = np.random.default_rng(1).permutation(360) if shuffled else np.arange(360)
    log, a = gappy(rule, order)
    log = log.select_episodes(np.argsort(log.episode_id))
    assert np.isfinite(log.observation_table).all()
    assert log.continues.sum() == 60 * 5
    assert log.can_bootstrap.sum() == 360 - 30  # the last rows of every second episode
    expected = a[:, :-1].copy()
    for t in range(6):
        before = expected[:, t - 1] if t and rule.missing == "previous" else np.full(60, 7, np.float32)
        expected[:, t] = np.where(np.isnan(expected[:, t]), before, expected[:, t])
    np.testing.assert_array_equal(log.observation[:, 0], expected.ravel())
    # What came last is known in the other half: its gap too is filled by the rule.
    last = np.where(np.isnan(a[1::2, -1]), expected[1::2, -1] if rule.missing == "previous" else 7, a[1::2, -1])
    np.testing.assert_array_equal(log.next_observation.reshape(60, 6, -1)[1::2, -1, 0], last)


def test_a_plain_column_missing_in_part_of_a_next_observation_is_an_error_whatever_rules_others_have() -> None:
    columns = tiny_columns()
    seen = columns.pop("observation")
    after = next_observations()
    columns |= {"a": seen[:, 0], "b": seen[:, 1], "na": after[:, 0], "nb": after[:, 1]}
    columns["nb"][4] = np.nan
    roles: dict[str, Any] = {role: role for role in columns if role not in ("a", "b", "na", "nb")}
    roles |= {"observation": ("a", "b"), "next_observation": ("na", "nb")}
    schema = Schema(roles, num_actions=3, observations={"a": ColumnRule(missing="previous")})
    with pytest.raises(DataError, match="next_observation of the dict must be finite; found NaN in row 4"):
        st.read(columns, schema)


# --- logs without an episode column ---------------------------------------------------------------------------------


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
