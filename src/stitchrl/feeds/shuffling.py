"""The endless shuffled order of the rows of a log."""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float, Int

from stitchrl.errors import ConfigurationError
from stitchrl.types import NumpyArray

__all__ = ["ShuffledRows"]


SMALLEST_BLOCK, SMALLEST_BUFFER = 1024, 2**18


@dataclasses.dataclass(frozen=True, eq=False)
class ShuffledRows:
    """The endless shuffled order of the rows of a log.

    With weights a pass visits row i about count * weights[i] / sum(weights) times: by systematic resampling, so the
    number is that share rounded down or up, right in the mean over passes, and a pass has `count` positions still.
    Where a buffer is full, the remaining visits of its last block go into the next buffer.

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
        """The visits that a pass makes, before rounding, to the rows before each block."""
        assert self.weights is not None
        starts = np.arange(0, self.count, self.block_rows)
        sums = np.add.reduceat(self.weights, starts, dtype=np.float64)
        share = np.concatenate([[0.0], np.cumsum(sums)])
        return share * (self.count / share[-1])

    def _visits(self, share: Float[NumpyArray, " _"], epoch: int) -> Int[NumpyArray, " _"]:
        """Whole visits up to a share, by systematic resampling with one random offset for each pass."""
        offset = np.random.default_rng([self.seed, epoch, 0, 1]).random()
        visits = np.floor(share + offset).astype(np.int64)
        visits[share >= self.count * (1 - 1e-12)] = self.count  # all of them, however the last one was rounded
        return visits

    def _make_pass(self, epoch: int) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """The blocks of a pass in their order, and the positions in the pass at which each block and each buffer starts.

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
        """The rows of visits start to stop - 1, of all visits that a pass makes to a block."""
        rows = np.arange(block * self.block_rows, min((block + 1) * self.block_rows, self.count))
        if self.weights is None:
            return rows[start:stop]
        before, after = self._share_before[block], self._share_before[block + 1]
        inside = np.cumsum(self.weights[rows], dtype=np.float64)
        share = np.concatenate([[before], before + inside * ((after - before) / max(inside[-1], 1e-300))])
        share[-1] = after
        visits = self._visits(share, epoch)
        return np.repeat(rows, np.diff(np.clip(visits - visits[0], start, stop)))
