"""Preferences: what they hold and refuse, their parts, and the tables that they are read from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import random_continuous_log, random_log, tiny_log

import stitchrl as st
from stitchrl.errors import ConfigurationError, DataError, SchemaError, StitchRLError

LONG: dict[str, Any] = {
    "pair": ["b", "b", "a", "a", "a"],
    "preferred": [False, True, True, False, False],
    "step": [0, 0, 0, 1, 0],
    "observation": [[0.0, 1.0], [0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [2.0, 3.0]],
    "action": [2, 0, 1, 1, 0],
}
"""Pair b is of two actions at one observation; in pair a one decision was preferred to two, which stand in the wrong order."""
WIDE: dict[str, Any] = {
    "observation": [[0.0, 1.0], [2.0, 3.0]],
    "preferred_action": [0, 1],
    "rejected_action": [2, 0],
    "weight": [1.0, 3.0],
    "judge": ["x", "y"],
}


def arrays(columns: dict[str, Any], **changes: Any) -> dict[str, np.ndarray]:
    """The columns as arrays; a change of None drops one."""
    return {name: np.asarray(column) for name, column in (columns | changes).items() if column is not None}


def pairs_of(log: st.Dataset, pairs: list[tuple[int, int]], **more: Any) -> st.Preferences:
    preferred, rejected = np.array(pairs).T
    return st.Preferences(log, preferred, rejected, **more)


def sides(preferences: st.Preferences) -> list[tuple[list[int], list[int]]]:
    """The actions of both sides of each pair."""
    log = preferences.segments
    return [
        (log.episode(int(one)).action.tolist(), log.episode(int(other)).action.tolist())
        for one, other in zip(preferences.preferred, preferences.rejected, strict=True)
    ]


# --- what they hold ------------------------------------------------------------------------------------------------------


def test_what_is_refused() -> None:
    log = tiny_log()
    two = np.array([0, 1])
    for settings, sentence in (
        ({"segments": "pairs.parquet"}, "`segments` of Preferences must be a log .* got an object of the class str"),
        (
            {"preferred": np.array([0, 3])},
            "`preferred` of Preferences must be positions of segments, from 0 to 2; got 0 to 3",
        ),
        (
            {"rejected": np.array([0.0, 1.0])},
            "`rejected` of Preferences must be one whole number a pair, .* got float64",
        ),
        ({"rejected": np.array([1])}, "as many preferred segments as rejected ones; got 2 and 1"),
        ({"preferred": np.array([], int), "rejected": np.array([], int)}, "need at least one pair"),
        (
            {"rejected": np.array([1, 1])},
            "A pair must be of two different segments; pair 1 has segment 1 on both sides",
        ),
        (
            {"weight": np.array([1.0, -1.0])},
            "`weight` of Preferences must be .* not all of them 0; got shape .*, from -1",
        ),
        ({"weight": np.zeros(2)}, "not all of them 0"),
        ({"weight": np.ones(3)}, "for each of the 2 pairs"),
        ({"weight": np.array(["a", "b"])}, "`weight` of Preferences must be numbers; got <U1"),
        ({"group": np.array(["x"])}, "`group` of Preferences must have one entry for each of the 2 pairs"),
    ):
        given: dict[str, Any] = {"segments": log, "preferred": two, "rejected": np.array([2, 2]), **settings}
        with pytest.raises(ConfigurationError, match=sentence):
            checked(given)


def checked(given: dict[str, Any]) -> None:
    """What the constructor does without the tests' checker of types."""
    made = object.__new__(st.Preferences)
    for name in ("segments", "preferred", "rejected", "weight", "group"):
        object.__setattr__(made, name, given.get(name))
    made.__post_init__()


def test_they_are_immutable_and_do_not_share_what_was_given() -> None:
    preferred, weight = np.array([0, 1]), np.array([1.0, 2.0])
    pairs = st.Preferences(tiny_log(), preferred, np.array([2, 2]), weight)
    preferred[0], weight[0] = 1, 9.0
    assert pairs.preferred.tolist() == [0, 1]
    assert pairs.weight is not None
    assert pairs.weight.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        pairs.preferred[0] = 1
    assert (pairs.num_pairs, pairs.longest, pairs.num_actions) == (2, 3, 3)
    assert repr(pairs).startswith("Preferences(2 pairs of segments of at most 3; Dataset('log': 3 episodes")


def test_their_hash_is_of_the_segments_and_of_the_pairs() -> None:
    log = tiny_log()
    base = pairs_of(log, [(0, 1), (1, 2)])
    assert base.content_hash == pairs_of(tiny_log(), [(0, 1), (1, 2)]).content_hash
    others = [
        pairs_of(log, [(1, 0), (1, 2)]),
        pairs_of(log, [(0, 1), (1, 2)], weight=np.ones(2)),
        pairs_of(log, [(0, 1), (1, 2)], group=np.array(["x", "y"])),
        pairs_of(tiny_log(action=np.zeros(6, np.int32)), [(0, 1), (1, 2)]),
    ]
    assert len({one.content_hash for one in (base, *others)}) == 5


def test_segments_with_missing_rows_are_refused() -> None:
    log = tiny_log(
        next_observation=np.arange(12.0, dtype=np.float32).reshape(6, 2)
    )  # what followed is not the next row
    assert log.num_gaps
    with pytest.raises(DataError, match="must follow one another; in 3 places"):
        pairs_of(log, [(0, 1)])


# --- parts ---------------------------------------------------------------------------------------------------------------


def test_a_part_has_its_pairs_and_only_their_segments() -> None:
    pairs = pairs_of(
        random_log(6), [(0, 1), (2, 3), (4, 5)], weight=np.array([1.0, 2.0, 3.0]), group=np.array(list("xyz"))
    )
    part = pairs.select([2, 0])
    assert sides(part) == [sides(pairs)[2], sides(pairs)[0]]
    assert part.segments.num_episodes == 4
    assert part.weight is not None
    assert part.group is not None
    assert (part.weight.tolist(), part.group.tolist()) == ([3.0, 1.0], ["z", "x"])
    assert pairs.select(np.array([False, True, False])).content_hash == pairs.select([1]).content_hash
    for wrong in ([3], [-1], [], [0.5], 0, [[0, 1]]):
        with pytest.raises(ConfigurationError, match="at least one position from 0 to 2"):
            pairs.select(np.asarray(wrong))


def test_a_split_keeps_together_what_shares_a_segment_or_a_group() -> None:
    log, chain = random_log(24), [(k, k + 1) for k in range(3)]  # three pairs of four segments
    pairs = pairs_of(log, chain + [(2 * k, 2 * k + 1) for k in range(2, 12)], group=np.arange(13) % 4)
    alone = st.Preferences(pairs.segments, pairs.preferred, pairs.rejected)
    for seed in range(5):
        one, other = alone.split((0.5, 0.5), seed=seed)
        assert one.num_pairs + other.num_pairs == 13
        assert not set(one.segments.episode_id) & set(other.segments.episode_id)
        one, other = pairs.split((0.5, 0.5), seed=seed)
        assert one.group is not None
        assert other.group is not None
        assert not set(one.group) & set(other.group)
    first, again = (alone.split(seed=3)[0].content_hash for _ in range(2))
    assert first == again
    half_known = np.array([None, *"xyz"] * 3 + ["x"], object)  # who judged is not known of every pair
    one, other = dataclasses.replace(pairs, group=half_known).split((0.5, 0.5))
    assert set(one.group) | set(other.group) == {"None", "x", "y", "z"}
    assert not set(one.group) & set(other.group)
    with pytest.raises(
        DataError, match=r"would have only pairs of weight 0, which are never drawn\. Leave such pairs out"
    ):
        dataclasses.replace(alone, weight=np.eye(13)[0]).split((0.5, 0.5))
    linked = pairs_of(log, chain)
    with pytest.raises(
        DataError, match=r'3 pairs, .* fall into 1 that can be split; 2 parts were asked for\. Use by="pair"'
    ):
        linked.split((0.5, 0.5))
    assert [part.num_pairs for part in linked.split((0.4, 0.6), by="pair")] == [1, 2]
    with pytest.raises(DataError, match="needs `group`, which these preferences lack"):
        linked.split(by="group")
    with pytest.raises(
        ConfigurationError, match=r"must be one of pair, segment, group, and `seed` at least 0; got 'time' and 0"
    ):
        linked.split(by="time")


def test_a_reference_is_what_any_policy_says() -> None:
    pairs = pairs_of(random_continuous_log(4), [(0, 1), (2, 3)])
    rows = pairs.segments.num_transitions
    half = SimpleNamespace(log_prob=lambda obs, action, *, action_mask: np.full(len(obs), np.log(0.5)))
    said = pairs.with_reference(half).segments.behavior_log_prob
    assert said is not None
    np.testing.assert_allclose(said, np.full(rows, np.log(0.5)), rtol=1e-6)
    never = SimpleNamespace(log_prob=lambda obs, action, *, action_mask: np.full(len(obs), -np.inf))
    with pytest.raises(ConfigurationError, match=f"each of the {rows} decisions one finite log-probability"):
        pairs.with_reference(never)
    with pytest.raises(ConfigurationError, match="must have a probability, or a density, for every action"):
        pairs.with_reference(SimpleNamespace(has_density=False))
    with pytest.raises(ConfigurationError, match="for every action; a BC has none"):
        pairs.with_reference(st.BC())  # the algorithm, not what it learned


# --- reading -------------------------------------------------------------------------------------------------------------


def test_a_table_with_one_row_a_decision() -> None:
    pairs = st.read_preferences(arrays(LONG))
    assert sides(pairs) == [([0], [2]), ([1], [0, 1])]  # pairs in their order, decisions in that of their steps
    np.testing.assert_array_equal(pairs.segments.episode(int(pairs.rejected[1])).observation, [[2, 3], [4, 5]])
    assert (pairs.num_actions, pairs.weight, pairs.group) == (3, None, None)
    assert set(pairs.segments.schema.columns) == {"step", "observation", "action", "episode"}


@pytest.mark.parametrize("yes_and_no", [("1", "0"), ("TRUE", "False"), ("yes", "no")])
def test_a_side_may_be_said_in_several_ways(yes_and_no: tuple[str, str]) -> None:
    said = [yes_and_no[0] if yes else yes_and_no[1] for yes in LONG["preferred"]]
    assert sides(st.read_preferences(arrays(LONG, preferred=said))) == [([0], [2]), ([1], [0, 1])]
    assert sides(st.read_preferences(arrays(LONG, preferred=[0, 1, 1, 0, 0]))) == [([0], [2]), ([1], [0, 1])]


def test_a_table_with_one_row_a_pair(tmp_path: Path) -> None:
    roles = {"observation": "observation", "action": "action", "weight": "weight", "group": "judge"}
    schema = st.Schema(roles, num_actions=4, bandit=True, reward_expression="0")
    pairs = st.read_preferences(arrays(WIDE), schema)
    assert sides(pairs) == [([0], [2]), ([1], [0])]
    assert pairs.weight is not None
    assert pairs.group is not None
    assert (pairs.weight.tolist(), pairs.group.tolist(), pairs.num_actions) == ([1.0, 3.0], ["x", "y"], 4)
    np.testing.assert_array_equal(pairs.segments.observation, np.repeat(WIDE["observation"], 2, axis=0))
    pq.write_table(pa.table(WIDE), tmp_path / "pairs.parquet")
    assert st.read_preferences(tmp_path / "pairs.parquet", schema).content_hash == pairs.content_hash
    lines = ["obs_0,obs_1,preferred_action,rejected_action,weight,patient"]
    lines += ["0,1,0,2,1,x", "2,3,1,0,3,y"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    assert sides(st.read_preferences(tmp_path / "pairs.csv")) == sides(pairs)


def test_segments_cut_out_of_a_log_need_no_end_of_their_own() -> None:
    log = st.read_preferences(arrays(LONG, terminated=[False, False, False, True, False])).segments
    assert (log.terminated.sum(), log.truncated.sum()) == (1, 3)


def test_a_schema_names_the_columns_of_a_table_with_one_row_a_decision() -> None:
    columns = {"pair": LONG["pair"], "preferred": LONG["preferred"], "when": LONG["step"], "dose": LONG["action"]}
    columns |= {"age": [row[0] for row in LONG["observation"]], "pressure": [row[1] for row in LONG["observation"]]}
    roles = {"episode": "pair", "observation": ("age", "pressure"), "action": "dose", "step": "when"}
    pairs = st.read_preferences(
        arrays(columns), st.Schema(roles, num_actions=4, reward_expression="0", end="truncated")
    )
    assert sides(pairs) == [([0], [2]), ([1], [0, 1])]
    assert pairs.num_actions == 4


def test_actions_that_are_vectors() -> None:
    columns = arrays(WIDE, preferred_action=[[0.5], [0.1]], rejected_action=[[-0.5], [0.0]])
    pairs = st.read_preferences(columns)
    assert pairs.num_actions is None
    np.testing.assert_allclose(pairs.segments.action[:, 0], [0.5, -0.5, 0.1, 0.0])


def test_bad_tables_are_refused_in_one_sentence() -> None:
    for columns, error, sentence in (
        (arrays(LONG, pair=None), SchemaError, "need the columns 'pair' and 'preferred', .* the dict has no pair, but"),
        (arrays(LONG, observation=None), SchemaError, "there is no observation among"),
        (arrays(WIDE, rejected_action=None), SchemaError, "the dict has no pair, preferred, but"),
        (
            arrays(LONG, preferred=[0, 1, 1, 1, 1], step=[0, 0, 0, 1, 2]),
            DataError,
            "pair 'a' has 1 preferred and no rejected",
        ),
        (
            arrays(LONG, preferred=[0, 0, 1, 0, 0], step=[0, 1, 0, 1, 0]),
            DataError,
            "pair 'b' has no preferred and 1 rejected",
        ),
        (arrays(LONG, preferred=["0", "1", "1", "0", "no"]), DataError, "pair 'a' has 1 preferred and 2 rejected"),
        (arrays(WIDE, action=[0, 0]), SchemaError, "has two actions, and the column action one value"),
        (
            arrays(WIDE, action_mask=[[True] * 3, [False, True, True]]),
            DataError,
            r"row 3 has action 0, which its mask forbids",
        ),
        (arrays(LONG, preferred=[0, 1, 1, 2, 2]), DataError, "must be true or false, .* pair 'a' has '2'"),
        (arrays(WIDE, propensity=[0.5, 0.5]), SchemaError, "has two actions, and the column propensity one value"),
        (arrays(LONG, action=[2, 0, 1, 1, np.nan]), DataError, "action"),
        (arrays(LONG, observation=[[np.nan, 0.0]] * 5), DataError, "observation"),
    ):
        with pytest.raises(StitchRLError, match=sentence) as refused:
            st.read_preferences(columns)
        assert isinstance(refused.value, error)
        assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match=r"There is no log 'none\.parquet'"):
        st.read_preferences("none.parquet")
