"""The embedded hospital log, written as an ordinary file with its schema."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from stitchrl.errors import RunDirectoryError
from stitchrl.mdp.icu_sepsis import demo_log, log_table
from stitchrl.reading.read import read
from stitchrl.storage.files import make_directory, write_atomic, write_text

__all__ = ["write_demo_log"]


def write_demo_log(folder: Path, *, propensities: bool = True) -> Path:
    """Write the embedded hospital log as an ordinary stays.parquet with stays.toml beside it; returns its path.

    Files already there with the same content are left alone.

    Raises:
        RunDirectoryError: the folder cannot be written, or holds another stays.parquet.
    """
    make_directory(folder)
    log = demo_log(propensities=propensities)
    path, toml = folder / "stays.parquet", folder / "stays.toml"
    if toml.exists() and toml.read_bytes() != log.schema.to_toml().encode():
        raise RunDirectoryError(f"{toml} is of another log. Choose another --out; nothing was changed.")
    if path.exists() and read(path, log.schema).content_hash != log.content_hash:
        raise RunDirectoryError(f"{path} is another log. Choose another --out; nothing was changed.")
    if not toml.exists():
        write_text(toml, log.schema.to_toml())
    if path.exists():
        return path
    write_atomic(path, lambda beside: pq.write_table(log_table(log), beside, compression="zstd"))
    return path
