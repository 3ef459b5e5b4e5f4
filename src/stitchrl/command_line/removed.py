"""`stitchrl audit --removed`: columns of the file that the observation leaves out on purpose, read beside the log."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["log_and_removed"]


def log_and_removed(
    log: Path, schema: Path | None, *, format: str | None, removed: tuple[str, ...]
) -> tuple[Dataset, dict[str, NumpyArray]]:
    """A log as its schema says, and the values of further columns of the file, in the order of the log's rows."""
    from stitchrl.reading.read import read

    whole = read(log, schema, format=format, beside={"subgroup": removed})
    if not removed or whole.subgroup is None:
        return whole, {}
    named = whole.schema.columns["subgroup"]
    names = (named,) if isinstance(named, str) else named
    values = {name: whole.subgroup[:, j] for j, name in enumerate(names) if name in removed}
    kept = [j for j, name in enumerate(names) if name not in removed]
    columns = {role: column for role, column in whole.schema.columns.items() if role != "subgroup"}
    if kept:
        columns["subgroup"] = tuple(names[j] for j in kept)
    as_before = dataclasses.replace(
        whole,
        subgroup=np.array(whole.subgroup[:, kept]) if kept else None,
        schema=dataclasses.replace(whole.schema, columns=columns),
    )
    return as_before, values
