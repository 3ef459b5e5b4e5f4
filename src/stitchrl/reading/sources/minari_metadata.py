"""The metadata of a Minari dataset: where its data lie, and its observation and action spaces."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stitchrl.data.schema import ROLES
from stitchrl.errors import DataError
from stitchrl.reading.sources.hdf5 import member, opened
from stitchrl.reading.sources.source import reading_errors
from stitchrl.reading.sources.spaces import Component

__all__ = ["KIND", "MAIN_FILE", "METADATA_FILE", "OWN_KEY", "SEVERAL", "MinariMetadata", "metadata_of"]
KIND = "Minari"
METADATA_FILE, MAIN_FILE = "metadata.json", "main_data.hdf5"
OWN_KEY = "stitchrl"
"""The key under which `write_minari` keeps what Minari has no place for."""
MOST_METADATA_BYTES = 2**26
FINAL = ("known", "unknown", "mixed")
"""Whether all, none or some of the observations after the last rows of episodes are known."""
SEVERAL = ("arrow", "parquet")
"""Storages with several files; the other one, HDF5, has a single file."""


class MinariMetadata(NamedTuple):
    """A dataset as its metadata describe it, before its episodes are read.

    Attributes:
        data: the folder of the data.
        storage: "hdf5", "arrow" or "parquet".
        episodes: how many episodes there are.
        observations, actions: the components of their spaces.
        roles: role -> name of the info that holds it, for the columns that `write_minari` added.
        finals: one of `FINAL`.
        jpeg: whether images are packed as JPEG.
        gamma: discount of the task, as `write_minari` noted it.
        name: of the dataset.
    """

    data: Path
    storage: str
    episodes: int
    observations: list[Component]
    actions: list[Component]
    roles: dict[str, str]
    finals: str
    jpeg: bool
    gamma: float
    name: str

    @property
    def origin(self) -> str:
        """What messages call the dataset: the name of its folder."""
        return self.data.parent.name if self.data.name == "data" else self.data.name


def metadata_of(data: Path) -> MinariMetadata:
    """The layout of the dataset in a folder.

    Raises:
        DataError: there are no metadata, or they are damaged.
    """
    origin = data.parent.name if data.name == "data" else data.name
    metadata = _metadata(data, origin)
    with reading_errors(origin, KIND):
        storage = str(metadata.get("data_format", "hdf5"))
        if storage not in ("hdf5", *SEVERAL):
            raise DataError(f"{origin} is stored as {storage!r}; Minari's are hdf5, arrow and parquet.")
        observations = _components(_space(metadata, "observation_space", data, origin), "observations")
        actions = _components(_space(metadata, "action_space", data, origin), "actions")
        own = metadata.get(OWN_KEY)
        own = own if isinstance(own, dict) else {}
        finals = own.get("final_observations", "known")
        roles = {str(r): str(i) for r, i in dict(own.get("roles", {})).items() if r in ROLES}
        episodes = int(metadata["total_episodes"])
        return MinariMetadata(
            data,
            storage,
            episodes,
            observations,
            actions,
            roles,
            finals if finals in FINAL else "known",
            bool(metadata.get("jpeg_encoding", True)),
            float(own.get("gamma", 0.99)),
            str(metadata.get("dataset_id", origin)),
        )


def _metadata(data: Path, origin: str) -> dict[str, Any]:
    """The metadata of a dataset from its JSON file, or from attributes of its HDF5 file (before Minari 0.5)."""
    file = data / METADATA_FILE
    if file.is_file():
        with reading_errors(f"{METADATA_FILE} of {origin}", "JSON"):
            if file.stat().st_size > MOST_METADATA_BYTES:
                raise DataError(
                    f"{METADATA_FILE} of {origin} has {file.stat().st_size:,} bytes; it describes a dataset."
                )
            content = json.loads(file.read_text(encoding="utf-8"))
    elif (data / MAIN_FILE).is_file():
        with opened(data / MAIN_FILE, KIND) as main:
            content = {str(key): _plain(value) for key, value in main.attrs.items()}
    else:
        raise DataError(f"{origin} has no {METADATA_FILE}; it is no Minari dataset.")
    if not isinstance(content, dict) or "total_episodes" not in content:
        raise DataError(f"{METADATA_FILE} of {origin} does not say `total_episodes`; it is damaged.")
    return content


def _plain(value: Any) -> Any:
    """An attribute of an HDF5 file as a Python number or text."""
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 2) == 1 else value
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _space(metadata: dict[str, Any], key: str, data: Path, origin: str) -> Any:
    """The description of a space in the metadata; guessed from the first episode if there is none."""
    described_as = metadata.get(key)
    if isinstance(described_as, str):
        return json.loads(described_as)
    if isinstance(described_as, dict):
        return described_as
    if not (data / MAIN_FILE).is_file():
        raise DataError(f"{METADATA_FILE} of {origin} does not say `{key}`.")
    with opened(data / MAIN_FILE, KIND) as main:
        episode = member(main, "episode_0", origin)
        return _guessed(episode, "observations" if key == "observation_space" else "actions", origin)


def _guessed(group: Any, name: str, origin: str) -> dict[str, Any]:
    """The description of a space, made from the arrays of an episode.

    Raises:
        DataError: the actions are integers, whose number cannot be guessed.
    """
    stored = member(group, name, origin)
    if hasattr(stored, "keys"):
        names = list(stored.keys())
        if names and all(n.startswith("_index_") for n in names):
            return {"type": "Tuple", "subspaces": [_guessed(stored, f"_index_{i}", origin) for i in range(len(names))]}
        return {"type": "Dict", "subspaces": {n: _guessed(stored, n, origin) for n in names}}
    if stored.dtype.kind in "iub" and stored.ndim == 1 and name == "actions":
        raise DataError(f"{origin} does not say how many actions there are: its metadata has no `action_space`.")
    if stored.dtype.kind not in "biuf":
        return {"type": "Text"}
    return {"type": "Box", "shape": list(stored.shape[1:]), "dtype": str(stored.dtype)}


def _components(space: Any, column: str, path: tuple[str | int, ...] = ()) -> list[Component]:
    """The components of a space, given its description, the name of its column and the keys that lead to it."""
    kind = space["type"]
    if kind == "Dict":
        return [
            p for key, sub in space["subspaces"].items() for p in _components(sub, f"{column}/{key}", (*path, str(key)))
        ]
    if kind == "Tuple":
        return [p for i, sub in enumerate(space["subspaces"]) for p in _components(sub, f"{column}/{i}", (*path, i))]
    if kind == "Box":
        shape = tuple(int(n) for n in space["shape"])
        return [Component(column, path, kind, shape, str(space["dtype"]))]
    if kind == "Discrete":
        return [Component(column, path, kind, (), "int64", (int(space["n"]),), (int(space.get("start", 0)),))]
    if kind == "MultiDiscrete":
        choices = np.asarray(space["nvec"], np.int64)
        starts = np.asarray(space.get("start", np.zeros_like(choices)), np.int64)
        flat = tuple(choices.reshape(-1).tolist()), tuple(starts.reshape(-1).tolist())
        return [Component(column, path, kind, choices.shape, "int64", *flat)]
    if kind == "MultiBinary":
        sides = space["n"] if isinstance(space["n"], list) else [space["n"]]
        shape = tuple(int(n) for n in sides)
        return [Component(column, path, kind, shape, "int8", (2,) * math.prod(shape), ())]
    if kind == "Text":
        return [Component(column, path, kind)]
    raise ValueError(f"it has a space of kind {kind!r}")
