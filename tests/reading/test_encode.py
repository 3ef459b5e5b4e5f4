"""Columns become numbers by the rules of a schema: categories, missing values, bounds, bins and joint actions."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny_tables import rows_with
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import REQUIRED_ROLES, Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.reading.store import write_store


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
        DataError, match=r"observation of the dict must be in \[0, 4\]; got 5.0 in row 5 \(1 such value\)\. Correct"
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
    # The range of doses of each bin, infinite where the schema gives no bound.
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


def test_propensities_must_be_probabilities() -> None:
    schema = Schema({r: r for r in (*tiny_columns(), "propensity")}, num_actions=3)
    with pytest.raises(DataError, match=r"propensity of the dict must be in \[0, 1\]; got 1.5 in row 1"):
        rows_with(schema, propensity=np.array([1, 1.5, 1, 1, 1, 1]))
    zero = rows_with(schema, propensity=np.array([0, 1.0, 1, 1, 1, 1])).behavior_log_prob
    assert zero is not None  # the audit speaks of it
    assert zero[0] == -np.inf
