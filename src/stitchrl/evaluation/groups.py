"""The groups of episodes for which a gain is asked for apart, told by what a log says at the first step of an episode.

What is known before the first decision may divide episodes; what comes later may not, for the policy would have changed it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from stitchrl.data.dataset import Dataset
from stitchrl.data.named_columns import named_columns
from stitchrl.errors import ConfigurationError
from stitchrl.messages import listed
from stitchrl.types import NumpyArray

__all__ = ["MOST_GROUPS", "Groups", "first_labels", "groups_of"]

MOST_GROUPS = 20
"""The most groups that one column may tell apart: with more, hardly any would have enough episodes to be judged."""
MISSING = "none"
"""The label of an episode whose one-hot observation names no category."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """Groups of episodes, each with a column and the label that it has at the first step.

    Attributes:
        named: column and label of each group; groups of one column do not overlap, those of two may.
    """

    named: tuple[tuple[str, str], ...]

    def members(self, log: Dataset) -> Float[NumpyArray, "n G"]:
        """1 for each episode of a log that is in a group, else 0."""
        labels = {column: first_labels(log, column) for column in dict.fromkeys(column for column, _ in self.named)}
        return np.stack([labels[column] == label for column, label in self.named], axis=1).astype(np.float64)


def groups_of(log: Dataset, columns: str | Sequence[str]) -> Groups | None:
    """The groups that columns of a log tell apart; None where no column is named.

    Raises:
        ConfigurationError: a log without such a column, or a column with too many labels.
    """
    named: list[tuple[str, str]] = []
    for column in dict.fromkeys([columns] if isinstance(columns, str) else columns):
        labels = np.unique(first_labels(log, column))
        if len(labels) > MOST_GROUPS:
            raise ConfigurationError(
                f"A column of groups must have at most {MOST_GROUPS} different values at the first steps of episodes; "
                f"{column!r} has {len(labels):,}. Give one of few values, such as age bands in place of ages."
            )
        named += [(column, str(label)) for label in labels]
    return Groups(tuple(named)) if named else None


def first_labels(log: Dataset, column: str) -> Shaped[NumpyArray, " n"]:
    """(n,) what a column says at the first step of each episode, as text.

    The column is one with the role `subgroup`, `source` or `group`, or one of the observation: numbers, or categories that
    were read as one-hot.

    Raises:
        ConfigurationError: the log has no such column.
    """
    first = log.episode_start[:-1]
    named = named_columns(log, "subgroup")
    if column in named:
        return named[column][first].astype(str)
    roles = log.schema.columns
    if log.source is not None and column in ("source", roles.get("source")):
        return log.source[first].astype(str)
    if log.group is not None and column in ("group", roles.get("group")):
        return log.group.astype(str)
    names = list(log.observation_names)
    if column in names:
        return np.array(
            [f"{value:g}" for value in log.observation_table[log.observation_index[first], names.index(column)]]
        )
    hot = [k for k, name in enumerate(names) if name.startswith(f"{column}=")]
    if hot:
        seen = log.observation_table[log.observation_index[first]][:, hot]
        labels = np.array([names[k].removeprefix(f"{column}=") for k in hot])
        return np.where(seen.max(1) > 0, labels[seen.argmax(1)], MISSING)
    known = [*named, *(name for name in ("source", "group") if getattr(log, name) is not None), *names]
    raise ConfigurationError(
        f"Groups must be told by a column that the log was read with; there is no {column!r} among {listed(known, 40)}. Give "
        "the column the role `subgroup` in the schema, or `beside={'subgroup': [...]}` to `st.read`."
    )
