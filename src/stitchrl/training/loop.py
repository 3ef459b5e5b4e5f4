"""The one compiled loop: chunks of updates in one program, batches drawn in-graph, many members at once.

It knows no algorithm by name. A member is a seed and the number settings of its algorithm. Its randomness is a function
of its own seed and the update number alone, so it draws the same alone or among others, and a resumed run draws what
an undisturbed one would have drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.losses import polyak
from stitchrl.data.sample import Feed
from stitchrl.errors import StitchRLError
from stitchrl.training.checkpoint import load_checkpoint, save_checkpoint
from stitchrl.training.compilation import enable_compilation_cache
from stitchrl.training.interrupt import deferred_interrupt
from stitchrl.training.logging import LoopMonitor
from stitchrl.types import Array, Key, PyTree

__all__ = ["DivergenceError", "History", "MemberState", "StopRule", "Trained", "initial_state", "train"]

History = list[dict[str, Any]]
"""One row a logged chunk and member: update, member, and each metric's mean over the chunk."""
StopRule = Callable[[History], str | None]
"""A pure function of the history so far: the reason to stop now, or None."""
SIDE_BY_SIDE_BYTES = 2**19
"""On a CPU, members of a larger state train one after another in the program: side by side they would not fit a core's
cache. Measured in benchmarks/throughput.py (eight seeds)."""


class DivergenceError(StitchRLError):
    """A loss became NaN or infinite."""


class MemberState(NamedTuple):
    """What a member carries: the algorithm's state and, if asked for, the running average of its policy."""

    algorithm: PyTree
    average: PyTree


@dataclasses.dataclass(frozen=True)
class Trained:
    """States of all members (axis 0 of every leaf) and the metrics on the way.

    Attributes:
        state: a `MemberState`.
        history: rows of metrics.
        updates: done.
        stopped: why it ended before the updates asked for; "" where it did not.
    """

    state: PyTree
    history: History
    updates: int
    stopped: str = ""

    def member(self, index: int) -> MemberState:
        """The state of one member."""
        return jax.tree.map(lambda leaf: leaf[index], self.state)


def train(
    algorithm: Algorithm | Sequence[Algorithm],
    source: Feed,
    spec: Spec,
    *,
    updates: int,
    seeds: Sequence[int],
    batch_size: int = 256,
    log_every_updates: int = 100,
    save_every_updates: int = 1000,
    checkpoint: Path | None = None,
    meta: dict[str, Any] | None = None,
    monitors: Sequence[LoopMonitor] = (),
    on_save: Callable[[History], None] | None = None,
    evaluate: Callable[[int, PyTree], dict[str, list[float]]] | None = None,
    stop: StopRule | None = None,
) -> Trained:
    """Train one member a seed, all in one program.

    Args:
        algorithm: one for all members, or one a member; they may differ only in their input settings.
        source: arrays and how to draw from them.
        spec: network sizes.
        updates: gradient updates of each member; 0 returns the initial state.
        seeds: one member each.
        batch_size: rows a batch.
        log_every_updates: length of a chunk: metrics are averaged over it, and Python runs between chunks.
        save_every_updates: a checkpoint at the first chunk end at or after each multiple.
        checkpoint: file to resume from and save to; None saves nothing.
        meta: JSON-able content to keep with every checkpoint.
        monitors: called after each chunk with host-side numbers.
        on_save: called with the history before each checkpoint is written.
        evaluate: (updates done, state) -> further metrics, one number a member, or {} when not due.
        stop: asked after each chunk.

    Raises:
        CheckpointError: the checkpoint is damaged or not of this algorithm.
        DivergenceError: a metric is not finite; the last good checkpoint stays.
        KeyboardInterrupt: Ctrl-C; the chunk in hand was finished and saved.
    """
    enable_compilation_cache()
    algorithms = [algorithm] * len(seeds) if isinstance(algorithm, Algorithm) else list(algorithm)
    structure = algorithms[0].structure()
    assert all(a.structure() == structure for a in algorithms)
    assert len(algorithms) == len(seeds)
    history: History = []
    done, stopped = 0, ""
    if checkpoint is not None and checkpoint.exists():
        like = initial_state(algorithms, spec, seeds, shapes_only=True)
        state, history, found = load_checkpoint(checkpoint, like)
        done, stopped = found["update"], found.get("stopped", "")
    else:
        state = initial_state(algorithms, spec, seeds)

    def save() -> None:
        _check_state(structure, state, seeds, done)
        if checkpoint is not None:
            if on_save is not None:
                on_save(history)
            content = (meta or {}) | {"update": done, "stopped": stopped}
            save_checkpoint(checkpoint, state, history, content)

    if stopped or done >= updates:
        if checkpoint is not None and not checkpoint.exists():  # updates=0
            save()
        return Trained(state, history, done, stopped)

    inputs = {
        name: jnp.asarray([getattr(a, name) for a in algorithms], jnp.float32) for name in structure.input_settings()
    }
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    mesh = _mesh(len(seeds))
    program = _compiled_chunk(structure, source.draw, batch_size, _in_turn(state, len(seeds)), mesh)
    placed = _Placed(mesh)
    if mesh is not None:  # donated buffers must lie where they are used
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec("members")))
    spans = list(_spans(done, updates, log_every_updates))
    with (
        source.open(iter(spans), batch_size, max(until - first for first, until in spans)) as feed,
        deferred_interrupt() as interrupted,
    ):
        for first, until in spans:
            # Strong int32 scalars: a new Python int must not look like a new type.
            state, sums = program(state, placed(feed(first, until)), keys, inputs, np.int32(first), np.int32(until))
            means = {n: (np.asarray(total) / (until - first)).tolist() for n, total in jax.device_get(sums).items()}
            _check_finite(structure, means, seeds, until)
            if evaluate is not None:
                means |= evaluate(until, state)
            history += [
                {"update": until, "member": k} | {name: values[k] for name, values in means.items()}
                for k in range(len(seeds))
            ]
            done = until
            if stop is not None:
                stopped = stop(history) or ""
            ending = bool(stopped) or done == updates or interrupted.is_set()
            if ending or first // save_every_updates != until // save_every_updates:
                save()
            for monitor in monitors:
                monitor(done, updates, means)
            if interrupted.is_set():
                if not ending:  # pressed while the monitors ran
                    save()
                raise KeyboardInterrupt
            if stopped:
                break
    if interrupted.is_set():  # pressed after the last look
        raise KeyboardInterrupt
    if mesh is not None:
        state = jax.device_put(state, jax.local_devices()[0])
    return Trained(state, history, done, stopped)


def initial_state(
    algorithm: Algorithm | Sequence[Algorithm], spec: Spec, seeds: Sequence[int], *, shapes_only: bool = False
) -> PyTree:
    """Fresh members, made one by one, so that each starts the same alone or among others.

    With `shapes_only` the leaves are shapes and dtypes, and nothing is computed.
    """
    algorithms = [algorithm] * len(seeds) if isinstance(algorithm, Algorithm) else list(algorithm)

    def make(init: Callable[[Algorithm, Key], PyTree]) -> PyTree:
        # Stream 0 of a seed's key makes the networks; update u draws from stream u + 1.
        members = [
            init(a, jax.random.fold_in(jax.random.key(seed), 0)) for a, seed in zip(algorithms, seeds, strict=True)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

    if shapes_only:
        return jax.eval_shape(lambda: make(lambda a, key: _fresh(a, spec, key)))

    def compiled(a: Algorithm, key: Key) -> PyTree:
        return _compiled_init(a.structure(), spec)({name: getattr(a, name) for name in a.input_settings()}, key)

    return make(compiled)


def _fresh(algorithm: Algorithm, spec: Spec, key: Key) -> MemberState:
    state = algorithm.init(key, spec)
    average = jax.tree.map(jnp.copy, algorithm.policy(state)) if algorithm.average_rate else None
    return MemberState(state, average)


@cache
def _compiled_init(structure: Algorithm, spec: Spec) -> Callable[[dict[str, float], Key], MemberState]:
    return jax.jit(lambda inputs, key: _fresh(structure.with_inputs(inputs), spec, key))


def _spans(done: int, updates: int, every: int) -> Iterator[tuple[int, int]]:
    while done < updates:
        until = min(done - done % every + every, updates)
        yield done, until
        done = until


def _in_turn(state: PyTree, members: int) -> bool:
    """Whether members take turns in the program, or go side by side as a batch axis."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) // members
    return members == 1 or (jax.default_backend() == "cpu" and size > SIDE_BY_SIDE_BYTES)


def _mesh(members: int) -> Mesh | None:
    """The devices to split members over: as many as divide them; None for one."""
    devices = jax.local_devices()
    count = max(d for d in range(1, len(devices) + 1) if members % d == 0)
    return Mesh(np.asarray(devices[:count]), ("members",), axis_types=(AxisType.Auto,)) if count > 1 else None


Draw = Callable[[PyTree, Key, Array, Array, int], Any]
Chunk = Callable[[PyTree, PyTree, Key, dict[str, Array], Any, Any], tuple[PyTree, dict[str, Array]]]


@cache
def _compiled_chunk(structure: Algorithm, draw: Draw, batch_size: int, in_turn: bool, mesh: Mesh | None) -> Chunk:
    """(state, arrays, keys, inputs, first update, end) -> (state, metric sums); one program for every chunk length."""

    def one_update(algorithm: Algorithm, state: MemberState, batch: Any, key: Key) -> tuple[MemberState, Any]:
        after, metrics = algorithm.update(state.algorithm, batch, key)
        average = state.average
        if algorithm.average_rate:
            average = polyak(average, algorithm.policy(after), algorithm.average_rate)
        return MemberState(after, average), metrics

    def one_member(own: Any, arrays: PyTree, first: Array, end: Array) -> tuple[MemberState, dict[str, Array]]:
        state, key, inputs, member = own
        algorithm = structure.with_inputs(inputs)

        def step(update: Array, state: MemberState) -> tuple[MemberState, Any]:
            draw_key, update_key = jax.random.split(jax.random.fold_in(key, update + 1))
            # The barrier keeps how a batch is fetched out of how it is computed with: a stream gives the same numbers.
            batch = jax.lax.optimization_barrier(dict(draw(arrays, draw_key, update - first, member, batch_size)))
            return one_update(algorithm, state, batch | {"update": update}, update_key)

        def body(update: Array, carry: Any) -> Any:
            state, sums = carry
            state, metrics = step(update, state)
            return state, {name: sums[name] + value for name, value in metrics.items()}

        _, shapes = jax.eval_shape(step, first, state)
        zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        return jax.lax.fori_loop(first, end, body, (state, zeros))

    def run(state: PyTree, arrays: PyTree, keys: Key, inputs: Any, members: Array, first: Array, end: Array) -> Any:
        each = (state, keys, inputs, members)
        if not in_turn:
            return jax.vmap(lambda own: one_member(own, arrays, first, end))(each)
        if keys.shape[0] == 1:
            out = one_member(jax.tree.map(lambda leaf: leaf[0], each), arrays, first, end)
            return jax.tree.map(lambda leaf: leaf[None], out)
        return jax.lax.map(lambda own: one_member(own, arrays, first, end), each)

    if mesh is None:
        compiled = jax.jit(run, donate_argnums=0)
    else:
        own, shared = PartitionSpec("members"), PartitionSpec()
        split = jax.shard_map(
            run, mesh=mesh, in_specs=(own, shared, own, own, own, shared, shared), out_specs=own, check_vma=False
        )
        compiled = jax.jit(split, donate_argnums=0)

    def chunk(state: PyTree, arrays: PyTree, keys: Key, inputs: Any, first: Any, end: Any) -> Any:
        return compiled(state, arrays, keys, inputs, np.arange(keys.shape[0], dtype=np.int32), first, end)

    return chunk


class _Placed:
    """Arrays copied to every device of a mesh; those of the call before are not copied again."""

    def __init__(self, mesh: Mesh | None) -> None:
        self._mesh = mesh
        self._held: dict[int, tuple[Array, Array]] = {}

    def __call__(self, arrays: PyTree) -> PyTree:
        if self._mesh is None:
            return arrays
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        leaves, structure = jax.tree.flatten(arrays)
        # The original is held beside its copy, so that its id stays its own.
        found = [self._held.get(id(leaf)) for leaf in leaves]
        copies = [
            jax.device_put(leaf, everywhere) if held is None else held[1]
            for leaf, held in zip(leaves, found, strict=True)
        ]
        self._held = {id(leaf): (leaf, copy) for leaf, copy in zip(leaves, copies, strict=True)}
        return jax.tree.unflatten(structure, copies)


def _check_finite(algorithm: Algorithm, means: dict[str, list[float]], seeds: Sequence[int], update: int) -> None:
    for name, values in means.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DivergenceError(
                f"{name} of {algorithm.name} must stay finite; got {values[bad[0]]} by update {update} with seed "
                f"{seeds[bad[0]]} (member {bad[0]} of {len(seeds)}). Lower the learning rate or the reward scale."
            )


def _check_state(algorithm: Algorithm, state: PyTree, seeds: Sequence[int], update: int) -> None:
    """What is saved and given back is finite: metrics are of the state before the last update."""
    for where, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            raise DivergenceError(
                f"{jax.tree_util.keystr(where)} of {algorithm.name} must stay finite; it is not after update {update} "
                f"(seeds {list(seeds)}). Lower the learning rate or the reward scale."
            )
