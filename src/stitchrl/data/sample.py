"""From a Dataset to batches: what the training loop draws from, in memory or streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from stitchrl.data.dataset import Dataset
from stitchrl.data.stream import ShuffledRows, TransitionReader, prefetched
from stitchrl.data.transform import Scaling
from stitchrl.types import Array, Batch, Key, PyTree

__all__ = ["Feed", "Source", "StreamSource", "sample_transitions", "shuffled_source", "transition_source"]


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
    def draw(self) -> Callable[[PyTree, Key, Int[Array, ""], Int[Array, ""], int], Batch]:
        """(arrays, key, number of the update in its span, member index, batch size) -> batch; pure and hashable."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Device-resident arrays whose rows are drawn in-graph, uniformly with replacement.

    Attributes:
        arrays: pytree of device arrays.
        count: rows that can be drawn.
        sample: (arrays, row indices (B,), member index) -> batch; pure. The member index tells members apart that train
            side by side (a seed, or the policy an evaluation is for).
    """

    arrays: PyTree
    count: int
    sample: Callable[[PyTree, Int[Array, " B"], Int[Array, ""]], Batch]

    def open(
        self, spans: Spans, batch_size: int, span_updates: int
    ) -> AbstractContextManager[Callable[[int, int], PyTree]]:
        """The same arrays for every span."""
        del spans, batch_size, span_updates
        # The number of rows is an input too: a log of another length does not recompile for its sake.
        everything = (self.arrays, jnp.int32(self.count))
        return nullcontext(lambda first, end: everything)

    @property
    def draw(self) -> Callable[[PyTree, Key, Int[Array, ""], Int[Array, ""], int], Batch]:
        """Uniform rows."""
        return _Uniform(self.sample)


@dataclasses.dataclass(frozen=True)
class _Uniform:
    sample: Callable[[PyTree, Int[Array, " B"], Int[Array, ""]], Batch]

    def __call__(
        self, arrays: PyTree, key: Key, position: Int[Array, ""], member: Int[Array, ""], batch_size: int
    ) -> Batch:
        del position
        columns, count = arrays
        return self.sample(columns, jax.random.randint(key, (batch_size,), 0, count), member)


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
    def of(cls, log: Dataset, scaling: Scaling, *, seed: int = 0, **shuffle: int) -> StreamSource:
        """A log's transitions in the order of `ShuffledRows`, read block by block: nothing is held but a buffer."""
        reader = TransitionReader(log, scaling, ShuffledRows(log.num_transitions, seed, **shuffle))
        return cls(reader.batches, _take_batch)

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
    del key, member, batch_size
    return dict(jax.tree.map(lambda column: column[position], arrays))


def _take_rows(arrays: PyTree, key: Key, position: Int[Array, ""], member: Int[Array, ""], batch_size: int) -> Batch:
    del key, batch_size
    rows, columns = arrays
    return sample_transitions(columns, rows[position], member)


def shuffled_source(log: Dataset, scaling: Scaling, *, seed: int = 0, **shuffle: int) -> StreamSource:
    """A log in device memory fed the rows that `StreamSource.of` would stream: the same numbers."""
    order = ShuffledRows(log.num_transitions, seed, **shuffle)

    def produce(first: int, end: int, batch_size: int) -> PyTree:
        rows = order.rows(first * batch_size, end * batch_size)
        return rows.astype(np.int32).reshape(end - first, batch_size)

    return StreamSource(produce, _take_rows, transition_source(log, scaling).arrays)


def transition_source(log: Dataset, scaling: Scaling) -> Source:
    """Every transition of the log, drawn with equal chance. Observations are scaled once and stored once."""
    count, num_actions = log.num_transitions, log.num_actions
    following = np.where(log.next_observation_index < 0, 0, log.next_observation_index)
    arrays = {
        "observations": scaling.observations(log.observation_table),
        "observation_index": log.observation_index,
        "next_observation_index": following.astype(np.int32),
        "action": scaling.actions(log.action),
        "reward": (log.reward * np.float32(scaling.reward_scale)),
        "terminated": log.terminated.astype(np.float32),
        "truncated": log.truncated.astype(np.float32),
        "td_weight": log.can_bootstrap.astype(np.float32),
    }
    if num_actions is not None:
        everything = np.ones((1, num_actions), bool)
        # One all-True row stands in for a log without masks.
        arrays["action_mask"] = everything if log.action_mask is None else log.action_mask
        arrays["next_action_mask"] = everything if log.next_action_mask is None else log.next_action_mask
    return Source({name: jnp.asarray(value) for name, value in arrays.items()}, count, sample_transitions)


def sample_transitions(arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
    """The batch of the given rows; the same for every member."""
    del member
    batch = {
        "obs": arrays["observations"][arrays["observation_index"][index]],
        "next_obs": arrays["observations"][arrays["next_observation_index"][index]],
    }
    for name in ("action", "reward", "terminated", "truncated", "td_weight"):
        batch[name] = arrays[name][index]
    for name in ("action_mask", "next_action_mask"):
        if name in arrays:
            rows = arrays[name].shape[0]
            batch[name] = arrays[name][index if rows > 1 else jnp.zeros_like(index)]
    return batch
