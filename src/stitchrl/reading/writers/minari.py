"""A Dataset as a Minari dataset: a folder that the real `minari` loads, written with h5py alone."""

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
"""Of the layout that is written."""
IDENTIFIER = re.compile(r"[-_\w]+-v\d+")
AS_INFOS = ("step", "behavior_log_prob", "behavior_probs", "action_mask", "weight", "time", "source", "observation_id")
"""Columns that Minari has no place for; those of numbers are written as infos and read back."""


def write_minari(dataset: Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a log as a Minari dataset with HDF5 storage.

    `minari.load_dataset` finds it where the folder above is `MINARI_DATASETS_PATH`; the dataset's identifier is the
    folder's name, which ends in a version: "stays-v0". Episodes are numbered anew. An episode is cut in two where rows
    are missing inside it. Minari wants the observation after the last row of every episode: where the log does not have
    it, the last one known stands there, marked so that stitchrl does not take it for one, and a warning says so.

    Args:
        dataset: the log.
        path: the folder to make.

    Returns:
        The folder.

    Raises:
        ConfigurationError: the folder's name is no Minari identifier, or it exists.
        DataError: h5py is not installed.
        RunDirectoryError: it cannot be written.
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
    unknown = int((~_known(dataset, starts)).sum())
    if unknown:
        warnings.warn(
            f"{unknown:,} of {len(starts) - 1:,} episodes lack the observation after their last row; in "
            f"{folder.name} the last known one stands in its place. Other libraries will take it for real: do not let "
            "them bootstrap from it where the episode was truncated.",
            StitchRLWarning,
            stacklevel=2,
        )
    return folder


def _pieces(dataset: Dataset) -> NumpyArray:
    """First row of each episode, then N; one that has a gap counts as several."""
    ends = np.flatnonzero(~dataset.continues) + 1
    return np.concatenate([[0], ends]).astype(np.int64)


def _known(dataset: Dataset, starts: NumpyArray) -> NumpyArray:
    return dataset.next_observation_index[starts[1:] - 1] != NO_OBSERVATION


def _final_observations(dataset: Dataset, starts: NumpyArray) -> str:
    known = _known(dataset, starts)
    return "known" if known.all() else "mixed" if known.any() else "unknown"


def _infos(dataset: Dataset) -> dict[str, NumpyArray]:
    """Columns of numbers to be written as infos, one row a transition."""
    found = {}
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
        found[name] = values
    return found


def _write_episode(
    file: Any, number: int, dataset: Dataset, start: int, stop: int, infos: dict[str, NumpyArray]
) -> None:
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
    action = dataset.action[start:stop]
    if dataset.num_actions is None:
        return action
    if dataset.schema.action_counts is not None:
        return dataset.schema.action_components(action).astype(np.int64)
    return action.astype(np.int64)


def _metadata(
    dataset: Dataset, folder: Path, starts: NumpyArray, infos: dict[str, NumpyArray], finals: str
) -> dict[str, Any]:
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
    table = dataset.observation_table
    shape = table.shape[1:]
    low, high = (0, 255) if table.dtype == np.uint8 else (-np.inf, np.inf)
    return _box(shape, str(table.dtype), np.full(shape, low).tolist(), np.full(shape, high).tolist())


def _action_space(dataset: Dataset) -> dict[str, Any]:
    schema = dataset.schema
    if schema.action_counts is not None:
        counts = list(schema.action_counts)
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": counts, "start": [0] * len(counts)}
    if schema.num_actions is not None:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": int(schema.num_actions)}
    wide = dataset.action.shape[1]
    low = [-np.inf if schema.action_low is None else float(schema.action_low[i]) for i in range(wide)]
    high = [np.inf if schema.action_high is None else float(schema.action_high[i]) for i in range(wide)]
    return _box((wide,), str(dataset.action.dtype), low, high)


def _box(shape: tuple[int, ...], dtype: str, low: Any, high: Any) -> dict[str, Any]:
    return {"type": "Box", "dtype": dtype, "shape": list(shape), "low": low, "high": high}
