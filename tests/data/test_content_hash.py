"""Equal logs have equal content hashes, and any change of a column changes the hash."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds import full_columns, next_observations, tiny_columns, tiny_log


def test_what_followed_a_gap_is_part_of_the_hash() -> None:
    elsewhere = next_observations()
    elsewhere[0] = [50, 60]
    other = elsewhere.copy()
    other[0] = [50, 61]
    hashes = {tiny_log(next_observation=n).content_hash for n in (next_observations(), elsewhere, other)}
    assert len(hashes) == 3


def test_equal_logs_have_equal_hashes() -> None:
    assert tiny_log(**full_columns()).content_hash == tiny_log(**full_columns()).content_hash


def changed_column(name: str) -> np.ndarray:
    """A column of which one entry is changed to another legal value."""
    column = full_columns()[name].copy()
    if name == "episode":
        column[5] = 11
    elif name in ("observation", "next_observation"):
        column[4, 0] += 0.5
    elif name in ("behavior_probs", "policy_probs"):
        column[0] = [0.6, 0.4, 0.0]
    elif name == "action_mask":
        column[0, 2] = True
    elif name in ("source", "subgroup"):
        column[0] = "z"
    else:
        column[2] = 0 if name == "action" else column[2] + 1
    return column


UNFLAGGED = sorted(set(full_columns()) - {"terminated", "truncated"})


@pytest.mark.parametrize("name", UNFLAGGED)
def test_any_change_of_a_column_changes_the_hash(name: str) -> None:
    before, after = full_columns(), full_columns() | {name: changed_column(name)}
    assert tiny_log(**before).content_hash != tiny_log(**after).content_hash


def test_the_way_an_episode_ends_changes_the_hash() -> None:
    columns = tiny_columns()
    swapped = {"terminated": columns["terminated"] | columns["truncated"], "truncated": np.zeros(6, bool)}
    assert tiny_log().content_hash != tiny_log(**swapped).content_hash
    both = {"terminated": columns["terminated"] | columns["truncated"], "truncated": columns["truncated"]}
    assert tiny_log(**swapped).content_hash != tiny_log(**both).content_hash


@pytest.mark.parametrize("name", ["next_observation", "behavior_log_prob", "action_mask", "source", "time"])
def test_dropping_an_optional_column_changes_the_hash(name: str) -> None:
    columns = full_columns()
    if name == "behavior_log_prob":
        del columns["behavior_probs"]
    assert tiny_log(**columns).content_hash != tiny_log(**columns | {name: None}).content_hash


def test_the_number_of_actions_changes_the_hash() -> None:
    log = tiny_log()
    wider = dataclasses.replace(log, schema=dataclasses.replace(log.schema, num_actions=4))
    assert log.content_hash != wider.content_hash


def test_two_columns_may_not_trade_places_unseen() -> None:
    # The columns weight and behavior_log_prob have the same type and length.
    numbers = np.zeros(6, np.float32)
    assert tiny_log(weight=numbers).content_hash != tiny_log(behavior_log_prob=numbers).content_hash
