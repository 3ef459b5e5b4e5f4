"""Plain or compressed text files, with a guard against the ones that unpack into nothing but size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from stitchrl.errors import DataError

__all__ = ["COMPRESSIONS", "opened", "without_compression"]

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
MOST_BYTES, MOST_TIMES = 2**28, 200
"""Beyond the first, a file that unpacks to more than the second times its size is refused."""


def without_compression(path: Path) -> str:
    """The ending of a name, that of its compression aside: `.csv` of `log.csv.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSIONS else path.suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The unpacked bytes of a file, as a stream that Arrow reads.

    Raises:
        DataError: it unpacks to far more than text does.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    kind = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
    if kind is None:
        with pa.OSFile(str(path)) as plain:
            yield plain
        return
    with pa.CompressedInputStream(pa.OSFile(str(path)), kind) as unpacked:
        yield pa.PythonFile(_Guarded(unpacked, path), mode="r")


class _Guarded(io.RawIOBase):
    """Counts what is read."""

    def __init__(self, inner: Any, path: Path) -> None:
        super().__init__()
        self._inner, self._path, self._size, self._read = inner, path, path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._inner.read(size if size >= 0 else None)
        self._read += len(content)
        if self._read > max(MOST_BYTES, MOST_TIMES * self._size):
            raise DataError(
                f"{self._path.name} unpacks to more than {MOST_TIMES} times its size, which logs do not; unpack it "
                "yourself if it is one."
            )
        return content
