"""From rows of a log to batches: transitions, n-step windows, and pieces of episodes. The fields are named here, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from stitchrl.data.columns import MOST_ROWS
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import DataError
from stitchrl.jax_types import Array, Batch
from stitchrl.types import NumpyArray, PyTree

__all__ = [
    "FIELDS",
    "OF_LAST",
    "Field",
    "NStepTransitions",
    "Sequences",
    "check_rows",
    "mask_shared_by_all",
    "sample_transitions",
    "transition_arrays",
    "window_end",
]

Rows = Any
"""Row numbers, or a slice."""


class Field(NamedTuple):
    """One field of a batch that is a column of the log.

    Attributes:
        of: which row of a window of n steps it is taken from: the "first", or the "last".
        read: (log, scaling, rows) -> the field at these rows, as batches hold it.
        in_pieces: whether pieces of episodes have it.
    """

    of: Literal["first", "last"]
    read: Callable[[Dataset, Scaling, Rows], NumpyArray]
    in_pieces: bool = True


def _elapsed(log: Dataset, scaling: Scaling, rows: Rows) -> NumpyArray:
    """Times until the next decision; 0 where they are unknown, which no target uses."""
    assert log.elapsed is not None
    return np.nan_to_num(log.elapsed[rows], nan=0.0).astype(np.float32)


def _next_mask(log: Dataset, scaling: Scaling, rows: Rows) -> NumpyArray:
    """Not the log's `next_action_mask`, which is all of it at once: the log may be memory-mapped."""
    mask = log.action_mask
    assert mask is not None
    if isinstance(rows, slice):
        rows = np.arange(log.num_transitions)[rows]
    after = mask[np.minimum(rows + 1, len(mask) - 1)]
    return np.where(log.continues[rows][:, None], after, True)


FIELDS: dict[str, Field] = {
    "action": Field("first", lambda log, scaling, rows: scaling.actions(log.action[rows])),
    "reward": Field("first", lambda log, scaling, rows: scaling.rewards(log.reward[rows])),
    "terminated": Field("last", lambda log, scaling, rows: log.terminated[rows].astype(np.float32)),
    "truncated": Field("last", lambda log, scaling, rows: log.truncated[rows].astype(np.float32)),
    "td_weight": Field("last", lambda log, scaling, rows: log.can_bootstrap[rows].astype(np.float32), in_pieces=False),
    "elapsed": Field("last", _elapsed, in_pieces=False),
    "action_mask": Field("first", lambda log, scaling, rows: _mask(log)[rows]),
    "next_action_mask": Field("last", _next_mask, in_pieces=False),
}
"""Fields of a batch beside `obs`, `next_obs` and what an algorithm's `prepare` adds. Masks only with discrete actions,
`elapsed` only where the schema has a `time_unit`."""
MASKS = ("action_mask", "next_action_mask")


def _mask(log: Dataset) -> NumpyArray:
    assert log.action_mask is not None
    return log.action_mask


def mask_shared_by_all(log: Dataset) -> dict[str, NumpyArray]:
    """Masks of a discrete log without any: one all-True row, (1, A), that stands in for all; {} otherwise."""
    if log.num_actions is None or log.action_mask is not None:
        return {}
    return {name: np.ones((1, log.num_actions), bool) for name in MASKS}


def fields_of(log: Dataset, *, pieces: bool = False) -> dict[str, Field]:
    """The fields that a log has a column for."""
    return {
        name: field
        for name, field in FIELDS.items()
        if (name not in MASKS or log.action_mask is not None)
        and (name != "elapsed" or log.elapsed is not None)
        and (field.in_pieces or not pieces)
    }


def window_end(log: Dataset) -> Int[NumpyArray, " N"]:
    """(N,) the last row that a window of several steps may reach from each row: where its run ends, or one row before
    where the run ends without its next observation, which leaves a shorter target that can bootstrap."""
    end = log.run_end
    return np.maximum(end - ~log.can_bootstrap[end], np.arange(log.num_transitions)).astype(end.dtype)


def check_rows(log: Dataset) -> None:
    """Raise DataError where rows or stored observations cannot be numbered by 32 bits."""
    rows = max(log.num_transitions, len(log.observation_table))
    if rows > MOST_ROWS:
        raise DataError(
            f"A log in memory may have up to {MOST_ROWS:,} rows and stored observations; this one has {rows:,}. "
            "Convert it to a store and train with stream=True, or on a part of it."
        )


def transition_arrays(
    log: Dataset, scaling: Scaling, columns: Mapping[str, NumpyArray] | None = None
) -> dict[str, NumpyArray]:
    """The log's columns as batches need them, one row a transition but for `observations`, each stored once.

    Args:
        log: only the observations that its rows use are held.
        scaling: applied to what is held.
        columns: further columns (N, ...), each a field of the batch of its name.
    """
    check_rows(log)
    log = log.compact()
    arrays = {
        "observations": scaling.observations(log.observation_table),
        "observation_index": log.observation_index,
        "next_observation_index": np.maximum(log.next_observation_index, 0).astype(np.int32),
    }
    arrays |= {name: field.read(log, scaling, slice(None)) for name, field in fields_of(log).items()}
    arrays |= mask_shared_by_all(log)
    for name, column in (columns or {}).items():
        if name in arrays or name in ("obs", "next_obs", "row"):
            raise DataError(f"A prepared column must have a name of its own; {name!r} is a field of every batch.")
        arrays[f"{PREPARED}{name}"] = column
    return arrays


PREPARED = "prepared/"
"""Prefix of the columns that an algorithm prepared, among the log's own."""
OF_LAST = "next_"
"""Prepared columns whose name begins so tell what followed: they are taken from the last row of a window of n steps."""


def sample_transitions(arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
    """The batch of the given rows; the same for every member."""
    del member
    return _transitions(arrays, index, index)


def _transitions(arrays: PyTree, first: Int[Array, " B"], last: Int[Array, " B"]) -> Batch:
    batch = {
        "obs": arrays["observations"][arrays["observation_index"][first]],
        "next_obs": arrays["observations"][arrays["next_observation_index"][last]],
        "row": first,
    }
    for name, field in FIELDS.items():
        if name in arrays:
            batch[name] = arrays[name][_row_of(arrays[name], first if field.of == "first" else last)]
    for name, column in arrays.items():
        if name.startswith(PREPARED):
            own = name.removeprefix(PREPARED)
            batch[own] = column[last if own.startswith(OF_LAST) else first]
    return batch


def _row_of(column: Array, index: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Where a row's entry stands: one row of a mask may stand in for all."""
    return index if column.shape[0] > 1 else jnp.zeros_like(index)


@dataclasses.dataclass(frozen=True)
class NStepTransitions:
    """Batches over n steps: obs and action of a row, and what follows m <= n steps later, within its episode.

    A window ends where its episode ends, or one step before where the episode was cut and what followed is unknown, so
    that its target can bootstrap. Fields beside those of one step: rewards (B, n), 0 beyond m; steps (B,) float32, m.
    Fields that `FIELDS` takes from the "last" row, and `next_obs`, are those of the last of the m rows.
    """

    n_steps: int

    def __call__(self, arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
        del member
        last = jnp.minimum(index + self.n_steps - 1, arrays["window_end"][index])
        steps = last - index + 1
        offsets = jnp.arange(self.n_steps)
        window = jnp.minimum(index[:, None] + offsets[None, :], last[:, None])
        rewards = jnp.where(offsets[None, :] < steps[:, None], arrays["reward"][window], 0.0)
        batch = dict(_transitions(arrays, index, last))
        return batch | {"rewards": rewards, "steps": steps.astype(jnp.float32)}


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Batches of pieces of episodes: K rows from the drawn one on, within its episode.

    Fields: obs (B, K, D), action, reward, terminated, truncated (B, K, ...), position (B, K) in the episode, valid
    (B, K) 1 for rows of the episode and 0 beyond its end, where the last row is repeated; action_mask where discrete; and the
    columns that an algorithm prepared, of each row.
    """

    length: int

    def __call__(self, arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
        del member
        wanted = index[:, None] + jnp.arange(self.length)[None, :]
        rows = jnp.minimum(wanted, arrays["run_end"][index][:, None])
        batch = {"obs": arrays["observations"][arrays["observation_index"][rows]], "position": arrays["position"][rows]}
        for name, field in FIELDS.items():
            if name in arrays and field.in_pieces:
                batch[name] = arrays[name][_row_of(arrays[name], rows)]
        for name, column in arrays.items():
            if name.startswith(PREPARED):
                batch[name.removeprefix(PREPARED)] = column[rows]
        batch["valid"] = (rows == wanted).astype(jnp.float32)
        return batch
