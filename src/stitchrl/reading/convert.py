"""`st.convert` writes a log of any format as a native store, as Parquet or as a Minari dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.reading.read import as_dataset, known_schema, open_log, schema_of
from stitchrl.reading.store import is_store, on_disk, open_store, write_store
from stitchrl.reading.writers.minari import write_minari
from stitchrl.reading.writers.parquet import write_parquet

__all__ = ["TARGETS", "convert", "target_kind"]

TARGETS: dict[str, Callable[[Dataset, Path], Path]] = {
    "store": write_store,
    "parquet": write_parquet,
    "minari": write_minari,
}
"""Name of a target -> what writes it."""
OTHER_FORMATS = frozenset((
    ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".npz", ".npy", ".pkl", ".pickle", ".h5", ".hdf5", ".arrow",
    ".feather", ".avro", ".orc", ".xlsx", ".zip", ".gz", ".zst", ".toml",
))  # fmt: skip
"""Endings of other files, which are refused as names of a store: the user most likely wanted such a file."""


def target_kind(path: Path) -> str:
    """What a name asks for by its ending: "parquet" or "store". Raises ConfigurationError for the ending of another format."""
    ending = path.suffix.lower()
    if ending in OTHER_FORMATS:
        raise ConfigurationError(
            f"A log is written as name.parquet, or as the folder of a store, which has no such ending as {ending}; got "
            f"{str(path)!r}. Choose {str(path.with_suffix('.parquet'))!r}."
        )
    return "parquet" if ending in (".parquet", ".pq") else "store"


def convert(
    source: Any,
    out: str | os.PathLike[str],
    *,
    schema: Schema | str | os.PathLike[str] | None = None,
    format: str | None = None,
    to: str | None = None,
    without: Iterable[Any] | None = None,
) -> Path:
    """Write a log in another format. The log may be larger than memory: it is assembled in files beside `out`.

    Args:
        source: what `st.read` takes, or a Dataset.
        out: the file (`name.parquet`, with its schema beside it) or folder to make.
        schema, format: of the source, as `st.read` takes them.
        to: "store" (a folder that opens in milliseconds), "parquet" or "minari" (a folder `name-v0`). The default is
            "parquet" if `out` ends in .parquet or .pq, else "store".
        without: identifiers of episodes to leave out, such as `st.read_drop_list(file)`; the log itself stays as it is.

    Returns:
        The path of the file or folder.

    Raises:
        ConfigurationError: `to` is unknown, or is not given and `out` ends as a file of another format; the log lacks an
            episode of `without`.
        RunDirectoryError: `out` exists, the disk is full, or it cannot be written; nothing is left behind.
        DataError, SchemaError: as `st.read`.
    """
    path = Path(out)
    kind = to or target_kind(path)
    if kind not in TARGETS:
        raise ConfigurationError(f"`to` of convert must be one of {', '.join(TARGETS)}; got {kind!r}.")
    if path.exists():
        raise RunDirectoryError(f"{str(path)!r} exists; nothing is overwritten. Choose another place or remove it.")
    beside = path.with_suffix(".toml")
    if kind == "parquet" and beside.exists():
        raise RunDirectoryError(
            f"{str(beside)!r} exists, where the schema of {path.name} is written; nothing is overwritten. Choose another name."
        )
    unwanted = list(without or ())
    if isinstance(source, Dataset):
        return TARGETS[kind](_left(source, unwanted), path)
    if isinstance(source, str | os.PathLike) and is_store(Path(source)):
        return TARGETS[kind](_left(open_store(Path(source)), unwanted), path)
    known = known_schema(source, schema)
    log = open_log(source, format=format, rules=None if known is None else known.file_rules)
    chosen, guessed = schema_of(source, log, known)
    with on_disk(path.absolute().parent) as new:
        return TARGETS[kind](_left(as_dataset(log, chosen, guessed, new), unwanted), path)


def _left(log: Dataset, unwanted: list[Any]) -> Dataset:
    """The log without some episodes, and without observations that only these had."""
    return log.without_episodes(unwanted).compact() if unwanted else log
