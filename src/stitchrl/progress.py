"""Showing progress while something long runs: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = [
    "LateProgress",
    "LoopMonitor",
    "ProgressDisplay",
    "RowsBar",
    "shown_display",
    "shown_once_it_runs",
    "with_progress",
]

FIRST_SHOWN_SECONDS = 2.0
"""Work that takes less time than this shows no progress."""


def with_progress(blocks: Iterable[slice], rows: int, step: str) -> Iterator[slice]:
    """The same slices of `rows` rows, with a progress bar named `step` on a terminal once they take
    over two seconds."""
    if not sys.stderr.isatty():
        yield from blocks
        return
    bar, begun = RowsBar(), time.monotonic()
    try:
        for block in blocks:
            yield block
            bar.show(step, block.stop, rows, time.monotonic() - begun)
    finally:
        bar.close()


class RowsBar:
    """A progress bar for passes over the rows of a log, shown once they have taken two seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._live: Progress | None = None
        self._task = TaskID(0)

    def show(self, step: str, done: int, total: int | None, seconds: float) -> None:
        """Move the bar on.

        Args:
            step: what is being done.
            done: rows done in this pass.
            total: rows in all, if known.
            seconds: since the pass began.
        """
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
        """Remove the bar."""
        if self._live is not None:
            self._live.stop()


LoopMonitor = Callable[[int, int, dict[str, list[float]]], None]
"""A callback that gets (updates done, updates in all, metric -> one number for each member) between chunks."""
LINE_EVERY_SECONDS = 5.0
"""How often a line is printed where there is no terminal."""
SHOWN_MEMBERS = 8
"""For how many members the numbers are shown."""


class ProgressDisplay:
    """Shows one line for each job. It is a context manager, and `track` gives the callback for the training loop.

    Args:
        file: where progress is shown; standard error by default.
        enabled: whether anything is shown.
    """

    def __init__(self, *, file: TextIO | None = None, enabled: bool = True) -> None:
        self._file = sys.stderr if file is None else file
        self._enabled = enabled
        self._before: Token[ProgressDisplay | None] | None = None
        self._live: Progress | None = None
        if enabled and self._file.isatty():
            self._live = Progress(
                TextColumn("  {task.description:<26}"),
                BarColumn(bar_width=26),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]:>13}"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self._file),
            )

    def __enter__(self) -> ProgressDisplay:
        if self._live is not None:
            self._live.start()
        if self._enabled:
            self._before = _SHOWN.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._before is not None:
            _SHOWN.reset(self._before)
            self._before = None
        if self._live is not None:
            self._live.stop()

    def say(self, line: str, *, style: str = "red") -> None:
        """Print a line, above the bars if there are any; on a terminal in this style, by default that of a warning."""
        if self._live is not None:
            self._live.console.print(line, style=style, highlight=False, markup=False)
        elif self._enabled:
            print(f"  {line}", file=self._file, flush=True)

    def track(self, label: str, *, note_metric: str | tuple[str, ...] = (), unit: str = "upd/s") -> LoopMonitor:
        """A callback that shows the progress of a job.

        Args:
            label: what the job is called.
            note_metric: metrics of which the first that the job has is shown as well, a number for each member.
            unit: of the rate.
        """
        if not self._enabled:
            return lambda done, total, metrics: None
        return self._bar(label, note_metric, unit) if self._live is not None else self._lines(label, note_metric, unit)

    def _bar(self, label: str, note_metric: str | tuple[str, ...], unit: str) -> LoopMonitor:
        """A callback that moves a bar on a terminal."""
        live = self._live
        assert live is not None
        task = live.add_task(label, total=None, rate="compiling", note="")
        clock = _Rate()

        def show(done: int, total: int, metrics: dict[str, list[float]]) -> None:
            live.update(task, completed=done, total=total, rate=clock(done, unit), note=_note(note_metric, metrics))

        return show

    def _lines(self, label: str, note_metric: str | tuple[str, ...], unit: str) -> LoopMonitor:
        """A callback that prints a line every few seconds."""
        clock, started, printed = _Rate(), time.monotonic(), 0.0

        def show(done: int, total: int, metrics: dict[str, list[float]]) -> None:
            nonlocal printed
            rate, now = clock(done, unit), time.monotonic() - started
            due = now >= FIRST_SHOWN_SECONDS if printed == 0.0 else now - printed >= LINE_EVERY_SECONDS
            if due or done == total:
                printed = now
                eta = f"eta {clock.seconds(total - done):.0f} s" if rate else ""
                left = eta if done < total else f"{now:.1f} s"
                note = _note(note_metric, metrics)
                print(
                    f"  {label:<26} {done:>7,}/{total:,}  {rate:>13}  {left}  {note}".rstrip(),
                    file=self._file,
                    flush=True,
                )

        return show


_SHOWN: ContextVar[ProgressDisplay | None] = ContextVar("shown_display", default=None)


def shown_display() -> ProgressDisplay:
    """The innermost open display, for work inside other work; one that shows nothing where none is open."""
    return _SHOWN.get() or ProgressDisplay(enabled=False)


def shown_once_it_runs(label: str) -> LoopMonitor:
    """A callback that shows the progress of a fit in the display that is open, from its first report on."""
    monitors = list[LoopMonitor]()

    def show(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        if not monitors:
            monitors.append(shown_display().track(label))
        monitors[0](done, total, metrics)

    return show


class LateProgress:
    """The progress of one job in the display that is open, once it has taken two seconds; nothing where none is open.

    Args:
        label: what the job is called.
        total: how many units it has.
        unit: of the rate.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._begun, self._display = time.monotonic(), shown_display()
        self._show: LoopMonitor | None = None
        if self._display._live is None:  # lines are printed late anyway, and then know the rate from the beginning
            self._show = self._display.track(label, unit=unit)
            self._show(0, total, {})

    def __call__(self, done: int) -> None:
        """Report the number of units that are done."""
        if time.monotonic() - self._begun < FIRST_SHOWN_SECONDS:
            return
        if self._show is None:
            self._show = self._display.track(self._label, unit=self._unit)
        self._show(done, self._total, {})


class _Rate:
    """The rate of units per second since the first report, so that compiling is not counted."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None
        self._rate = 0.0

    def __call__(self, done: int, unit: str) -> str:
        """The rate as text, after `done` units; empty at the first report."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
            return ""
        seconds, first = now - self._start[0], self._start[1]
        self._rate = (done - first) / seconds if seconds > 0 else 0.0
        return f"{self._rate:,.0f} {unit}" if self._rate >= 10 else f"{self._rate:.1f} {unit}"

    def seconds(self, remaining: int) -> float:
        """How long the remaining units will take; 0 while the rate is not known."""
        return remaining / self._rate if self._rate > 0 else 0.0


def _note(names: str | tuple[str, ...], metrics: dict[str, list[float]]) -> str:
    """The first of these metrics that there is, with its numbers."""
    name = next((n for n in ((names,) if isinstance(names, str) else names) if n in metrics), None)
    if name is None:
        return ""
    values = metrics[name]
    numbers = " ".join(f"{value:.3g}" for value in values[:SHOWN_MEMBERS])
    return f"{name} {numbers}" + (f" and {len(values) - SHOWN_MEMBERS} more" if len(values) > SHOWN_MEMBERS else "")
