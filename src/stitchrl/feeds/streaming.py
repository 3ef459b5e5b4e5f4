"""Rows in shuffled order for logs larger than memory: blocks of the log, drawn at random, shuffled in a buffer.

One pass visits every row once. The blocks (contiguous rows) are put in random order, `buffer_rows` of them at a time
are read and shuffled, and batches are cut from the result. The row at a position of this endless order is a function
of (seed, position) alone: a resumed run continues where it was, and a log in memory can be fed the very same rows.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from stitchrl.data.columns import MOST_ROWS
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.batches import FIELDS, OF_LAST, fields_of, mask_shared_by_all
from stitchrl.feeds.shuffling import ShuffledRows
from stitchrl.types import NumpyArray

__all__ = ["ShuffledReader", "prefetched"]

PREFETCHED_CHUNKS = 2


class ShuffledReader:
    """Batches of a log in shuffled order, read a buffer at a time; the log may be memory-mapped.

    Args:
        log: its arrays are only ever sliced by blocks.
        scaling: applied to what is read.
        order: of the rows; `order.count` must be the log's.
        columns: further columns (N, ...) that become fields of the batch.
        n_steps: above 1 a batch has what `NStepTransitions` says.
        length: pieces of episodes of so many rows, as `Sequences` says; None reads transitions.
    """

    def __init__(
        self,
        log: Dataset,
        scaling: Scaling,
        order: ShuffledRows,
        *,
        columns: Mapping[str, NumpyArray] | None = None,
        n_steps: int = 1,
        length: int | None = None,
    ) -> None:
        self._log, self._scaling, self._order, self._n_steps, self._length = log, scaling, order, n_steps, length
        self._columns = columns or {}
        self._held: tuple[int, int, dict[str, NumpyArray]] | None = None

    def batches(self, first: int, end: int, batch_size: int) -> dict[str, NumpyArray]:
        """Batches of the updates [first, end): (updates, batch_size, ...) arrays.

        Masks of a log without any are (updates, 1, A): one all-True row stands in for a batch of them.
        """
        start, stop = first * batch_size, end * batch_size
        parts: list[dict[str, NumpyArray]] = []
        columns: dict[str, NumpyArray] = {}
        while start < stop:
            begin, finish, columns = self._buffer(start)
            until = min(stop, finish)
            own = {name: column for name, column in columns.items() if name not in self._shared}
            parts.append({name: column[start - begin : until - begin] for name, column in own.items()})
            start = until
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        made = {name: column.reshape(end - first, batch_size, *column.shape[1:]) for name, column in joined.items()}
        return made | {name: np.repeat(columns[name][None], end - first, axis=0) for name in self._shared}

    @property
    def _shared(self) -> tuple[str, ...]:
        """Columns with one row that stands in for all."""
        names = mask_shared_by_all(self._log)
        return tuple(name for name in names if self._length is None or FIELDS[name].in_pieces)

    def _buffer(self, position: int) -> tuple[int, int, dict[str, NumpyArray]]:
        """(first position, position after the last, columns in order) of what is held around a position: a buffer, or
        of pieces of episodes a part of one, so that no more rows are held."""
        if self._held is None or not self._held[0] <= position < self._held[1]:
            self._held = None  # let go of the old one first: one buffer in memory
            rows, begin = self._order.buffer(position)
            if self._length is None:
                columns = read_transitions(self._log, self._scaling, rows, self._n_steps, self._columns)
            else:
                size = max(1, self._order.buffer_rows // self._length)
                part = (position - begin) // size
                rows, begin = rows[part * size : (part + 1) * size], begin + part * size
                columns = read_sequences(self._log, self._scaling, rows, self._length, self._columns)
            self._held = (begin, begin + len(rows), columns)
        return self._held


def read_transitions(
    log: Dataset,
    scaling: Scaling,
    rows: Int[NumpyArray, " R"],
    n_steps: int = 1,
    columns: Mapping[str, NumpyArray] | None = None,
) -> dict[str, NumpyArray]:
    """The batch fields of these rows, in their order; read in the log's own order, which is faster on a disk.

    Masks of a log without any are one all-True row, (1, A).
    """
    first, back = _ascending(rows)
    last = first
    if n_steps > 1:
        last = np.minimum(first + n_steps - 1, np.maximum(_window_end(log, first), first))
    following = np.maximum(log.next_observation_index[last], 0)
    batch: dict[str, Any] = {
        "obs": scaling.observations(np.take(log.observation_table, log.observation_index[first], axis=0)),
        "next_obs": scaling.observations(np.take(log.observation_table, following, axis=0)),
        "row": first.astype(np.int32 if log.num_transitions <= MOST_ROWS else np.int64),
    }
    for name, field in fields_of(log).items():
        batch[name] = field.read(log, scaling, first if field.of == "first" else last)
    for name, column in (columns or {}).items():
        batch[name] = column[last if name.startswith(OF_LAST) else first]
    if n_steps > 1:
        steps, offsets = last - first + 1, np.arange(n_steps)
        window = np.minimum(first[:, None] + offsets, last[:, None])
        batch["rewards"] = np.where(offsets < steps[:, None], scaling.rewards(log.reward[window]), np.float32(0))
        batch["steps"] = steps.astype(np.float32)
    return {name: np.take(column, back, axis=0) for name, column in batch.items()} | mask_shared_by_all(log)


def _window_end(log: Dataset, rows: Int[NumpyArray, " R"]) -> Int[NumpyArray, " R"]:
    """As `batches.window_end`, of these rows alone."""
    end = log.run_end[rows]
    return end - ~log.can_bootstrap[end]


def read_sequences(
    log: Dataset,
    scaling: Scaling,
    rows: Int[NumpyArray, " R"],
    length: int,
    columns: Mapping[str, NumpyArray] | None = None,
) -> dict[str, NumpyArray]:
    """The fields of `Sequences` for pieces that start at these rows, in their order.

    Masks of a log without any are (1, length, A), all True.
    """
    first, back = _ascending(rows)
    wanted = first[:, None] + np.arange(length)
    at = np.minimum(wanted, log.run_end[first][:, None])
    batch: dict[str, Any] = {
        "obs": scaling.observations(log.observation_table[log.observation_index[at]]),
        "position": log.position[at].astype(np.int32),
        "valid": (at == wanted).astype(np.float32),
    }
    batch |= {name: field.read(log, scaling, at) for name, field in fields_of(log, pieces=True).items()}
    batch |= {name: column[at] for name, column in (columns or {}).items()}
    shared = {
        name: np.repeat(mask[:, None], length, axis=1)
        for name, mask in mask_shared_by_all(log).items()
        if FIELDS[name].in_pieces
    }
    return {name: np.take(column, back, axis=0) for name, column in batch.items()} | shared


def _ascending(rows: Int[NumpyArray, " R"]) -> tuple[Int[NumpyArray, " R"], Int[NumpyArray, " R"]]:
    """The rows from small to large, and where in these each of the given ones is."""
    order = np.argsort(rows, kind="stable")
    back = np.empty_like(order)
    back[order] = np.arange(len(rows))
    return rows[order], back


@contextmanager
def prefetched(
    produce: Callable[[int, int], Any], spans: Iterator[tuple[int, int]]
) -> Iterator[Callable[[int, int], Any]]:
    """Run `produce(first, end)` for each span in a background thread, a few spans ahead, results put on the device.

    Gives a function that returns the result of a span; spans must be asked for in their order. An exception of the
    thread is raised where its result is asked for. Leaving the context ends the thread.
    """
    ready: queue.Queue[tuple[tuple[int, int], Any, BaseException | None]] = queue.Queue(PREFETCHED_CHUNKS)
    leaving = threading.Event()

    def put(item: tuple[tuple[int, int], Any, BaseException | None]) -> None:
        while not leaving.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for span in spans:
                if leaving.is_set():
                    return
                put((span, jax.device_put(produce(*span)), None))
            raise LookupError("no span is left")
        except BaseException as error:
            put(((-1, -1), None, error))

    def take(first: int, end: int) -> Any:
        span, value, error = ready.get()
        if error is not None:
            raise error
        assert span == (first, end), f"asked for {(first, end)}, made {span}"
        return value

    thread = threading.Thread(target=work, name="stitchrl-prefetch", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        leaving.set()
        thread.join()
