"""Logs that would be silently wrong are refused, and the message names column and row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tables import RENAMED, arrow_table, renamed_columns, write_parquet
from worlds import tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError


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
    with pytest.raises(SchemaError, match=r"none is named like these: reward, terminated\."):
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
    column = np.array(tiny_columns()[name], dtype)  # type: ignore[call-overload]
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
    "text flag": ({"truncated": np.array(["nay"] * 6)}, "truncated of the dict must be true or false"),
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
            "episode of the dict must have an identifier in every row; row 4 has NaN",
        ),
        ({"action_mask": np.full((6, 3), 0.5)}, "action_mask of the dict must be true or false"),
        ({"reward": np.zeros((6, 1))}, "reward of the dict must hold one value a row; got an array of shape"),
        (
            {"propensity": np.array([0.5, 1.5, -0.2, 1, 1, 1], np.float32)},
            r"propensity of the dict must be in \[0, 1\]; got 1.5 in row 1 \(2 such values\)\. Correct the log; percentages",
        ),
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
