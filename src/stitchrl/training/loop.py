"""The one compiled loop: chunks of updates in one program, batches drawn in-graph, many members at once.

It knows no algorithm by name. A member is a seed and the number settings of its algorithm. Its randomness is a function
of its own seed and the update number alone, so it draws the same alone or among others, and a resumed run draws what
an undisturbed one would have drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

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
from stitchrl.training.program import MemberState, Program, initial_state, member_of
from stitchrl.training.stopping import Stopping, StopRule
from stitchrl.types import PyTree

__all__ = ["Play", "Trained", "train"]

Play = Callable[[int, Callable[[int], MemberState], Collection[int]], dict[str, list[float]]]
"""(updates done, member -> its state, members to leave out) -> further metrics, one number a member; {} when not due."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """States of all members (axis 0 of every leaf) and the metrics on the way.

    Attributes:
        state: a `MemberState`.
        history: the metrics of every logged chunk.
        updates: done.
        stopped: why it ended before the updates asked for; "" where it did not.
        diverged: member -> where its numbers ceased to be finite; its state is worth nothing, its rows end there.
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
    stop: StopRule | None = None,
    spare: bool = False,
    labels: Sequence[str] | None = None,
) -> Trained:
    """Train one member a seed, all in one program.

    Args:
        algorithm: one for all members, or one a member; they may differ only in their input settings.
        source: arrays and how to draw from them.
        spec: shapes of observations and actions.
        updates: gradient updates of each member; 0 returns the initial state.
        seeds: one member each.
        given: what the algorithm's `prepare` gave.
        batch_size: rows a batch.
        log_every_updates: length of a chunk: metrics are averaged over it, and Python runs between chunks.
        save_every_updates: a checkpoint at the first chunk end at or after each multiple.
        checkpoint: file to resume from and save to; None saves nothing.
        meta: JSON-able content to keep with every checkpoint.
        monitors: called after each chunk with host-side numbers.
        on_save: called with the history before each checkpoint is written; it is on disk then.
        evaluate: what further metrics come from, see `Play`.
        stop: asked after each chunk, with the history of the members that are left.
        spare: let the others go on where some members diverge.
        labels: what messages call each member; its seed by default.

    Raises:
        CheckpointError: the checkpoint is damaged or not of this algorithm.
        DivergenceError: a metric is not finite (with `spare`, of every member); the last good checkpoint stays.
        RunDirectoryError: the checkpoint is of more updates than were asked for.
        KeyboardInterrupt: Ctrl-C; the chunk in hand was finished and saved.
    """
    enable_compilation_cache()
    algorithms = [algorithm] * len(seeds) if isinstance(algorithm, Algorithm) else list(algorithm)
    updates = 0 if algorithms[0].closed_form else updates
    state, history, done, stopped, known = _begin(checkpoint, algorithms, spec, seeds, given)
    labels = [f"seed {seed}" for seed in seeds] if labels is None else labels
    diverged = Diverged(algorithms[0].name, labels, spare=spare, known=known)
    stopping = Stopping(stop)
    write = None if checkpoint is None else _saving(checkpoint, meta or {}, on_save)

    def save(state: PyTree) -> None:
        state = jax.device_get(state)
        diverged.see_state(state, done)
        if write is not None:
            write(state, history, {"update": done, "stopped": stopped, "diverged": diverged.members})

    if done > updates:
        raise RunDirectoryError(
            f"{str(checkpoint)!r} is of a run of {done:,} updates; {updates:,} were asked for. Ask for at least as many, "
            "or choose another directory."
        )
    if stopped or done == updates:
        if checkpoint is not None and not checkpoint.exists():  # updates=0
            save(state)
        return Trained(state, history, done, stopped, diverged.members)

    program = Program(algorithms, seeds, source.draw, batch_size, given=given, updates=updates)
    refresh_every = algorithms[0].refresh_every_updates
    placed = program.place(state)
    del state
    spans = list(_spans(done, updates, log_every_updates, refresh_every))
    longest = max(until - first for first, until in spans)
    with source.open(iter(spans), batch_size, longest) as feed, deferred_interrupt() as interrupted:
        for first, until in spans:
            arrays = feed(first, until)
            if refresh_every and first % refresh_every == 0:
                placed = program.refresh(placed, source.whole, first)
            placed, means = program(placed, arrays, first, until)
            diverged.see_metrics(means, until)
            if evaluate is not None:
                means |= evaluate(until, partial(program.member, placed), diverged.members)
            left = [k for k in range(len(seeds)) if k not in diverged.members]
            history.add(until, means, left)
            done = until
            stopped = stopping.reason(history, left)
            ending = bool(stopped) or done == updates or interrupted.is_set()
            if ending or first // save_every_updates != until // save_every_updates:
                save(program.gather(placed))
            for monitor in monitors:
                monitor(done, updates, means)
            if interrupted.is_set():
                if not ending:  # pressed while the monitors ran
                    save(program.gather(placed))
                raise KeyboardInterrupt
            if stopped:
                break
    if interrupted.is_set():  # pressed after the last look
        raise KeyboardInterrupt
    return Trained(program.gather(placed), history, done, stopped, diverged.members)


def _begin(
    checkpoint: Path | None, algorithms: Sequence[Algorithm], spec: Spec, seeds: Sequence[int], given: PyTree
) -> tuple[PyTree, History, int, str, dict[int, str]]:
    """(state, history, updates done, why it stopped, who diverged) of the checkpoint, or of fresh members."""
    if checkpoint is None or not checkpoint.exists():
        return initial_state(algorithms, spec, seeds, given), History(), 0, "", {}
    like = initial_state(algorithms, spec, seeds, given, shapes_only=True)
    state, history, meta = load_checkpoint(checkpoint, like)
    return state, history, meta["update"], meta.get("stopped", ""), meta["diverged"]


def _spans(done: int, updates: int, *every: int) -> Iterator[tuple[int, int]]:
    """(first update, end) of each chunk: chunks end at every multiple of each of these numbers that is above 0."""
    while done < updates:
        until = min(updates, *(done - done % n + n for n in every if n))
        yield done, until
        done = until


def _saving(
    checkpoint: Path, meta: dict[str, Any], on_save: Callable[[History], None] | None
) -> Callable[[PyTree, History, dict[str, Any]], None]:
    """What writes a state and its history: the metrics first, then the checkpoint that says how many rows are its own."""
    metrics = MetricsFile(checkpoint.with_name(METRICS_FILE))

    def write(state: PyTree, history: History, content: dict[str, Any]) -> None:
        metrics.save(history)
        if on_save is not None:
            on_save(history)
        save_checkpoint(checkpoint, state, meta | content, rows=len(history))

    return write
