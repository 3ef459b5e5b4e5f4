""".npz: the arrays of one log under their names, as `numpy.savez` writes them. Pickled objects are never read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stitchrl.data.readers.d4rl import transitions
from stitchrl.data.readers.parts import Declared, check_lengths, opening
from stitchrl.data.readers.source import BLOCK_ROWS, Block, Format, LogSource
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["FORMAT", "Header", "headers_in", "load_array", "names_in_npz", "plain_source"]

MAGIC = b"PK\x03\x04"
KIND = ".npz"
MOST_MEMBERS = 10_000


class Header(NamedTuple):
    """What an array's own header says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype


def names_in_npz(path: Path, head: bytes) -> frozenset[str]:
    """The names of the arrays; none where it is no .npz."""
    if not head.startswith(MAGIC):
        return frozenset()
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return frozenset()


def headers_in(path: Path) -> dict[str, Header]:
    """Shape and type of each array.

    Raises:
        DataError: no .npz, damaged, Python objects, or sizes that the file cannot hold.
    """
    origin = path.name
    declared = Declared(origin, path.stat().st_size)
    headers: dict[str, Header] = {}
    with opening(str(path), KIND), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(members) > MOST_MEMBERS:
            raise DataError(f"{origin} holds {len(members):,} arrays; a log has one for each column.")
        for info in members:
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                if version not in ((1, 0), (2, 0)):
                    raise DataError(f"{name} of {origin} has a header of version {version}, which is not read.")
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
                shape, _, dtype = read(file)
            if dtype.hasobject or dtype.names is not None:
                raise DataError(
                    f"{name} of {origin} holds Python objects or records, which are not read; save plain arrays."
                )
            declared.add(name, shape, dtype.itemsize)
            headers[name] = Header(tuple(int(n) for n in shape), dtype)
    if not headers:
        raise DataError(f"{origin} holds no arrays; numpy.savez(path, observation=..., action=..., ...) makes a log.")
    return headers


def load_array(path: Path, name: str) -> NumpyArray:
    """One array, whole. Raises DataError where it is damaged."""
    with opening(path.name, KIND), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def plain_source(path: Path, headers: dict[str, Header]) -> LogSource:
    """Its arrays as columns; numbers that stand alone are none.

    Raises:
        DataError: columns of different lengths.
    """
    columns = {name: header for name, header in headers.items() if header.shape}
    if not columns:
        raise DataError(f"{path.name} holds single numbers only; a log needs one row a transition.")
    count = check_lengths({name: header.shape[0] for name, header in columns.items()}, path.name)

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        arrays = {name: load_array(path, name) for name in names}
        for start in range(0, count, BLOCK_ROWS):
            yield {name: values[start : start + BLOCK_ROWS] for name, values in arrays.items()}

    return LogSource(path.name, KIND, tuple(columns), blocks)


def open_npz(path: Path) -> LogSource:
    """Its columns, with the meaning that D4RL's names have; other names are left to a schema.

    Raises:
        DataError: no .npz, damaged, Python objects, columns of different lengths.
    """
    return transitions(plain_source(path, headers_in(path)), path.stem)


FORMAT = Format("npz", (".npz",), lambda path, head: bool(names_in_npz(path, head)), open_npz)
