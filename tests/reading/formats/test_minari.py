"""Reading Minari datasets: what Minari wrote, and files made to harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from format_files import BOX, FIXTURE_FORMATS, assemble_any, change, expected, opened, read, same

from stitchrl.errors import StitchRLError
from stitchrl.reading.formats import (
    minari,
)


@pytest.mark.parametrize("name", [n for n in FIXTURE_FORMATS if n.startswith("minari/")])
def test_minari_is_what_minari_wrote(made: Path, name: str) -> None:
    log, known = read(made / name), expected(made, Path(name).name)
    observed = known["observation"]
    first = 0 if "cartpole" in name else [1, 0] if "multi" in name else 1
    action = known["action"] - first
    action = action @ [3, 1] if "multi" in name else action
    same(
        log,
        observation=observed,
        action=action,
        reward=known["reward"],
        terminated=known["terminated"],
        truncated=known["truncated"],
    )
    index = log.next_observation_index
    assert (index >= 0).all()
    np.testing.assert_array_equal(
        log.observation_table[index], known["next_observation"].astype(log.observation_table.dtype)
    )
    assert log.episode_lengths.tolist() == known["length"].tolist()
    assert known["terminated"].any()
    assert known["truncated"].any()
    assert log.num_actions == {"cartpole-v0": 2, "multi-v0": 6}.get(Path(name).name, 4)


def test_minari_keeps_names_of_parts_and_actions(made: Path) -> None:
    log = read(made / "minari/toy-hdf5-v0")
    assert log.observation_names[:4] == (
        "observations/pair/0=1",
        "observations/pair/0=2",
        "observations/pair/0=3",
        "observations/pair/1[0]",
    )
    assert log.schema.action_categories == ("1", "2", "3", "4")
    assert any("observations/goal is text" in note for note in log.notes)
    assert read(made / "minari/multi-v0").schema.action_counts == (2, 3)


def test_minari_is_found_by_folder_data_folder_and_file(made: Path) -> None:
    folder = made / "minari/cartpole-v0"
    hashes = {read(p).content_hash for p in (folder, folder / "data", folder / "data/main_data.hdf5")}
    assert len(hashes) == 1


def test_minari_storages_agree(made: Path) -> None:
    logs = [read(made / f"minari/toy-{storage}-v0") for storage in ("arrow", "parquet")]
    assert logs[0].content_hash == logs[1].content_hash == read(made / "minari/toy-hdf5-v0").content_hash


def test_minari_before_its_metadata_file(copy: Any) -> None:
    folder = copy("minari/cartpole-v0")
    before = read(folder).content_hash
    metadata = json.loads((folder / "data/metadata.json").read_text())
    (folder / "data/metadata.json").unlink()
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        for key in ("total_episodes", "total_steps", "action_space", "dataset_id"):
            file.attrs[key] = metadata[key]
    assert read(folder).content_hash == before  # the observation space is that of the arrays


def test_minari_with_both_flags_terminated(copy: Any) -> None:
    folder = copy("minari/toy-hdf5-v0")
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        file["episode_0/truncations"][-1] = True
    log = read(folder)
    last = log.episode_start[1] - 1
    assert (log.terminated[last], log.truncated[last]) == (True, False)


def test_minari_without_an_end_is_cut_at_its_last_row(copy: Any) -> None:
    folder = copy("minari/toy-hdf5-v0")
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        file["episode_0/terminations"][-1] = False
    log = read(folder)
    assert log.num_episodes == 3
    assert log.truncated[log.episode_start[1] - 1]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "metadata.json").write_text("{"),
        lambda f: (f / "metadata.json").write_text("[]"),
        lambda f: (f / "metadata.json").write_text("[" * 100_000),
        lambda f: (f / "metadata.json").unlink(),
        lambda f: (f / "main_data.hdf5").unlink(),
        lambda f: change(f, total_episodes=10**15),
        lambda f: change(f, total_episodes="many"),
        lambda f: change(f, total_episodes=0),
        lambda f: change(f, data_format="pickle"),
        lambda f: change(f, action_space='{"type": "Graph"}'),
        lambda f: change(f, action_space='{"type": "Discrete", "n": 1000000000000, "start": 1}'),
        lambda f: change(f, action_space='{"type": "Discrete", "n": 3, "start": 0}'),
        lambda f: change(f, action_space='{"type": "Discrete", "n": "x"}'),
        lambda f: change(f, observation_space='{"type": "Text"}'),
        lambda f: change(f, observation_space={"type": "Dict", "subspaces": {"gone": BOX}}),
        lambda f: edit(f, lambda h: h.pop("episode_1")),
        lambda f: edit(f, lambda h: h["episode_1"].pop("rewards")),
        lambda f: replace(f, "episode_1/rewards", np.zeros(99)),
        lambda f: replace(f, "episode_1/rewards", np.array([b"a", b"b", b"c"])),
        lambda f: replace(f, "episode_1/actions", np.zeros(2, np.int64)),
        lambda f: replace(f, "episode_1/terminations", np.full(3, 7)),
        lambda f: replace(f, "episode_1/observations/position", np.zeros((9, 5), np.float32)),
        lambda f: replace(f, "episode_1/observations/position", np.full((4, 2), np.nan, np.float32)),
    ],
)
def test_minari_spoiled_is_one_sentence(copy: Any, spoil: Any) -> None:
    folder = copy("minari/toy-hdf5-v0")
    spoil(folder / "data")
    with pytest.raises(StitchRLError, match="toy-hdf5-v0"):
        minari.FORMAT.open(folder) and assemble_any(minari.FORMAT.open(folder))


def edit(folder: Path, action: Any) -> None:
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        action(file)


def replace(folder: Path, name: str, values: np.ndarray) -> None:
    def put(file: Any) -> None:
        del file[name]
        file[name] = values

    edit(folder, put)


def test_minari_of_mixed_actions_asks_for_a_schema(copy: Any) -> None:
    folder = copy("minari/toy-hdf5-v0")
    space = {"type": "Dict", "subspaces": {"a": {"type": "Discrete", "n": 2, "start": 0}, "b": BOX}}
    change(folder / "data", action_space=json.dumps(space))
    log = opened(folder)
    assert log.schema is None
    assert "mixes numbers and choices" in log.notes[-1]
    assert {"actions/a", "actions/b"} <= set(log.names)
