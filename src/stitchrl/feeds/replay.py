"""Replay: the newest transitions of a learner that acts, on the device, from which batches are drawn with replacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from stitchrl.feeds.feed import Source
from stitchrl.jax_types import Array, Batch, Key
from stitchrl.types import NumpyArray, PyTree

__all__ = ["Replay"]


class Replay:
    """Room for a number of transitions; when it is full, the oldest make way.

    Args:
        capacity: transitions that it holds, at least 1.
        num_actions: of discrete actions, all of which are allowed; None where actions are vectors.
    """

    def __init__(self, capacity: int, num_actions: int | None) -> None:
        self.capacity = capacity
        self.added = 0
        """Transitions added so far, those that made way included."""
        self._columns: dict[str, Array] = {}
        self._shared: dict[str, Array] = {}
        if num_actions is not None:
            self._shared = {name: jnp.ones((1, num_actions), bool) for name in ("action_mask", "next_action_mask")}

    def add(self, columns: Mapping[str, NumpyArray]) -> None:
        """Add transitions: `obs`, `action`, `reward`, `next_obs` and `terminated`, each (n, ...) with n up to the capacity.

        Images stay bytes, numbered actions are int32, all else is float32.
        """
        new = {name: np.asarray(values, _kind(name, values)) for name, values in columns.items()}
        count = len(new["reward"])
        if not self._columns:
            self._columns = {
                name: jnp.zeros((self.capacity, *values.shape[1:]), values.dtype) for name, values in new.items()
            }
        rows = (self.added + np.arange(count, dtype=np.int32)) % self.capacity
        self._columns = _written(self._columns, new, rows)
        self.added += count

    @property
    def arrays(self) -> PyTree:
        """What `draw` draws from: as those of a `Source`, always of the same shapes."""
        return (self._columns, self._shared), jnp.int32(min(self.added, self.capacity)), None

    @property
    def draw(self) -> Callable[[PyTree, Key, Int[Array, ""], Int[Array, ""], int], Batch]:
        """(arrays, key, position, member, batch size) -> batch; pure and hashable."""
        return Source((), 0, _rows).draw


def _kind(name: str, values: NumpyArray) -> type[np.generic]:
    """The type that a column is held in."""
    if values.dtype == np.uint8 and values.ndim > 2:
        return np.uint8
    return np.int32 if name == "action" and values.ndim == 1 else np.float32


def _rows(arrays: PyTree, rows: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
    """The fields of a batch, as `feeds.batches` names them."""
    del member
    columns, shared = arrays
    batch = {name: column[rows] for name, column in columns.items()}
    batch |= {name: jnp.broadcast_to(mask, (len(rows), mask.shape[1])) for name, mask in shared.items()}
    return batch | {"row": rows, "truncated": jnp.zeros(len(rows)), "td_weight": jnp.ones(len(rows))}


@partial(jax.jit, donate_argnums=0)
def _written(columns: dict[str, Array], new: dict[str, Array], rows: Int[Array, " n"]) -> dict[str, Array]:
    return {name: column.at[rows].set(new[name]) for name, column in columns.items()}
