"""`check_algorithm`: tests whether an algorithm keeps its contract, on small logs."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Prepared
from stitchrl.checking.ends import check_bootstrap, check_closed_form, check_padding, check_rows_without_target
from stitchrl.checking.subject import ROWS, Subject, acts, compiled_update, differ, same_program, structure, traced
from stitchrl.errors import CheckpointError, StitchRLWarning
from stitchrl.jax_types import Key
from stitchrl.nn.memory import MemoryPolicy, nothing_yet
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.training.fit import fit, load
from stitchrl.types import PyTree

__all__ = ["check_algorithm"]


def check_algorithm(algorithm: Algorithm, *, kinds: Sequence[str] | None = None) -> None:
    """Test what the training loop and its users rely on in an algorithm, as scikit-learn's `check_estimator` does.

    Settings have a range and a meaning; those that `prepare` reads are static. `init` and `update` are pure; a state
    keeps its structure, shapes and dtypes; metrics are finite scalars. Solved arrays are passed on in `given`. The
    policy gives forbidden actions probability 0. Rows that terminated do not bootstrap, truncated ones do, and the
    content of a row of `td_weight` 0 does not change any value. A seed trains alone as it does among others (to the bit
    on a CPU), a run that was interrupted ends as one that was not, and a run that was saved acts the same when it is
    loaded.

    It trains on logs of a few dozen rows. Give it small networks: nothing here depends on their size.

    Args:
        algorithm: with any settings.
        kinds: "discrete", "continuous" or both; those that the algorithm learns from by default.

    Raises:
        AssertionError: a rule is broken; the message is that rule in one sentence.
    """
    _check_settings(algorithm)
    for kind in algorithm.actions if kinds is None else kinds:
        subject = Subject(algorithm, kind)
        for check in (
            _check_prepare,
            _check_init,
            _check_update,
            _check_masks,
            _check_of_ends(algorithm),
            check_rows_without_target,
            _check_training,
        ):
            check(subject)


def _check_of_ends(algorithm: Algorithm) -> Callable[[Subject], None]:
    if algorithm.sequence_length or algorithm.learns_from == "preferences":
        return check_padding
    return check_closed_form if algorithm.closed_form else check_bootstrap


def _check_settings(algorithm: Algorithm) -> None:
    kind = type(algorithm)
    if not dataclasses.is_dataclass(kind) or not getattr(kind, "__dataclass_params__").frozen:  # noqa: B009
        raise AssertionError(
            f"{kind.__name__}: an algorithm must be a frozen dataclass; put `@dataclass(frozen=True)`."
        )
    for field in dataclasses.fields(algorithm):
        meta = field.metadata
        if not {"interval", "choices", "network"} & set(meta) or not str(meta.get("meaning", "")).endswith("."):
            raise AssertionError(
                f"{kind.__name__}: `{field.name}` must have a range and a meaning that is a sentence; declare it with "
                "`setting`, `choice`, `flag` or `network_setting`."
            )


def _check_prepare(subject: Subject) -> None:
    algorithm, prepared = subject.algorithm, subject.prepared
    before = dict(vars(algorithm))
    algorithm.prepare(subject.log, subject.scaling, key=jax.random.key(0))
    if vars(algorithm) != before:
        subject.fail("`prepare` must leave the algorithm as it is and hand on what it solved as `given`.")
    for name, column in prepared.columns.items():
        if len(column) != prepared.log.num_transitions:
            subject.fail(
                f"a column that `prepare` adds must have one entry per row; `{name}` has {len(column)} for "
                f"{prepared.log.num_transitions} rows."
            )
    for name in algorithm.input_settings():
        value = getattr(algorithm, name)
        other = subject.prepare(algorithm.with_inputs({name: 0.5 * value if value else 0.5}))
        if not _prepared_alike(prepared, other):
            subject.fail(
                f"a setting that `prepare` reads must be static, since seeds and grids share its result; `{name}` changes it."
            )


def _prepared_alike(one: Prepared, two: Prepared) -> bool:
    return (
        one.log.content_hash == two.log.content_hash
        and set(one.columns) == set(two.columns)
        and all(np.array_equal(column, two.columns[name]) for name, column in one.columns.items())
        and not differ(one.given, two.given)
    )


def _check_init(subject: Subject) -> None:
    def init(key: Key, given: PyTree) -> PyTree:
        return subject.algorithm.init(key, subject.spec, given)

    one, two = (traced(init, jax.random.key(0), subject.given) for _ in range(2))
    if not same_program(one, two):
        subject.fail(
            "`init` must be a function of its arguments alone; called twice, it computes two different things."
        )
    names = [jax.tree_util.keystr(where) for where, _ in jax.tree_util.tree_flatten_with_path(subject.state)[0]]
    for name, leaf in zip(names, one.out_avals, strict=True):
        if leaf.weak_type:
            subject.fail(f"every leaf of a state must be an array with a dtype of its own; {name} is a Python number.")


def _check_update(subject: Subject) -> None:
    arguments = subject.arguments()
    program = compiled_update(subject.algorithm.structure())
    try:
        traced = program.trace(*arguments)
    except jax.errors.ConcretizationTypeError as error:
        subject.fail(
            "`update` must not branch on an input setting, on the state or on the batch in Python; make the setting static "
            f"or use `jnp.where`: {str(error).splitlines()[0]}"
        )
    _check_purity(subject, traced.jaxpr, arguments)
    state, metrics = traced.out_info
    _check_kept(subject, state, traced.jaxpr.out_avals)
    if not isinstance(metrics, dict):
        subject.fail(f"`update` must return a dict of metrics; it returns a {type(metrics).__name__}.")
    for name, value in metrics.items():
        if value.shape != ():
            subject.fail(f"a metric must be a scalar; {name!r} has the shape {value.shape}.")
    current = subject.state
    for update in range(3):
        inputs, _, *rest = subject.arguments(update=update)
        current, found = program(inputs, current, *rest)
        for name, value in found.items():
            if not np.isfinite(float(value)):
                subject.fail(f"a metric must be finite; {name!r} is {float(value)} at update {update}.")
        if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(current)):
            subject.fail(f"a state must stay finite; it is not after update {update}.")


def _check_purity(subject: Subject, expected: Any, arguments: tuple[Any, ...]) -> None:
    changed = []

    def update(inputs: Any, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        mine, leaves = dict(batch), jax.tree.leaves((state, given))
        after = subject.algorithm.structure().with_inputs(inputs).update(state, mine, given, key, step)
        again = jax.tree.leaves((state, given))
        same = len(leaves) == len(again) and all(a is b for a, b in zip(leaves, again, strict=True))
        changed.append(not same or mine.keys() != batch.keys() or any(mine[n] is not batch[n] for n in batch))
        return after

    before = dict(vars(subject.algorithm))
    again = traced(update, *arguments)
    if changed[0] or vars(subject.algorithm) != before:
        subject.fail("`update` must leave its arguments and the algorithm as they are; it changes one of them.")
    if not same_program(expected, again):
        subject.fail(
            "`update` must be a function of its arguments alone; called twice with the same ones, it computes two "
            "different things."
        )


def _check_kept(subject: Subject, after: PyTree, avals: Sequence[Any]) -> None:
    """A state keeps its structure, shapes and dtypes."""
    before = jax.tree_util.tree_flatten_with_path(subject.state)[0]
    if structure(after) != structure(subject.state):
        subject.fail("`update` must keep the structure of the state; it returns another.")
    for (where, old), new in zip(before, avals, strict=False):
        if (new.shape, new.dtype, new.weak_type) != (old.shape, old.dtype, False):
            kind = "a Python number" if new.weak_type else f"{new.dtype}{list(new.shape)}"
            subject.fail(
                f"`update` must keep the shapes and dtypes of the state; {jax.tree_util.keystr(where)} was "
                f"{old.dtype}{list(old.shape)} and becomes {kind}."
            )


def _check_masks(subject: Subject) -> None:
    policy = subject.algorithm.policy(subject.state, subject.given)
    obs = subject.batch["obs"]
    if subject.preferences is not None:
        obs = obs[0, :, 0]
    if isinstance(policy, MemoryPolicy):
        _check_memory(subject, policy, obs[:, 0] if subject.algorithm.sequence_length else obs)
        return
    if not isinstance(policy, DiscretePolicy):
        shape = np.shape(policy.mode(obs))
        if shape != (ROWS, subject.spec.action_size):
            subject.fail(
                f"a policy must give one action per row, {(ROWS, subject.spec.action_size)}; it gives {shape}."
            )
        return
    best = np.asarray(policy.mode(obs))
    mask = jnp.asarray(~np.eye(subject.spec.discrete_actions, dtype=bool)[best])
    probs = np.asarray(policy.probs(obs, action_mask=mask))
    drawn = np.asarray(policy.sample(obs, key=jax.random.key(0), action_mask=mask))
    rows = np.arange(ROWS)
    forbidden = probs[rows, best].any() or (drawn == best).any()
    if forbidden or (np.asarray(policy.mode(obs, action_mask=mask)) == best).any():
        subject.fail(
            "an action that the mask forbids must have probability 0 under a policy, which must neither choose nor draw it."
        )
    if np.abs(probs.sum(1) - 1.0).max() > 1e-4:
        subject.fail("the probabilities of a policy must sum to 1 under a mask.")


def _check_memory(subject: Subject, policy: MemoryPolicy, obs: Any) -> None:
    """One step of a policy with memory: one action per episode, none that is forbidden, and carries of independent episodes."""
    start, nothing = policy.initial_carry(ROWS), nothing_yet(policy, ROWS)
    best, carry = policy.step(start, obs, *nothing)
    wanted = (ROWS, *(() if subject.kind == "discrete" else (subject.spec.action_size,)))
    if np.shape(best) != wanted:
        subject.fail(f"a policy must give one action per episode, {wanted}; it gives {np.shape(best)}.")
    if any(np.shape(leaf)[:1] != (ROWS,) for leaf in jax.tree.leaves(carry)):
        subject.fail("every leaf of a carry must have the episodes on axis 0, so that some can begin anew.")
    if subject.kind == "discrete":
        mask = jnp.asarray(~np.eye(subject.spec.discrete_actions, dtype=bool)[np.asarray(best)])
        for key in (None, jax.random.key(0)):
            if (np.asarray(policy.step(start, obs, *nothing, key=key, action_mask=mask)[0]) == np.asarray(best)).any():
                subject.fail("a policy with memory must neither choose nor draw an action that the mask forbids.")
    alone, _ = policy.step(policy.initial_carry(1), obs[:1], *nothing_yet(policy, 1))
    if differ(np.asarray(alone[0]), np.asarray(best[0]), tolerance=1e-4):
        subject.fail(
            "the action in one episode must not depend on the other episodes that are played at the same time."
        )


class _InterruptedError(Exception):
    """Ends a run after its first checkpoint."""


def _interrupt(done: int, updates: int, metrics: Mapping[str, Any]) -> None:
    if done < updates:
        raise _InterruptedError


def _check_training(subject: Subject) -> None:
    """Seeds, resume, saving and loading."""
    algorithm, exact = subject.algorithm, jax.default_backend() == "cpu"

    def trained(seeds: list[int], **settings: Any) -> Any:
        every = {"log_every_updates": 2, "save_every_updates": 2, "batch_size": 64, "progress": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StitchRLWarning)  # several seeds of a closed form are meant here
            return fit(algorithm, subject.preferences or subject.log, updates=6, seeds=seeds, **every, **settings)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        among = trained([4, 1]).states[1]
        with contextlib.suppress(_InterruptedError):
            trained([1], out=folder, callbacks=[_interrupt])
        run = trained([1], out=folder)
        if differ(among, run.states[0], tolerance=0.0 if exact else 1e-3):
            alone = trained([1]).states[0]
            if differ(among, alone, tolerance=0.0 if exact else 1e-3):
                subject.fail("a seed must train alone as it does among others; its state differs.")
            subject.fail("a run that was interrupted must end like one that was not; its state differs.")
        try:
            loaded: Any = load(Path(folder), {algorithm.name: type(algorithm)})
        except CheckpointError as error:
            subject.fail(f"a run that was saved must load again; {error}")
    if loaded.algorithm != algorithm:
        subject.fail("a run that was saved must have the same settings when it is loaded.")
    if differ(acts(run.policy, subject.log), acts(loaded.policy, subject.log)):
        subject.fail("a run that was saved must act the same when it is loaded; its policy differs.")
