"""Minari datasets: a folder with `metadata.json` and one HDF5 file, or one Arrow or Parquet file an episode.

Minari itself is not needed, only h5py for HDF5. An episode holds one observation more than actions: the last becomes
the next observation of the last row. `terminations` and `truncations` stay apart; where both are set the episode
terminated. Dict and Tuple spaces become several columns: "observations/position". Seeds, options and infos are left
out, but for the infos that `write_minari` adds.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as arrow_dataset

from stitchrl.data.readers.hdf5 import MAGIC, array_in, member, names_in, opened
from stitchrl.data.readers.parts import Declared, as_flags, described, in_blocks, opening
from stitchrl.data.readers.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.data.readers.spaces import Part, action_of, is_image, observation_of
from stitchrl.data.schema import ROLES
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["FORMAT", "MAIN_FILE", "METADATA_FILE", "OWN_KEY"]

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


def open_minari(path: Path) -> LogSource:
    """Its columns.

    Args:
        path: the folder of the dataset, its `data` folder, or the HDF5 file in it.

    Raises:
        DataError: not a Minari dataset, incomplete or damaged; h5py is missing; an observation without numbers.
    """
    layout = _layout(_data_folder(path))
    used, rules, notes = observation_of(layout.observations)
    if not used:
        raise DataError(f"The observation of {layout.origin} holds no numbers; there is nothing to learn from.")
    settings, more = action_of(layout.actions)
    observed = tuple(part.column for part in used)
    columns: dict[str, str | tuple[str, ...]] = {
        "observation": _one_or_more(observed),
        "action": _one_or_more(tuple(part.column for part in layout.actions)),
        "reward": "rewards",
        "terminated": "terminations",
        "truncated": "truncations",
    }
    if layout.finals != "unknown":
        columns["next_observation"] = _one_or_more(tuple(map(_next_name, observed)))
    columns |= {role: f"infos/{info}" for role, info in layout.roles.items()}
    schema = None
    if settings is not None:
        schema = described(
            layout.origin,
            columns,
            gamma=layout.gamma,
            name=layout.name,
            observations=rules,
            end="truncated",
            **settings,
        )

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        with opening(layout.origin, KIND):
            yield from in_blocks(_pieces(layout, list(names)), layout.origin)

    every = [part.column for part in (*layout.observations, *layout.actions) if part.kind != "Text"]
    every += [_next_name(part.column) for part in layout.observations if part.kind != "Text"]
    names = (
        *every,
        "rewards",
        "terminations",
        "truncations",
        "episode",
        *(f"infos/{i}" for i in layout.roles.values()),
    )
    return LogSource(layout.origin, KIND, names, blocks, schema, (*notes, *more))


def _one_or_more(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return names[0] if len(names) == 1 else names


def _next_name(column: str) -> str:
    return f"next_{column}"


# --- metadata ---------------------------------------------------------------------------------------------------


def _data_folder(path: Path) -> Path:
    if path.is_file():
        return path.parent
    return path / "data" if (path / "data" / METADATA_FILE).is_file() or (path / "data" / MAIN_FILE).is_file() else path


def _layout(data: Path) -> Layout:
    origin = data.parent.name if data.name == "data" else data.name
    metadata = _metadata(data, origin)
    with opening(origin, KIND):
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
        with opening(f"{METADATA_FILE} of {origin}", "JSON"):
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


# --- episodes ---------------------------------------------------------------------------------------------------


def _pieces(layout: Layout, names: list[str]) -> Iterator[dict[str, NumpyArray]]:
    """The wanted columns of each episode, in parts of up to a block."""
    yield from (_from_hdf5 if layout.storage == "hdf5" else _from_arrow)(layout, names)


def _from_hdf5(layout: Layout, names: list[str]) -> Iterator[dict[str, NumpyArray]]:
    path, origin = layout.data / MAIN_FILE, layout.origin
    if not path.is_file():
        raise DataError(f"{origin} has no {MAIN_FILE}; it is incomplete.")
    declared = Declared(origin, path.stat().st_size)
    with opened(path, KIND) as file:
        for number in range(layout.episodes):
            group = member(file, f"episode_{number}", origin)

            found: dict[tuple[str | int, ...], Any] = {}

            def array(way: tuple[str | int, ...], *, group: Any = group, found: dict[Any, Any] = found) -> Any:
                if way not in found:
                    inner = group
                    *groups, last = (f"_index_{key}" if isinstance(key, int) else key for key in way)
                    for key in groups:
                        inner = member(inner, key, origin)
                    found[tuple(way)] = array_in(inner, last, origin, declared)
                return found[tuple(way)]

            def pixels(way: Sequence[str | int], start: int, stop: int, *, group: Any = group) -> list[bytes]:
                for key in way:
                    group = member(group, f"_index_{key}" if isinstance(key, int) else key, origin)
                return [np.asarray(value, np.uint8).tobytes() for value in group[start:stop]]

            yield from _episode(layout, names, number, array, pixels)


def _from_arrow(layout: Layout, names: list[str]) -> Iterator[dict[str, NumpyArray]]:
    origin = layout.origin
    for number in range(layout.episodes):
        folder = layout.data / str(number)
        files = sorted(folder.glob(f"*.{layout.storage}"), key=lambda p: (len(p.name), p.name))
        if not files:
            raise DataError(f"{origin} has no file of episode {number}; it is incomplete.")
        declared = Declared(origin, sum(file.stat().st_size for file in files))
        stored = arrow_dataset.dataset([str(file) for file in files], format=layout.storage)
        declared.add(f"episode {number}", (stored.count_rows(), len(stored.schema.names)), 4)
        table = stored.to_table()

        def array(way: Sequence[str | int], *, table: pa.Table = table) -> Any:
            return _from_column(_field(table, way, origin), way, layout)

        def pixels(way: Sequence[str | int], start: int, stop: int, *, table: pa.Table = table) -> list[bytes]:
            return [bytes(value) for value in _field(table, way, origin).slice(start, stop - start).to_pylist()]

        yield from _episode(layout, names, number, array, pixels)


def _field(table: pa.Table, way: Sequence[str | int], origin: str) -> pa.Array:
    first, *rest = way
    if first not in table.column_names:
        raise DataError(f"{origin} has no {first!r}; it is incomplete or of another format.")
    column = table.column(first).combine_chunks()
    for key in rest:
        column = pc.struct_field(column, str(key))
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _from_column(column: pa.Array, way: Sequence[str | int], layout: Layout) -> NumpyArray:
    """An Arrow column as (n, ...); rows are padded at the end by one, which has no action."""
    what = "/".join(map(str, way))
    if column.null_count and way[0] != "actions":
        raise DataError(f"{what} of {layout.origin} must have no missing values; it has {column.null_count}.")
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type):
        flat = column.flatten()
        if flat.null_count or (len(column) and len(flat) % len(column)):
            raise DataError(f"{what} of {layout.origin} must hold lists of one length, without gaps.")
        values = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        parts = {(p.column.split("/")[0], *p.path): p for p in (*layout.observations, *layout.actions)}
        part = parts.get(tuple(way))
        return values.reshape(len(column), *part.shape) if part is not None else values
    return column.to_numpy(zero_copy_only=False)


def _episode(layout: Layout, names: list[str], number: int, array: Any, pixels: Any) -> Iterator[dict[str, NumpyArray]]:
    """One episode: every wanted column, up to BLOCK_ROWS rows at a time."""
    origin, padded = layout.origin, layout.storage in SEVERAL
    count = len(array(("rewards",))) - padded
    if count < 0 or (padded and count == 0):
        return
    ends = {name: array((name,)) for name in ("terminations", "truncations") if name in names or "truncations" in names}
    parts = {part.column: part for part in (*layout.observations, *layout.actions)}
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        piece: dict[str, NumpyArray] = {}
        for name in names:
            base = name.removeprefix("next_") if name not in parts else name
            if name in ("terminations", "truncations"):
                piece[name] = _flags(ends, name, start, stop, count, origin)
            elif name == "episode":
                piece[name] = np.full(stop - start, number, np.int64)
            elif base in parts:
                part = parts[base]
                way = (base.split("/")[0], *part.path)
                shift = int(base != name)
                piece[name] = _values(layout, part, array, pixels, way, start + shift, stop + shift, count)
            else:
                piece[name] = np.asarray(array(tuple(name.split("/")))[start:stop])
            if len(piece[name]) != stop - start:
                raise DataError(
                    f"Episode {number} of {origin} has {count:,} rewards; {name} has {start + len(piece[name]):,} rows."
                )
        yield piece


def _flags(ends: dict[str, Any], name: str, start: int, stop: int, count: int, origin: str) -> NumpyArray:
    """`terminations`, or `truncations` where the episode did not terminate; its last row is one of the two."""
    values = {key: as_flags(np.asarray(flags[start:stop]), key, origin) for key, flags in ends.items()}
    if name == "terminations":
        return values[name]
    if any(len(flags) != stop - start for flags in values.values()):
        raise DataError(f"terminations and truncations of {origin} must have one row a reward.")
    truncated = values["truncations"].copy()
    if stop == count:
        truncated[-1] = True
    return truncated & ~values["terminations"]


def _values(
    layout: Layout, part: Part, array: Any, pixels: Any, way: Sequence[str | int], start: int, stop: int, count: int
) -> NumpyArray:
    """Rows of one part. The observation after the last row is NaN where the log does not have it."""
    if layout.jpeg and is_image(part):
        return _images(pixels(way, start, stop), part, layout.origin)
    stored = array(way)
    values = np.asarray(stored[start:stop])
    if stop == count + 1 and part in layout.observations:
        if len(stored) == count and values.dtype.kind == "f":
            values = np.concatenate([values, np.full((1, *values.shape[1:]), np.nan, values.dtype)])
        elif layout.finals == "mixed" and values.dtype.kind == "f" and not _final_known(layout, array, count):
            values[-1] = np.nan
    if part in layout.actions:
        if len(stored) != count and layout.storage not in SEVERAL:
            raise DataError(
                f"{part.column} of {layout.origin} must have one row a reward; {len(stored):,} and {count:,}."
            )
        if part.kind != "Discrete" and values.ndim > 2:
            values = values.reshape(len(values), -1)
        if part.shifted and (part.kind != "Discrete" or len(layout.actions) > 1):
            values = values - np.asarray(part.starts if part.kind != "Discrete" else part.starts[0], np.int64)
        if part.kind == "Discrete" and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
    return values


def _final_known(layout: Layout, array: Any, count: int) -> bool:
    return bool(np.asarray(array(("infos", "final_observation_known")))[count - 1])


def _images(packed: list[bytes], part: Part, origin: str) -> NumpyArray:
    """JPEGs as (n, height, width, channels) or (n, height, width)."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            f'The images of {origin} are JPEGs, which need Pillow: pip install "stitchrl[minari]".'
        ) from None
    out = np.empty((len(packed), *part.shape), np.uint8)
    for i, content in enumerate(packed):
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.size != (part.shape[1], part.shape[0]):
                raise DataError(f"The images of {origin} must be {part.shape}; one is {image.size}.")
            out[i] = np.asarray(image, np.uint8).reshape(part.shape)
    return out


def _recognises(path: Path, head: bytes) -> bool:
    if path.is_dir():
        return any(
            (path / inner / METADATA_FILE).is_file() or (path / inner / MAIN_FILE).is_file() for inner in ("data", ".")
        )
    return head.startswith(MAGIC) and (path.name == MAIN_FILE or "episode_0" in names_in(path))


FORMAT = Format(KIND, (), _recognises, open_minari)
