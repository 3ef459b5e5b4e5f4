"""Rows read, rate and ETA on a terminal, for logs that take longer than two seconds."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stitchrl.data.readers.source import Block, LogSource

__all__ = ["shown", "watched"]

FIRST_SHOWN_SECONDS = 2.0


@contextmanager
def watched(log: LogSource) -> Iterator[LogSource]:
    """The same log; how far its reading has come is shown on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield log
        return
    bar = _Bar(log.origin)
    try:
        yield dataclasses.replace(log, blocks=lambda names: bar.watch(log, names))
    finally:
        bar.close()


def shown(blocks: Iterable[slice], rows: int, step: str) -> Iterator[slice]:
    """The same slices of `rows` rows; how far they have come is shown as by `watched`."""
    if not sys.stderr.isatty():
        yield from blocks
        return
    bar, begun = _Bar(""), time.monotonic()
    try:
        for block in blocks:
            yield block
            bar.show(step, block.stop, rows, time.monotonic() - begun)
    finally:
        bar.close()


class _Bar:
    """One bar for the passes over a log; how many rows there are is known from the second on."""

    def __init__(self, origin: str) -> None:
        self._origin, self._start, self._rows = origin, time.monotonic(), 0
        self._live: Progress | None = None
        self._task = TaskID(0)

    def watch(self, log: LogSource, names: Sequence[str]) -> Iterator[Block]:
        done, total, begun = 0, self._rows or None, time.monotonic()
        for block in log.blocks(names):
            yield block
            done += len(next(iter(block.values()))) if block else 0
            step = "reading" if total else "ordering"
            self.show(f"{step} {self._origin}", done, total, time.monotonic() - begun)
        self._rows = max(self._rows, done)

    def show(self, step: str, done: int, total: int | None, seconds: float) -> None:
        """Rows done of those there are, where known."""
        if self._live is None:
            if time.monotonic() - self._start < FIRST_SHOWN_SECONDS:
                return
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=26),
                MofNCompleteColumn(),
                TextColumn("rows {task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
            )
            self._live = Progress(*columns, console=Console(stderr=True), transient=True)
            self._live.start()
            self._task = self._live.add_task("", rate="")
        self._live.update(
            self._task,
            description=step,
            completed=done,
            total=total,
            rate=f"{done / max(seconds, 1e-9):,.0f}/s",
        )

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
