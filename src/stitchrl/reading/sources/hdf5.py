"""Opening HDF5 files safely: links out of the file are refused, and so are sizes that the file cannot hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import Declared
from stitchrl.reading.sources.source import reading_errors

__all__ = ["MAGIC", "array_in", "member", "names_in", "opened"]

MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Any]:
    """The file as h5py opens it.

    Args:
        path: the file.
        kind: what the file should be, for messages.

    Raises:
        DataError: h5py is not installed, or the file turns out to be damaged while it is open.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(f'{path.name} is HDF5, which needs h5py: pip install "stitchrl[hdf5]".') from None
    with reading_errors(path.name, kind), h5py.File(path, "r", locking=False) as file:
        yield file


def names_in(path: Path) -> frozenset[str]:
    """The names at the top level of a file; none if it cannot be opened."""
    try:
        with opened(path, "HDF5") as file:
            return frozenset(file.keys())
    except DataError:
        return frozenset()


def member(group: Any, name: str, origin: str) -> Any:
    """The group or dataset of this name in `group`.

    Raises:
        DataError: it is absent, or a link, since links can lead to other files.
    """
    import h5py

    if not isinstance(group, h5py.Group) or not group.id.links.exists(name.encode()):
        raise DataError(f"{origin} has no {_path(group, name)!r}; it is incomplete or of another format.")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise DataError(f"{_path(group, name)!r} of {origin} is a link; only data in the file itself are read.")
    return group[name]


def array_in(group: Any, name: str, origin: str, declared: Declared | None = None) -> Any:
    """The dataset of this name in `group`, checked to hold numbers.

    Args:
        group: of the file.
        name: of the dataset.
        origin: what messages call the file.
        declared: counts the size of the dataset, if given, so that it is safe to allocate.

    Raises:
        DataError: it is absent, holds no numbers, is kept in another file, or is larger than the file can hold.
    """
    import h5py

    dataset = member(group, name, origin)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(
            f"{_path(group, name)!r} of {origin} must be an array; it is a {type(dataset).__name__.lower()}."
        )
    created = dataset.id.get_create_plist()
    if created.get_external_count() or created.get_layout() == h5py.h5d.VIRTUAL:
        raise DataError(f"{_path(group, name)!r} of {origin} is kept in another file, which is not read.")
    kind, shape = dataset.dtype, dataset.shape
    if kind.kind not in "biuf" or shape is None:
        raise DataError(f"{_path(group, name)!r} of {origin} must be numbers; it is {kind}.")
    if declared is not None:
        declared.add(repr(_path(group, name)), shape, kind.itemsize)
    return dataset


def _path(group: Any, name: str) -> str:
    """The full path of a name in a group, for messages."""
    return f"{getattr(group, 'name', '') or ''}/{name}".lstrip("/")
