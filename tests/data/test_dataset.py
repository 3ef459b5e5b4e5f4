"""The Dataset: stored observations, ends, bootstrapping, selection of episodes, and its text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds import full_columns, masks, next_observations, random_log, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.columns import PER_TRANSITION
from stitchrl.errors import ConfigurationError


def test_without_next_observations_each_is_stored_once() -> None:
    log = tiny_log()
    assert log.observation_table.shape == (6, 2)
    assert log.next_observation_index.tolist() == [1, 2, -1, 4, -1, -1]
    np.testing.assert_array_equal(log.observation, tiny_columns()["observation"])
    # Next observations that the log does not have read as zeros.
    np.testing.assert_array_equal(log.next_observation, [[1, 2], [2, 4], [0, 0], [4, 16], [0, 0], [0, 0]])


def test_with_next_observations_one_more_an_episode_is_stored() -> None:
    log = tiny_log(next_observation=next_observations())
    assert log.observation_table.shape == (6 + 3, 2)
    assert log.observation_index.tolist() == [0, 1, 2, 3, 4, 5]
    assert log.next_observation_index.tolist() == [1, 2, 6, 4, 7, 8]
    np.testing.assert_array_equal(log.next_observation, next_observations())


def test_a_missing_next_observation_inside_an_episode_is_no_fault() -> None:
    # It is taken from the next row.
    inside = next_observations()
    inside[0] = np.nan
    np.testing.assert_array_equal(tiny_log(next_observation=inside).next_observation, next_observations())


def test_a_gap_inside_an_episode_keeps_its_own_next_observation() -> None:
    # The next observation of row 0 is not the observation of row 1, so rows are missing in between.
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


def test_shape_and_type_of_vector_observations() -> None:
    log = tiny_log()
    assert log.observation_shape == (2,)
    assert log.observation_dtype == np.float32


def test_shape_and_type_of_image_observations() -> None:
    log = st.read(tiny_columns() | {"observation": np.zeros((6, 4, 5, 3), np.uint8)})
    assert log.observation_shape == (4, 5, 3)
    assert log.observation_dtype == np.uint8
    assert log.observation_size == 60


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


@pytest.mark.parametrize("episodes", [[0, 2], [2, 0], [1], [1, 1, 0]])
def test_select_episodes_equals_slicing_by_hand(episodes: list[int]) -> None:
    log = tiny_log(**full_columns())
    bounds = {0: range(3), 1: range(3, 5), 2: range(5, 6)}
    rows = [row for episode in episodes for row in bounds[episode]]
    part = log.select_episodes(episodes)
    columns = full_columns()
    for name, column in columns.items():
        if name != "episode":
            taken = (
                column[rows].reshape(len(rows), -1) if name == "subgroup" else column[rows]
            )  # always several columns
            np.testing.assert_array_equal(getattr(part, name), taken, err_msg=name)
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


def test_episodes_one_by_one() -> None:
    log = tiny_log(next_observation=next_observations())
    episode = log.episode(1)
    assert episode.id == 8
    np.testing.assert_array_equal(episode.observation, [[3, 8], [4, 16], next_observations()[4]])
    assert episode.reward.tolist() == log.reward[3:5].tolist()
    assert (episode.terminated, episode.truncated) == (False, True)
    assert [len(e.action) for e in log.episodes()] == [3, 2, 1]
    assert tiny_log().episode(1).observation.shape == (2, 2)  # the last one is not known
    with pytest.raises(ConfigurationError, match="numbered 0 to 2; got 3"):
        log.episode(3)


def test_head_and_filter() -> None:
    log = tiny_log()
    assert log.head(2).episode_id.tolist() == [7, 8]
    assert log.head(99).num_episodes == 3
    assert log.filter([True, False, True]).episode_id.tolist() == [7, 9]
    assert log.filter(lambda e: e.truncated).episode_id.tolist() == [8]
    with pytest.raises(ConfigurationError, match="one bool for each of the 3 episodes"):
        log.filter([True, False])


def test_rows_beyond_32_bits_are_numbered_by_64(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny_log().run_end.dtype == np.int32
    monkeypatch.setattr("stitchrl.data.dataset.MOST_ROWS", 5)
    long = tiny_log().run_end
    assert (long.dtype, long.tolist()) == (np.int64, [2, 2, 2, 4, 4, 5])


def test_compacting_drops_what_no_row_uses() -> None:
    log = tiny_log(next_observation=next_observations())
    part = log.select_episodes([2, 0])
    small = part.compact()
    assert len(part.observation_table) == 9
    assert len(small.observation_table) == 4 + 2
    assert small.content_hash == part.content_hash
    np.testing.assert_array_equal(small.next_observation, part.next_observation)
    assert log.compact() is log


def test_spaces_are_gymnasiums() -> None:
    from gymnasium import spaces

    assert tiny_log().action_space == spaces.Discrete(3)
    assert tiny_log().observation_space.shape == (2,)
    continuous = st.read(tiny_columns() | {"action": np.zeros((6, 2), np.float32)})
    assert continuous.action_space.shape == (2,)
    bounded = dataclasses.replace(continuous.schema, action_low=(-1, 0), action_high=(1, 3))
    assert dataclasses.replace(continuous, schema=bounded).action_space.high.tolist() == [1, 3]  # type: ignore[attr-defined]
    parts = dataclasses.replace(tiny_log().schema, num_actions=None, action_counts=(2, 3))
    assert dataclasses.replace(tiny_log(), schema=parts).action_space == spaces.MultiDiscrete([2, 3])


def test_the_text_of_a_log_shows_shapes_and_no_values() -> None:
    text = repr(tiny_log())
    assert "3 episodes, 6 transitions, observation 2, action discrete, 3" in text
    assert not any(str(v) in text for v in ("32.0", "array", "[["))
