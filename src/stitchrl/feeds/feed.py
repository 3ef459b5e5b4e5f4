"""From a Dataset to batches: what the training loop draws from, in memory or streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import Sampling, UniformSampling, alias_table
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.batches import (
    NStepTransitions,
    Sequences,
    check_rows,
    sample_transitions,
    transition_arrays,
    window_end,
)
from stitchrl.feeds.shuffling import ShuffledRows
from stitchrl.feeds.streaming import ShuffledReader, prefetched
from stitchrl.jax_types import Array, Batch, Key
from stitchrl.types import NumpyArray, PyTree

__all__ = [
    "Feed",
    "Source",
    "StreamSource",
    "sequence_source",
    "shuffled_rows",
    "shuffled_source",
    "transition_source",
]

UNIFORM = UniformSampling()
Spans = Iterator[tuple[int, int]]


@runtime_checkable
class Feed(Protocol):
    """What the loop learns from: arrays for a span of updates, and a pure function from them to one batch."""

    def open(
        self, spans: Spans, batch_size: int, span_updates: int
    ) -> AbstractContextManager[Callable[[int, int], PyTree]]:
        """A context that gives (first update, end) -> the arrays of that span, asked for in the order of `spans`.

        No span is longer than `span_updates`; arrays have the shapes of a full one, so that nothing recompiles.
        """

    @property
    def resident(self) -> bool:
        """Whether every span has the same arrays, so that updates of several spans can be made in one call."""

    @property
    def whole(self) -> PyTree:
        """The columns of the whole log on the device, as `transition_arrays` makes them; None where they are streamed."""

    @property
    def draw(self) -> Callable[[PyTree, Key, Int[Array, ""], Int[Array, ""], int], Batch]:
        """(arrays, key, number of the update in its span, member index, batch size) -> batch; pure and hashable."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Device-resident arrays whose rows are drawn in-graph, with replacement.

    Attributes:
        arrays: pytree of device arrays.
        count: rows that can be drawn.
        sample: (arrays, row indices (B,), member index) -> batch; pure. The member index tells members apart that train
            side by side (a seed, or the policy an evaluation is for).
        alias: the tables of `alias_table` where rows are not drawn with equal chance.
    """

    arrays: PyTree
    count: int
    sample: Callable[[PyTree, Int[Array, " B"], Int[Array, ""]], Batch]
    alias: tuple[Float[Array, " N"], Int[Array, " N"]] | None = None

    def open(
        self, spans: Spans, batch_size: int, span_updates: int
    ) -> AbstractContextManager[Callable[[int, int], PyTree]]:
        """The same arrays for every span."""
        del spans, batch_size, span_updates
        # The number of rows is an input too: a log of another length does not recompile for its sake.
        everything = (self.arrays, jnp.int32(self.count), self.alias)
        return nullcontext(lambda first, end: everything)

    @property
    def resident(self) -> bool:
        """True: everything is on the device."""
        return True

    @property
    def whole(self) -> PyTree:
        """All of its arrays."""
        return self.arrays

    @property
    def draw(self) -> Callable[[PyTree, Key, Int[Array, ""], Int[Array, ""], int], Batch]:
        """Rows with replacement."""
        return _WithReplacement(self.sample)


@dataclasses.dataclass(frozen=True)
class _WithReplacement:
    sample: Callable[[PyTree, Int[Array, " B"], Int[Array, ""]], Batch]

    def __call__(
        self, arrays: PyTree, key: Key, position: Int[Array, ""], member: Int[Array, ""], batch_size: int
    ) -> Batch:
        del position
        columns, count, alias = arrays
        if alias is None:
            return self.sample(columns, jax.random.randint(key, (batch_size,), 0, count), member)
        keep, other = alias
        row_key, keep_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (batch_size,), 0, count)
        rows = jnp.where(jax.random.uniform(keep_key, (batch_size,)) < keep[rows], rows, other[rows])
        return self.sample(columns, rows, member)


@dataclasses.dataclass(frozen=True)
class StreamSource:
    """Batches made on the host and fed a span at a time by a background thread; the same for every member.

    Attributes:
        produce: (first update, end, batch size) -> arrays with axes (updates, batch, ...).
        draw: from such arrays, or from what `extra` adds to them, to one batch.
        extra: device arrays handed along with every span.
    """

    produce: Callable[[int, int, int], PyTree]
    draw: Callable[[PyTree, Key, Int[Array, ""], Int[Array, ""], int], Batch]
    extra: PyTree = None

    @classmethod
    def of(
        cls,
        log: Dataset,
        scaling: Scaling,
        *,
        seed: int = 0,
        columns: Mapping[str, NumpyArray] | None = None,
        sampling: Sampling = UNIFORM,
        n_steps: int = 1,
        length: int | None = None,
        **shuffle: int,
    ) -> StreamSource:
        """A log's transitions in the order of `ShuffledRows`, read block by block: nothing is held but a buffer.

        With `length`, pieces of episodes that start at the rows of that order; see `Sequences`.
        """
        order = ShuffledRows(log.num_transitions, seed, weights=sampling.weights(log), **shuffle)
        return cls(
            ShuffledReader(log, scaling, order, columns=columns, n_steps=n_steps, length=length).batches, _take_batch
        )

    @property
    def resident(self) -> bool:
        """False: a span has batches, or row numbers, of its own."""
        return False

    @property
    def whole(self) -> PyTree:
        """The arrays held on the device; None where nothing is held."""
        return self.extra

    @contextmanager
    def open(self, spans: Spans, batch_size: int, span_updates: int) -> Iterator[Callable[[int, int], PyTree]]:
        """Spans made ahead of their use."""

        def produce(first: int, end: int) -> PyTree:
            made = self.produce(first, end, batch_size)
            missing = span_updates - (end - first)
            if missing:  # a shorter span: the same shapes, and rows nobody asks for
                made = jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]), made)
            return made

        with prefetched(produce, spans) as take:
            yield take if self.extra is None else lambda first, end: (take(first, end), self.extra)


def _take_batch(arrays: PyTree, key: Key, position: Int[Array, ""], member: Int[Array, ""], batch_size: int) -> Batch:
    del key, member
    batch = dict(jax.tree.map(lambda column: column[position], arrays))
    for name in ("action_mask", "next_action_mask"):
        if name in batch:  # one row may stand in for all
            batch[name] = jnp.broadcast_to(batch[name], (batch_size, *batch[name].shape[1:]))
    return batch


@dataclasses.dataclass(frozen=True)
class _TakeRows:
    sample: Callable[[PyTree, Int[Array, " B"], Int[Array, ""]], Batch]

    def __call__(
        self, arrays: PyTree, key: Key, position: Int[Array, ""], member: Int[Array, ""], batch_size: int
    ) -> Batch:
        del key, batch_size
        rows, columns = arrays
        return self.sample(columns, rows[position], member)


def shuffled_source(
    log: Dataset,
    scaling: Scaling,
    *,
    seed: int = 0,
    columns: Mapping[str, NumpyArray] | None = None,
    sampling: Sampling = UNIFORM,
    n_steps: int = 1,
    length: int | None = None,
    **shuffle: int,
) -> StreamSource:
    """A log in device memory fed the rows that `StreamSource.of` would stream: the same numbers.

    Raises:
        DataError: more rows than device memory can number.
    """
    check_rows(log)
    order = ShuffledRows(log.num_transitions, seed, weights=sampling.weights(log), **shuffle)
    held = (
        transition_source(log, scaling, columns=columns, n_steps=n_steps)
        if length is None
        else sequence_source(log, scaling, length, columns=columns)
    )
    return shuffled_rows(held, order)


def shuffled_rows(held: Source, order: ShuffledRows) -> StreamSource:
    """What a source holds in device memory, in the order of these rows."""

    def produce(first: int, end: int, batch_size: int) -> PyTree:
        rows = order.rows(first * batch_size, end * batch_size)
        return rows.astype(np.int32).reshape(end - first, batch_size)

    return StreamSource(produce, _TakeRows(held.sample), held.arrays)


def transition_source(
    log: Dataset,
    scaling: Scaling,
    *,
    columns: Mapping[str, NumpyArray] | None = None,
    sampling: Sampling = UNIFORM,
    n_steps: int = 1,
) -> Source:
    """Every transition of the log, drawn by a rule. Observations are scaled once and stored once.

    Args:
        log: the training part.
        scaling: applied to what is drawn.
        columns: further columns (N, ...) that become fields of the batch.
        sampling: how often each row is drawn.
        n_steps: at least 1; above it a batch has what `NStepTransitions` says.

    Raises:
        DataError: more rows than device memory can number.
    """
    arrays = transition_arrays(log, scaling, columns)
    if n_steps > 1:
        arrays["window_end"] = window_end(log)
    weights = sampling.weights(log)
    alias = None if weights is None else alias_table(weights)
    return Source(
        {name: jnp.asarray(value) for name, value in arrays.items()},
        log.num_transitions,
        sample_transitions if n_steps == 1 else NStepTransitions(n_steps),
        alias if alias is None else (jnp.asarray(alias[0]), jnp.asarray(alias[1])),
    )


def sequence_source(
    log: Dataset,
    scaling: Scaling,
    length: int,
    *,
    columns: Mapping[str, NumpyArray] | None = None,
    sampling: Sampling = UNIFORM,
) -> Source:
    """Pieces of episodes, `length` rows from a drawn row on; see `Sequences`. Other arguments as of `transition_source`."""
    held = transition_source(log, scaling, columns=columns, sampling=sampling)
    arrays = held.arrays | {"run_end": jnp.asarray(log.run_end), "position": jnp.asarray(log.position, jnp.int32)}
    return dataclasses.replace(held, arrays=arrays, sample=Sequences(length))
