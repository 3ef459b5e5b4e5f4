"""A log whose observations hold the last ones too: what lets a learner without memory act where not all is seen at once.

Row t then observes (o_{t-K+1}, ..., o_t), the oldest first. Before an episode's first observation, and after rows that are
missing, the first one stands for those that are not there, as in `gymnasium.wrappers.FrameStackObservation`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.given import check_is_log
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, StitchRLWarning
from stitchrl.types import NumpyArray

__all__ = ["has_history", "with_history", "without_history"]


def with_history(log: Dataset, history: int) -> Dataset:
    """The log with the last observations of each row side by side (this is `st.with_history`).

    Any algorithm learns from it, and any estimator judges what it learned on a log made in the same way; to act, and on the
    log as it was, `st.HistoryPolicy(policy, history)` remembers the observations itself. The table of observations takes
    `history` times the memory, and more where observations were shared by several rows.

    Args:
        log: its observations are vectors. Named columns get new names: "pulse" two steps before is "pulse (2 before)".
        history: observations in a row, at least 1: the last one and those before it.

    Raises:
        ConfigurationError: a number below 1, observations that are images, or what is no log.

    Warns:
        StitchRLWarning: no episode has so many steps, so that the oldest observations of each row are copies everywhere.
    """
    check_is_log(log, "st.with_history")
    if isinstance(history, bool) or not isinstance(history, int | np.integer) or history < 1:
        raise ConfigurationError(f"`history` of with_history must be a whole number of at least 1; got {history!r}.")
    if log.observation_table.ndim != 2:
        raise ConfigurationError(
            "`with_history` puts vectors side by side; the observations of this log are images of shape "
            f"{log.observation_shape}. Give them several channels when the log is written."
        )
    if history == 1:
        return log
    longest = int(log.episode_lengths.max(initial=0))
    if history > longest:
        warnings.warn(
            f"`history` of with_history is {history:,}, and the longest episode of this log has {longest:,} "
            f"{'step' if longest == 1 else 'steps'}: in every row the first observation of the episode stands for those that are "
            f"not there, so that the columns of steps further back hold nothing new. At most {longest:,} is of use to this log.",
            StitchRLWarning,
            stacklevel=2,
        )
    rows = np.arange(log.num_transitions)
    here = log.observation_index[_before(log, history)]
    alone = np.flatnonzero(~log.continues & (log.next_observation_index != NO_OBSERVATION))
    after = np.concatenate([here[alone, 1:], log.next_observation_index[alone, None]], axis=1)
    following = np.full(log.num_transitions, NO_OBSERVATION)
    following[log.continues] = rows[log.continues] + 1
    following[alone] = len(rows) + np.arange(len(alone))
    stacks = np.concatenate([here, after])
    return dataclasses.replace(
        log,
        observation_table=log.observation_table[stacks].reshape(len(stacks), -1),
        observation_index=rows.astype(np.int32),
        next_observation_index=following.astype(np.int32),
        observation_id=None,
        observation_names=_stacked_names(log.observation_names, history),
        schema=_stacked_schema(log.schema, history),
        notes=(*log.notes, f"Each observation holds the last {history}."),
    )


def without_history(schema: Schema, history: int) -> Schema:
    """The schema of the log that `with_history` was given."""
    column = schema.columns["observation"]
    if isinstance(column, str) or history == 1:
        return schema
    kept = _last_names(column, history)
    rules = {name: rule for name, rule in schema.observations.items() if name in kept}
    return dataclasses.replace(schema, columns={**schema.columns, "observation": kept}, observations=rules)


def has_history(schema: Schema, history: int) -> bool | None:
    """Whether the named observations are those of `with_history` with this number; None where they have no names."""
    column = schema.columns.get("observation")
    if column is None or isinstance(column, str):
        return None
    return column == _stacked_names(_last_names(column, history), history)


def _before(log: Dataset, history: int) -> Int[NumpyArray, "N history"]:
    """The rows whose observations each row holds, the oldest first."""
    rows = np.arange(log.num_transitions)
    begins = np.concatenate([[True], ~log.continues[:-1]])
    first = np.maximum.accumulate(np.where(begins, rows, 0))
    return np.maximum(rows[:, None] - np.arange(history - 1, -1, -1), first[:, None])


def _stacked_schema(schema: Schema, history: int) -> Schema:
    columns = {
        role: column for role, column in schema.columns.items() if role not in ("next_observation", "observation_id")
    }
    column = columns["observation"]
    if isinstance(column, str):
        return dataclasses.replace(schema, columns=columns)
    steps = range(history - 1, -1, -1)
    columns["observation"] = _stacked_names(column, history)
    rules = {_renamed(name, back): rule for back in steps for name, rule in schema.observations.items()}
    return dataclasses.replace(schema, columns=columns, observations=rules)


def _last_names(names: tuple[str, ...], history: int) -> tuple[str, ...]:
    return names[len(names) - len(names) // history :]


def _stacked_names(names: Iterable[str], history: int) -> tuple[str, ...]:
    names = tuple(names)
    return tuple(_renamed(name, back) for back in range(history - 1, -1, -1) for name in names)


def _renamed(name: str, back: int) -> str:
    return name if not back else f"{name} ({back} before)"
