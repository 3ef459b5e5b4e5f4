"""Plain or compressed files as a stream of bytes, with a guard against small files made to unpack into huge ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from stitchrl.errors import DataError
from stitchrl.messages import printable

__all__ = ["COMPRESSIONS", "MAGIC", "unpacked", "without_compression"]

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""Ending of a file name -> its compression."""
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a file -> its compression."""
PIECE_BYTES = 2**20
MOST_BYTES, MOST_TIMES = 2**28, 200
"""A file is refused if it unpacks to more than this many bytes and also to more than this many times its size."""


def without_compression(path: Path) -> str:
    """The ending of a file name in lower case, without that of a compression: `.csv` for `log.csv.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSIONS else path.suffix.lower()


def unpacked(path: Path) -> Iterator[bytes]:
    """The bytes of a file in pieces, unpacked if it is compressed.

    Raises:
        DataError: the file unpacks to far more than text does.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    kind = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
    most = max(MOST_BYTES, MOST_TIMES * path.stat().st_size)
    read = 0
    with pa.OSFile(str(path)) as plain, plain if kind is None else pa.CompressedInputStream(plain, kind) as stream:
        while piece := stream.read(PIECE_BYTES):
            read += len(piece)
            if kind is not None and read > most:
                raise DataError(
                    f"{printable(path.name)} unpacks to more than {MOST_TIMES} times its size, which logs do not; "
                    "unpack it yourself if it is one."
                )
            yield piece
