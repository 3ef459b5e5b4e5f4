"""Splits keep whole episodes and groups, meet their shares, and are a function of the seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds import random_log, tiny_log

import stitchrl as st
from stitchrl.data.splits import by_group, by_time, by_value
from stitchrl.errors import ConfigurationError, DataError, StitchRLWarning


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
    # A split by episode puts groups into several parts, and warns of it.
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
    # Two groups, of 3,000 and 2,000 episodes of 6,000, fit into one part each; 1,000 episodes stand alone.
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
    # These are the splits by episode and by return that version 0.1 drew.
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
