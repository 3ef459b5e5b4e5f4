"""Minari datasets: a folder with `metadata.json` and one HDF5 file, or with Arrow or Parquet files for each episode.

Minari itself is not needed, only h5py for HDF5. An episode holds one observation more than actions; the last one
becomes the next observation of the last row. `terminations` and `truncations` stay apart; where both are set, the
episode terminated. Dict and Tuple spaces become several columns, such as "observations/position". Seeds, options and
infos are left out, except for the infos that `write_minari` adds.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as arrow_dataset

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import Declared, as_flags, described, in_blocks, one_or_several
from stitchrl.reading.sources.hdf5 import MAGIC, array_in, member, names_in, opened
from stitchrl.reading.sources.minari_metadata import (
    KIND,
    MAIN_FILE,
    METADATA_FILE,
    SEVERAL,
    MinariMetadata,
    metadata_of,
)
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, reading_errors
from stitchrl.reading.sources.spaces import Component, action_of, is_image, observation_of
from stitchrl.types import NumpyArray

__all__ = ["FORMAT"]


def open_minari(path: Path) -> LogSource:
    """The columns of a dataset, with their schema.

    Args:
        path: the folder of the dataset, its `data` folder, or the HDF5 file in it.

    Raises:
        DataError: it is no Minari dataset, is incomplete or damaged, or its observation holds no numbers; or h5py is
            not installed.
    """
    metadata = metadata_of(_data_folder(path))
    used, rules, notes = observation_of(metadata.observations)
    if not used:
        raise DataError(f"The observation of {metadata.origin} holds no numbers; there is nothing to learn from.")
    settings, more = action_of(metadata.actions)
    observed = tuple(component.column for component in used)
    columns: dict[str, str | tuple[str, ...]] = {
        "observation": one_or_several(observed),
        "action": one_or_several(tuple(component.column for component in metadata.actions)),
        "reward": "rewards",
        "terminated": "terminations",
        "truncated": "truncations",
    }
    if metadata.finals != "unknown":
        columns["next_observation"] = one_or_several(tuple(map(_next_name, observed)))
    columns |= {role: f"infos/{info}" for role, info in metadata.roles.items()}
    schema = None
    if settings is not None:
        schema = described(
            metadata.origin,
            columns,
            gamma=metadata.gamma,
            name=metadata.name,
            observations=rules,
            end="truncated",
            **settings,
        )

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        with reading_errors(metadata.origin, KIND):
            yield from in_blocks(_pieces(metadata, list(names)), metadata.origin)

    numeric = [c for c in (*metadata.observations, *metadata.actions) if c.kind != "Text"]
    every = [component.column for component in numeric]
    every += [_next_name(component.column) for component in numeric if component in metadata.observations]
    names = (
        *every,
        "rewards",
        "terminations",
        "truncations",
        "episode",
        *(f"infos/{i}" for i in metadata.roles.values()),
    )
    return LogSource(metadata.origin, KIND, names, blocks, schema, (*notes, *more))


def _next_name(column: str) -> str:
    """The name of the column of next observations."""
    return f"next_{column}"


def _data_folder(path: Path) -> Path:
    """The folder that holds the data of a dataset."""
    if path.is_file():
        return path.parent
    return path / "data" if (path / "data" / METADATA_FILE).is_file() or (path / "data" / MAIN_FILE).is_file() else path


# --- episodes ---------------------------------------------------------------------------------------------------


def _pieces(metadata: MinariMetadata, names: list[str]) -> Iterator[dict[str, NumpyArray]]:
    """The wanted columns of each episode, in pieces of up to `BLOCK_ROWS` rows."""
    yield from (_from_hdf5 if metadata.storage == "hdf5" else _from_arrow)(metadata, names)


Keys = tuple[str | int, ...]
"""The keys that lead to an array of an episode."""


def _from_hdf5(metadata: MinariMetadata, names: list[str]) -> Iterator[dict[str, NumpyArray]]:
    """The pieces of a dataset in one HDF5 file."""
    path, origin = metadata.data / MAIN_FILE, metadata.origin
    if not path.is_file():
        raise DataError(f"{origin} has no {MAIN_FILE}; it is incomplete.")
    declared = Declared(origin, path.stat().st_size)
    with opened(path, KIND) as file:
        for number in range(metadata.episodes):
            group = member(file, f"episode_{number}", origin)
            opened_arrays: dict[Keys, Any] = {}

            def array(keys: Keys, *, group: Any = group, held: dict[Keys, Any] = opened_arrays) -> Any:
                if keys not in held:
                    inner = group
                    *groups, last = (f"_index_{key}" if isinstance(key, int) else key for key in keys)
                    for key in groups:
                        inner = member(inner, key, origin)
                    held[keys] = array_in(inner, last, origin, declared)
                return held[keys]

            def pixels(keys: Keys, start: int, stop: int, *, group: Any = group) -> list[bytes]:
                for key in keys:
                    group = member(group, f"_index_{key}" if isinstance(key, int) else key, origin)
                return [np.asarray(value, np.uint8).tobytes() for value in group[start:stop]]

            yield from _episode(metadata, names, number, array, pixels)


def _from_arrow(metadata: MinariMetadata, names: list[str]) -> Iterator[dict[str, NumpyArray]]:
    """The pieces of a dataset in Arrow or Parquet files, a folder for each episode."""
    origin = metadata.origin
    for number in range(metadata.episodes):
        folder = metadata.data / str(number)
        files = sorted(folder.glob(f"*.{metadata.storage}"), key=lambda p: (len(p.name), p.name))
        if not files:
            raise DataError(f"{origin} has no file of episode {number}; it is incomplete.")
        declared = Declared(origin, sum(file.stat().st_size for file in files))
        stored = arrow_dataset.dataset([str(file) for file in files], format=metadata.storage)
        declared.add(f"episode {number}", (stored.count_rows(), len(stored.schema.names)), 4)
        table = stored.to_table()

        def array(keys: Keys, *, table: pa.Table = table) -> Any:
            return _from_column(_field(table, keys, origin), keys, metadata)

        def pixels(keys: Keys, start: int, stop: int, *, table: pa.Table = table) -> list[bytes]:
            return [bytes(value) for value in _field(table, keys, origin).slice(start, stop - start).to_pylist()]

        yield from _episode(metadata, names, number, array, pixels)


def _field(table: pa.Table, keys: Keys, origin: str) -> pa.Array:
    """The column, or field of a struct column, that the keys lead to."""
    first, *rest = keys
    if first not in table.column_names:
        raise DataError(f"{origin} has no {first!r}; it is incomplete or of another format.")
    column = table.column(first).combine_chunks()
    for key in rest:
        column = pc.struct_field(column, str(key))
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _from_column(column: pa.Array, keys: Keys, metadata: MinariMetadata) -> NumpyArray:
    """An Arrow column as (n, ...), one row longer than the episode: the final observation has no action beside it."""
    what = "/".join(map(str, keys))
    if column.null_count and keys[0] != "actions":
        raise DataError(f"{what} of {metadata.origin} must have no missing values; it has {column.null_count}.")
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type):
        flat = column.flatten()
        if flat.null_count or (len(column) and len(flat) % len(column)):
            raise DataError(f"{what} of {metadata.origin} must hold lists of one length, without gaps.")
        values = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        components = {(c.column.split("/")[0], *c.path): c for c in (*metadata.observations, *metadata.actions)}
        component = components.get(keys)
        return values.reshape(len(column), *component.shape) if component is not None else values
    return column.to_numpy(zero_copy_only=False)


def _episode(
    metadata: MinariMetadata, names: list[str], number: int, array: Any, pixels: Any
) -> Iterator[dict[str, NumpyArray]]:
    """The wanted columns of an episode, up to BLOCK_ROWS rows at a time.

    Args:
        metadata: of the dataset.
        names: the wanted columns.
        number: of the episode.
        array: gives the stored array that keys lead to.
        pixels: gives the packed images (of which keys, from which row, to which row).
    """
    origin, padded = metadata.origin, metadata.storage in SEVERAL
    count = len(array(("rewards",))) - padded
    if count < 0 or (padded and count == 0):
        return
    ends = {name: array((name,)) for name in ("terminations", "truncations") if name in names or "truncations" in names}
    components = {component.column: component for component in (*metadata.observations, *metadata.actions)}
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        piece: dict[str, NumpyArray] = {}
        for name in names:
            base = name.removeprefix("next_") if name not in components else name
            if name in ("terminations", "truncations"):
                piece[name] = _flags(ends, name, start, stop, count, origin)
            elif name == "episode":
                piece[name] = np.full(stop - start, number, np.int64)
            elif base in components:
                component = components[base]
                keys = (base.split("/")[0], *component.path)
                shift = int(base != name)
                piece[name] = _values(metadata, component, array, pixels, keys, start + shift, stop + shift, count)
            else:
                piece[name] = np.asarray(array(tuple(name.split("/")))[start:stop])
            if len(piece[name]) != stop - start:
                raise DataError(
                    f"Episode {number} of {origin} has {count:,} rewards; {name} has {start + len(piece[name]):,} rows."
                )
        yield piece


def _flags(ends: dict[str, Any], name: str, start: int, stop: int, count: int, origin: str) -> NumpyArray:
    """`terminations`, or `truncations` without the rows that terminate.

    The last row of an episode is one of the two.
    """
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
    metadata: MinariMetadata,
    component: Component,
    array: Any,
    pixels: Any,
    keys: Keys,
    start: int,
    stop: int,
    count: int,
) -> NumpyArray:
    """Rows `start` to `stop` of a component in an episode of `count` transitions.

    The observation after the last row is NaN where the log does not have it.
    """
    if metadata.jpeg and is_image(component):
        return _images(pixels(keys, start, stop), component, metadata.origin)
    stored = array(keys)
    values = np.asarray(stored[start:stop])
    if stop == count + 1 and component in metadata.observations:
        if len(stored) == count and values.dtype.kind == "f":
            values = np.concatenate([values, np.full((1, *values.shape[1:]), np.nan, values.dtype)])
        elif metadata.finals == "mixed" and values.dtype.kind == "f" and not _final_known(array, count):
            values[-1] = np.nan
    if component in metadata.actions:
        if len(stored) != count and metadata.storage not in SEVERAL:
            raise DataError(
                f"{component.column} of {metadata.origin} must have one row a reward; {len(stored):,} and {count:,}."
            )
        if component.kind != "Discrete" and values.ndim > 2:
            values = values.reshape(len(values), -1)
        if component.shifted and (component.kind != "Discrete" or len(metadata.actions) > 1):
            values = values - np.asarray(
                component.starts if component.kind != "Discrete" else component.starts[0], np.int64
            )
        if component.kind == "Discrete" and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
    return values


def _final_known(array: Any, count: int) -> bool:
    """Whether the last observation of an episode that `write_minari` wrote is a real one."""
    return bool(np.asarray(array(("infos", "final_observation_known")))[count - 1])


def _images(packed: list[bytes], component: Component, origin: str) -> NumpyArray:
    """The pixels of JPEG images as (n, height, width, channels) or (n, height, width)."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            f'The images of {origin} are JPEGs, which need Pillow: pip install "stitchrl[minari]".'
        ) from None
    out = np.empty((len(packed), *component.shape), np.uint8)
    for i, content in enumerate(packed):
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.size != (component.shape[1], component.shape[0]):
                raise DataError(f"The images of {origin} must be {component.shape}; one is {image.size}.")
            out[i] = np.asarray(image, np.uint8).reshape(component.shape)
    return out


def _recognises(path: Path, head: bytes) -> bool:
    """Whether a folder or an HDF5 file is laid out as Minari does."""
    if path.is_dir():
        return any(
            (path / inner / METADATA_FILE).is_file() or (path / inner / MAIN_FILE).is_file() for inner in ("data", ".")
        )
    return head.startswith(MAGIC) and (path.name == MAIN_FILE or "episode_0" in names_in(path))


FORMAT = Format(KIND, (), _recognises, open_minari)
