"""The arrays of .npz files. Their headers can be read without their contents; Python objects are never read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import Declared
from stitchrl.reading.sources.source import reading_errors
from stitchrl.types import NumpyArray

__all__ = ["KIND", "Header", "headers_in", "load_array", "names_in_npz"]


KIND = ".npz"
MAGIC = b"PK\x03\x04"
"""The first bytes of every ZIP archive, and so of every .npz."""
MOST_MEMBERS = 10_000
"""The most arrays that a file may hold."""


class Header(NamedTuple):
    """Shape and type of an array, as its own header says."""

    shape: tuple[int, ...]
    dtype: np.dtype


def names_in_npz(path: Path, head: bytes) -> frozenset[str]:
    """The names of the arrays in a file; none if its first bytes, `head`, or the rest say that it is no .npz."""
    if not head.startswith(MAGIC):
        return frozenset()
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return frozenset()


def headers_in(path: Path) -> dict[str, Header]:
    """The header of each array in a file.

    Raises:
        DataError: the file is no .npz, is damaged, holds Python objects, or declares sizes that it cannot hold.
    """
    origin = path.name
    declared = Declared(origin, path.stat().st_size)
    headers: dict[str, Header] = {}
    with reading_errors(str(path), KIND), zipfile.ZipFile(path) as archive:
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
    """An array of a file, as a whole. Raises DataError if it is damaged."""
    with reading_errors(path.name, KIND), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
