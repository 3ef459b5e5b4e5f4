"""Readers of formats: each against fixtures that the format's own library made, and against files made to harm."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, DataError, SchemaError, StitchRLError, StitchRLWarning
from stitchrl.reading.assemble import assemble
from stitchrl.reading.formats import (
    d3rlpy_buffer,
    d4rl,
    lerobot,
    minari,
    npz,
    ogbench,
    open_bandit,
    rlds,
    stable_baselines3,
)
from stitchrl.reading.sources import arrays as parts
from stitchrl.reading.sources import pickles, source
from stitchrl.reading.writers.minari import write_minari

FIXTURES = Path(__file__).parent.parent / "support" / "format_fixtures" / "fixtures.zip"
FORMATS = [
    module.FORMAT
    for module in (lerobot, minari, rlds, stable_baselines3, ogbench, npz, d3rlpy_buffer, d4rl, open_bandit)
]
"""In the order they are asked."""
BOX = {"type": "Box", "shape": [2], "dtype": "float32"}
FIXTURE_FORMATS = {
    "minari/cartpole-v0": "Minari",
    "minari/toy-hdf5-v0": "Minari",
    "minari/toy-arrow-v0": "Minari",
    "minari/toy-parquet-v0": "Minari",
    "minari/multi-v0": "Minari",
    "minari/pixels-v0": "Minari",
    "d4rl_full.hdf5": "D4RL",
    "d4rl_plain.hdf5": "D4RL",
    "d4rl_untimed.hdf5": "D4RL",
    "d3rlpy_discrete.h5": "d3rlpy buffer",
    "d3rlpy_continuous.h5": "d3rlpy buffer",
    "d3rlpy_parts.h5": "d3rlpy buffer",
    "sb3_discrete_full.pkl": "Stable-Baselines3",
    "sb3_box.pkl": "Stable-Baselines3",
    "sb3_shared_full.pkl": "Stable-Baselines3",
    "sb3_dict.pkl": "Stable-Baselines3",
    "sb3_n_step.pkl": "Stable-Baselines3",
    "lerobot_rewarded": "LeRobot",
    "lerobot_plain": "LeRobot",
    "ogbench_downloaded.npz": "OGBench",
    "ogbench_regular.npz": "OGBench",
    "ogbench_compact.npz": "OGBench",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    with zipfile.ZipFile(FIXTURES) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Any:
    """A fixture that may be spoiled."""

    def copied(name: str) -> Path:
        target = tmp_path / Path(name).name
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, target)
        return target

    return copied


def expected(made: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(made / f"{name}.expected.npz") as arrays:
        return dict(arrays)


def recognised(path: Path) -> list[str]:
    head = b"" if path.is_dir() else path.read_bytes()[:512]
    return [known.name for known in FORMATS if known.recognises(path, head)]


def opened(path: Path) -> Any:
    name = recognised(path)[0]
    return next(known for known in FORMATS if known.name == name).open(path)


def read(path: Path) -> Dataset:
    log = opened(path)
    assert log.schema is not None
    return assemble(log, log.schema)


def same(log: Dataset, **columns: np.ndarray) -> None:
    """Columns are what the library's own arrays say, to the bit (as float32)."""
    for name, values in columns.items():
        found = log.observation_table[log.observation_index] if name == "observation" else getattr(log, name)
        if name == "next_observation":
            values = np.where(log.can_bootstrap.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
        assert found.shape == values.shape, name
        np.testing.assert_array_equal(found, values.astype(found.dtype), err_msg=name)


# --- which format -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "format"), FIXTURE_FORMATS.items())
def test_content_tells_the_format(made: Path, name: str, format: str) -> None:
    assert recognised(made / name)[0] == format
    assert opened(made / name).format.split()[0] == format.split()[0]


def test_recognition_never_raises(tmp_path: Path) -> None:
    for content in (b"", b"\x80", b"\x80\x04", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"a,b\n", b"\xff" * 600):
        path = tmp_path / "any.bin"
        path.write_bytes(content)
        recognised(path)
    assert recognised(tmp_path) == []


# --- Minari -----------------------------------------------------------------------------------------------------


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


def assemble_any(log: Any) -> Dataset:
    return assemble(log, log.schema)


def change(folder: Path, **entries: Any) -> None:
    metadata = json.loads((folder / "metadata.json").read_text()) | entries
    (folder / "metadata.json").write_text(json.dumps(metadata))


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


# --- writing Minari ---------------------------------------------------------------------------------------------


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


# --- D4RL -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d4rl_full", "d4rl_plain", "d4rl_untimed"])
def test_d4rl_terminals_apart_from_timeouts(made: Path, name: str) -> None:
    log, known = read(made / f"{name}.hdf5"), expected(made, "d4rl")
    terminals, timeouts = known["terminals"], known["timeouts"] & ~known["terminals"]
    if name == "d4rl_untimed":
        timeouts = np.arange(12) == 11
        assert any("no `timeouts`" in note for note in log.notes)
    else:
        assert any("1 rows are terminals and timeouts" in note for note in log.notes)
    same(
        log,
        observation=known["observations"],
        action=known["actions"],
        reward=known["rewards"],
        terminated=terminals,
        truncated=timeouts,
    )
    assert log.num_actions is None
    if name == "d4rl_plain":  # a cut without its next observation has no target
        assert log.can_bootstrap.tolist() == (~timeouts).tolist()
    else:
        assert log.can_bootstrap.all()
        same(log, next_observation=known["next_observations"])


def test_d4rl_infos_are_columns_without_a_role(made: Path) -> None:
    log = opened(made / "d4rl_full.hdf5")
    assert "infos/qpos" in log.names
    assert not any("metadata" in name for name in log.names)
    (block,) = log.blocks(["infos/qpos"])
    np.testing.assert_array_equal(block["infos/qpos"], expected(made, "d4rl")["infos_qpos"])


def test_hdf5_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d4rl, "BLOCK_ROWS", 7)
    arrays = flat(rows=30, discrete=True)
    path = hdf5(tmp_path / "log.hdf5", arrays)
    log = opened(path)
    assert [len(block["actions"]) for block in log.blocks(["actions", "rewards"])] == [7, 7, 7, 7, 2]
    data = assemble_any(log)
    assert data.num_actions == 3
    same(data, observation=arrays["observations"], action=arrays["actions"][:, 0], reward=arrays["rewards"][:, 0])
    following = np.roll(arrays["observations"], -1, axis=0)
    data = assemble_any(opened(hdf5(path, arrays | {"next_observations": following})))
    np.testing.assert_array_equal(data.next_observation, following)


def flat(rows: int = 12, *, discrete: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": (np.arange(rows) % 3)[:, None] if discrete else rng.normal(size=(rows, 2)),
        "rewards": rng.normal(size=(rows, 1)),
        "terminals": (np.arange(rows) % 4 == 3).astype(np.float32),
        "timeouts": np.zeros((rows, 1), np.float32),
    }


def hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a | {"rewards": a["rewards"][:-1]},
        lambda a: a | {"terminals": np.arange(12)},
        lambda a: a | {"timeouts": np.full(12, np.nan)},
        lambda a: a | {"observations": np.full((12, 3), np.inf)},
        lambda a: a | {"observations": np.array([b"x"] * 12)},
        lambda a: a | {"rewards": np.zeros((12, 2))},
        lambda a: a | {"actions": np.full(12, -1)},
        lambda a: a | {"actions": np.full(12, 10**9)},
        lambda a: {name: values[:0] for name, values in a.items()},
        lambda a: {"group/inner": a["rewards"]},
        lambda a: {},
        lambda a: {"scalar": np.float32(1)},
    ],
)
def test_spoiled_hdf5_is_one_sentence(tmp_path: Path, spoil: Any) -> None:
    path = hdf5(tmp_path / "spoiled.hdf5", spoil(flat()))
    with pytest.raises(StitchRLError, match=r"spoiled\.hdf5"):
        read(path)


def test_hdf5_leads_nowhere_else(tmp_path: Path) -> None:
    other = hdf5(tmp_path / "other.hdf5", {"rewards": np.zeros(12)})
    (tmp_path / "raw.bin").write_bytes(b"\0" * 96)
    kept = {name: values for name, values in flat().items() if name != "rewards"}
    layout = h5py.VirtualLayout((12,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "rewards", (12,))

    def external(file: Any) -> None:
        file["rewards"] = h5py.ExternalLink(str(other), "rewards")

    def virtual(file: Any) -> None:
        file.create_virtual_dataset("rewards", layout)

    def stored_elsewhere(file: Any) -> None:
        file.create_dataset("rewards", (12,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 96)])

    for number, put in enumerate((external, virtual, stored_elsewhere)):
        path = hdf5(tmp_path / f"led{number}.hdf5", kept)
        with h5py.File(path, "a") as file:
            put(file)
        with pytest.raises(DataError, match=rf"led{number}\.hdf5 is (a link|kept in another)|of led{number}\.hdf5"):
            read(path)


@pytest.mark.parametrize("shape", [(10**15, 3), (2**62, 1), (10**11,)])
def test_declared_sizes_are_refused_before_memory_is_taken(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:
        for name in flat():
            file.create_dataset(name, (shape[0], *shape[1:]), "f4", chunks=(1024, *shape[1:]))
    with pytest.raises(DataError, match=r"huge\.hdf5 declares .* cannot hold"):
        d4rl.FORMAT.open(path)


# --- d3rlpy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["discrete", "continuous", "parts"])
def test_d3rlpy_is_what_d3rlpy_dumped(made: Path, name: str) -> None:
    log, known = read(made / f"d3rlpy_{name}.h5"), expected(made, f"d3rlpy_{name}")
    same(log, **{key: values for key, values in known.items() if key != "length"})
    assert log.episode_lengths.tolist() == known["length"].tolist()
    assert log.num_actions == (4 if name == "discrete" else None)
    # d3rlpy never stores what follows a cut: that row has no target, as in d3rlpy itself
    assert log.can_bootstrap.tolist() == (~known["truncated"]).tolist()


def test_d3rlpy_version_1(tmp_path: Path) -> None:
    arrays = flat(discrete=True)
    del arrays["timeouts"]
    ends = arrays["terminals"].copy()
    ends[[5, 11]] = 1
    path = hdf5(tmp_path / "old.h5", arrays | {"episode_terminals": ends, "discrete_action": True, "version": "1.0"})
    assert recognised(path)[0] == "d3rlpy buffer"
    log = read(path)
    same(log, observation=arrays["observations"], action=arrays["actions"][:, 0], terminated=arrays["terminals"] > 0)
    assert np.flatnonzero(log.truncated).tolist() == [5]
    assert log.num_actions == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.pop("rewards_1"),
        lambda f: f.pop("observations_0"),
        lambda f: f.pop("terminated_2"),
        lambda f: put(f, "actions_1", np.zeros((2, 1), np.int64)),
        lambda f: put(f, "observations_1", np.zeros((3, 7), np.float32)),
        lambda f: put(f, "observations_1", np.full((3, 3), np.nan, np.float32)),
        lambda f: put(f, "num_episodes", 10**15),
        lambda f: put(f, "num_episodes", 0),
        lambda f: put(f, "num_episodes", "three"),
        lambda f: put(f, "terminated_1", 5),
        lambda f: put(f, "rewards_1", np.array([b"a"] * 3)),
    ],
)
def test_spoiled_d3rlpy_is_one_sentence(copy: Any, spoil: Any) -> None:
    path = copy("d3rlpy_discrete.h5")
    with h5py.File(path, "a") as file:
        spoil(file)
    with pytest.raises(StitchRLError, match="d3rlpy_discrete"):
        read(path)


def put(file: Any, name: str, values: Any) -> None:
    del file[name]
    file[name] = values


# --- OGBench and .npz -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["downloaded", "regular", "compact"])
def test_ogbench_masks_against_terminals(made: Path, name: str) -> None:
    log, known = read(made / f"ogbench_{name}.npz"), expected(made, "ogbench")
    terminated = (known["mask"] == 0) & (name != "downloaded")
    same(
        log,
        observation=known["observation"],
        next_observation=known["next_observation"],
        action=known["action"],
        reward=known["mask"] - 1 if name != "downloaded" else np.zeros(12),
        terminated=terminated,
        truncated=known["end"] & ~terminated,
    )
    assert log.can_bootstrap.all()
    said = " ".join(log.notes)
    assert ("has no rewards" in said) == ("no `masks`" in said) == (name == "downloaded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.full(12, 0.5)}, "masks"),
        ({"terminals": np.zeros(5)}, "terminals 5"),
        ({"observations": np.zeros((12, 3), "U4")}, "observation"),
        ({"actions": np.full((12, 2), np.nan)}, "finite"),
    ],
)
def test_spoiled_ogbench_is_one_sentence(made: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with np.load(made / "ogbench_regular.npz") as arrays:
        np.savez(tmp_path / "spoiled.npz", **(dict(arrays) | change))
    with pytest.raises(StitchRLError, match=r"spoiled\.npz") as caught:
        read(tmp_path / "spoiled.npz")
    assert message in str(caught.value)


def test_npz_of_role_names_and_of_d4rl_names(tmp_path: Path) -> None:
    arrays = flat(discrete=True)
    np.savez_compressed(tmp_path / "flat.npz", **arrays, seed=np.array(3))
    log = read(tmp_path / "flat.npz")
    same(log, observation=arrays["observations"], action=arrays["actions"][:, 0], terminated=arrays["terminals"] > 0)
    roles = {
        "episode": np.repeat([0, 1], 6),
        "observation": np.ones((12, 2)),
        "action": np.zeros(12, int),
        "reward": np.ones(12),
    }
    np.savez(tmp_path / "roles.npz", **roles, terminated=np.arange(12) % 6 == 5)
    plain = opened(tmp_path / "roles.npz")
    assert plain.schema is None
    assert set(plain.names) == {*roles, "terminated"}
    (block,) = plain.blocks(["observation", "episode"])
    np.testing.assert_array_equal(block["episode"], roles["episode"])


def npz_with(path: Path, header: bytes, body: bytes = b"", name: str = "observations.npy") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 3), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000, 3), }\n",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n",
        b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n",
        b"{'descr': " + b"(" * 3000 + b"\n",
        b"__import__('os').system('true')\n",
        b"",
    ],
)
def test_hostile_npz_is_one_sentence(tmp_path: Path, header: bytes) -> None:
    path = npz_with(tmp_path / "hostile.npz", header)
    with pytest.raises(DataError, match=r"hostile\.npz"):
        list(npz.FORMAT.open(path).blocks(["observations"]))


def test_npz_never_unpickles(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    np.savez(tmp_path / "objects.npz", observation=np.array([Runs(os.mkdir, str(marker))], object))
    with pytest.raises(DataError, match="Python objects"):
        opened(tmp_path / "objects.npz")
    assert not marker.exists()


def test_npz_names_columns_that_differ_in_length(tmp_path: Path) -> None:
    np.savez(tmp_path / "ragged.npz", observation=np.zeros((5, 2)), reward=np.zeros(5), action=np.zeros(4))
    with pytest.raises(DataError, match=r"ragged\.npz must have one row a transition; observation has 5, but action 4"):
        opened(tmp_path / "ragged.npz")


# --- Stable-Baselines3 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["discrete_full", "box", "dict", "n_step", "shared_full"])
def test_sb3_pickle_is_what_the_buffer_held(made: Path, name: str) -> None:
    log, known = read(made / f"sb3_{name}.pkl"), expected(made, f"sb3_{name}")
    following = known.pop("next_observation")
    same(log, **known)
    if name == "shared_full":  # what follows a cut was overwritten
        assert log.can_bootstrap.tolist() == (~known["truncated"]).tolist()
        assert any("optimize_memory_usage" in note for note in log.notes)
        assert any("every done counts as terminated" in note for note in log.notes)
    else:
        assert log.can_bootstrap.all()
        same(log, next_observation=following)
        assert known["truncated"].any()
    assert known["terminated"].any()
    assert log.num_actions == {"box": None, "dict": 6}.get(name, 4)
    assert any("scale a policy's output back" in note for note in log.notes) == (name == "box")


def ring(*, full: bool = True, pos: int = 2, size: int = 5, streams: int = 2, **changes: Any) -> SimpleNamespace:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "observations": rng.normal(size=(size, streams, 3)).astype(np.float32),
        "next_observations": rng.normal(size=(size, streams, 3)).astype(np.float32),
        "actions": np.arange(size * streams).reshape(size, streams, 1) % 4,
        "rewards": np.arange(size * streams, dtype=np.float32).reshape(size, streams),
        "dones": np.zeros((size, streams), np.float32),
        "timeouts": np.zeros((size, streams), np.float32),
        "pos": pos,
        "full": full,
    }
    return SimpleNamespace(**(fields | changes))


def test_sb3_ring_in_memory_starts_at_its_oldest_row() -> None:
    buffer = ring()
    log = assemble_any(stable_baselines3.source_of_buffer(buffer))
    oldest_first = [2, 3, 4, 0, 1]
    assert log.reward.tolist() == [*buffer.rewards[oldest_first, 0], *buffer.rewards[oldest_first, 1]]
    assert np.flatnonzero(log.truncated).tolist() == [4, 9]
    assert log.num_actions == 4
    half = assemble_any(stable_baselines3.source_of_buffer(ring(full=False, pos=3)))
    assert half.reward.tolist() == [0, 2, 4, 1, 3, 5]


def test_sb3_images_become_channels_last() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 3, 36, 40)).astype(np.uint8)
    log = assemble_any(
        stable_baselines3.source_of_buffer(ring(streams=1, observations=pixels, next_observations=pixels))
    )
    assert log.observation_table.shape[1:] == (36, 40, 3)
    np.testing.assert_array_equal(log.observation_table[0], pixels[2, 0].transpose(1, 2, 0))
    assert any("(height, width, channels)" in note for note in log.notes)


def test_sb3_two_lines_convert_what_is_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.pkl"
    path.write_bytes(pickle.dumps(Mine()))
    with pytest.raises(DataError, match="these two lines convert it") as caught:
        opened(path)
    lines = str(caught.value).splitlines()[-2:]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    assert recognised(tmp_path / "mine.npz")[0] == "Stable-Baselines3"
    log, direct = read(tmp_path / "mine.npz"), assemble_any(stable_baselines3.source_of_buffer(Mine()))
    assert log.content_hash == direct.content_hash
    assert log.num_transitions == 10


class Mine:
    """A buffer whose class is the user's own."""

    def __init__(self) -> None:
        vars(self).update(vars(ring()))
        seen, following = self.__dict__["observations"], self.__dict__["next_observations"]
        self.observations, self.next_observations = {"a": seen}, {"a": following}
        self.device = "cpu"
        self.obs_shape = {"a": (3,)}


@pytest.mark.parametrize(
    "changes",
    [
        {"dones": np.zeros((4, 2))},
        {"dones": np.full((5, 2), 0.5)},
        {"rewards": np.zeros(5)},
        {"rewards": np.array([["a"] * 2] * 5)},
        {"observations": np.full((5, 2, 3), np.nan)},
        {"pos": 99},
        {"pos": 0, "full": False},
        {"actions": np.zeros((5, 2, 1), int) - 1},
        {"observations": None},
    ],
)
def test_spoiled_sb3_buffer_is_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(StitchRLError, match="the replay buffer"):
        assemble_any(stable_baselines3.source_of_buffer(ring(**changes)))
    assert not stable_baselines3.is_buffer(SimpleNamespace(observations=1))


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, call: Any, *given: Any) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.given


def globals_of(module: str, name: str, *given: bytes) -> bytes:
    """A pickle that calls module.name with texts."""
    texts = b"".join(b"\x8c" + bytes([len(g)]) + g for g in given)
    named = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + named + b"\x93(" + texts + b"tR."


def hostile(marker: str) -> dict[str, bytes]:
    command = f"touch {marker}"
    code = f"__import__('os').mkdir({marker!r})"
    made = {
        "system": pickle.dumps(Runs(os.system, command)),
        "system in a buffer": pickle.dumps({"observations": Runs(os.system, command)}),
        "eval": pickle.dumps(Runs(eval, code)),
        "exec": pickle.dumps(Runs(exec, code)),
        "partial": pickle.dumps(Runs(functools.partial, os.mkdir, marker)),
        "getattr": globals_of("builtins", "getattr", b"os", b"mkdir"),
        "old protocol": pickle.dumps(Runs(os.system, command), protocol=0),
        "inst": f"(S'{command}'\nios\nsystem\n.".encode(),
        "obj": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "runstring": globals_of("numpy.testing._private.utils", "runstring", code.encode(), b""),
        "numpy load": globals_of("numpy", "load", marker.encode()),
        "f2py": globals_of("numpy.f2py.crackfortran", "myeval", code.encode()),
        "memmap": globals_of("numpy", "memmap", marker.encode(), b"uint8", b"w+"),
        "fromfile": globals_of("numpy", "fromfile", marker.encode()),
        "dotted": globals_of("numpy._core.multiarray", "scalar.__class__", b"x"),
        "dotted inert": globals_of("gymnasium.utils", "seeding.os.system", command.encode()),
        "sb3 function": globals_of("stable_baselines3.common.save_util", "load_from_pkl", marker.encode()),
        "gymnasium make": globals_of("gymnasium.envs.registration", "make", marker.encode()),
        "persistent": b"\x80\x04\x8c\x01aQ.",
        "extension": b"\x80\x04\x82\x01.",
        "build a name": b"\x80\x04cnumpy\ndtype\n}\x8c\x08__code__\x8c\x01xsb.",
        "bytes of 10^15": b"\x80\x04\x8e" + struct.pack("<Q", 10**15) + b"x.",
        "bytearray of 10^15": b"\x80\x05\x96" + struct.pack("<Q", 10**15) + b"x.",
        "frame of 10^15": b"\x80\x04\x95" + struct.pack("<Q", 10**15) + b"N.",
        "memo of 2^31": b"\x80\x04N" + b"r" + struct.pack("<I", 2**31 - 1) + b".",
        "deep": b"\x80\x04)" + b"\x85" * 20_000 + b".",
        "deep key": b"\x80\x04})" + b"\x85" * 20_000 + b"Ns.",
        "deep lists": b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".",
        "laughs": b"\x80\x04]" + b"2a" * 1000 + b".",
        "array of 10^15": b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n)R(K\x01\x8a\x08"
        + struct.pack("<q", 10**15)
        + b"\x85cnumpy\ndtype\n\x8c\x02f4\x85R\x89C\x04aaaatb.",
        "underflow": b"\x80\x04R.",
        "no mark": b"\x80\x04t.",
        "empty": b"\x80\x04.",
        "nothing": b"\x80\x04",
        "garbage": b"\x80\x04\xff\xff\xff",
        "plain list": pickle.dumps([1, 2, 3]),
        "deque": pickle.dumps(deque([1])),
        "code": pickle.dumps(Runs(bytes.fromhex, "00")),
    }
    return made


@pytest.mark.parametrize("name", list(hostile("x")))
def test_hostile_pickles_run_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "buffer.pkl"
    path.write_bytes(hostile(str(marker))[name])
    with pytest.raises(DataError, match=r"buffer\.pkl"):
        stable_baselines3.FORMAT.open(path)
    assert not marker.exists()


def test_pickles_of_endless_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_STEPS", 1000)
    (tmp_path / "many.pkl").write_bytes(b"\x80\x04(" + b"]" * 2000 + b"l.")
    with pytest.raises(DataError, match="more than 1,000 objects"):
        opened(tmp_path / "many.pkl")


def test_pickles_do_not_multiply_what_they_hold(tmp_path: Path) -> None:
    """One text named 3,000 times as bytes; one dict given to 3,000 objects."""
    text = b"\x80\x04X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x94c_codecs\nencode\n\x94\x8c\x06latin1\x94000"
    encoded = text + b"]" + b"h\x01h\x00h\x02\x86Ra" * 3000 + b"."
    held = b"".join(b"\x8c\x05" + f"{i:05}".encode() + b"N" for i in range(10_000))
    given = b"\x80\x04}(" + held + b"u\x940]" + b"cgym.x\nX\n)\x81h\x00ba" * 3000 + b"."
    for content in (encoded, given):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(DataError, match=r"asks for more bytes and attributes than its [0-9,]+ bytes can hold"):
            pickles.loaded(tmp_path / "x.pkl")


@pytest.mark.parametrize("key", [(2**61 - 1) * 3, -(2**61 - 1), 2**53 + 1, 10**400, 2.0**60, float("inf")])
def test_pickles_of_keys_that_collide_are_refused(tmp_path: Path, key: float) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({key: 1}))
    with pytest.raises(DataError, match=r"asks for a dict with a number beyond 2\*\*53 as its key"):
        pickles.loaded(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({2**53: 1, -(2**53): 2, 0.5: 3}))
    assert pickles.loaded(tmp_path / "x.pkl") == {2**53: 1, -(2**53): 2, 0.5: 3}
    (tmp_path / "x.pkl").write_bytes(b"Np" + str(2**61 - 1).encode() + b"\n.")
    with pytest.raises(DataError, match=r"asks for a place in memory beyond 2\*\*53"):
        pickles.loaded(tmp_path / "x.pkl")


def test_pickles_of_large_dicts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_ENTRIES", 1000)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(dict.fromkeys(range(1000))))
    assert len(pickles.loaded(tmp_path / "x.pkl")) == 1000
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(dict.fromkeys(range(1001))))
    with pytest.raises(DataError, match="asks for a dict of more than 1,000 entries"):
        pickles.loaded(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    stored = {
        "a": np.arange(12, dtype=">i4").reshape(3, 4),
        "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "c": np.zeros((0, 2), np.uint8),
        "d": np.float32(2.5),
        "e": np.array([True, False]),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    found = pickles.loaded(path)
    for name, values in stored.items():
        value = found[name].value if isinstance(found[name], pickles.Array) else found[name]
        np.testing.assert_array_equal(value, values)
        assert np.shape(value) == values.shape


# --- LeRobot ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lerobot_rewarded", "lerobot_plain"])
def test_lerobot_is_what_lerobot_wrote(made: Path, name: str) -> None:
    log, known = read(made / name), expected(made, name)
    same(log, **{key: values for key, values in known.items() if key != "length"})
    assert log.episode_lengths.tolist() == known["length"].tolist()
    assert log.can_bootstrap.tolist() == (~known["truncated"]).tolist()  # no frame follows the last action
    said = " ".join(log.notes)
    assert ("only imitation" in said) == ("does not say how episodes end" in said) == (name == "lerobot_plain")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "meta/info.json").write_text("{}"),
        lambda f: (f / "meta/info.json").write_text("{"),
        lambda f: (f / "meta/info.json").write_text("[]"),
        lambda f: tell(f, codebase_version="v1.6"),
        lambda f: tell(f, total_frames=99),
        lambda f: tell(f, features={}),
        lambda f: tell(f, features={"observation.state": {"dtype": "video", "shape": [3]}}),
        lambda f: next(f.glob("data/*/*")).unlink(),
        lambda f: next(f.glob("data/*/*")).write_bytes(b"PAR1"),
        lambda f: recolumn(f, lambda t: t.drop_columns(["action"])),
        lambda f: recolumn(f, lambda t: t.drop_columns(["episode_index"])),
        lambda f: recolumn(f, lambda t: t.slice(0, 0)),
        lambda f: recolumn(f, lambda t: t.set_column(t.column_names.index("next.success"), "next.success", [[7] * 12])),
        lambda f: recolumn(f, lambda t: t.set_column(0, t.column_names[0], [[[float("nan")] * 2] * 12])),
        lambda f: recolumn(
            f, lambda t: t.set_column(t.column_names.index("action"), "action", [[[1.0]] + [[1.0, 2.0]] * 11])
        ),
    ],
)
def test_spoiled_lerobot_is_one_sentence(copy: Any, spoil: Any) -> None:
    folder = copy("lerobot_rewarded")
    spoil(folder)
    with pytest.raises(StitchRLError, match="lerobot_rewarded"):
        assemble_any(lerobot.FORMAT.open(folder))


def tell(folder: Path, **entries: Any) -> None:
    info = json.loads((folder / "meta/info.json").read_text()) | entries
    (folder / "meta/info.json").write_text(json.dumps(info))


def recolumn(folder: Path, change: Any) -> None:
    file = next(folder.glob("data/*/*"))
    table = change(pq.read_table(file))
    pq.write_table(table, file)


def test_lerobot_names_what_it_leaves_out(copy: Any) -> None:
    folder = copy("lerobot_rewarded")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"] = {"dtype": "video", "shape": [3, 64, 64]}
    tell(folder, features=info["features"], total_tasks=3)
    said = " ".join(opened(folder).notes)
    assert "observation.images.top (videos, images) were left out" in said
    assert "3 tasks" in said


# --- RLDS -------------------------------------------------------------------------------------------------------


def episodes(
    *, terminal: tuple[bool, ...] = (True, False), stacked: bool = False, whole: bool = True
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    made = []
    for length, ended in zip((4, 3), terminal, strict=True):
        steps = [
            {
                "observation": {
                    "state": rng.normal(size=2).astype(np.float32),
                    "text": "go",
                    "image": np.zeros((32, 32, 3), np.uint8),
                },
                "action": np.int64(t % 3) if whole else rng.normal(size=2).astype(np.float32),
                "reward": np.float32(t),
                "discount": np.float32(1),
                "is_first": t == 0,
                "is_last": t == length - 1,
                "is_terminal": ended and t == length - 1,
            }
            for t in range(length)
        ]
        if stacked:
            flat_steps = {key: np.stack([s[key] for s in steps]) for key in steps[0] if key != "observation"}
            flat_steps["observation"] = {
                key: np.stack([s["observation"][key] for s in steps]) for key in steps[0]["observation"]
            }
            made.append({"steps": flat_steps})
        else:
            made.append({"steps": steps})
    return made


@pytest.mark.parametrize("stacked", [True, False])
def test_rlds_last_step_is_only_an_observation(stacked: bool) -> None:
    held = episodes(stacked=stacked)
    log = assemble_any(rlds.source_of_episodes(iter(held)))
    assert log.num_transitions == 5
    assert log.episode_lengths.tolist() == [3, 2]
    assert log.terminated.tolist() == [False, False, True, False, False]
    assert log.truncated.tolist() == [False, False, False, False, True]
    assert log.action.tolist() == [0, 1, 2, 0, 1]
    assert log.reward.tolist() == [0, 1, 2, 0, 1]
    states = [[s["observation"]["state"] for s in e["steps"]] for e in episodes()]
    same(
        log,
        observation=np.array([s for e in states for s in e[:-1]]),
        next_observation=np.array([s for e in states for s in e[1:]]),
    )
    assert log.can_bootstrap.all()
    assert any("observation/text" in note and "observation/image" in note for note in log.notes)


def test_rlds_of_continuous_actions_and_eager_values() -> None:
    class Eager:
        def __init__(self, value: Any) -> None:
            self.value = value

        def numpy(self) -> Any:
            return self.value

    held = episodes(whole=False)
    for episode in held:
        for step in episode["steps"]:
            step["reward"] = Eager(step["reward"])
    log = assemble_any(rlds.source_of_episodes(held))
    assert log.num_actions is None
    assert log.action.shape == (5, 2)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: [],
        lambda e: [{}],
        lambda e: [{"steps": 1}],
        lambda e: [{"steps": []}],
        lambda e: [{"steps": [1, 2]}],
        lambda e: [{"steps": {"observation": 1.0}}],
        lambda e: e[0]["steps"][1].pop("observation") and e,
        lambda e: [{"steps": [{k: v for k, v in s.items() if k != "is_terminal"} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"is_last": True} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"is_terminal": 3} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"observation": "text"} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"observation": np.float32("nan")} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"observation": np.zeros(i)} for i, s in enumerate(e[0]["steps"])]}],
        lambda e: [e[0], {"steps": [s | {"observation": {"state": np.zeros(5)}} for s in e[1]["steps"]]}],
        lambda e: [{"steps": e[0]["steps"][:1]}],
    ],
)
def test_spoiled_rlds_is_one_sentence(spoil: Any) -> None:
    with pytest.raises(StitchRLError, match="the episodes"):
        assemble_any(rlds.source_of_episodes(spoil(episodes())))


def test_rlds_folder_of_the_real_library(made: Path) -> None:
    """Written by TensorFlow Datasets; read where it is installed (it is too large for the development environment)."""
    pytest.importorskip("tensorflow_datasets")
    log, known = read(made / "rlds" / "tiny" / "1.0.0"), expected(made, "rlds")
    columns = ("observation", "next_observation", "action", "reward", "terminated", "truncated")
    same(log, **{name: known[name] for name in columns})
    assert log.episode_lengths.tolist() == known["length"].tolist()
    assert log.observation_names == ("observation/position[0]", "observation/position[1]", "observation/speed")
    assert any("observation/image" in note for note in log.notes)


def test_rlds_folder_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "toy" / "1.0.0"
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        (folder / name).write_text("{}")
    assert recognised(folder) == ["RLDS"]
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r'pip install "stitchrl\[rlds\]"'):
        opened(folder)
    builder = SimpleNamespace(info=SimpleNamespace(splits={"train": 0}), as_dataset=lambda **_: episodes())
    stand_in = SimpleNamespace(builder_from_directory=lambda _: builder, as_numpy=lambda x: x)
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", stand_in)
    assert read(folder).num_transitions == 5


# --- Open Bandit Dataset ----------------------------------------------------------------------------------------

COLUMNS = "timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1"
BANDIT = f""",{COLUMNS},user-item_affinity_0,user-item_affinity_1
0,2019-11-24 00:00:34.762830+00:00,1,3,0,0.25,aa,cc,0.0,1.5
1,2019-11-24 00:00:53.965051+00:00,0,1,1,0.5,bb,cc,2.0,0.0
2,2019-11-24 00:01:00.000000+00:00,2,3,0,0.125,aa,dd,0.0,0.0
"""


def bandit(folder: Path, content: str = BANDIT, items: int | None = 4) -> Path:
    if items is not None:
        rows = "".join(f"{i},{i},0.5,xx\n" for i in range(items))
        (folder / "item_context.csv").write_text(",item_id,item_feature_0,item_feature_1\n" + rows)
    path = folder / "all.csv"
    path.write_text(content)
    return path


def test_open_bandit_impressions(tmp_path: Path) -> None:
    path = bandit(tmp_path)
    assert recognised(path) == ["Open Bandit"]
    log = read(path)
    assert log.num_episodes == log.num_transitions == 3
    assert log.num_actions == 4
    assert log.action.tolist() == [1, 0, 2]
    assert log.reward.tolist() == [0, 1, 0]
    assert log.terminated.all()
    np.testing.assert_allclose(np.exp(log.behavior_log_prob), [0.25, 0.5, 0.125], rtol=1e-6)
    assert log.observation_names[:6] == (
        "position=1", "position=3", "user_feature_0=aa", "user_feature_0=bb", "user_feature_1=cc", "user_feature_1=dd",
    )  # fmt: skip
    assert log.observation[0].tolist() == [0, 1, 1, 0, 1, 0, 0, 1.5]
    assert log.time is not None
    (tmp_path / "alone").mkdir()
    alone = read(bandit(tmp_path / "alone", items=None))
    assert alone.num_actions == 3
    assert any("no item_context.csv" in note for note in alone.notes)


@pytest.mark.parametrize("policy", ["random", "bts"])
def test_open_bandit_as_published(made: Path, policy: str) -> None:
    log = read(made / f"open_bandit_{policy}" / "all.csv")
    assert (log.num_transitions, log.num_actions, log.schema.bandit) == (200, 80, True)
    if policy == "random":  # uniform over the 80 items
        np.testing.assert_allclose(np.exp(log.behavior_log_prob), 1 / 80, rtol=1e-5)
    else:
        assert len(np.unique(log.behavior_log_prob)) > 50
    table = csv.read_csv(made / f"open_bandit_{policy}" / "all.csv").to_pydict()
    assert log.action.tolist() == table["item_id"]
    assert log.reward.tolist() == table["click"]
    hot = log.observation[:, [log.observation_names.index(f"position={i}") for i in (1, 2, 3)]]
    assert (hot.argmax(1) + 1).tolist() == table["position"]
    affinity = [i for i, name in enumerate(log.observation_names) if name.startswith("user-item_affinity_")]
    assert len(affinity) == 80


@pytest.mark.parametrize(
    "content",
    [
        BANDIT.replace("propensity_score", "probability"),
        BANDIT.split("\n")[0] + "\n",
        BANDIT.replace(",1,3,0,0.25", ",x,3,0,0.25"),
        BANDIT.replace(",1,3,0,0.25", ",,3,0,0.25"),
        BANDIT.replace(",1,3,0,0.25", ",9,3,0,0.25"),
        BANDIT.replace("0.25", "1.25"),
        BANDIT.replace("0.25", ""),
        BANDIT.replace("aa,cc,0.0,1.5", "aa,cc,0.0"),
        BANDIT.replace("1.5", "inf"),
        "",
    ],
)
def test_spoiled_open_bandit_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = bandit(tmp_path, content)
    with pytest.raises(StitchRLError, match=r"all\.csv"):
        assemble_any(open_bandit.FORMAT.open(path))


# --- all --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in FIXTURE_FORMATS if Path(n).suffix])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_truncated_files_are_one_sentence(copy: Any, name: str, share: float) -> None:
    path = copy(name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    known = next(known for known in FORMATS if known.name == FIXTURE_FORMATS[name])
    with pytest.raises(StitchRLError, match=path.stem):
        assemble_any(known.open(path))


@pytest.mark.parametrize("name", ["sb3_dict.pkl", "ogbench_regular.npz", "minari/toy-arrow-v0", "lerobot_rewarded"])
def test_damaged_bytes_raise_nothing_else(copy: Any, name: str) -> None:
    folder = copy(name)
    known = next(known for known in FORMATS if known.name == FIXTURE_FORMATS[name])
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    rng = np.random.default_rng(0)
    for _ in range(25):
        path = files[rng.integers(len(files))]
        content = path.read_bytes()
        spoiled = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            spoiled[rng.integers(len(spoiled))] = rng.integers(256)
        path.write_bytes(bytes(spoiled))
        with contextlib.suppress(StitchRLError):
            log = known.open(folder)
            if log.schema is not None:
                assemble_any(log)
        path.write_bytes(content)


@pytest.mark.parametrize("name", [n for n in FIXTURE_FORMATS if "pixels" not in n])
def test_the_size_of_blocks_changes_nothing(made: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = read(made / name)
    for module in (d3rlpy_buffer, d4rl, lerobot, minari, npz, ogbench, parts, stable_baselines3):
        monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    log = opened(made / name)
    columns = [name for role in log.schema.columns.values() for name in ([role] if isinstance(role, str) else role)]
    sizes = [len(next(iter(block.values()))) for block in log.blocks(columns)]
    assert max(sizes) <= 3
    assert sum(sizes) == whole.num_transitions
    assert read(made / name).content_hash == whole.content_hash


def test_blocks_join_and_cut_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK_ROWS", 4)
    pieces = [{"a": np.arange(n)} for n in (2, 2, 1, 9, 0, 3)]
    blocks = [block["a"] for block in parts.in_blocks(pieces, "x")]
    assert [len(b) for b in blocks] == [4, 1, 4, 4, 1, 3]
    np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate([p["a"] for p in pieces]))
    with pytest.raises(DataError, match="one shape in all episodes"):
        list(parts.in_blocks([{"a": np.zeros((1, 2))}, {"a": np.zeros((1, 3))}], "x"))


@pytest.mark.parametrize("name", ["d4rl_full.hdf5", "d3rlpy_discrete.h5", "minari/cartpole-v0"])
def test_without_h5py_the_message_names_the_extra(made: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    known = next(known for known in FORMATS if known.name == FIXTURE_FORMATS[name])
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r'pip install "stitchrl\[hdf5\]"'):
        assemble_any(known.open(made / name))
    assert recognised(made / "d4rl_full.hdf5")  # a file of HDF5 is still known to be one


def test_schema_errors_name_the_file(tmp_path: Path) -> None:
    arrays = flat(discrete=True) | {"actions": np.full(12, 2**17)}
    with pytest.raises(SchemaError, match=r"many\.hdf5: A log may have up to"):
        opened(hdf5(tmp_path / "many.hdf5", arrays))


def test_memory_buffers_of_npz_are_not_files(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.savez(held, a=np.zeros(3))
    path = tmp_path / "a.npz"
    path.write_bytes(held.getvalue())
    assert opened(path).names == ("a",)
