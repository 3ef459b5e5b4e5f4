"""Dataset: stored observations, ends, bootstrapping, parts, hashes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import stitchrl as st
from stitchrl.data.dataset import PER_TRANSITION
from stitchrl.errors import ConfigurationError, DataError
from worlds import full_columns, masks, next_observations, random_log, tiny_columns, tiny_log

# --- observations and ends ------------------------------------------------------------------------------


def test_without_next_observations_each_is_stored_once() -> None:
    log = tiny_log()
    assert log.observation_table.shape == (6, 2)
    assert log.next_observation_index.tolist() == [1, 2, -1, 4, -1, -1]
    np.testing.assert_array_equal(log.observation, tiny_columns()["observation"])
    # Unknown ones read as zeros.
    np.testing.assert_array_equal(log.next_observation, [[1, 2], [2, 4], [0, 0], [4, 16], [0, 0], [0, 0]])


def test_with_next_observations_one_more_an_episode_is_stored() -> None:
    log = tiny_log(next_observation=next_observations())
    assert log.observation_table.shape == (6 + 3, 2)
    assert log.observation_index.tolist() == [0, 1, 2, 3, 4, 5]
    assert log.next_observation_index.tolist() == [1, 2, 6, 4, 7, 8]
    np.testing.assert_array_equal(log.next_observation, next_observations())


def test_a_missing_next_observation_inside_an_episode_is_no_fault() -> None:
    # The next row's own observation stands in for it.
    inside = next_observations()
    inside[0] = np.nan
    np.testing.assert_array_equal(tiny_log(next_observation=inside).next_observation, next_observations())


def test_a_gap_inside_an_episode_keeps_its_own_next_observation() -> None:
    # Row 0 says that something else followed than row 1 saw: rows are missing in between.
    elsewhere = next_observations()
    elsewhere[0] = [50, 60]
    log = tiny_log(next_observation=elsewhere)
    np.testing.assert_array_equal(log.next_observation, elsewhere)
    assert log.continues.tolist() == [False, True, False, True, False, False]
    assert log.can_bootstrap.all()
    assert not tiny_log(next_observation=elsewhere, action_mask=masks()).can_bootstrap[0]


def test_terminated_and_truncated_are_kept_apart() -> None:
    log = tiny_log()
    assert log.terminated.tolist() == [False, False, True, False, False, True]
    assert log.truncated.tolist() == [False, False, False, False, True, False]


def test_a_cut_without_its_next_observation_cannot_bootstrap() -> None:
    assert tiny_log().can_bootstrap.tolist() == [True, True, True, True, False, True]


def test_a_cut_with_its_next_observation_can_bootstrap() -> None:
    assert tiny_log(next_observation=next_observations()).can_bootstrap.all()


def test_with_masks_a_cut_end_lacks_the_next_mask() -> None:
    log = tiny_log(next_observation=next_observations(), action_mask=masks())
    assert log.can_bootstrap.tolist() == [True, True, True, True, False, True]


def test_next_action_mask_is_the_next_rows_and_all_true_at_an_end() -> None:
    log = tiny_log(action_mask=masks())
    expected = [[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]]
    np.testing.assert_array_equal(log.next_action_mask, np.array(expected, bool))
    np.testing.assert_array_equal(log.action_mask, masks())
    assert tiny_log().next_action_mask is None


def test_sizes_and_positions() -> None:
    log = tiny_log()
    assert (log.num_transitions, log.num_episodes, log.num_actions, log.observation_size) == (6, 3, 3, 2)
    assert log.episode_lengths.tolist() == [3, 2, 1]
    assert log.episode_of_transition.tolist() == [0, 0, 0, 1, 1, 2]
    assert log.position.tolist() == [0, 1, 2, 0, 1, 0]


def test_position_is_counted_and_step_is_as_logged() -> None:
    log = tiny_log(step=np.array([5, 7, 9, 0, 10, 3], np.int32))
    assert log.step.tolist() == [5, 7, 9, 0, 10, 3]
    assert log.position.tolist() == [0, 1, 2, 0, 1, 0]


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (1.0, [1 + 2 + 4, -1 + 3, 0.5]),
        (0.5, [1 + 0.5 * 2 + 0.25 * 4, -1 + 0.5 * 3, 0.5]),
        (0.0, [1, -1, 0.5]),
    ],
)
def test_episode_returns_by_hand(gamma: float, expected: list[float]) -> None:
    returns = tiny_log().episode_returns(gamma)
    assert returns.dtype == np.float64
    np.testing.assert_allclose(returns, expected, rtol=1e-12)


# --- parts ----------------------------------------------------------------------------------------------


def test_split_is_disjoint_and_exhaustive_by_whole_episodes() -> None:
    log = random_log(40)
    parts = log.split((0.5, 0.1, 0.4), seed=0)
    assert [part.num_episodes for part in parts] == [20, 4, 16]
    ids = [set(part.episode_id.tolist()) for part in parts]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]
    assert set.union(*ids) == set(log.episode_id.tolist())
    for part in parts:
        for k, episode in enumerate(part.episode_id):
            whole = int(np.flatnonzero(log.episode_id == episode)[0])
            assert part.episode_lengths[k] == log.episode_lengths[whole]
    assert sum(part.num_transitions for part in parts) == log.num_transitions


def test_split_is_a_function_of_the_seed() -> None:
    log = random_log(40)
    first, again, other = (log.split((0.5, 0.5), seed=seed)[0] for seed in (3, 3, 4))
    assert first.content_hash == again.content_hash
    assert first.content_hash != other.content_hash


def test_split_keeps_the_order_of_the_log_in_each_part() -> None:
    for part in random_log(40).split_episodes((0.3, 0.7), seed=1):
        assert (np.diff(part) > 0).all()


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (0.5, 0.4), (1.5, -0.5), (1.0, 0.0), (), (np.nan, 0.5)])
def test_split_refuses_fractions_that_are_no_shares(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="Split fractions must be positive and sum to 1; got "):
        random_log(40).split(fractions)


def test_split_refuses_an_empty_part() -> None:
    with pytest.raises(DataError, match="A log of 3 episodes cannot be split as"):
        tiny_log().split((0.9, 0.05, 0.05))


@pytest.mark.parametrize("episodes", [[0, 2], [2, 0], [1], [1, 1, 0]])
def test_select_episodes_equals_slicing_by_hand(episodes: list[int]) -> None:
    log = tiny_log(**full_columns())
    bounds = {0: range(3), 1: range(3, 5), 2: range(5, 6)}
    rows = [row for episode in episodes for row in bounds[episode]]
    part = log.select_episodes(episodes)
    columns = full_columns()
    for name, column in columns.items():
        if name != "episode":
            np.testing.assert_array_equal(getattr(part, name), column[rows], err_msg=name)
    assert part.episode_id.tolist() == [[7, 8, 9][episode] for episode in episodes]
    assert part.episode_start.tolist() == np.cumsum([0] + [len(bounds[e]) for e in episodes]).tolist()
    np.testing.assert_array_equal(part.episode_returns(0.9), log.episode_returns(0.9)[episodes])
    np.testing.assert_array_equal(part.can_bootstrap, log.can_bootstrap[rows])
    assert log.next_action_mask is not None
    np.testing.assert_array_equal(part.next_action_mask, log.next_action_mask[rows])
    assert part.observation_table is log.observation_table


def test_select_all_episodes_is_the_same_log() -> None:
    log = random_log(12)
    assert log.select_episodes(range(12)).content_hash == log.content_hash


# --- identity -------------------------------------------------------------------------------------------


def test_equal_logs_have_equal_hashes() -> None:
    assert tiny_log(**full_columns()).content_hash == tiny_log(**full_columns()).content_hash


def changed_column(name: str) -> np.ndarray:
    """The column with one entry changed to another legal value."""
    column = full_columns()[name].copy()
    if name == "episode":
        column[5] = 11
    elif name in ("observation", "next_observation"):
        column[4, 0] += 0.5
    elif name == "behavior_probs":
        column[0] = [0.6, 0.4, 0.0]
    elif name == "action_mask":
        column[0, 2] = True
    elif name == "source":
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
    # weight and behavior_log_prob are both float32 of one length.
    numbers = np.zeros(6, np.float32)
    assert tiny_log(weight=numbers).content_hash != tiny_log(behavior_log_prob=numbers).content_hash


@pytest.mark.parametrize("name", ["observation_table", "episode_start", "episode_id", *PER_TRANSITION])
def test_arrays_are_read_only(name: str) -> None:
    column = getattr(tiny_log(**full_columns()), name)
    assert isinstance(column, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        column[0] = column[0]


def test_fields_cannot_be_set() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_log().reward = np.zeros(6, np.float32)  # type: ignore[misc]


def test_repr_shows_sizes_and_no_values() -> None:
    columns = full_columns()
    columns["reward"] = np.full(6, 4242.5, np.float32)
    columns["source"] = np.array(["Mrs Miller"] * 6)
    text = repr(tiny_log(**columns))
    for part in ("3 episodes", "6 transitions", "observation 2", "discrete, 3", "behavior_probs", "source"):
        assert part in text
    assert "4242" not in text
    assert "Miller" not in text
    assert "optional: none" in repr(tiny_log())


def test_repr_of_a_continuous_log() -> None:
    columns = tiny_columns() | {"action": np.zeros((6, 4), np.float32)}
    assert "action continuous, 4" in repr(st.read(columns))
