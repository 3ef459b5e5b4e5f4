"""From a Dataset to batches: what the training loop draws from, in memory or streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import MOST_ROWS, Dataset
from stitchrl.data.sampling import Sampling, UniformSampling, alias_table
from stitchrl.data.stream import ShuffledReader, ShuffledRows, prefetched
from stitchrl.data.transform import Scaling
from stitchrl.errors import DataError
from stitchrl.types import Array, Batch, Key, NumpyArray, PyTree

__all__ = [
    "Feed",
    "NStepTransitions",
    "Sequences",
    "Source",
    "StreamSource",
    "sample_transitions",
    "sequence_source",
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
        sampling: Sampling = UNIFORM,
        n_steps: int = 1,
        length: int | None = None,
        **shuffle: int,
    ) -> StreamSource:
        """A log's transitions in the order of `ShuffledRows`, read block by block: nothing is held but a buffer.

        With `length`, pieces of episodes that start at the rows of that order; see `Sequences`.
        """
        order = ShuffledRows(log.num_transitions, seed, weights=sampling.weights(log), **shuffle)
        return cls(ShuffledReader(log, scaling, order, n_steps=n_steps, length=length).batches, _take_batch)

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
    sampling: Sampling = UNIFORM,
    n_steps: int = 1,
    length: int | None = None,
    **shuffle: int,
) -> StreamSource:
    """A log in device memory fed the rows that `StreamSource.of` would stream: the same numbers.

    Raises:
        DataError: more rows than device memory can number.
    """
    _check_rows(log)
    order = ShuffledRows(log.num_transitions, seed, weights=sampling.weights(log), **shuffle)

    def produce(first: int, end: int, batch_size: int) -> PyTree:
        rows = order.rows(first * batch_size, end * batch_size)
        return rows.astype(np.int32).reshape(end - first, batch_size)

    held = transition_source(log, scaling, n_steps=n_steps) if length is None else sequence_source(log, scaling, length)
    return StreamSource(produce, _TakeRows(held.sample), held.arrays)


def transition_source(log: Dataset, scaling: Scaling, *, sampling: Sampling = UNIFORM, n_steps: int = 1) -> Source:
    """Every transition of the log, drawn by a rule. Observations are scaled once and stored once.

    Args:
        log: the training part.
        scaling: applied to what is drawn.
        sampling: how often each row is drawn.
        n_steps: at least 1; above it a batch has what `n_step_transitions` says.

    Raises:
        DataError: more rows than device memory can number.
    """
    arrays = transition_arrays(log, scaling)
    if n_steps > 1:
        arrays["run_end"] = log.run_end
    weights = sampling.weights(log)
    alias = None if weights is None else alias_table(weights)
    return Source(
        {name: jnp.asarray(value) for name, value in arrays.items()},
        log.num_transitions,
        sample_transitions if n_steps == 1 else NStepTransitions(n_steps),
        alias if alias is None else (jnp.asarray(alias[0]), jnp.asarray(alias[1])),
    )


def sequence_source(log: Dataset, scaling: Scaling, length: int, *, sampling: Sampling = UNIFORM) -> Source:
    """Pieces of episodes, `length` rows from a drawn row on; see `Sequences`."""
    held = transition_source(log, scaling, sampling=sampling)
    arrays = held.arrays | {"run_end": jnp.asarray(log.run_end), "position": jnp.asarray(log.position, jnp.int32)}
    return dataclasses.replace(held, arrays=arrays, sample=Sequences(length))


def _check_rows(log: Dataset) -> None:
    """Raise DataError where rows or stored observations cannot be numbered by 32 bits."""
    rows = max(log.num_transitions, len(log.observation_table))
    if rows > MOST_ROWS:
        raise DataError(
            f"A log in memory may have up to {MOST_ROWS:,} rows and stored observations; this one has {rows:,}. "
            "Convert it to a store and train with stream=True, or on a part of it."
        )


def transition_arrays(log: Dataset, scaling: Scaling) -> dict[str, NumpyArray]:
    """The log's columns as batches need them, one row a transition but for `observations`."""
    _check_rows(log)
    following = np.where(log.next_observation_index < 0, 0, log.next_observation_index)
    arrays = {
        "observations": scaling.observations(log.observation_table),
        "observation_index": log.observation_index,
        "next_observation_index": following.astype(np.int32),
        "action": scaling.actions(log.action),
        "reward": scaling.rewards(log.reward),
        "terminated": log.terminated.astype(np.float32),
        "truncated": log.truncated.astype(np.float32),
        "td_weight": log.can_bootstrap.astype(np.float32),
    }
    if log.num_actions is not None:
        everything = np.ones((1, log.num_actions), bool)
        # One all-True row stands in for a log without masks.
        arrays["action_mask"] = everything if log.action_mask is None else log.action_mask
        arrays["next_action_mask"] = everything if log.next_action_mask is None else log.next_action_mask
    return arrays


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
            batch[name] = arrays[name][_row_of(arrays[name], index)]
    return batch


def _row_of(masks: Array, index: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Where a row's mask stands: one all-True row may stand in for all."""
    return index if masks.shape[0] > 1 else jnp.zeros_like(index)


@dataclasses.dataclass(frozen=True)
class NStepTransitions:
    """Batches over n steps: obs and action of a row, and what follows m <= n steps later, within its episode.

    Fields beside those of one step: rewards (B, n), 0 beyond m; steps (B,) float32, m. `next_obs`, `terminated`,
    `truncated`, `td_weight` and `next_action_mask` are those of the last of the m rows.
    """

    n_steps: int

    def __call__(self, arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
        steps = jnp.minimum(self.n_steps, arrays["run_end"][index] - index + 1)
        last = index + steps - 1
        offsets = jnp.arange(self.n_steps)
        window = jnp.minimum(index[:, None] + offsets[None, :], last[:, None])
        rewards = jnp.where(offsets[None, :] < steps[:, None], arrays["reward"][window], 0.0)
        batch, after = (dict(sample_transitions(arrays, rows, member)) for rows in (index, last))
        later = ("next_obs", "terminated", "truncated", "td_weight", "next_action_mask")
        batch |= {name: after[name] for name in later if name in after}
        return batch | {"rewards": rewards, "steps": steps.astype(jnp.float32)}


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Batches of pieces of episodes: K rows from the drawn one on, within its episode.

    Fields: obs (B, K, D), action, reward, terminated, truncated (B, K, ...), position (B, K) in the episode, valid
    (B, K) 1 for rows of the episode and 0 beyond its end, where the last row is repeated; action_mask where discrete.
    """

    length: int

    def __call__(self, arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
        del member
        wanted = index[:, None] + jnp.arange(self.length)[None, :]
        rows = jnp.minimum(wanted, arrays["run_end"][index][:, None])
        batch = {name: arrays[name][rows] for name in ("action", "reward", "terminated", "truncated", "position")}
        batch["obs"] = arrays["observations"][arrays["observation_index"][rows]]
        batch["valid"] = (rows == wanted).astype(jnp.float32)
        if "action_mask" in arrays:
            batch["action_mask"] = arrays["action_mask"][_row_of(arrays["action_mask"], rows)]
        return batch
