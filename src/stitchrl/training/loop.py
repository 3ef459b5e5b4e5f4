"""The one compiled training loop: a program makes the updates of one or more log rows, with batches drawn in-graph.

It knows no algorithm by name, and trains many members at once. A member is a seed and the number settings of its
algorithm. Its randomness is a function of its own seed and the update number alone, so that it draws the same rows
alone or among others, and a resumed run draws the same as one without a break.

The next call of the program starts before Python looks at the last one, so that Python logs, looks for divergence,
evaluates, saves and asks whether to stop while the device computes. No call goes beyond an update whose state is
needed, so that what is saved, evaluated and returned belongs to exactly that update.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.errors import RunDirectoryError
from stitchrl.feeds.feed import Feed
from stitchrl.progress import LoopMonitor
from stitchrl.training.checkpoint import load_checkpoint, save_checkpoint
from stitchrl.training.compilation import enable_compilation_cache
from stitchrl.training.divergence import Diverged
from stitchrl.training.history import History
from stitchrl.training.interrupt import deferred_interrupt
from stitchrl.training.metrics_file import METRICS_FILE, MetricsFile
from stitchrl.training.probe import Measure
from stitchrl.training.program import Fetch, Placed, Program, initial_state, member_of, program_of
from stitchrl.training.stopping import Stopping, StopRule
from stitchrl.training.updates import MemberState, MetricTable, Row
from stitchrl.types import PyTree

__all__ = ["Play", "Trained", "train"]

Play = Callable[[Callable[[int], MemberState], Collection[int]], dict[str, list[float]]]
"""(member -> its state, members to leave out) -> further metrics, one number per member."""

CALL_SECONDS = 1.0
"""How long a call takes, roughly, where it may have several log rows: Ctrl-C waits for its end."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """States of all members (axis 0 of every leaf) and the metrics on the way.

    Attributes:
        state: a `MemberState`.
        history: the metrics of every log row.
        updates: done.
        stopped: why it ended before the updates asked for; "" where it did not.
        diverged: member -> a sentence that says where its numbers ceased to be finite; its state is useless, its rows end there.
    """

    state: PyTree
    history: History
    updates: int
    stopped: str = ""
    diverged: dict[int, str] = dataclasses.field(default_factory=dict)

    def member(self, index: int) -> MemberState:
        """The state of one member."""
        one: MemberState = member_of(self.state, index)
        return one

    def of_members(self, members: Sequence[int]) -> Trained:
        """The same of some members alone, none of which diverged: the first of them is member 0 there."""
        assert not set(members) & set(self.diverged)
        # By NumPy, as in `member_of`: JAX would compile a program for each shape and number of members.
        state = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[list(members)]), self.state)
        return Trained(state, self.history.of_members(members), self.updates, self.stopped)


def train(
    algorithm: Algorithm | Sequence[Algorithm],
    source: Feed,
    spec: Spec,
    *,
    updates: int,
    seeds: Sequence[int],
    given: PyTree = None,
    batch_size: int = 256,
    log_every_updates: int = 100,
    save_every_updates: int = 1000,
    checkpoint: Path | None = None,
    meta: dict[str, Any] | None = None,
    monitors: Sequence[LoopMonitor] = (),
    on_save: Callable[[History], None] | None = None,
    evaluate: Play | None = None,
    evaluate_every_updates: int = 0,
    stop: StopRule | None = None,
    spare: bool = False,
    labels: Sequence[str] | None = None,
    measure: Measure | None = None,
    probed: PyTree = None,
    begin: Trained | None = None,
) -> Trained:
    """Train one member for each seed, all in one program.

    Args:
        algorithm: one for all members, or one per member; they may differ only in their input settings.
        source: arrays and how to draw from them.
        spec: shapes of observations and actions.
        updates: gradient updates of each member; 0 returns the initial state.
        seeds: one member each.
        given: what the algorithm's `prepare` gave.
        batch_size: rows in a batch.
        log_every_updates: length of a log row: metrics are averaged over it.
        save_every_updates: a checkpoint at the end of the first log row that reaches each multiple.
        checkpoint: file to resume from and save to; None saves nothing.
        meta: JSON-able content to keep with every checkpoint.
        monitors: called after each log row with host-side numbers.
        on_save: called with the history before each checkpoint is written; it is on disk then.
        evaluate: gives further metrics, see `Play`.
        evaluate_every_updates: `evaluate` is called at the end of the first log row that reaches each multiple, and at
            the end of the run.
        stop: asked after each log row, with the history of the members that are left; the run ends at that row.
        spare: let the others go on where some members diverge.
        labels: what messages call each member; its seed by default.
        measure, probed: of a probe: its function, and its arrays on the device.
        begin: what these members learned before, where there is no checkpoint yet; None begins with fresh members.

    Raises:
        CheckpointError: the checkpoint is damaged or not of this algorithm.
        DivergenceError: a metric is not finite (with `spare`, of every member); the last good checkpoint stays.
        RunDirectoryError: the checkpoint is of more updates than were asked for.
        KeyboardInterrupt: Ctrl-C; the call in progress was finished and saved.
    """
    enable_compilation_cache()
    algorithms = [algorithm] * len(seeds) if isinstance(algorithm, Algorithm) else list(algorithm)
    updates = 0 if algorithms[0].closed_form else updates
    state, history, done, stopped, known = _begin(checkpoint, algorithms, spec, seeds, given, begin)
    if done > updates:
        raise RunDirectoryError(
            f"{str(checkpoint)!r} is of a run of {done:,} updates; {updates:,} were asked for. Ask for at least as many, "
            "or choose another directory."
        )
    names = [f"seed {seed}" for seed in seeds] if labels is None else labels
    book = _Book(
        members=len(seeds),
        updates=updates,
        done=done,
        stopped=stopped,
        history=history,
        diverged=Diverged(algorithms[0].name, names, spare=spare, known=known),
        stopping=Stopping(stop),
        write=None if checkpoint is None else _saving(checkpoint, meta or {}, on_save),
        save_every=save_every_updates,
        evaluate_every=evaluate_every_updates if evaluate is not None else 0,
        monitors=monitors,
        evaluate=evaluate,
        may_stop=stop is not None,
    )
    if stopped or done == updates:
        if checkpoint is not None and not checkpoint.exists():  # updates=0
            book.save(jax.device_get(state))
        return book.trained(state)
    program = program_of(
        algorithms,
        seeds,
        source.draw,
        batch_size,
        given=given,
        updates=updates,
        log_every_updates=log_every_updates,
        measure=measure,
        probed=probed,
    )
    with closing(program):
        return _learn(program, source, state, batch_size, log_every_updates, algorithms[0].refresh_every_updates, book)


def _learn(
    program: Program, source: Feed, state: PyTree, batch_size: int, log_every: int, refresh_every: int, book: _Book
) -> Trained:
    """The loop: start a call, handle the results of the one before it, and so on to the end of the run."""
    placed = program.place(state)
    del state
    rows = list(_log_rows(book.done, book.updates, log_every, refresh_every))
    # A stream has the arrays of one row at a time; a rule that may stop after any row needs the state after each.
    pace = _Pace(program.most_rows if source.resident and not book.may_stop else 1)
    longest = max(end - first for first, end in rows)
    with source.open(iter(rows), batch_size, longest) as feed, deferred_interrupt() as interrupted:
        before: _Call | None = None
        begun = 0
        while True:
            call: _Call | None = None
            if begun < len(rows):
                own = _until(
                    rows[begun : begun + pace.rows], lambda row: book.due(row) or _multiple(row[1], refresh_every)
                )
                first, end = own[0][0], own[-1][1]
                arrays = feed(first, end)
                if _multiple(first, refresh_every):
                    placed = program.refresh(placed, source.whole, first)
                placed, fetch = program.start(placed, arrays, own)
                call, begun = _Call(own, placed, fetch), begun + len(own)
            if before is not None:
                book.enter(before, program, interrupted.is_set)
                if interrupted.is_set():
                    raise KeyboardInterrupt
                if book.stopped or book.done == book.updates:
                    break
                pace.entered(before)
            before = call
    if interrupted.is_set():  # pressed after the last look
        raise KeyboardInterrupt
    assert before is not None
    return book.trained(jax.device_put(program.gather(before.placed)))


class _Call(NamedTuple):
    """A call under way: its log rows, the states after it, and its metrics."""

    rows: list[Row]
    placed: Placed
    fetch: Fetch


class _Pace:
    """How many log rows the next call has: as many as fit in about a second, judging by the calls before it."""

    def __init__(self, most: int) -> None:
        self._most, self._last = most, 0.0
        self.rows = 1

    def entered(self, call: _Call) -> None:
        """Take note of a call that has ended; the time of the first one, which is compiling, does not count."""
        now = time.perf_counter()
        if self._last:
            seconds = (now - self._last) / len(call.rows)
            self.rows = max(1, min(self._most, int(CALL_SECONDS / max(seconds, 1e-9))))
        self._last = now


@dataclasses.dataclass
class _Book:
    """The host's side of a run: what is known after the last call that was handled, and what is done with it.

    Attributes:
        members: how many there are.
        updates: asked for.
        done: updates whose metrics were seen.
        stopped: why the run ends here; "" while it does not.
        history, diverged, stopping: so far.
        write: writes a state with the history and further JSON content; None where nothing is saved.
        may_stop: whether there is a rule that may stop the run.
        save_every, evaluate_every, monitors, evaluate: as for `train`.
    """

    members: int
    updates: int
    done: int
    stopped: str
    history: History
    diverged: Diverged
    stopping: Stopping
    write: Callable[[PyTree, History, dict[str, Any]], None] | None
    may_stop: bool
    save_every: int
    evaluate_every: int
    monitors: Sequence[LoopMonitor]
    evaluate: Play | None

    def due(self, row: Row) -> bool:
        """Whether the state after a log row is needed."""
        return self._saves(row) or self._evaluates(row)

    def _saves(self, row: Row) -> bool:
        return row[1] == self.updates or _reaches_multiple(row, self.save_every)

    def _evaluates(self, row: Row) -> bool:
        return self.evaluate is not None and (row[1] == self.updates or _reaches_multiple(row, self.evaluate_every))

    def enter(self, call: _Call, program: Program, interrupted: Callable[[], bool]) -> None:
        """Log the rows of a call, and do what is due at its end. Raises DivergenceError."""
        table, saved = call.fetch(), False
        for number, row in enumerate(call.rows):
            means = _means(table, number)
            self.diverged.see_metrics(means, row[1])
            last = number == len(call.rows) - 1
            if last and self.evaluate is not None and self._evaluates(row):
                means |= self.evaluate(partial(program.member, call.placed), self.diverged.members)
            left = [k for k in range(self.members) if k not in self.diverged.members]
            self.history.add(row[1], means, left)
            self.done = row[1]
            self.stopped = self.stopping.reason(self.history, left)
            if last and (self.stopped or interrupted() or self._saves(row)):
                self.save(program.gather(call.placed))
                saved = True
            for monitor in self.monitors:
                monitor(self.done, self.updates, means)
        if interrupted() and not saved:  # pressed while the monitors ran
            self.save(program.gather(call.placed))

    def save(self, state: PyTree) -> None:
        """Look at the state, and write the checkpoint where there is to be one. Raises DivergenceError."""
        self.diverged.see_state(state, self.done)
        if self.write is not None:
            content = {"update": self.done, "stopped": self.stopped, "diverged": self.diverged.members}
            self.write(state, self.history, content)

    def trained(self, state: PyTree) -> Trained:
        """What the run gives back."""
        return Trained(state, self.history, self.done, self.stopped, self.diverged.members)


def _begin(
    checkpoint: Path | None,
    algorithms: Sequence[Algorithm],
    spec: Spec,
    seeds: Sequence[int],
    given: PyTree,
    begin: Trained | None,
) -> tuple[PyTree, History, int, str, dict[int, str]]:
    """(state, history, updates done, why it stopped, who diverged) of the checkpoint, of `begin`, or of fresh members."""
    if checkpoint is None or not checkpoint.exists():
        if begin is not None:
            columns = begin.history.columns()  # copied, since rows are added to them
            history = History.of(columns.pop("update"), columns.pop("member"), columns)
            return begin.state, history, begin.updates, "", dict(begin.diverged)
        return initial_state(algorithms, spec, seeds, given), History(), 0, "", {}
    like = initial_state(algorithms, spec, seeds, given, shapes_only=True)
    state, history, meta = load_checkpoint(checkpoint, like)
    return state, history, meta["update"], meta.get("stopped", ""), meta["diverged"]


def _log_rows(done: int, updates: int, *every: int) -> Iterator[Row]:
    """The log rows of a run: they end at every multiple of each of these numbers that is above 0, and with the run."""
    while done < updates:
        end = min(updates, *(done - done % n + n for n in every if n))
        yield done, end
        done = end


def _until(rows: list[Row], ends: Callable[[Row], bool]) -> list[Row]:
    """The rows up to the first that ends it, included."""
    return rows[: next((k + 1 for k, row in enumerate(rows) if ends(row)), len(rows))]


def _multiple(update: int, every: int) -> bool:
    return bool(every) and update % every == 0


def _reaches_multiple(row: Row, every: int) -> bool:
    return bool(every) and row[0] // every != row[1] // every


def _means(table: MetricTable, row: int) -> dict[str, list[float]]:
    """Metric -> its mean over a row, one per member."""
    return {name: table.means[:, row, k].tolist() for k, name in enumerate(table.names)}


def _saving(
    checkpoint: Path, meta: dict[str, Any], on_save: Callable[[History], None] | None
) -> Callable[[PyTree, History, dict[str, Any]], None]:
    """A function that writes a state and its history: first the metrics, then the checkpoint with the number of their rows."""
    metrics = MetricsFile(checkpoint.with_name(METRICS_FILE))

    def write(state: PyTree, history: History, content: dict[str, Any]) -> None:
        metrics.save(history)
        if on_save is not None:
            on_save(history)
        save_checkpoint(checkpoint, state, meta | content, rows=len(history))

    return write
