"""The metadata of a Minari data set: its files, spaces and layout."""

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
from stitchrl.reading.sources.spaces import Part

__all__ = ["KIND", "MAIN_FILE", "METADATA_FILE", "OWN_KEY", "SEVERAL", "Layout", "layout_of"]


KIND = "Minari"


METADATA_FILE, MAIN_FILE = "metadata.json", "main_data.hdf5"


OWN_KEY = "stitchrl"
"""Where `write_minari` puts what Minari has no place for."""


MOST_METADATA_BYTES = 2**26


FINAL = ("known", "unknown", "mixed")


SEVERAL = ("arrow", "parquet")


class Layout(NamedTuple):
    """One dataset, before its episodes are read.

    Attributes:
        data: the folder of the data.
        storage: "hdf5", "arrow" or "parquet".
        episodes: how many there are.
        observations, actions: their parts.
        roles: role -> info, for what `write_minari` added.
        finals: whether the observations after the last rows are known.
        jpeg: images are packed as JPEG.
        gamma: of the task, where `write_minari` said so.
        name: what it is called.
    """

    data: Path
    storage: str
    episodes: int
    observations: list[Part]
    actions: list[Part]
    roles: dict[str, str]
    finals: str
    jpeg: bool
    gamma: float
    name: str

    @property
    def origin(self) -> str:
        """What messages call it."""
        return self.data.parent.name if self.data.name == "data" else self.data.name


def layout_of(data: Path) -> Layout:
    origin = data.parent.name if data.name == "data" else data.name
    metadata = _metadata(data, origin)
    with reading_errors(origin, KIND):
        storage = str(metadata.get("data_format", "hdf5"))
        if storage not in ("hdf5", *SEVERAL):
            raise DataError(f"{origin} is stored as {storage!r}; Minari's are hdf5, arrow and parquet.")
        observations = _parts(_space(metadata, "observation_space", data, origin), "observations")
        actions = _parts(_space(metadata, "action_space", data, origin), "actions")
        own = metadata.get(OWN_KEY)
        own = own if isinstance(own, dict) else {}
        finals = own.get("final_observations", "known")
        roles = {str(r): str(i) for r, i in dict(own.get("roles", {})).items() if r in ROLES}
        episodes = int(metadata["total_episodes"])
        return Layout(
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
    """Of the dataset: from its JSON, or from the HDF5 file's attributes (Minari before 0.5)."""
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
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 2) == 1 else value
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _space(metadata: dict[str, Any], key: str, data: Path, origin: str) -> Any:
    """A space's description; guessed from the first episode where there is none."""
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
    found = member(group, name, origin)
    if hasattr(found, "keys"):
        names = list(found.keys())
        if names and all(n.startswith("_index_") for n in names):
            return {"type": "Tuple", "subspaces": [_guessed(found, f"_index_{i}", origin) for i in range(len(names))]}
        return {"type": "Dict", "subspaces": {n: _guessed(found, n, origin) for n in names}}
    if found.dtype.kind in "iub" and found.ndim == 1 and name == "actions":
        raise DataError(f"{origin} does not say how many actions there are: its metadata has no `action_space`.")
    if found.dtype.kind not in "biuf":
        return {"type": "Text"}
    return {"type": "Box", "shape": list(found.shape[1:]), "dtype": str(found.dtype)}


def _parts(space: Any, column: str, path: tuple[str | int, ...] = ()) -> list[Part]:
    """The arrays of a space."""
    kind = space["type"]
    if kind == "Dict":
        return [p for key, sub in space["subspaces"].items() for p in _parts(sub, f"{column}/{key}", (*path, str(key)))]
    if kind == "Tuple":
        return [p for i, sub in enumerate(space["subspaces"]) for p in _parts(sub, f"{column}/{i}", (*path, i))]
    if kind == "Box":
        shape = tuple(int(n) for n in space["shape"])
        return [Part(column, path, kind, shape, str(space["dtype"]))]
    if kind == "Discrete":
        return [Part(column, path, kind, (), "int64", (int(space["n"]),), (int(space.get("start", 0)),))]
    if kind == "MultiDiscrete":
        choices = np.asarray(space["nvec"], np.int64)
        starts = np.asarray(space.get("start", np.zeros_like(choices)), np.int64)
        flat = tuple(choices.reshape(-1).tolist()), tuple(starts.reshape(-1).tolist())
        return [Part(column, path, kind, choices.shape, "int64", *flat)]
    if kind == "MultiBinary":
        sides = space["n"] if isinstance(space["n"], list) else [space["n"]]
        shape = tuple(int(n) for n in sides)
        return [Part(column, path, kind, shape, "int8", (2,) * math.prod(shape), ())]
    if kind == "Text":
        return [Part(column, path, kind)]
    raise ValueError(f"it has a space of kind {kind!r}")
