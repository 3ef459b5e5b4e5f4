"""What a schema says of values that a log lacks or writes in words: unseen categories, rewards, ends, identifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError

ROLES = {role: role for role in tiny_columns()}


def table(**columns: Any) -> pa.Table:
    """`tiny_columns` (episodes of 3, 2 and 1 rows) with other columns."""
    held = {name: pa.array(np.asarray(column).tolist()) for name, column in tiny_columns().items()}
    return pa.table(held | {name: pa.array(column) for name, column in columns.items()})


WARDS = ["a", "c", "b", "c", "d", "a"]


@pytest.mark.parametrize(
    ("rule", "expected", "names"),
    [
        (
            ColumnRule(("a", "b"), unknown=True),
            [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]],
            ("observation=a", "observation=b", "observation=unknown"),
        ),
        (ColumnRule(("a", "b"), unknown="other", encoding="code"), [[0], [2], [1], [2], [2], [0]], ("observation",)),
        (ColumnRule(("b", "a"), unknown="b", encoding="code"), [[1], [0], [0], [0], [0], [1]], ("observation",)),
    ],
)
def test_unseen_categories(rule: ColumnRule, expected: list[list[float]], names: tuple[str, ...]) -> None:
    schema = Schema(ROLES, num_actions=3, observations={"observation": rule})
    log = st.read(table(observation=WARDS), schema)
    assert log.observation.tolist() == expected
    assert log.observation_names == names
    assert rule.width == len(names)
    assert "3 values of 'observation' are none of its categories." in log.notes
    assert Schema.from_dict(schema.to_dict()) == schema


def test_unseen_and_missing_categories_are_two_things() -> None:
    rule = ColumnRule(("a", "b"), unknown=True, missing="value", indicator=True)
    schema = Schema(ROLES, num_actions=3, observations={"observation": rule})
    log = st.read(table(observation=["a", None, "x", "b", "a", "unknown"]), schema)
    assert log.observation.tolist() == [
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 1, 0],
    ]


def test_unseen_categories_without_a_rule_are_refused_with_both_ways_out() -> None:
    schema = Schema(ROLES, num_actions=3, observations={"observation": ColumnRule(("a", "b"))})
    with pytest.raises(
        DataError, match=r"got 'c' in row 1\. Add it to `categories` .* `unknown = true` under \[observation\.obs"
    ):
        st.read(table(observation=WARDS), schema)
    with pytest.raises(SchemaError, match="this column names no `categories`"):
        ColumnRule(unknown=True)
    with pytest.raises(SchemaError, match="must be true or the name of a category"):
        ColumnRule(("a",), unknown="")


def test_identifiers_of_several_columns_never_merge() -> None:
    """A slash inside a value is no slash between two."""
    columns = {role: name for role, name in ROLES.items() if role != "episode"}
    schema = Schema(columns | {"episode": ("who", "visit"), "group": ("site", "who")}, num_actions=3)
    who, visit = ["a", "a", "a", "a/b", "a/b", "a\\"], ["b/c", "b/c", "b/c", "c", "c", "1"]
    log = st.read(table(who=who, visit=visit, site=[1, 1, 1, 1, 1, 2]), schema)
    assert log.num_episodes == 3
    assert log.episode_id.tolist() == ["a/b\\/c", "a\\/b/c", "a\\\\/1"]
    assert log.group is not None
    assert log.group.tolist() == ["1/a", "1/a\\/b", "2/a\\\\"]
    with pytest.raises(DataError, match=r"Column 'visit' \(episode\) of the table must have no missing values"):
        st.read(table(who=who, visit=[*visit[:5], None], site=[1] * 6), schema)


def test_whole_floats_and_integers_name_the_same_episode() -> None:
    columns = {role: name for role, name in ROLES.items() if role != "episode"}
    schema = Schema(columns | {"episode": ("who", "visit")}, num_actions=3)
    who = np.array([12, 12, 12, 12, 12, 13])
    visit = np.array([1, 1, 1, 2, 2, 1])
    frames = [table(who=kind(who), visit=kind(visit)) for kind in (lambda v: v, lambda v: v.astype(np.float64))]
    first, second = (st.read(frame, schema) for frame in frames)
    assert first.episode_id.tolist() == ["12/1", "12/2", "13/1"]
    assert first.content_hash == second.content_hash


def test_missing_rewards() -> None:
    reward = [None, None, 1.0, float("nan"), 2.0, None]
    schema = Schema(ROLES, num_actions=3, reward_fill=-0.5)
    log = st.read(table(reward=reward), schema)
    assert log.reward.tolist() == [-0.5, -0.5, 1.0, -0.5, 2.0, -0.5]
    assert "4 missing rewards count as -0.5." in log.notes
    by = {role: name for role, name in ROLES.items() if role != "reward"}
    expressed = Schema(by, num_actions=3, reward_expression="(reward > 1) + cost", reward_fill=0.0)
    log = st.read(table(reward=reward, cost=[1.0] * 5 + [None]), expressed)
    assert log.reward.tolist() == [0, 0, 1, 0, 2, 0]
    with pytest.raises(SchemaError, match=r"`fill` of \[reward\] must be a finite number; got nan"):
        Schema(ROLES, num_actions=3, reward_fill=float("nan"))
    with pytest.raises(
        DataError, match=r"must be in \[0, inf\]; got -0\.5 in row 0"
    ):  # a fill is a reward like any other
        st.read(table(reward=reward), Schema(ROLES, num_actions=3, reward_fill=-0.5, reward_low=0.0))


def test_words_that_mark_ends() -> None:
    state = ["in", "in", "died", "in", None, "moved "]
    columns = ROLES | {"terminated": "state", "truncated": "state"}
    schema = Schema(
        columns, num_actions=3, terminated_values=("died", "dead"), truncated_values=("moved",), end="truncated"
    )
    log = st.read(table(state=state), schema)
    assert log.terminated.tolist() == [False, False, True, False, False, False]
    assert log.truncated.tolist() == [False, False, False, False, True, True]
    notes = [note for note in log.notes if "terminated_values" in note]
    assert notes == [
        "'dead' of `terminated_values` is nowhere in terminated (column 'state') of the table, which holds 'in', 'died', "
        "'moved'."
    ]
    numbers = Schema(ROLES, num_actions=3, terminated_values=("2",), truncated_values=("1",))
    codes = st.read(table(terminated=[0, 0, 2, 0, 0, 2], truncated=[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]), numbers)
    assert codes.terminated.tolist() == [False, False, True, False, False, True]
    assert codes.truncated.tolist() == [False, False, False, False, True, False]


def test_words_for_ends_that_no_schema_lists() -> None:
    with pytest.raises(DataError) as caught:
        st.read(table(terminated=["no", "no", "died", "no", "no", "left"]), Schema(ROLES, num_actions=3))
    assert str(caught.value) == (
        "terminated of the table must be true or false (or 1 and 0); got 'died' in row 2. Under [episodes], list those of its "
        'words that mark an end: `terminated_values`, from ["died", "left", "no"].'
    )
    with pytest.raises(
        DataError, match=r"found 1, the first in row 3\. Say which values mark an end, so that an empty one"
    ):
        st.read(table(terminated=["no", "no", "yes", None, "no", "yes"]), Schema(ROLES, num_actions=3))
    with pytest.raises(
        SchemaError, match=r"`truncated_values` of \[episodes\] needs a column with the role `truncated`"
    ):
        Schema({role: name for role, name in ROLES.items() if role != "truncated"}, truncated_values=("moved",))


def test_words_of_the_schema_are_true_and_false_in_observations_too() -> None:
    schema = Schema.from_dict(
        {
            "columns": ROLES,
            "action": {"count": 3},
            "file": {"true_values": ["Si"], "false_values": ["nunca"]},
        }
    )
    log = st.read(table(observation=["si", "NUNCA", "yes", "no", " Si", "0"]), schema)
    assert log.observation[:, 0].tolist() == [1, 0, 1, 0, 1, 0]
    with pytest.raises(DataError, match="action of the table must be numbers; got 'yes' in row 0"):
        st.read(table(action=["yes", "no"] * 3), schema)  # actions have names instead
