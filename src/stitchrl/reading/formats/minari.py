"""Minari datasets: a folder with `metadata.json` and one HDF5 file, or one Arrow or Parquet file an episode.

Minari itself is not needed, only h5py for HDF5. An episode holds one observation more than actions: the last becomes
the next observation of the last row. `terminations` and `truncations` stay apart; where both are set the episode
terminated. Dict and Tuple spaces become several columns: "observations/position". Seeds, options and infos are left
out, but for the infos that `write_minari` adds.
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
from stitchrl.reading.sources.arrays import Declared, as_flags, described, in_blocks
from stitchrl.reading.sources.hdf5 import MAGIC, array_in, member, names_in, opened
from stitchrl.reading.sources.minari_metadata import KIND, MAIN_FILE, METADATA_FILE, SEVERAL, Layout, layout_of
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, reading_errors
from stitchrl.reading.sources.spaces import Part, action_of, is_image, observation_of
from stitchrl.types import NumpyArray

__all__ = ["FORMAT"]


def open_minari(path: Path) -> LogSource:
    """Its columns.

    Args:
        path: the folder of the dataset, its `data` folder, or the HDF5 file in it.

    Raises:
        DataError: not a Minari dataset, incomplete or damaged; h5py is missing; an observation without numbers.
    """
    layout = layout_of(_data_folder(path))
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
        with reading_errors(layout.origin, KIND):
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
