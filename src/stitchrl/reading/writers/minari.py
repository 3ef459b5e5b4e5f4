"""Writing a Dataset as a Minari dataset: a folder that `minari` itself loads, written with h5py alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError, StitchRLWarning
from stitchrl.reading.sources.minari_metadata import MAIN_FILE, METADATA_FILE, OWN_KEY
from stitchrl.storage.files import make_directory
from stitchrl.types import NumpyArray

__all__ = ["write_minari"]

MINARI_VERSION = "0.5.3"
"""The version of Minari whose layout is written."""
IDENTIFIER = re.compile(r"[-_\w]+-v\d+")
AS_INFOS = (
    "step",
    "behavior_log_prob",
    "behavior_probs",
    "action_mask",
    "weight",
    "time",
    "source",
    "observation_id",
    "cost",
    "subgroup",
    "policy_probs",
    "policy_log_prob",
)
"""Columns that Minari has no place for.

Those that hold numbers are written as infos, from which they can be read back.
"""


def write_minari(dataset: Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a log as a Minari dataset with HDF5 storage.

    `minari.load_dataset` finds it if `MINARI_DATASETS_PATH` is the folder above. The identifier of the dataset is the
    name of its folder, which ends in a version, such as "stays-v0". Episodes are numbered from 0 again, and an episode in which
    rows are missing is cut in two there. Minari wants the observation after the last row of every episode. Where the
    log does not have it, the last known observation is written in its place and marked, so that stitchrl does not take
    it for a real one, and a warning says so.

    Args:
        dataset: the log.
        path: the folder to make.

    Returns:
        The folder.

    Raises:
        ConfigurationError: the name of the folder is no Minari identifier, or the folder exists.
        DataError: h5py is not installed.
        RunDirectoryError: the folder cannot be written.
    """
    folder = Path(path)
    if not IDENTIFIER.fullmatch(folder.name):
        raise ConfigurationError(
            f"A Minari dataset is a folder whose name ends in a version, like 'stays-v0'; got {folder.name!r}."
        )
    if folder.exists():
        raise ConfigurationError(f"{str(folder)!r} exists; nothing is overwritten. Choose another name or version.")
    try:
        import h5py
    except ImportError:
        raise DataError('Writing Minari datasets needs h5py: pip install "stitchrl[hdf5]".') from None
    make_directory(folder.parent)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        beside.chmod(0o755)
        (beside / "data").mkdir()
        starts = _pieces(dataset)
        infos = _infos(dataset)
        finals = _final_observations(dataset, starts)
        with h5py.File(beside / "data" / MAIN_FILE, "w", track_order=True) as file:
            for number in range(len(starts) - 1):
                _write_episode(file, number, dataset, int(starts[number]), int(starts[number + 1]), infos)
        metadata = _metadata(dataset, folder, starts, infos, finals)
        size = (beside / "data" / MAIN_FILE).stat().st_size
        metadata["dataset_size"] = round(size / 1e6, 1)
        (beside / "data" / METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")
        os.rename(beside, folder)
    except OSError as error:
        raise RunDirectoryError(f"{folder} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if unknown := int((~_known(dataset, starts)).sum()):
        warnings.warn(
            f"{unknown:,} of {len(starts) - 1:,} episodes lack the observation after their last row; in "
            f"{folder.name} the last known one stands in its place. Other libraries will take it for real: do not let "
            "them bootstrap from it where the episode was truncated.",
            StitchRLWarning,
            stacklevel=2,
        )
    return folder


def _pieces(dataset: Dataset) -> NumpyArray:
    """The first row of each episode, then N. An episode in which rows are missing counts as several."""
    ends = np.flatnonzero(~dataset.continues) + 1
    return np.concatenate([[0], ends]).astype(np.int64)


def _known(dataset: Dataset, starts: NumpyArray) -> NumpyArray:
    """For each episode, whether the log has the observation after its last row."""
    return dataset.next_observation_index[starts[1:] - 1] != NO_OBSERVATION


def _final_observations(dataset: Dataset, starts: NumpyArray) -> str:
    """Whether all, none or some of these observations are known."""
    known = _known(dataset, starts)
    return "known" if known.all() else "mixed" if known.any() else "unknown"


def _infos(dataset: Dataset) -> dict[str, NumpyArray]:
    """The columns to be written as infos. Warns of those that hold no numbers and are left out."""
    infos = {}
    for name in AS_INFOS:
        values = getattr(dataset, name)
        if values is None or (name == "step" and (values == dataset.position).all()):
            continue
        if values.dtype.kind not in "biuf":
            warnings.warn(
                f"Minari holds numbers; {name} ({values.dtype}) of {dataset.schema.name} was left out.",
                StitchRLWarning,
                stacklevel=3,
            )
            continue
        infos[name] = values
    return infos


def _write_episode(
    file: Any, number: int, dataset: Dataset, start: int, stop: int, infos: dict[str, NumpyArray]
) -> None:
    """Write the rows from `start` up to `stop` as an episode."""
    group = file.create_group(f"episode_{number}", track_order=True)
    group.attrs["id"] = number
    group.attrs["total_steps"] = stop - start
    rows = dataset.observation_index[start:stop]
    after = dataset.next_observation_index[stop - 1]
    final = rows[-1] if after == NO_OBSERVATION else after
    group.create_dataset("observations", data=dataset.observation_table[np.append(rows, final)])
    group.create_dataset("actions", data=_actions(dataset, start, stop))
    group.create_dataset("rewards", data=dataset.reward[start:stop])
    terminated = dataset.terminated[start:stop]
    truncated = dataset.truncated[start:stop].copy()
    truncated[-1] |= not terminated[-1]
    group.create_dataset("terminations", data=terminated)
    group.create_dataset("truncations", data=truncated)
    inner = group.create_group("infos", track_order=True)
    inner.create_dataset("final_observation_known", data=np.full(stop - start, after != NO_OBSERVATION))
    for name, values in infos.items():
        inner.create_dataset(name, data=values[start:stop])


def _actions(dataset: Dataset, start: int, stop: int) -> NumpyArray:
    """The actions of some rows, as the action space that is written describes them."""
    action = dataset.action[start:stop]
    if dataset.num_actions is None:
        return action
    if dataset.schema.action_counts is not None:
        return dataset.schema.action_components(action).astype(np.int64)
    return action.astype(np.int64)


def _metadata(
    dataset: Dataset, folder: Path, starts: NumpyArray, infos: dict[str, NumpyArray], finals: str
) -> dict[str, Any]:
    """What `metadata.json` holds."""
    return {
        "total_episodes": len(starts) - 1,
        "total_steps": dataset.num_transitions,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(_observation_space(dataset)),
        "action_space": json.dumps(_action_space(dataset)),
        "dataset_id": folder.name,
        "minari_version": MINARI_VERSION,
        "description": f"The log {dataset.schema.name!r}, written by stitchrl.",
        "author": [],
        "author_email": [],
        OWN_KEY: {
            "gamma": dataset.schema.gamma,
            "final_observations": finals,
            "roles": {name: name for name in infos},
        },
    }


def _observation_space(dataset: Dataset) -> dict[str, Any]:
    """Minari's description of the observation space."""
    shape, dtype = dataset.observation_shape, dataset.observation_dtype
    low, high = (0, 255) if dtype == np.uint8 else (-np.inf, np.inf)
    return _box(shape, str(dtype), np.full(shape, low).tolist(), np.full(shape, high).tolist())


def _action_space(dataset: Dataset) -> dict[str, Any]:
    """Minari's description of the action space."""
    schema = dataset.schema
    if schema.action_counts is not None:
        counts = list(schema.action_counts)
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": counts, "start": [0] * len(counts)}
    if schema.num_actions is not None:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": int(schema.num_actions)}
    size = dataset.action.shape[1]
    low = [-np.inf if schema.action_low is None else float(schema.action_low[i]) for i in range(size)]
    high = [np.inf if schema.action_high is None else float(schema.action_high[i]) for i in range(size)]
    return _box((size,), str(dataset.action.dtype), low, high)


def _box(shape: tuple[int, ...], dtype: str, low: Any, high: Any) -> dict[str, Any]:
    """Minari's description of a Box."""
    return {"type": "Box", "dtype": dtype, "shape": list(shape), "low": low, "high": high}
