"""Rows in shuffled order for logs larger than memory: blocks of the log, drawn at random, shuffled in a buffer.

One pass visits every row once. The blocks (contiguous rows) are put in random order, `buffer_rows` of them at a time
are read and shuffled, and batches are cut from the result. The row at a position of this endless order is a function
of (seed, position) alone: a resumed run continues where it was, and a log in memory can be fed the very same rows.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.data.transform import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.types import NumpyArray

__all__ = ["ShuffledReader", "ShuffledRows", "prefetched"]

SMALLEST_BLOCK, SMALLEST_BUFFER = 1024, 2**18
PREFETCHED_CHUNKS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class ShuffledRows:
    """The endless shuffled order of the rows of a log.

    With weights a pass visits row i about count * weights[i] / sum(weights) times: by systematic resampling, so the
    number is that share rounded down or up, right in the mean over passes, and a pass has `count` positions still.
    The visits of a block, however many, are cut where a buffer is full.

    Attributes:
        count: rows of the log, at least 1.
        seed: of the order.
        block_rows: contiguous rows read together, at least 1,024.
        buffer_rows: rows shuffled together, at least 2^18. A log that fits is shuffled completely.
        weights: (count,) at least 0, not all 0; None visits every row once a pass.

    Raises:
        ConfigurationError: a number below its least.
    """

    count: int
    seed: int = 0
    block_rows: int = SMALLEST_BLOCK
    buffer_rows: int = SMALLEST_BUFFER
    weights: Float[NumpyArray, " count"] | None = None

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("block_rows", SMALLEST_BLOCK), ("buffer_rows", SMALLEST_BUFFER)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"`{name}` of a shuffle must be at least {least}; got {getattr(self, name)}.")
        # The pass and the buffer at hand, and the ones before: a span of batches may lie across an edge.
        object.__setattr__(self, "_pass", lru_cache(maxsize=2)(self._make_pass))
        object.__setattr__(self, "_rows", lru_cache(maxsize=2)(self._make_rows))

    @property
    def blocks_in_buffer(self) -> int:
        """Blocks read together, where all rows are alike."""
        return max(1, self.buffer_rows // self.block_rows)

    def buffer(self, position: int) -> tuple[Int[NumpyArray, " R"], int]:
        """Rows of the buffer that holds a position of the order, shuffled, and the position of its first row."""
        epoch, inside = divmod(position, self.count)
        _, _, starts = self._pass(epoch)  # type: ignore[attr-defined]
        number = int(np.searchsorted(starts, inside, side="right")) - 1
        return self._rows(epoch, number), epoch * self.count + int(starts[number])  # type: ignore[attr-defined]

    def rows(self, start: int, stop: int) -> Int[NumpyArray, " R"]:
        """Rows at the positions [start, stop) of the order."""
        parts = []
        while start < stop:
            rows, first = self.buffer(start)
            part = rows[start - first : stop - first]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)

    @cached_property
    def _share_before(self) -> Float[NumpyArray, " blocks_plus_1"]:
        """Visits a pass owes to the rows before each block."""
        assert self.weights is not None
        starts = np.arange(0, self.count, self.block_rows)
        sums = np.add.reduceat(self.weights, starts, dtype=np.float64)
        share = np.concatenate([[0.0], np.cumsum(sums)])
        return share * (self.count / share[-1])

    def _visits(self, share: Float[NumpyArray, " _"], epoch: int) -> Int[NumpyArray, " _"]:
        """Whole visits up to a share: systematic resampling, with one random offset a pass."""
        offset = np.random.default_rng([self.seed, epoch, 0, 1]).random()
        visits = np.floor(share + offset).astype(np.int64)
        visits[share >= self.count * (1 - 1e-12)] = self.count  # whatever rounding and the offset make of the last
        return visits

    def _make_pass(self, epoch: int) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """Blocks of a pass in their order; positions in the pass where each of them, and where each buffer, starts.

        Both kinds of positions end with `count`.
        """
        blocks_count = -(-self.count // self.block_rows)
        blocks = np.random.default_rng([self.seed, epoch, 0]).permutation(blocks_count)
        if self.weights is None:
            sizes = np.full(blocks_count, self.block_rows, np.int64)
            sizes[blocks == blocks_count - 1] = self.count - (blocks_count - 1) * self.block_rows
            edges = np.concatenate([[0], np.cumsum(sizes)])
            return blocks, edges, np.append(edges[: -1 : self.blocks_in_buffer], self.count)
        sizes = np.diff(self._visits(self._share_before, epoch))[blocks]
        edges = np.concatenate([[0], np.cumsum(sizes)])
        return blocks, edges, np.append(np.arange(0, self.count, self.buffer_rows), self.count)

    def _make_rows(self, epoch: int, number: int) -> NumpyArray:
        blocks, edges, starts = self._pass(epoch)  # type: ignore[attr-defined]
        begin, end = int(starts[number]), int(starts[number + 1])
        first, last = np.searchsorted(edges, begin, side="right") - 1, np.searchsorted(edges, end, side="left")
        rows = np.concatenate(
            [
                self._rows_of_block(int(blocks[i]), epoch, max(begin - int(edges[i]), 0), end - int(edges[i]))
                for i in range(first, last)
                if edges[i] < edges[i + 1]
            ]
        )
        return np.random.default_rng([self.seed, epoch, 1 + number]).permutation(rows)

    def _rows_of_block(self, block: int, epoch: int, start: int, stop: int) -> NumpyArray:
        """The visits [start, stop) of those a pass pays a block."""
        rows = np.arange(block * self.block_rows, min((block + 1) * self.block_rows, self.count))
        if self.weights is None:
            return rows[start:stop]
        before, after = self._share_before[block], self._share_before[block + 1]
        inside = np.cumsum(self.weights[rows], dtype=np.float64)
        share = np.concatenate([[before], before + inside * ((after - before) / max(inside[-1], 1e-300))])
        share[-1] = after
        visits = self._visits(share, epoch)
        return np.repeat(rows, np.diff(np.clip(visits - visits[0], start, stop)))


class ShuffledReader:
    """Batches of a log in shuffled order, read a buffer at a time; the log may be memory-mapped.

    Args:
        log: its arrays are only ever sliced by blocks.
        scaling: applied to what is read.
        order: of the rows; `order.count` must be the log's.
        n_steps: above 1 a batch has what `NStepTransitions` says.
        length: pieces of episodes of so many rows, as `Sequences` says; None reads transitions.
    """

    def __init__(
        self, log: Dataset, scaling: Scaling, order: ShuffledRows, *, n_steps: int = 1, length: int | None = None
    ) -> None:
        self._log, self._scaling, self._order, self._n_steps, self._length = log, scaling, order, n_steps, length
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
        if self._log.num_actions is None or self._log.action_mask is not None:
            return ()
        return ("action_mask", "next_action_mask") if self._length is None else ("action_mask",)

    def _buffer(self, position: int) -> tuple[int, int, dict[str, NumpyArray]]:
        """(first position, position after the last, columns in order) of what is held around a position: a buffer, or
        of pieces of episodes a part of one, so that no more rows are held."""
        if self._held is None or not self._held[0] <= position < self._held[1]:
            self._held = None  # let go of the old one first: one buffer in memory
            rows, begin = self._order.buffer(position)
            if self._length is None:
                columns = read_transitions(self._log, self._scaling, rows, self._n_steps)
            else:
                size = max(1, self._order.buffer_rows // self._length)
                part = (position - begin) // size
                rows, begin = rows[part * size : (part + 1) * size], begin + part * size
                columns = read_sequences(self._log, self._scaling, rows, self._length)
            self._held = (begin, begin + len(rows), columns)
        return self._held


def read_transitions(
    log: Dataset, scaling: Scaling, rows: Int[NumpyArray, " R"], n_steps: int = 1
) -> dict[str, NumpyArray]:
    """The batch fields of these rows, in their order; read in the log's own order, which a disk likes better.

    Masks of a log without any are one all-True row, (1, A).
    """
    at, back = _ascending(rows)
    steps = np.minimum(n_steps, log.run_end[at] - at + 1) if n_steps > 1 else None
    last = at if steps is None else at + steps - 1
    following = np.maximum(log.next_observation_index[last], 0)
    shared: dict[str, NumpyArray] = {}
    columns: dict[str, Any] = {
        "obs": scaling.observations(np.take(log.observation_table, log.observation_index[at], axis=0)),
        "next_obs": scaling.observations(np.take(log.observation_table, following, axis=0)),
        "action": scaling.actions(log.action[at]),
        "reward": scaling.rewards(log.reward[at]),
        "terminated": log.terminated[last].astype(np.float32),
        "truncated": log.truncated[last].astype(np.float32),
        "td_weight": log.can_bootstrap[last].astype(np.float32),
    }
    if steps is not None:
        offsets = np.arange(n_steps)
        window = np.minimum(at[:, None] + offsets, last[:, None])
        columns["rewards"] = np.where(offsets < steps[:, None], scaling.rewards(log.reward[window]), np.float32(0))
        columns["steps"] = steps.astype(np.float32)
    if log.num_actions is not None:
        everything, mask = np.ones((1, log.num_actions), bool), log.action_mask
        if mask is None:
            shared = {"action_mask": everything, "next_action_mask": everything}
        else:
            # Not the log's `next_action_mask`, which is all of it at once.
            columns["action_mask"] = mask[at]
            after = mask[np.minimum(last + 1, len(mask) - 1)]
            columns["next_action_mask"] = np.where(log.continues[last][:, None], after, everything)
    return {name: np.take(column, back, axis=0) for name, column in columns.items()} | shared


def read_sequences(log: Dataset, scaling: Scaling, rows: Int[NumpyArray, " R"], length: int) -> dict[str, NumpyArray]:
    """The fields of `Sequences` for pieces that start at these rows, in their order.

    Masks of a log without any are (1, length, A), all True.
    """
    first, back = _ascending(rows)
    wanted = first[:, None] + np.arange(length)
    at = np.minimum(wanted, log.run_end[first][:, None])
    columns: dict[str, Any] = {
        "obs": scaling.observations(log.observation_table[log.observation_index[at]]),
        "action": scaling.actions(log.action[at]),
        "reward": scaling.rewards(log.reward[at]),
        "terminated": log.terminated[at].astype(np.float32),
        "truncated": log.truncated[at].astype(np.float32),
        "position": log.position[at].astype(np.int32),
        "valid": (at == wanted).astype(np.float32),
    }
    shared: dict[str, NumpyArray] = {}
    if log.num_actions is not None:
        if log.action_mask is None:
            shared = {"action_mask": np.ones((1, length, log.num_actions), bool)}
        else:
            columns["action_mask"] = log.action_mask[at]
    return {name: np.take(column, back, axis=0) for name, column in columns.items()} | shared


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
