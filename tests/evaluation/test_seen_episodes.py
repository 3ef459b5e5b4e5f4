"""Episodes that a policy learned from, told from equal ones (`benchmarks/known_episodes.py` counts over many draws)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import comb
from pathlib import Path

import numpy as np
import pytest
from recurring_worlds import CHANGES, bandit, columns_of, customers, grid, mixed, one_step, read

import stitchrl as st
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.errors import CheckpointError
from stitchrl.evaluation.seen_episodes import _Counts, overlap_of
from stitchrl.storage.learned_from import EPISODES, read_learned_from, write_learned_from
from stitchrl.storage.tensors import write_tensors

Draw = Callable[[int, int], st.Dataset]


def wards(episodes: int, seed: int) -> st.Dataset:
    """Stays of five rows with two real numbers each."""
    rng, rows = np.random.default_rng(seed), 5 * episodes
    return read(
        {
            "episode": np.repeat(np.arange(episodes), 5),
            "observation": rng.normal(size=(rows, 2)).astype(np.float32),
            "action": rng.integers(0, 3, rows),
            "reward": rng.normal(size=rows).astype(np.float32),
            "terminated": np.tile(np.arange(5) == 4, episodes),
        }
    )


def planned(episodes: int, seed: int) -> st.Dataset:
    """Every pair of a context and an action equally often; the rewards alone are chance."""
    context = np.repeat(np.arange(episodes // 10), 10)
    return one_step(context, np.arange(len(context)) % 2, np.random.default_rng(seed))


def regulars(episodes: int, seed: int) -> st.Dataset:
    """Customers of whom each comes as often in every log, one to five times."""
    times = np.random.default_rng(5).integers(1, 6, episodes // 3)
    rng = np.random.default_rng(seed)
    return one_step(np.repeat(np.arange(len(times)), times), rng.integers(0, 2, times.sum()), rng)


def one_place(episodes: int, seed: int) -> st.Dataset:
    """Episodes of five rows in which the observation stays what it is, of the same people in every log."""
    people, rng = np.random.default_rng(7).normal(size=(episodes, 2)), np.random.default_rng(seed)
    columns = columns_of(wards(episodes, seed))
    return read(columns | {"observation": np.repeat(people, 5, 0), "action": rng.integers(0, 2, 5 * episodes)})


@pytest.mark.parametrize(
    ("draw", "episodes"),
    [
        (bandit(10), 300),
        (bandit(200), 400),
        (bandit(1000), 400),
        (bandit(20_000), 2000),
        (customers, 300),
        (planned, 400),
        (regulars, 600),
        (grid, 150),
        (one_place, 60),
        (wards, 60),
    ],
    ids=["10", "200", "1,000", "20,000", "customers", "planned", "regulars", "grid", "one place", "wards"],
)
def test_fresh_logs_are_not_refused(draw: Draw, episodes: int) -> None:
    learned = draw(episodes, 0)
    memory = EpisodeMemory.of(learned)
    for fresh in (draw(episodes, 1), draw(episodes // 6, 2)):
        assert overlap_of(memory, fresh).seen == ""
    assert overlap_of(EpisodeMemory.of(draw(episodes // 6, 3)), learned).seen == ""


REAL = {name: 20 if name in ("two episodes joined", "half of the episodes") else 40 for name in CHANGES}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_log_of_real_numbers(change: str) -> None:
    columns = columns_of(wards(40, 0))
    found = overlap_of(EpisodeMemory.of(read(columns)), read(CHANGES[change](columns)))
    if change == "a column rounded":  # nothing cheap sees it
        assert (found.known, found.seen) == (0, "")
        return
    assert (found.known, found.removable) == (REAL[change], True)
    assert f"learned from {REAL[change]} of the {REAL[change]} episodes" in found.seen
    expected = {"reward + 1": "though their rewards differ", "first rows dropped": "most of their rows show"}
    assert expected.get(change, "") in found.seen
    memory = EpisodeMemory.of(read(columns))
    assert memory.recognised(read(CHANGES[change](columns))).all()


@pytest.mark.parametrize("contexts", [10, 50, 200, 1000])
def test_a_log_of_few_contexts_is_known_as_a_whole(contexts: int) -> None:
    columns = columns_of(bandit(contexts)(2000, 0))
    memory = EpisodeMemory.of(read(columns))
    seen = {name: overlap_of(memory, read(CHANGES[name](columns))) for name in CHANGES}
    told = {"the very log", "rows reversed", "one row less", "reward + 1", "reward * 100"}
    if contexts > 10:  # half of a log has too few different episodes else
        told |= {"half of the episodes"}
    assert {name for name in told if not seen[name].seen} == set()
    assert not any(seen[name].removable for name in told)


def test_one_known_episode_among_real_numbers_is_refused() -> None:
    known, fresh = columns_of(wards(40, 0)), columns_of(wards(40, 1))
    found = overlap_of(EpisodeMemory.of(read(known)), read(mixed(known, fresh, 1 / 40)))
    assert (found.known, found.removable) == (1, True)
    assert "learned from 1 of the 40 episodes" in found.seen


def test_a_part_of_a_sparse_bandit_is_seen() -> None:
    known, fresh = (columns_of(bandit(20_000)(2000, seed)) for seed in (0, 1))
    assert overlap_of(EpisodeMemory.of(read(known)), read(mixed(known, fresh, 0.1))).seen


def test_runs_of_rows_are_as_long_as_the_world_needs() -> None:
    assert EpisodeMemory.of(wards(40, 0)).run == 1
    memory = EpisodeMemory.of(grid(150, 0))
    assert memory.run > 1
    assert memory.recurring > 0.9


def test_of_a_long_log_a_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = columns_of(wards(300, 0))
    monkeypatch.setattr("stitchrl.data.episode_memory.MOST_EPISODES", 50)
    monkeypatch.setattr("stitchrl.data.episode_memory.MOST_ROWS", 100)
    memory = EpisodeMemory.of(read(columns))
    assert (len(memory.episodes), len(memory.runs), len(memory.chosen)) == (50, 100, 300)
    for name in ("the very log", "reward + 1", "first rows dropped"):
        found = overlap_of(memory, read(CHANGES[name](columns)))
        assert found.seen
        assert found.removable == (name != "first rows dropped")  # of the others all choices are kept
    assert overlap_of(memory, read(columns)).known == 300
    assert overlap_of(memory, wards(300, 1)).seen == ""


def test_what_was_written_is_read_and_so_is_an_older_version(tmp_path: Path) -> None:
    log = wards(40, 0)
    memory = EpisodeMemory.of(log)
    write_learned_from(tmp_path, memory.arrays())
    again = EpisodeMemory.from_arrays(read_learned_from(tmp_path) or {})
    for name, array in memory.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)
    write_tensors(tmp_path / EPISODES, {"contents": np.sort(log.episode_contents)}, {})
    old = EpisodeMemory.from_arrays(read_learned_from(tmp_path) or {})
    assert "learned from 40 of the 40 episodes" in overlap_of(old, log).seen
    assert overlap_of(old, wards(40, 1)).seen == ""
    assert old.recognised(log).all()
    sparse = bandit(1000)
    bare = {"contents": np.unique(sparse(2000, 0).episode_contents)}
    assert overlap_of(EpisodeMemory.from_arrays(bare), sparse(2000, 1)).seen == ""
    write_tensors(tmp_path / EPISODES, {"contents": memory.episodes, "limits": np.zeros(4, np.uint64)}, {})
    with pytest.raises(CheckpointError, match="no array `chosen`"):
        read_learned_from(tmp_path)


def test_chi_square_has_the_moments_of_all_permutations() -> None:
    total, own = np.array([3, 1, 1, 4]), 4
    values, ways = [], []
    for chosen in product(*(range(t + 1) for t in total)):
        if sum(chosen) == own:
            counts = _Counts(total - np.array(chosen), np.array(chosen), np.zeros(4, np.int64))
            values.append(counts.chi_square())
            ways.append(np.prod([comb(int(t), c) for t, c in zip(total, chosen, strict=True)]))
    seen, weight = np.array([value[0] for value in values]), np.array(ways) / comb(9, 4)
    assert weight.sum() == pytest.approx(1)
    mean = (seen * weight).sum()
    assert values[0][1] == pytest.approx(mean)
    assert values[0][2] == pytest.approx((seen**2 * weight).sum() - mean**2)


def test_the_probability_that_two_draws_are_the_same() -> None:
    ones = np.ones(3, np.int64)
    assert np.exp(_Counts(ones, ones, np.zeros(3, np.int64)).same_by_chance()) == pytest.approx(8 / 20)
    assert np.exp(_Counts(ones, ones, np.arange(3)).same_by_chance()) == pytest.approx(1)
    assert _Counts(ones, 2 * ones, np.zeros(3, np.int64)).same_by_chance() == 0
