"""How the members of a run share the devices: fresh members, and the compiled program that computes all of them.

A member is a seed and the number settings of its algorithm. On a CPU one program of one member serves all of them,
several at a time in threads (`Apart`); on an accelerator members are a batch axis, split over the devices where there
are several (`Together`). Both start a call and return at once, and neither changes a state that it was given, so that
the host can handle one call while the next is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.jax_types import Array, Key
from stitchrl.nn.precision import check_supported
from stitchrl.training.probe import Measure
from stitchrl.training.updates import Draw, Layout, MemberState, MetricTable, Row, member_call, member_refresh
from stitchrl.types import PyTree

__all__ = ["MemberState", "Program", "initial_state", "member_of", "mesh_of", "program_of"]

KEPT_PROGRAMS = 64
"""Compiled programs of each kind that a process keeps; every one holds memory maps, whose number is limited."""

Placed = Any
"""The members' states in the form that a `Program` uses."""
Fetch = Callable[[], MetricTable]
"""Waits for a call and gives its metrics as NumPy, (members, rows, metrics)."""


@runtime_checkable
class Program(Protocol):
    """Calls of several log rows of all members, compiled once."""

    most_rows: int
    """Log rows that a call may have."""

    def place(self, state: PyTree) -> Placed:
        """The states of all members, given on axis 0 of every leaf, on the devices and in the form that the program uses."""

    def start(self, placed: Placed, arrays: PyTree, rows: list[Row]) -> tuple[Placed, Fetch]:
        """Begin the updates of these rows; what is returned may still be computed."""

    def refresh(self, placed: Placed, arrays: PyTree, update: int) -> Placed:
        """Every member after its algorithm's `refresh` before the update of this number."""

    def gather(self, placed: Placed) -> PyTree:
        """The state of all members on the host, axis 0 of every leaf."""

    def member(self, placed: Placed, index: int) -> MemberState:
        """The state of one member."""

    def close(self) -> None:
        """Wait for what was started and not fetched."""


def program_of(
    algorithms: Sequence[Algorithm],
    seeds: Sequence[int],
    draw: Draw,
    batch_size: int,
    *,
    given: PyTree = None,
    updates: int = 0,
    log_every_updates: int = 1,
    measure: Measure | None = None,
    probed: PyTree = None,
) -> Program:
    """The program of a run on this process's devices.

    Args:
        algorithms: one per member; equal but for their input settings.
        seeds: one per member.
        draw: how a batch is drawn, as of a `Feed`.
        batch_size: rows in a batch.
        given: what the algorithm's `prepare` gave, the same for all members.
        updates: how many the run was asked for.
        log_every_updates: length of most log rows.
        measure, probed: of a probe: its function, and its arrays on the device.
    """
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
    backend, mesh = jax.default_backend(), mesh_of(len(seeds))
    layout = Layout.of_backend(backend, log_every_updates)
    if backend == "cpu" and mesh is None:
        call, refresh = _compiled_one(structure, draw, batch_size, layout, measure)
        return Apart(call, refresh, layout, own, given, updates, probed)
    call, refresh = _compiled_all(structure, draw, batch_size, layout, len(seeds), mesh, measure)
    return Together(call, refresh, layout, own, given, updates, mesh, probed)


class Apart:
    """Each member in calls of its own, as many at a time as there are processors, from threads."""

    # A member's products leave cores idle between them, which another member can use.

    def __init__(
        self,
        call: Any,
        refresh: Any,
        layout: Layout,
        own: Sequence[Any],
        given: PyTree,
        updates: int,
        probed: PyTree = None,
    ) -> None:
        self.most_rows, self._probed = layout.most_rows, probed
        self._call, self._refresh, self._layout = call, refresh, layout
        self._own, self._given, self._updates = own, given, np.int32(updates)
        self._executable: Any = None
        self._threads = ThreadPoolExecutor(min(len(own), _processors()), "stitchrl-member")

    def place(self, state: PyTree) -> Placed:
        return [_done((member_of(state, k), None)) for k in range(len(self._own))]

    def start(self, placed: Placed, arrays: PyTree, rows: list[Row]) -> tuple[Placed, Fetch]:
        # Strong int32: a new Python int must not look like a new type.
        inputs = self._layout.spans(rows), np.int32(len(rows)), self._updates
        if self._executable is None:
            state, _ = placed[0].result()
            self._executable = _executable(
                self._call, state, (arrays, self._probed), self._given, self._own[0], *inputs
            )

        def run(before: Future[Any], own: Any) -> Any:
            state, _ = before.result()  # it began earlier, so that it never waits for this thread
            return jax.block_until_ready(self._executable(state, (arrays, self._probed), self._given, own, *inputs))

        after = [self._threads.submit(run, *one) for one in zip(placed, self._own, strict=True)]

        def fetch() -> MetricTable:
            tables = [member.result()[1] for member in after]
            return MetricTable(np.stack([np.asarray(table.means) for table in tables]), tables[0].names)

        return after, fetch

    def refresh(self, placed: Placed, arrays: PyTree, update: int) -> Placed:
        at, states = np.int32(update), [member.result()[0] for member in placed]
        after = [self._refresh(s, arrays, self._given, own, at) for s, own in zip(states, self._own, strict=True)]
        return [_done((state, None)) for state in after]

    def gather(self, placed: Placed) -> PyTree:
        return _stacked([member.result()[0] for member in placed])

    def member(self, placed: Placed, index: int) -> MemberState:
        state: MemberState = placed[index].result()[0]
        return state

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


class Together:
    """All members in one call, on a batch axis; split over the devices of a mesh where there is one."""

    def __init__(
        self,
        call: Any,
        refresh: Any,
        layout: Layout,
        own: Sequence[Any],
        given: PyTree,
        updates: int,
        mesh: Mesh | None,
        probed: PyTree = None,
    ) -> None:
        self.most_rows, self._probed = layout.most_rows, probed
        self._call, self._refresh, self._layout, self._mesh = call, refresh, layout, mesh
        self._own: Any = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
        self._given, self._updates = given, np.int32(updates)
        self._copies = _Copies(mesh)

    def place(self, state: PyTree) -> Placed:
        return jax.device_put(state, None if self._mesh is None else NamedSharding(self._mesh, MEMBERS))

    def start(self, placed: Placed, arrays: PyTree, rows: list[Row]) -> tuple[Placed, Fetch]:
        arrays, given = self._copies(((arrays, self._probed), self._given))
        inputs = self._layout.spans(rows), np.int32(len(rows)), self._updates
        after, table = self._call(placed, arrays, given, self._own, *inputs)
        table.means.copy_to_host_async()
        return after, lambda: MetricTable(np.asarray(table.means), table.names)

    def refresh(self, placed: Placed, arrays: PyTree, update: int) -> Placed:
        arrays, given = self._copies((arrays, self._given))
        return self._refresh(placed, arrays, given, self._own, np.int32(update))

    def gather(self, placed: Placed) -> PyTree:
        return jax.device_get(placed)

    def member(self, placed: Placed, index: int) -> MemberState:
        state: MemberState = jax.tree.map(lambda leaf: leaf[index], placed)
        return state

    def close(self) -> None:
        """Nothing to wait for: the runtime keeps what a call needs until it ends."""


def _done(value: Any) -> Future[Any]:
    found: Future[Any] = Future()
    found.set_result(value)
    return found


def _processors() -> int:
    """Those this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _executable(call: Any, *arguments: Any) -> Any:
    """The call compiled for such arguments. It is compiled here, since this thread's JAX settings do not hold in another."""
    return call if getattr(jax.config, "jax_disable_jit") else call.lower(*arguments).compile()  # noqa: B009


# --- compiled, and kept --------------------------------------------------------------------------------------------


@lru_cache(maxsize=KEPT_PROGRAMS)
def _compiled_one(
    structure: Algorithm, draw: Draw, batch_size: int, layout: Layout, measure: Measure | None
) -> tuple[Any, Any]:
    """The call and the refresh of one member."""
    return jax.jit(member_call(structure, draw, batch_size, layout, measure)), jax.jit(member_refresh(structure))


@lru_cache(maxsize=KEPT_PROGRAMS)
def _compiled_all(
    structure: Algorithm,
    draw: Draw,
    batch_size: int,
    layout: Layout,
    members: int,
    mesh: Mesh | None,
    measure: Measure | None,
) -> tuple[Any, Any]:
    """The call and the refresh of all members, axis 0 of their states and of what is their own."""
    on_a_device = members // (1 if mesh is None else mesh.size)
    over = _on_an_axis_of_one if on_a_device == 1 else _on_a_batch_axis
    both = [over(member_call(structure, draw, batch_size, layout, measure)), over(member_refresh(structure))]
    if mesh is not None:
        both = [_split(function, mesh) for function in both]
    call, refresh = both
    return jax.jit(call), jax.jit(refresh)


def _on_an_axis_of_one(function: Any) -> Any:
    """The function of one member as it is, without a batch axis in its products."""

    def alone(state: PyTree, arrays: PyTree, given: PyTree, own: Any, *shared: Array) -> Any:
        state, own = jax.tree.map(lambda leaf: leaf[0], (state, own))
        return jax.tree.map(lambda leaf: leaf[None], function(state, arrays, given, own, *shared))

    return alone


def _on_a_batch_axis(function: Any) -> Any:
    """The function of one member for several at once."""

    def all_members(state: PyTree, arrays: PyTree, given: PyTree, own: Any, *shared: Array) -> Any:
        return jax.vmap(lambda s, o: function(s, arrays, given, o, *shared))(state, own)

    return all_members


def _split(function: Any, mesh: Mesh) -> Any:
    """The function of several members, split over the devices; none waits for another."""

    def everywhere(state: PyTree, arrays: PyTree, given: PyTree, own: Any, *shared: Array) -> Any:
        specs = (MEMBERS, WHOLE, WHOLE, MEMBERS, *[WHOLE] * len(shared))
        split = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=MEMBERS, check_vma=False)
        return split(state, arrays, given, own, *shared)

    return everywhere


MEMBERS, WHOLE = PartitionSpec("members"), PartitionSpec()


def mesh_of(members: int) -> Mesh | None:
    """The devices to split members over: the most whose number divides that of members; None where that is one."""
    devices = jax.local_devices()
    count = max(d for d in range(1, len(devices) + 1) if members % d == 0)
    return Mesh(np.asarray(devices[:count]), ("members",), axis_types=(AxisType.Auto,)) if count > 1 else None


class _Copies:
    """Copies arrays to every device of a mesh; those that the call before it copied are not copied again."""

    def __init__(self, mesh: Mesh | None) -> None:
        self._mesh = mesh
        self._held: dict[int, tuple[Array, Array]] = {}

    def __call__(self, arrays: PyTree) -> PyTree:
        if self._mesh is None:
            return arrays
        everywhere = NamedSharding(self._mesh, WHOLE)
        leaves, structure = jax.tree.flatten(arrays)
        # The original is kept beside its copy, so that no other array can get its id.
        found = [self._held.get(id(leaf)) for leaf in leaves]
        copies = [
            jax.device_put(leaf, everywhere) if held is None else held[1]
            for leaf, held in zip(leaves, found, strict=True)
        ]
        self._held = {id(leaf): (leaf, copy) for leaf, copy in zip(leaves, copies, strict=True)}
        return jax.tree.unflatten(structure, copies)


# --- fresh members -------------------------------------------------------------------------------------------------


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

    return jax.device_put(_stacked([fresh(a, seed) for a, seed in zip(algorithms, seeds, strict=True)]))


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
    """Members on axis 0, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *members)
