"""The columns of a log that belong to roles of several columns, `cost` and `subgroup`, by their names."""

from __future__ import annotations

from jaxtyping import Shaped

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["named_columns"]


def named_columns(log: Dataset, role: str) -> dict[str, Shaped[NumpyArray, " N"]]:
    """Name -> values, of every column that has the role `cost` or `subgroup`; none where the log has no such column.

    A column of lists gives several columns, numbered from 0: "cost[0]", "cost[1]".
    """
    held = getattr(log, role)
    if held is None:
        return {}
    named = log.schema.columns.get(role, role)
    names = (named,) if isinstance(named, str) else named
    if len(names) != held.shape[1]:
        names = tuple(f"{'+'.join(names)}[{i}]" for i in range(held.shape[1]))
    return {name: held[:, i] for i, name in enumerate(names)}
