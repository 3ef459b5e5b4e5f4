"""What one member computes in a call: the updates of some log rows, with batches drawn in-graph, and each row's mean metrics.

Everything here is traced into one compiled program; `program` says how members share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Step
from stitchrl.algorithms.optimizers import polyak
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.precision import products_in
from stitchrl.training.probe import Measure
from stitchrl.types import NumpyArray, PyTree

__all__ = ["Draw", "Layout", "MemberState", "MetricTable", "Row", "member_call", "member_refresh"]

Row = tuple[int, int]
"""A log row: its first update, and the update after its last."""
Draw = Callable[[PyTree, Key, Array, Array, int], Batch]
"""How a batch is drawn, as `Feed.draw` says."""

MOST_ROWS = 16
"""The most log rows of one call on an accelerator."""
LARGEST_BLOCK = 5
"""The most updates that are unrolled in the program of an accelerator; each makes compiling longer."""


class MemberState(NamedTuple):
    """What a member carries: the algorithm's state and, if asked for, the running average of its policy."""

    algorithm: PyTree
    average: PyTree


@partial(jax.tree_util.register_dataclass, data_fields=["means"], meta_fields=["names"])
@dataclasses.dataclass(frozen=True)
class MetricTable:
    """Metrics of a call as one array, so that one transfer brings them to the host.

    Attributes:
        means: (rows, metrics), each the mean over the updates of a row; with members on axis 0 where there are several.
        names: of the metrics.
    """

    means: Any
    names: tuple[str, ...]


class Layout(NamedTuple):
    """What the program of a call is compiled for.

    Attributes:
        most_rows: the most log rows of a call; how many it makes is an input.
        row_updates: the length of a row that is built in; 0 where every length is an input.
        block: how many updates are unrolled, with their batches drawn together; it divides `row_updates`.
    """

    most_rows: int = 1
    row_updates: int = 0
    block: int = 1

    @classmethod
    def of_backend(cls, backend: str, row_updates: int) -> Layout:
        """The layout that is fastest on a kind of device.

        On an accelerator an update is a chain of small kernels. A loop of unknown length asks the host before each turn, and
        the device is idle between two calls: rows of a built-in length, unrolled, and several in a call avoid both. A CPU does
        not gain from this, and compiles faster without it.
        """
        if backend == "cpu":
            return cls()
        block = next(n for n in range(LARGEST_BLOCK, 0, -1) if row_updates % n == 0)
        return cls(MOST_ROWS, row_updates, block)

    def spans(self, rows: list[Row]) -> NumpyArray:
        """The rows as (most_rows, 2) int32; those beyond the last are empty."""
        table = np.zeros((self.most_rows, 2), np.int32)
        table[: len(rows)] = rows
        return table


def member_call(
    structure: Algorithm, draw: Draw, batch_size: int, layout: Layout, measure: Measure | None = None
) -> Callable[..., tuple[MemberState, MetricTable]]:
    """(state, (arrays, probe's arrays), given, (key, inputs, member), spans, rows, updates) -> (state, metrics of each row)."""

    def call(
        state: MemberState, both: PyTree, given: PyTree, own: Any, spans: Array, rows: Array, updates: Array
    ) -> tuple[MemberState, MetricTable]:
        arrays, probed = both
        key, inputs, member = own
        algorithm = structure.with_inputs(inputs)
        start = spans[0, 0]

        def drawn(update: Array) -> tuple[Batch, Key]:
            draw_key, update_key = jax.random.split(jax.random.fold_in(key, update + 1))
            return dict(draw(arrays, draw_key, update - start, member, batch_size)), update_key

        def learn(state: MemberState, update: Array, batch: Batch, update_key: Key) -> tuple[MemberState, Any]:
            with products_in(structure.precision):
                after, metrics = algorithm.update(state.algorithm, batch, given, update_key, Step(update, updates))
            average = state.average
            if algorithm.average_rate:
                average = polyak(average, algorithm.policy(after, given), algorithm.average_rate)
            return MemberState(after, average), metrics

        _, shapes = jax.eval_shape(lambda: learn(state, start, *drawn(start)))
        names = tuple(sorted(shapes))

        def measured(state: MemberState) -> Metrics:
            if measure is None:
                return {}
            # Without the barrier the measurements could change how XLA computes the updates.
            return measure(algorithm, jax.lax.optimization_barrier(state.algorithm), given, probed)

        seen_names = tuple(sorted(jax.eval_shape(measured, state)))
        assert not set(names) & set(seen_names), "a probe has a metric of the same name as the algorithm"

        def advance(carry: Any, update: Array, batch: Batch, update_key: Key) -> Any:
            state, sums = carry
            state, metrics = learn(state, update, batch, update_key)
            return state, sums + _vector([metrics[name] for name in names])

        learn_row = _learn_row(layout, drawn, advance)

        def row(number: Array, carry: Any) -> Any:
            state, table = carry
            first, end = spans[number, 0], spans[number, 1]
            state, sums = learn_row(first, end, (state, jnp.zeros(len(names), jnp.float32)))
            means = sums / (end - first).astype(jnp.float32)
            seen = measured(state)
            means = jnp.concatenate([means, _vector([seen[name] for name in seen_names])])
            return state, jax.lax.dynamic_update_index_in_dim(table, means, number, 0)

        table = jnp.zeros((layout.most_rows, len(names) + len(seen_names)), jnp.float32)
        if layout.most_rows == 1:
            state, table = row(jnp.int32(0), (state, table))
        else:
            state, table = jax.lax.fori_loop(0, rows, row, (state, table))
        return state, MetricTable(table, names + seen_names)

    return call


def _learn_row(
    layout: Layout, drawn: Callable[[Array], tuple[Batch, Key]], advance: Callable[[Any, Array, Batch, Key], Any]
) -> Callable[[Array, Array, Any], Any]:
    """(first update, the one after the last, what is carried) -> what is carried after all of them.

    Args:
        layout: the usual length of a row, and how many updates are unrolled.
        drawn: number of an update -> its batch and its key.
        advance: (carried, number, batch, key) -> carried after one update.
    """

    def one(update: Array, carry: Any) -> Any:
        batch, update_key = drawn(update)
        # Without the barrier XLA could fuse fetching a batch with computing on it, and a stream would give other numbers.
        return advance(carry, update, jax.lax.optimization_barrier(batch), update_key)

    def block(carry: Any, first: Array) -> tuple[Any, None]:
        numbers = first + jnp.arange(layout.block)
        batches, keys = jax.vmap(drawn)(numbers)
        batches = jax.lax.optimization_barrier(batches)
        for k in range(layout.block):
            carry = advance(carry, numbers[k], jax.tree.map(lambda leaf, k=k: leaf[k], batches), keys[k])
        return carry, None

    def blocks(first: Array, end: Array, carry: Any) -> Any:
        """A row of the length that is built in."""
        firsts = first + layout.block * jnp.arange(layout.row_updates // layout.block)
        return jax.lax.scan(block, carry, firsts)[0]

    def any_length(first: Array, end: Array, carry: Any) -> Any:
        return jax.lax.fori_loop(first, end, one, carry)

    def row(first: Array, end: Array, carry: Any) -> Any:
        return jax.lax.cond(end - first == layout.row_updates, blocks, any_length, first, end, carry)

    return row if layout.row_updates else any_length


def member_refresh(structure: Algorithm) -> Callable[..., MemberState]:
    """(state, arrays, given, (key, inputs, member), update) -> the state after the algorithm's `refresh`."""

    def refresh(state: MemberState, arrays: PyTree, given: PyTree, own: Any, update: Array) -> MemberState:
        key, inputs, _ = own
        # A stream of its own: the updates draw from streams 1 and on.
        refresh_key = jax.random.fold_in(jax.random.fold_in(key, 0), update + 1)
        after = structure.with_inputs(inputs).refresh(state.algorithm, arrays, given, refresh_key)
        return MemberState(after, state.average)

    return refresh


def _vector(numbers: list[Array]) -> Array:
    return jnp.stack([n.astype(jnp.float32) for n in numbers]) if numbers else jnp.zeros(0, jnp.float32)
