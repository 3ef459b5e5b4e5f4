"""The compiled side of the loop: fresh members, and one program that makes a chunk of updates of all of them.

A member is a seed and the number settings of its algorithm. On several devices members are split over them; on one they
go side by side as a batch axis or take turns, see `takes_turns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.losses import polyak
from stitchrl.nn.products import products_in
from stitchrl.types import Array, Key, PyTree

__all__ = ["SIDE_BY_SIDE_BYTES", "MemberState", "Program", "initial_state", "mesh_of", "takes_turns"]

SIDE_BY_SIDE_BYTES = 2**20
"""On a CPU, members of a larger state take turns in the program: side by side they would not fit a core's cache.
benchmarks/throughput.py has both ways (eight seeds)."""


KEPT_PROGRAMS = 64
"""Compiled programs of each kind that a process keeps; every one holds memory maps, which are not without end."""


class MemberState(NamedTuple):
    """What a member carries: the algorithm's state and, if asked for, the running average of its policy."""

    algorithm: PyTree
    average: PyTree


Draw = Callable[[PyTree, Key, Array, Array, int], Any]


class Program:
    """A chunk of updates of all members, compiled once for every length of chunk.

    Args:
        algorithms: one a member; equal but for their input settings.
        seeds: one a member.
        draw: how a batch is drawn, as of a `Feed`.
        batch_size: rows a batch.
        state: of all members, for its size.
    """

    def __init__(
        self, algorithms: Sequence[Algorithm], seeds: Sequence[int], draw: Draw, batch_size: int, state: PyTree
    ) -> None:
        structure = algorithms[0].structure()
        assert all(a.structure() == structure for a in algorithms)
        assert len(algorithms) == len(seeds)
        names = structure.input_settings()
        self._inputs = {name: jnp.asarray([getattr(a, name) for a in algorithms], jnp.float32) for name in names}
        self._keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        self._mesh = mesh_of(len(seeds))
        self._copies = _Copies(self._mesh)
        self._chunk = _compiled_chunk(structure, draw, batch_size, takes_turns(state, len(seeds)), self._mesh)

    def place(self, state: PyTree) -> PyTree:
        """The state where the program wants it: donated buffers must lie where they are used."""
        return (
            state if self._mesh is None else jax.device_put(state, NamedSharding(self._mesh, PartitionSpec("members")))
        )

    def gather(self, state: PyTree) -> PyTree:
        """The state on one device."""
        return state if self._mesh is None else jax.device_put(state, jax.local_devices()[0])

    def __call__(self, state: PyTree, arrays: PyTree, first: int, end: int) -> tuple[PyTree, dict[str, list[float]]]:
        """The updates [first, end): (state, metric -> its mean over them, one a member). `state` is used up."""
        members = np.arange(self._keys.shape[0], dtype=np.int32)
        # Strong int32 scalars: a new Python int must not look like a new type.
        state, sums = self._chunk(
            state, self._copies(arrays), self._keys, self._inputs, members, np.int32(first), np.int32(end)
        )
        return state, {
            name: (np.asarray(total) / (end - first)).tolist() for name, total in jax.device_get(sums).items()
        }


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


@lru_cache(maxsize=KEPT_PROGRAMS)
def _compiled_init(structure: Algorithm, spec: Spec) -> Callable[[dict[str, float], Key], MemberState]:
    return jax.jit(lambda inputs, key: _fresh(structure.with_inputs(inputs), spec, key))


def takes_turns(state: PyTree, members: int) -> bool:
    """Whether members take turns in the program, or go side by side as a batch axis."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) // members
    return members == 1 or (jax.default_backend() == "cpu" and size > SIDE_BY_SIDE_BYTES)


def mesh_of(members: int) -> Mesh | None:
    """The devices to split members over: as many as divide them; None for one."""
    devices = jax.local_devices()
    count = max(d for d in range(1, len(devices) + 1) if members % d == 0)
    return Mesh(np.asarray(devices[:count]), ("members",), axis_types=(AxisType.Auto,)) if count > 1 else None


Chunk = Callable[[PyTree, PyTree, Key, dict[str, Array], Any, Any, Any], tuple[PyTree, dict[str, Array]]]


@lru_cache(maxsize=KEPT_PROGRAMS)
def _compiled_chunk(structure: Algorithm, draw: Draw, batch_size: int, in_turn: bool, mesh: Mesh | None) -> Chunk:
    """(state, arrays, keys, inputs, members, first update, end) -> (state, metric sums)."""

    def one_update(algorithm: Algorithm, state: MemberState, batch: Any, key: Key) -> tuple[MemberState, Any]:
        with products_in(structure.precision):
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
        return jax.jit(run, donate_argnums=0)
    own, shared = PartitionSpec("members"), PartitionSpec()
    split = jax.shard_map(
        run, mesh=mesh, in_specs=(own, shared, own, own, own, shared, shared), out_specs=own, check_vma=False
    )
    return jax.jit(split, donate_argnums=0)


class _Copies:
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
