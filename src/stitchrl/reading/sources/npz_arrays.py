"""Arrays inside NPZ and NPY files, their headers read without their contents."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import Declared
from stitchrl.reading.sources.source import reading_errors
from stitchrl.types import NumpyArray

__all__ = ["Header", "headers_in", "load_array", "names_in_npz"]


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
    """One array, whole. Raises DataError where it is damaged."""
    with reading_errors(path.name, KIND), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


MAGIC = b"PK\x03\x04"


KIND = ".npz"


MOST_MEMBERS = 10_000
