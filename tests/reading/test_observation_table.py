"""Missing values and next observations together: episodes stay whole, and nothing is invented at their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from worlds import next_observations, tiny_columns

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError


def gappy(rule: ColumnRule, order: np.ndarray) -> tuple[st.Dataset, np.ndarray]:
    """60 episodes of 6 rows, in which a fifth of `a` is missing and every second episode lacks its
    final observation."""
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
    # The other episodes have a final observation, in which a missing age is filled by the rule as well.
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
