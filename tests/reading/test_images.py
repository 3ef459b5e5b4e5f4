"""Logs of uint8 images, (N, height, width, channels), stay images through every format that can hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import tiny_columns

import stitchrl as st
from stitchrl.errors import DataError
from stitchrl.reading.formats.rlds import source_of_episodes
from stitchrl.reading.read import as_dataset

SHAPE = (36, 40, 3)
"""Large enough for formats that tell images by their size."""
LENGTHS = (3, 2)
ROWS = sum(LENGTHS)
PIXELS = np.random.default_rng(0).integers(0, 256, (ROWS + 1, *SHAPE), np.uint8)
"""The observation of each row, then the one after the last row."""
NEXT = PIXELS[1:].copy()
TERMINATED = np.array([False, False, True, False, False])
TRUNCATED = np.array([False, False, False, False, True])
COLUMNS: dict[str, Any] = {
    "episode": np.repeat([0, 1], LENGTHS),
    "observation": PIXELS[:ROWS],
    "next_observation": NEXT,
    "action": np.array([0, 1, 2, 1, 0], np.int32),
    "reward": np.arange(ROWS, dtype=np.float32),
    "terminated": TERMINATED,
    "truncated": TRUNCATED,
}
D4RL = {
    "observations": COLUMNS["observation"],
    "next_observations": COLUMNS["next_observation"],
    "actions": COLUMNS["action"],
    "rewards": COLUMNS["reward"],
    "terminals": TERMINATED,
    "timeouts": TRUNCATED,
}


def tensors(values: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


def table() -> pa.Table:
    images = {name: tensors(COLUMNS[name]) for name in ("observation", "next_observation")}
    return pa.table(COLUMNS | images)


def from_npz(folder: Path) -> st.Dataset:
    np.savez(folder / "log.npz", **D4RL)
    return st.read(folder / "log.npz")


def from_hdf5(folder: Path) -> st.Dataset:
    with h5py.File(folder / "log.hdf5", "w") as file:
        for name, values in D4RL.items():
            file.create_dataset(name, data=values)
    return st.read(folder / "log.hdf5")


def from_parquet(folder: Path) -> st.Dataset:
    pq.write_table(table(), folder / "log.parquet")
    return st.read(folder / "log.parquet")


def from_arrow(folder: Path) -> st.Dataset:
    with pa.ipc.new_file(str(folder / "log.arrow"), table().schema) as writer:
        writer.write_table(table())
    return st.read(folder / "log.arrow")


def from_minari(folder: Path) -> st.Dataset:
    st.convert(COLUMNS, folder / "log-v0", to="minari")
    return st.read(folder / "log-v0")


def from_store(folder: Path) -> st.Dataset:
    return st.read(st.convert(COLUMNS, folder / "store"))


def from_rlds(folder: Path) -> st.Dataset:
    def padded(values: np.ndarray, final: Any) -> np.ndarray:
        return np.concatenate([values, np.asarray(final, values.dtype)[None]])

    episodes = []
    for start, length in ((0, 3), (3, 2)):
        rows = slice(start, start + length)
        steps = {
            "observation": padded(PIXELS[rows], NEXT[rows][-1]),
            "action": padded(COLUMNS["action"][rows], 0),
            "reward": padded(COLUMNS["reward"][rows], 0),
            "is_terminal": np.append(np.zeros(length, bool), TERMINATED[rows][-1]),
        }
        episodes.append({"steps": steps})
    log = source_of_episodes(episodes)
    assert log.schema is not None
    return as_dataset(log, log.schema, guessed=False)


READERS: dict[str, Callable[[Path], st.Dataset]] = {
    "dict": lambda folder: st.read(COLUMNS),
    "Arrow table": lambda folder: st.read(table()),
    "npz": from_npz,
    "HDF5": from_hdf5,
    "Parquet": from_parquet,
    "Arrow IPC": from_arrow,
    "Minari": from_minari,
    "RLDS": from_rlds,
    "store": from_store,
}


@pytest.mark.parametrize("name", READERS)
def test_images_are_read_and_kept_in_a_store(tmp_path: Path, name: str) -> None:
    log = READERS[name](tmp_path)
    again = st.read(st.convert(COLUMNS if name == "dict" else log_columns(log), tmp_path / "again"))
    for held in (log, again):
        assert held.observation_dtype == np.uint8
        assert held.observation_shape == SHAPE
        # Rows 0 to 4, and what followed the last row of each episode.
        assert len(held.observation_table) == ROWS + 2
        np.testing.assert_array_equal(held.observation, PIXELS[:ROWS])
        np.testing.assert_array_equal(held.next_observation, NEXT)
        assert held.can_bootstrap.all()
        assert held.observation_names == ()
    assert again.content_hash == log.content_hash


def log_columns(log: st.Dataset) -> dict[str, Any]:
    """A log as the dict of arrays that reads as the same log."""
    columns = {name: getattr(log, name) for name in ("action", "reward", "terminated", "truncated", "step")}
    images = {"observation": log.observation, "next_observation": log.next_observation}
    return columns | images | {"episode": log.episode_id[log.episode_of_transition]}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("with_next", [False, True])
def test_images_stay_bytes(with_next: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 5, 3), np.uint8)
    columns = tiny_columns() | {"observation": images}
    if with_next:
        columns["next_observation"] = np.roll(images, -1, axis=0)
    log = st.read(columns)
    assert log.observation_table.dtype == np.uint8
    np.testing.assert_array_equal(log.observation_table[log.observation_index], images)
    assert log.observation_names == ()
    known = log.next_observation_index >= 0
    assert known.tolist() == ([True] * 6 if with_next else [True, True, False, True, False, False])
    np.testing.assert_array_equal(
        log.observation_table[log.next_observation_index[known]], np.roll(images, -1, 0)[known]
    )
    with pytest.raises(DataError, match="must hold at least one number"):
        st.read(columns | {"observation": images[:, :0], "next_observation": images[:, :0]})
