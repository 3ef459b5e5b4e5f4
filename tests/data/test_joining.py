"""Logs are joined if they mean the same; identifiers stay unique and groups stay apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds import full_columns, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.errors import DataError


def test_parts_joined_again_are_the_log() -> None:
    log = tiny_log(**full_columns())
    again = log.head(1).concat(log.select_episodes([1, 2]))
    assert again.content_hash == log.content_hash
    assert again.can_bootstrap.tolist() == log.can_bootstrap.tolist()
    np.testing.assert_array_equal(again.next_observation, log.next_observation)
    # Optional columns that one of the logs lacks are left out.
    bare = tiny_log()
    assert log.concat(bare).behavior_probs is None
    assert log.concat(bare).num_episodes == 6
    with pytest.raises(DataError, match="one num_actions to be joined; got 3 and 5"):
        bare.concat(dataclasses.replace(bare, schema=dataclasses.replace(bare.schema, num_actions=5)))


def with_schema(log: st.Dataset, **changes: object) -> st.Dataset:
    return dataclasses.replace(log, schema=dataclasses.replace(log.schema, **changes))


def test_logs_whose_numbers_mean_something_else_are_not_joined() -> None:
    log = tiny_log()
    named = with_schema(log, action_categories=("none", "low", "high"))
    for one, other, message in (
        (named, with_schema(log, action_categories=("high", "low", "none")), "one action_categories to be joined; got"),
        (log, named, "one action_categories to be joined; got None and"),
        (
            with_schema(log, action_bins=((0.0, 1.0),)),
            with_schema(log, action_bins=((0.0, 2.0),)),
            "one action_bins to be joined",
        ),
        (log, with_schema(log, action_counts=(3,)), "one action_counts to be joined"),
        (
            log,
            with_schema(log, observations={"observation": ColumnRule(categories=("a", "b"))}),
            "one rule of observation column 'observation' to be joined",
        ),
    ):
        with pytest.raises(DataError, match=message):
            one.concat(other)
    continuous = st.read(tiny_columns() | {"action": np.zeros((6, 2), np.float32)})
    for name in ("action_low", "action_high"):
        with pytest.raises(DataError, match=f"one {name} to be joined"):
            continuous.concat(with_schema(continuous, **{name: (0.0, 0.0)}))
    assert named.concat(named).num_episodes == 6
    assert log.concat(with_schema(log, observations={"observation": ColumnRule()})).num_episodes == 6


def test_episode_ids_stay_unique_when_logs_are_joined() -> None:
    log = tiny_log()
    joined = log.concat(log, log.head(1))
    assert joined.episode_id.tolist() == ["7", "8", "9", "7-2", "8-2", "9-2", "7-3"]
    assert joined.notes[-1] == "joined logs: 4 episode ids came again and got a suffix: 7, 8, 9, 7"
    again = joined.concat(joined.select_episodes([3]))
    assert again.episode_id.tolist()[-1] == "7-2-2"
    apart = dataclasses.replace(log, episode_id=np.array([1, 2, 3]))
    assert log.concat(apart).episode_id.tolist() == [7, 8, 9, 1, 2, 3]
    assert log.concat(apart).notes == log.notes
    text = dataclasses.replace(log, episode_id=np.array(["7", "b", "c"]))
    assert log.concat(text).episode_id.tolist() == ["7", "8", "9", "7-2", "b", "c"]


def test_groups_stay_when_logs_are_joined() -> None:
    bare = tiny_log()
    log = dataclasses.replace(bare, group=np.array([9, 4, 4]), episode_id=np.array([1, 2, 3]))
    joined = log.concat(bare)
    # Episode 9 of the other log must not be taken for patient 9.
    assert joined.group.tolist() == ["9", "4", "4", "7", "8", "9-2"]
    assert joined.notes[-1].startswith("joined logs: 3 episodes of logs without groups are groups of their own")
    assert bare.concat(log).group.tolist() == ["7", "8", "9-2", "9", "4", "4"]
    assert log.concat(dataclasses.replace(log, episode_id=np.array([5, 6, 7]))).group.tolist() == [9, 4, 4] * 2
    other = dataclasses.replace(bare, group=np.array(["4", "x", "x"]))
    assert log.concat(other).group.tolist() == ["9", "4", "4", "4", "x", "x"]
    assert log.concat(bare, bare).group.tolist()[3:] == ["7", "8", "9-2", "7-2", "8-2", "9-2-2"]
    assert bare.concat(bare).group is None
