"""The one compiled loop: chunks of updates in one program, batches drawn in-graph, members (seeds) a vmap axis.

It knows no algorithm by name. Member k's randomness is a function of its own seed and the update number alone, so a
member trains the same alone or among others, and a resumed run draws what an undisturbed one would have drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.sample import Source
from stitchrl.errors import StitchRLError
from stitchrl.training.checkpoint import load_checkpoint, save_checkpoint
from stitchrl.training.compilation import enable_compilation_cache
from stitchrl.training.logging import LoopMonitor
from stitchrl.types import Array, Key, PyTree

__all__ = ["DivergenceError", "History", "Trained", "initial_state", "train"]

History = list[dict[str, Any]]
"""One row a logged chunk and member: update, member, and each metric's mean over the chunk."""


class DivergenceError(StitchRLError):
    """A loss became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """States of all members (axis 0 of every leaf) and the metrics on the way."""

    state: PyTree
    history: History

    def member(self, index: int) -> PyTree:
        """The state of one member."""
        return jax.tree.map(lambda leaf: leaf[index], self.state)


def train(
    algorithm: Algorithm,
    source: Source,
    spec: Spec,
    *,
    updates: int,
    seeds: Sequence[int],
    batch_size: int = 256,
    log_every_updates: int = 100,
    save_every_updates: int = 1000,
    checkpoint: Path | None = None,
    monitors: Sequence[LoopMonitor] = (),
) -> Trained:
    """Train one member a seed, all in one program.

    Args:
        algorithm: its `init` and `update` are traced; the dataclass is a compile-time constant.
        source: arrays and their sampler.
        spec: network sizes.
        updates: gradient updates of each member; 0 returns the initial state.
        seeds: one member each.
        batch_size: rows a batch, drawn with replacement.
        log_every_updates: length of a chunk: metrics are averaged over it, and Python runs between chunks.
        save_every_updates: a checkpoint at the first chunk end at or after each multiple.
        checkpoint: file to resume from and save to; None saves nothing.
        monitors: called after each chunk.

    Raises:
        CheckpointError: the checkpoint is damaged or not of this algorithm.
        DivergenceError: a metric is not finite; the last good checkpoint stays.
    """
    enable_compilation_cache()
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    history: History = []
    done = 0
    if checkpoint is not None and checkpoint.exists():
        state, meta = load_checkpoint(checkpoint, initial_state(algorithm, spec, seeds, shapes_only=True))
        done, history = meta["update"], meta["history"]
    else:
        state = initial_state(algorithm, spec, seeds)

    chunk = _compiled_chunk(algorithm, source.sample, batch_size)
    while done < updates:
        until = min(done - done % log_every_updates + log_every_updates, updates)
        state, sums = chunk(state, source.arrays, source.count, keys, done, until)
        means = {name: (np.asarray(total) / (until - done)).tolist() for name, total in jax.device_get(sums).items()}
        _check_finite(algorithm, means, until)
        history += [
            {"update": until, "member": k} | {name: values[k] for name, values in means.items()}
            for k in range(len(seeds))
        ]
        due = done // save_every_updates != until // save_every_updates
        done = until
        if checkpoint is not None and (due or done == updates):
            save_checkpoint(checkpoint, state, {"update": done, "history": history})
        for monitor in monitors:
            monitor(done, updates, means)
    if checkpoint is not None and not checkpoint.exists():  # updates=0
        save_checkpoint(checkpoint, state, {"update": done, "history": history})
    return Trained(state, history)


def initial_state(algorithm: Algorithm, spec: Spec, seeds: Sequence[int], *, shapes_only: bool = False) -> PyTree:
    """Fresh members, made one by one, so that each starts the same alone or among others.

    With `shapes_only` the leaves are shapes and dtypes, and nothing is computed.
    """

    def make() -> PyTree:
        # Stream 0 of a seed's key makes the networks; update u draws from stream u + 1.
        members = [algorithm.init(jax.random.fold_in(jax.random.key(seed), 0), spec) for seed in seeds]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

    return jax.eval_shape(make) if shapes_only else make()


Chunk = Callable[[PyTree, PyTree, int, Key, int, int], tuple[PyTree, dict[str, Array]]]


@cache
def _compiled_chunk(algorithm: Algorithm, sample: Callable[..., Any], batch_size: int) -> Chunk:
    """(state, arrays, rows, keys, first update, end) -> (state, metric sums); one program for every chunk length."""

    def member_update(state: PyTree, arrays: PyTree, count: Array, key: Key, member: Array, update: Array) -> Any:
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, update + 1))
        index = jax.random.randint(draw_key, (batch_size,), 0, count)
        batch = dict(sample(arrays, index, member)) | {"update": update}
        return algorithm.update(state, batch, update_key)

    def run(state: PyTree, arrays: PyTree, count: Array, keys: Key, first: Array, end: Array) -> Any:
        members = jnp.arange(keys.shape[0])
        step = jax.vmap(member_update, in_axes=(0, None, None, 0, 0, None))
        _, shapes = jax.eval_shape(step, state, arrays, count, keys, members, first)
        zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}

        def body(update: Array, carry: Any) -> Any:
            state, sums = carry
            state, metrics = step(state, arrays, count, keys, members, update)
            return state, {name: sums[name] + value for name, value in metrics.items()}

        return jax.lax.fori_loop(first, end, body, (state, zeros))

    compiled = jax.jit(run, donate_argnums=0)

    def chunk(state: PyTree, arrays: PyTree, count: int, keys: Key, first: int, end: int) -> Any:
        # Strong int32 scalars: a new Python int must not look like a new type.
        return compiled(state, arrays, np.int32(count), keys, np.int32(first), np.int32(end))

    return chunk


def _check_finite(algorithm: Algorithm, means: dict[str, list[float]], update: int) -> None:
    for name, values in means.items():
        if not np.isfinite(values).all():
            raise DivergenceError(
                f"{name} of {algorithm.name} must stay finite; got {values} by update {update}. "
                "Lower the learning rate or the reward scale."
            )
