"""The compiled side of the loop: fresh members, and one program that makes a chunk of updates of all of them.

A member is a seed and the number settings of its algorithm. On a CPU one compiled program serves every member, several
at a time in threads of their own; on an accelerator members are a batch axis; several devices share them out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.optimizers import polyak
from stitchrl.jax_types import Array, Key
from stitchrl.nn.precision import check_supported, products_in
from stitchrl.types import PyTree

__all__ = ["MemberState", "Program", "initial_state", "member_of", "mesh_of"]

KEPT_PROGRAMS = 64
"""Compiled programs of each kind that a process keeps; every one holds memory maps, which are not without end."""


class MemberState(NamedTuple):
    """What a member carries: the algorithm's state and, if asked for, the running average of its policy."""

    algorithm: PyTree
    average: PyTree


Draw = Callable[[PyTree, Key, Array, Array, int], Any]
Placed = Any
"""The members' states as a `Program` has them: on a CPU a list, else a pytree with members on axis 0."""


class Program:
    """A chunk of updates of all members, compiled once for every length of chunk.

    Args:
        algorithms: one a member; equal but for their input settings.
        seeds: one a member.
        draw: how a batch is drawn, as of a `Feed`.
        batch_size: rows a batch.
        given: what the algorithm's `prepare` gave, the same for all members.
        updates: how many the run was asked for.
    """

    def __init__(
        self,
        algorithms: Sequence[Algorithm],
        seeds: Sequence[int],
        draw: Draw,
        batch_size: int,
        *,
        given: PyTree = None,
        updates: int = 0,
    ) -> None:
        structure = algorithms[0].structure()
        assert all(a.structure() == structure for a in algorithms)
        assert len(algorithms) == len(seeds)
        check_supported(structure.precision)
        names = structure.input_settings()
        # What is a member's own: its key, its number settings, its index.
        own = [
            (jax.random.key(seed), {name: np.float32(getattr(a, name)) for name in names}, np.int32(k))
            for k, (a, seed) in enumerate(zip(algorithms, seeds, strict=True))
        ]
        self._mesh = mesh_of(len(seeds))
        self._apart = self._mesh is None and (len(seeds) == 1 or jax.default_backend() == "cpu")
        self._own: Any = own if self._apart else jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
        self._chunk = _compiled_chunk(structure, draw, batch_size, self._apart, self._mesh)
        self._refresh = _compiled_refresh(structure, self._apart, self._mesh)
        self._executable: Any = None
        self._copies = _Copies(self._mesh)
        self._given, self._updates = given, np.int32(updates)

    def place(self, state: PyTree) -> Placed:
        """The state where and how the program wants it: donated buffers must lie where they are used."""
        if self._apart:
            return [member_of(state, k) for k in range(len(self._own))]
        return (
            state if self._mesh is None else jax.device_put(state, NamedSharding(self._mesh, PartitionSpec("members")))
        )

    def gather(self, placed: Placed) -> PyTree:
        """The state of all members on one device, axis 0 of every leaf."""
        if self._apart:
            return _stacked(placed)
        return placed if self._mesh is None else jax.device_put(placed, jax.local_devices()[0])

    def member(self, placed: Placed, index: int) -> MemberState:
        """The state of one member."""
        return placed[index] if self._apart else jax.tree.map(lambda leaf: leaf[index], placed)

    def __call__(self, placed: Placed, arrays: PyTree, first: int, end: int) -> tuple[Placed, dict[str, list[float]]]:
        """The updates [first, end): (state, metric -> its mean over them, one a member). `placed` is used up."""
        # Strong int32 scalars: a new Python int must not look like a new type.
        span = np.int32(first), np.int32(end), self._updates
        if self._apart:
            if self._executable is None:
                self._executable = _executable(self._chunk, placed[0], arrays, self._given, self._own[0], *span)
            calls = [(state, arrays, self._given, own, *span) for state, own in zip(placed, self._own, strict=True)]
            found = _at_once(lambda call: jax.block_until_ready(self._executable(*call)), calls)
            placed = [state for state, _ in found]
            rows = jax.device_get([sums for _, sums in found])
            sums = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        else:
            arrays, given = self._copies((arrays, self._given))
            placed, sums = self._chunk(placed, arrays, given, self._own, *span)
        return placed, {
            name: (np.asarray(total) / (end - first)).tolist() for name, total in jax.device_get(sums).items()
        }

    def refresh(self, placed: Placed, arrays: PyTree, update: int) -> Placed:
        """Every member after its algorithm's `refresh` before the update of this number."""
        at = np.int32(update)
        if self._apart:
            return [self._refresh(s, arrays, self._given, own, at) for s, own in zip(placed, self._own, strict=True)]
        arrays, given = self._copies((arrays, self._given))
        return self._refresh(placed, arrays, given, self._own, at)


def _at_once(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """function of every item, as many at a time as there are processors."""
    # Where one member's products leave a core idle, between and around them, another's fill it.
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(min(len(items), _processors())) as pool:
        return list(pool.map(function, items))


def _processors() -> int:
    """Those this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _executable(chunk: Any, *arguments: Any) -> Any:
    """The chunk compiled for such arguments: here, not in a thread, where this thread's JAX settings would not hold."""
    return chunk if getattr(jax.config, "jax_disable_jit") else chunk.lower(*arguments).compile()  # noqa: B009


def initial_state(
    algorithm: Algorithm | Sequence[Algorithm],
    spec: Spec,
    seeds: Sequence[int],
    given: PyTree = None,
    *,
    shapes_only: bool = False,
) -> PyTree:
    """Fresh members, made one by one, so that each starts the same alone or among others.

    With `shapes_only` the leaves are shapes and dtypes, and nothing is computed.
    """
    algorithms = [algorithm] * len(seeds) if isinstance(algorithm, Algorithm) else list(algorithm)

    if shapes_only:
        one = jax.eval_shape(lambda: _fresh(algorithms[0], spec, given, jax.random.key(0)))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(seeds), *leaf.shape), leaf.dtype), one)

    def fresh(a: Algorithm, seed: int) -> MemberState:
        # Stream 0 of a seed's key makes the networks; update u draws from stream u + 1.
        inputs = {name: getattr(a, name) for name in a.input_settings()}
        return _compiled_init(a.structure(), spec)(inputs, given, jax.random.fold_in(jax.random.key(seed), 0))

    return _stacked([fresh(a, seed) for a, seed in zip(algorithms, seeds, strict=True)])


def _fresh(algorithm: Algorithm, spec: Spec, given: PyTree, key: Key) -> MemberState:
    state = algorithm.init(key, spec, given)
    average = jax.tree.map(jnp.copy, algorithm.policy(state, given)) if algorithm.average_rate else None
    return MemberState(state, average)


@lru_cache(maxsize=KEPT_PROGRAMS)
def _compiled_init(structure: Algorithm, spec: Spec) -> Callable[[dict[str, float], PyTree, Key], MemberState]:
    return jax.jit(lambda inputs, given, key: _fresh(structure.with_inputs(inputs), spec, given, key))


def member_of(state: PyTree, index: int) -> Any:
    """One of the members on axis 0, copied."""
    # By NumPy: JAX would compile a program for each shape and number of members.
    return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf[index])), jax.tree.map(np.asarray, state))


def _stacked(members: Sequence[PyTree]) -> Any:
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *members)


def mesh_of(members: int) -> Mesh | None:
    """The devices to split members over: as many as divide them; None for one."""
    devices = jax.local_devices()
    count = max(d for d in range(1, len(devices) + 1) if members % d == 0)
    return Mesh(np.asarray(devices[:count]), ("members",), axis_types=(AxisType.Auto,)) if count > 1 else None


@lru_cache(maxsize=KEPT_PROGRAMS)
def _compiled_chunk(structure: Algorithm, draw: Draw, batch_size: int, single: bool, mesh: Mesh | None) -> Any:
    """(state, arrays, given, (key, inputs, member), first update, end, updates) -> (state, metric sums), of one member
    or of all."""

    def one_member(
        state: MemberState, arrays: PyTree, given: PyTree, own: Any, first: Array, end: Array, updates: Array
    ) -> tuple[MemberState, dict[str, Array]]:
        key, inputs, member = own
        algorithm = structure.with_inputs(inputs)

        def step(update: Array, state: MemberState) -> tuple[MemberState, Any]:
            draw_key, update_key = jax.random.split(jax.random.fold_in(key, update + 1))
            # The barrier keeps how a batch is fetched out of how it is computed with: a stream gives the same numbers.
            batch = jax.lax.optimization_barrier(dict(draw(arrays, draw_key, update - first, member, batch_size)))
            with products_in(structure.precision):
                after, metrics = algorithm.update(state.algorithm, batch, given, update_key, Step(update, updates))
            average = state.average
            if algorithm.average_rate:
                average = polyak(average, algorithm.policy(after, given), algorithm.average_rate)
            return MemberState(after, average), metrics

        def body(update: Array, carry: Any) -> Any:
            state, sums = carry
            state, metrics = step(update, state)
            return state, {name: sums[name] + value for name, value in metrics.items()}

        _, shapes = jax.eval_shape(step, first, state)
        zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        return jax.lax.fori_loop(first, end, body, (state, zeros))

    return _over_members(one_member, single, mesh, shared_after_own=3, donate=True)


@lru_cache(maxsize=KEPT_PROGRAMS)
def _compiled_refresh(structure: Algorithm, single: bool, mesh: Mesh | None) -> Any:
    """(state, arrays, given, (key, inputs, member), update) -> state, of one member or of all."""

    def one_member(state: MemberState, arrays: PyTree, given: PyTree, own: Any, update: Array) -> MemberState:
        key, inputs, _ = own
        # A stream of its own: the updates draw from streams 1 and on.
        refresh_key = jax.random.fold_in(jax.random.fold_in(key, 0), update + 1)
        after = structure.with_inputs(inputs).refresh(state.algorithm, arrays, given, refresh_key)
        return MemberState(after, state.average)

    return _over_members(one_member, single, mesh, shared_after_own=1, donate=False)


def _over_members(one_member: Any, single: bool, mesh: Mesh | None, *, shared_after_own: int, donate: bool) -> Any:
    """A program of one member as it is, or of all members on a batch axis, or of these split over devices."""
    donated = 0 if donate else ()
    if single:
        return jax.jit(one_member, donate_argnums=donated)

    def all_members(state: PyTree, arrays: PyTree, given: PyTree, own: Any, *shared: Array) -> Any:
        return jax.vmap(lambda s, o: one_member(s, arrays, given, o, *shared))(state, own)

    if mesh is None:
        return jax.jit(all_members, donate_argnums=donated)
    split, whole = PartitionSpec("members"), PartitionSpec()
    placed = jax.shard_map(
        all_members,
        mesh=mesh,
        in_specs=(split, whole, whole, split, *[whole] * shared_after_own),
        out_specs=split,
        check_vma=False,
    )
    return jax.jit(placed, donate_argnums=donated)


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
