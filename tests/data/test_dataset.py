"""Dataset: stored observations, ends, bootstrapping, parts, hashes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds import full_columns, masks, next_observations, random_log, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.columns import PER_TRANSITION
from stitchrl.data.splits import by_group, by_time, by_value
from stitchrl.errors import ConfigurationError, DataError, StitchRLWarning

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


def test_what_followed_a_gap_is_part_of_the_hash() -> None:
    elsewhere = next_observations()
    elsewhere[0] = [50, 60]
    other = elsewhere.copy()
    other[0] = [50, 61]
    hashes = {tiny_log(next_observation=n).content_hash for n in (next_observations(), elsewhere, other)}
    assert len(hashes) == 3


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


# --- parts by more than chance ----------------------------------------------------------------------------


def grouped_log(episodes: int = 40) -> st.Dataset:
    """Episodes of one step; four to a patient, patients not side by side; returns 0 to 39; times run backwards."""
    rows = np.arange(episodes)
    return st.read(
        {
            "episode": rows,
            "group": rows % 10,
            "time": -rows.astype(np.float64),
            "observation": rows[:, None].astype(np.float32),
            "action": (rows % 3).astype(np.int32),
            "reward": rows.astype(np.float32),
            "terminated": np.ones(episodes, bool),
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_split_of_a_log_with_groups_keeps_each_whole(seed: int) -> None:
    log = grouped_log()
    parts = log.split((0.5, 0.1, 0.4), seed=seed)
    groups = [set(part.group.tolist()) for part in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]  # noqa: PT018
    assert [part.num_episodes for part in parts] == [20, 4, 16]
    assert sorted(i for part in parts for i in part.episode_id.tolist()) == list(range(40))
    # A split by episode mixes them, and says so.
    with pytest.warns(StitchRLWarning, match="this log has 10 groups of 40 episodes"):
        mixed = log.split((0.5, 0.5), seed=seed, by="episode")
    assert set(mixed[0].group.tolist()) & set(mixed[1].group.tolist())


def test_a_split_by_time_trains_on_the_past_and_never_splits_a_group() -> None:
    log = grouped_log()
    past, future = dataclasses.replace(log, group=None).split((0.25, 0.75), by="time")
    assert sorted(past.episode_id.tolist()) == list(range(30, 40))  # times run backwards: the last ids are the past
    assert sorted(future.episode_id.tolist()) == list(range(30))
    # Every patient is in the first 10 of 40: all their later episodes are left out, and nothing is left to test on.
    with pytest.raises(DataError, match="a part would be empty"):
        log.split((0.25, 0.75), by="time")
    early, late = log.split((0.1, 0.9), by="time")
    assert sorted(early.episode_id.tolist()) == [36, 37, 38, 39]
    assert set(late.group.tolist()) == set(range(10)) - set(early.group.tolist())
    assert late.num_episodes == 36 - 4 * 3


@pytest.mark.parametrize("seed", range(5))
def test_a_split_by_return_has_low_and_high_in_every_part(seed: int) -> None:
    log = dataclasses.replace(grouped_log(), group=None)
    parts = log.split((0.5, 0.25, 0.25), seed=seed, by="return")
    assert [part.num_episodes for part in parts] == [20, 10, 10]
    for part, each in zip(parts, (2, 1, 1), strict=True):
        tenths = np.bincount(part.reward.astype(int) // 4, minlength=10)
        assert tenths.tolist() == [each] * 10
    assert sorted(np.concatenate([part.episode_id for part in parts]).tolist()) == list(range(40))


SHARES = (0.5, 0.1, 0.4)
BY_EPISODE = [[0, 1, 4, 5], [2, 3, 6, 7]]
BY_RETURN = [[0, 1, 3, 6], [2, 4, 5, 7]]


@pytest.mark.parametrize("seed", range(20))
def test_one_large_group_leaves_the_shares_as_they_are_asked_for(seed: int) -> None:
    group = np.r_[np.zeros(3000, np.int64), np.arange(1, 3001)]
    found = by_group(group, SHARES, np.random.default_rng(seed))
    assert [len(part) for part in found] == [3000, 600, 2400]
    # Two that only fit one part each: 3,000 and 2,000 of 6,000, beside 1,000 alone.
    group = np.r_[np.repeat([0, 1], [2000, 3000]), np.arange(2, 1002)]
    found = by_group(group, SHARES, np.random.default_rng(seed))
    assert [len(part) for part in found] == [3000, 600, 2400]
    assert set(group[found[0]].tolist()) == {1}


@pytest.mark.parametrize("seed", range(20))
def test_groups_of_mixed_sizes_meet_the_shares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(100), rng.integers(1, 60, 100))
    for found in (by_group(group, SHARES, rng), by_value(rng.normal(size=len(group)), group, SHARES, rng)):
        assert np.sort(np.concatenate(found)).tolist() == list(range(len(group)))
        assert sum(len(np.unique(group[part])) for part in found) == 100
        np.testing.assert_allclose([len(part) / len(group) for part in found], SHARES, atol=0.04)


def test_as_many_groups_as_parts_fill_them_all() -> None:
    for sizes in ([5, 5, 5], [1, 1, 98], [1500, 1500, 1500, 1499]):
        group = np.repeat(np.arange(len(sizes)), sizes)
        for seed in range(20):
            rng = np.random.default_rng(seed)
            for found in (by_group(group, SHARES, rng), by_value(group * 1.0, group, SHARES, rng)):
                assert all(len(part) for part in found)
    with pytest.raises(DataError, match="a part would be empty"):
        by_group(np.repeat([0, 1], 5), SHARES, np.random.default_rng(0))


def test_draws_of_episodes_alone_are_what_they_were() -> None:
    # As drawn by version 0.1: by episode, and by return.
    alone = np.arange(8)
    assert [part.tolist() for part in by_group(alone, (0.5, 0.5), np.random.default_rng(1))] == BY_EPISODE
    assert [part.tolist() for part in by_value(alone % 4.0, alone, (0.5, 0.5), np.random.default_rng(1))] == BY_RETURN


@pytest.mark.parametrize("seed", range(100))
def test_a_split_by_value_has_every_episode_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(100, 300))
    try:
        found = by_value(rng.normal(size=count), np.arange(count), (0.44, 0.5, 0.011, 0.049), rng)
    except DataError:
        return
    assert np.sort(np.concatenate(found)).tolist() == list(range(count))


@pytest.mark.parametrize("seed", range(5))
def test_a_split_by_return_keeps_groups_whole(seed: int) -> None:
    # Patient p has 4 episodes with returns p, p + 10, p + 20, p + 30: means in the order of p.
    parts = grouped_log().split((0.5, 0.5), seed=seed, by="return")
    groups = [part.group for part in parts]
    assert not set(groups[0].tolist()) & set(groups[1].tolist())
    assert [len(group) for group in groups] == [20, 20]
    for group in groups:  # five buckets of two patients: one each
        assert sorted(p // 2 for p in set(group.tolist())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["datetime64[s]", "float64"])
def test_a_split_by_time_leaves_out_what_still_runs_when_the_test_period_starts(kind: str) -> None:
    # (start, end): the cut is at 30, where the third starts. The second still runs then; the first has ended.
    times = np.array([0, 9, 10, 30, 30, 40, 50, 60])
    columns = {
        "episode": np.repeat(np.arange(4), 2),
        "time": times.astype("int64").astype(kind),
        "observation": np.zeros((8, 1), np.float32),
        "action": np.tile([0, 1], 4).astype(np.int32),
        "reward": np.zeros(8, np.float32),
        "terminated": np.tile([False, True], 4),
    }
    past, future = st.read(columns).split((0.5, 0.5), by="time")
    assert past.episode_id.tolist() == [0]
    assert future.episode_id.tolist() == [2, 3]
    columns["time"] = np.array([0, 9, 10, 29, 30, 40, 50, 60]).astype("int64").astype(kind)
    past, future = st.read(columns).split((0.5, 0.5), by="time")
    assert past.episode_id.tolist() == [0, 1]


def test_a_group_is_held_by_the_part_its_episodes_stay_in() -> None:
    # The second episode, of group 1, runs over the cut and is left out; so the fourth, of group 1, may stay.
    start, end = np.array([0, 1, 2, 3]), np.array([0, 9, 2, 3])
    found = by_time(start, end, np.array([0, 1, 2, 1]), (0.5, 0.5))
    assert [part.tolist() for part in found] == [[0], [2, 3]]


def test_splits_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="`by` of a split must be one of episode, group, time, return"):
        grouped_log().split(by="patient")
    for by in ("group", "time"):
        with pytest.raises(DataError, match=f"needs a column with the role `{by}`"):
            tiny_log().split((0.5, 0.5), by=by)


# --- pieces and sums --------------------------------------------------------------------------------------


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


def test_parts_joined_again_are_the_log() -> None:
    log = tiny_log(**full_columns())
    again = log.head(1).concat(log.select_episodes([1, 2]))
    assert again.content_hash == log.content_hash
    assert again.can_bootstrap.tolist() == log.can_bootstrap.tolist()
    np.testing.assert_array_equal(again.next_observation, log.next_observation)
    # What one of them lacks is left out.
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
    # Episode 9 of the other log is not patient 9.
    assert joined.group.tolist() == ["9", "4", "4", "7", "8", "9-2"]
    assert joined.notes[-1].startswith("joined logs: 3 episodes of logs without groups are groups of their own")
    assert bare.concat(log).group.tolist() == ["7", "8", "9-2", "9", "4", "4"]
    assert log.concat(dataclasses.replace(log, episode_id=np.array([5, 6, 7]))).group.tolist() == [9, 4, 4] * 2
    other = dataclasses.replace(bare, group=np.array(["4", "x", "x"]))
    assert log.concat(other).group.tolist() == ["9", "4", "4", "4", "x", "x"]
    assert log.concat(bare, bare).group.tolist()[3:] == ["7", "8", "9-2", "7-2", "8-2", "9-2-2"]
    assert bare.concat(bare).group is None


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
    assert dataclasses.replace(continuous, schema=bounded).action_space.high.tolist() == [1, 3]
    parts = dataclasses.replace(tiny_log().schema, num_actions=None, action_counts=(2, 3))
    assert dataclasses.replace(tiny_log(), schema=parts).action_space == spaces.MultiDiscrete([2, 3])


def test_the_text_of_a_log_shows_shapes_and_no_values() -> None:
    text = repr(tiny_log())
    assert "3 episodes, 6 transitions, observation 2, action discrete, 3" in text
    assert not any(str(v) in text for v in ("32.0", "array", "[["))
