"""Files of every format made by its own library, and helpers that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stitchrl.data.dataset import Dataset
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

FIXTURES = Path(__file__).parent / "format_fixtures" / "fixtures.zip"
FORMATS = [
    module.FORMAT
    for module in (lerobot, minari, rlds, stable_baselines3, ogbench, npz, d3rlpy_buffer, d4rl, open_bandit)
]
"""In the order in which `recognise` asks them."""
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
"""File or folder of the fixtures -> the name of its format."""


def expected(made: Path, name: str) -> dict[str, np.ndarray]:
    """The columns of a fixture, as the library that made it says."""
    with np.load(made / f"{name}.expected.npz") as arrays:
        return dict(arrays)


def recognised(path: Path) -> list[str]:
    """The names of all formats that take a path for theirs."""
    head = b"" if path.is_dir() else path.read_bytes()[:512]
    return [known.name for known in FORMATS if known.recognises(path, head)]


def opened(path: Path) -> Any:
    """The columns of a path, opened by the first format that recognises it."""
    name = recognised(path)[0]
    return next(known for known in FORMATS if known.name == name).open(path)


def read(path: Path) -> Dataset:
    """The log of a path, by the schema of its format."""
    log = opened(path)
    assert log.schema is not None
    return assemble(log, log.schema)


def same(log: Dataset, **columns: np.ndarray) -> None:
    """Assert that columns of a log equal the arrays of the format's library bit by bit, as float32."""
    for name, values in columns.items():
        column = getattr(log, name)
        if name == "next_observation":
            values = np.where(log.can_bootstrap.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
        assert column.shape == values.shape, name
        np.testing.assert_array_equal(column, values.astype(column.dtype), err_msg=name)


def assemble_any(log: Any) -> Dataset:
    """The log of open columns, by the schema of their format."""
    return assemble(log, log.schema)


def change(folder: Path, **entries: Any) -> None:
    """Change entries of a Minari dataset's metadata."""
    metadata = json.loads((folder / "metadata.json").read_text()) | entries
    (folder / "metadata.json").write_text(json.dumps(metadata))


def flat(rows: int = 12, *, discrete: bool = False) -> dict[str, np.ndarray]:
    """Columns with D4RL's names."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": (np.arange(rows) % 3)[:, None] if discrete else rng.normal(size=(rows, 2)),
        "rewards": rng.normal(size=(rows, 1)),
        "terminals": (np.arange(rows) % 4 == 3).astype(np.float32),
        "timeouts": np.zeros((rows, 1), np.float32),
    }


def hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    """An HDF5 file of these arrays."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def put(file: Any, name: str, values: Any) -> None:
    """Replace an array of an HDF5 file."""
    del file[name]
    file[name] = values


class Runs:
    """An object that calls something when it is unpickled."""

    def __init__(self, call: Any, *given: Any) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.given
