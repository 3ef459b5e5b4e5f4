"""Writing Minari datasets: stitchrl and Minari itself read them back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from format_files import put, read, same

from stitchrl.errors import ConfigurationError, StitchRLWarning
from stitchrl.reading.assemble import assemble
from stitchrl.reading.formats import (
    minari,
)
from stitchrl.reading.sources import source
from stitchrl.reading.writers.minari import write_minari


@pytest.mark.parametrize("name", ["minari/cartpole-v0", "minari/multi-v0", "minari/pixels-v0", "d4rl_full.hdf5"])
def test_written_minari_reads_back(made: Path, tmp_path: Path, name: str) -> None:
    log = read(made / name)
    folder = write_minari(log, tmp_path / "copied-v0")
    back = read(folder)
    same(back, observation=log.observation_table[log.observation_index])
    for column in ("action", "reward", "terminated", "truncated", "step", "episode_start", "episode_id"):
        np.testing.assert_array_equal(getattr(back, column), getattr(log, column))
    np.testing.assert_array_equal(
        back.observation_table[back.next_observation_index], log.observation_table[log.next_observation_index]
    )
    assert back.num_actions == log.num_actions
    assert [p.name for p in tmp_path.iterdir()] == ["copied-v0"]


@pytest.mark.parametrize("name", ["minari/cartpole-v0", "minari/multi-v0", "d4rl_full.hdf5"])
def test_the_real_minari_loads_what_is_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    library = pytest.importorskip("minari")
    log = read(made / name)
    write_minari(log, tmp_path / "stays-v3")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    loaded = library.load_dataset("stays-v3")
    assert (loaded.total_episodes, loaded.total_steps) == (log.num_episodes, log.num_transitions)
    for number, episode in enumerate(loaded):
        rows = slice(log.episode_start[number], log.episode_start[number + 1])
        assert len(episode.observations) == len(episode.rewards) + 1
        np.testing.assert_array_equal(episode.observations[:-1], log.observation[rows])
        np.testing.assert_array_equal(episode.observations[1:], log.next_observation[rows])
        np.testing.assert_array_equal(episode.rewards, log.reward[rows])
        np.testing.assert_array_equal(episode.terminations, log.terminated[rows])
        np.testing.assert_array_equal(episode.truncations, log.truncated[rows])
        assert all(loaded.action_space.contains(a) for a in episode.actions)
    assert loaded.observation_space.contains(episode.observations[0])


def test_minari_keeps_what_stitchrl_needs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "observation": rng.normal(size=(6, 2)).astype(np.float32),
        "action": np.array([0, 1, 2, 0, 1, 2]),
        "reward": rng.normal(size=6).astype(np.float32),
        "terminated": np.array([0, 0, 1, 0, 0, 0], bool),
        "behavior_log_prob": np.log(rng.uniform(0.1, 1, 6)).astype(np.float32),
        "weight": rng.uniform(size=6).astype(np.float32),
        "step": np.array([0, 2, 4, 0, 1, 2]),
    }
    names = {n: n for n in arrays}
    schema = minari.described("x", names, num_actions=4, gamma=0.5, end="truncated")
    log = assemble(source.from_arrays(arrays, origin="x", format="x"), schema)
    with pytest.warns(StitchRLWarning, match="2 of 2 episodes lack the observation after their last row"):
        folder = write_minari(log, tmp_path / "kept-v0")
    back = read(folder)
    assert back.content_hash == log.content_hash
    assert back.schema.gamma == 0.5
    assert back.can_bootstrap.tolist() == log.can_bootstrap.tolist() == [True] * 5 + [False]
    with pytest.raises(ConfigurationError, match="nothing is overwritten"):
        write_minari(log, folder)
    with pytest.raises(ConfigurationError, match="ends in a version"):
        write_minari(log, tmp_path / "kept")


def test_minari_of_some_known_final_observations(made: Path, tmp_path: Path) -> None:
    log = read(made / "d4rl_full.hdf5")
    index = log.next_observation_index.copy()
    index[[3, 6]] = -1  # the ends of the first two episodes
    some = dataclasses.replace(log, next_observation_index=index)
    with pytest.warns(StitchRLWarning, match="2 of 4 episodes"):
        back = read(write_minari(some, tmp_path / "some-v0"))
    assert np.flatnonzero(back.next_observation_index < 0).tolist() == [3, 6]
    assert back.content_hash == some.content_hash


def test_minari_cuts_an_episode_at_a_gap(made: Path, tmp_path: Path) -> None:
    log = read(made / "d4rl_full.hdf5")
    index = log.next_observation_index.copy()
    index[1] = index[6]  # what follows row 1 is not row 2
    gap = dataclasses.replace(log, next_observation_index=index)
    back = read(write_minari(gap, tmp_path / "gap-v0"))
    assert back.num_episodes == log.num_episodes + 1
    assert np.flatnonzero(back.truncated).tolist() == [1, *np.flatnonzero(log.truncated)]
    np.testing.assert_array_equal(back.next_observation, gap.next_observation)


def test_minari_without_a_final_observation_does_not_invent_one(copy: Any) -> None:
    folder = copy("minari/cartpole-v0")
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        for number in range(3):
            kept = file[f"episode_{number}/observations"][:-1]
            put(file, f"episode_{number}/observations", kept)
    log = read(folder)
    ends = log.episode_start[1:] - 1
    assert (log.next_observation_index[ends] == -1).all()
    assert log.can_bootstrap[ends].tolist() == log.terminated[ends].tolist()
