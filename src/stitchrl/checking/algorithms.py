"""`check_algorithm`: an algorithm held against its contract, on small logs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.errors import CheckpointError
from stitchrl.feeds.feed import transition_source
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.reading.read import read
from stitchrl.training.fit import fit, load
from stitchrl.training.program import initial_state, member_of
from stitchrl.types import PyTree

__all__ = ["check_algorithm", "compiled_update", "small_log"]

ROWS = 8
"""Rows of the batch of one update."""
STEPS = {"update": 1, "updates": 100}
"""Where in a run single updates are: the second of a hundred, which is also one of those that a delayed actor makes."""


def small_log(kind: str = "discrete", *, reward: float | None = None) -> Dataset:
    """Twelve episodes of 1 to 5 steps with 3 actions, or with 2 numbers in [-1, 1] an action where `kind` is "continuous".

    There are 8 observations of 3 numbers, numbered by `observation_id`. Every fourth episode is cut, and what was seen
    then is known. Discrete actions have masks, of which the one after a cut is unknown, so that rows without a target are
    among them.

    Args:
        kind: "discrete" or "continuous".
        reward: of every row; random by default.
    """
    rng = np.random.default_rng(0)
    lengths = 1 + np.arange(12) % 5
    count, last = int(lengths.sum()), np.cumsum(lengths) - 1
    cut = np.arange(12) % 4 == 2
    table = rng.normal(size=(8, 3)).astype(np.float32)
    state, after = rng.integers(0, 8, count), rng.integers(0, 8, count)
    inside = np.setdiff1d(np.arange(count), last)
    after[inside] = state[inside + 1]
    choice = rng.integers(0, 3, count).astype(np.int32)
    columns: dict[str, np.ndarray] = {
        "episode": np.repeat(np.arange(12), lengths),
        "observation": table[state],
        "next_observation": table[after],
        "observation_id": state.astype(np.int32),
        "action": choice,
        "reward": rng.normal(size=count).astype(np.float32) if reward is None else np.full(count, reward, np.float32),
        "terminated": np.isin(np.arange(count), last[~cut]),
        "truncated": np.isin(np.arange(count), last[cut]),
    }
    if kind == "continuous":
        columns["action"] = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    else:
        columns["action_mask"] = (rng.random((count, 3)) < 0.6) | np.eye(3, dtype=bool)[choice]
    return read(columns, Schema({name: name for name in columns}, num_actions=None if kind == "continuous" else 3))


@cache
def compiled_update(structure: Algorithm) -> Any:
    """(input settings, state, batch, given, key, step) -> the update, compiled once a batch shape, as the loop compiles it.

    Args:
        structure: as `Algorithm.structure` gives it.
    """

    def update(
        inputs: Mapping[str, Any], state: PyTree, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[PyTree, Metrics]:
        return structure.with_inputs(inputs).update(state, batch, given, key, step)

    return jax.jit(update)


def check_algorithm(algorithm: Algorithm, *, kinds: Sequence[str] | None = None) -> None:
    """Hold an algorithm to what the training loop and its users rely on, as scikit-learn's `check_estimator` does.

    Settings have a range and a meaning; those that `prepare` reads are static. `init` and `update` are pure; a state
    keeps its structure, shapes and dtypes; metrics are finite scalars. Solved arrays are handed through `given`. The
    policy gives forbidden actions probability 0. Rows that terminated do not bootstrap, truncated ones do, and what
    stands in a row of `td_weight` 0 moves no value. A seed trains alone as it does among others (to the bit on a CPU),
    a run that was interrupted ends as one that was not, and a run that was saved acts the same when it is loaded.

    It trains on logs of a few dozen rows. Give it small networks: nothing here depends on their size.

    Args:
        algorithm: with any settings.
        kinds: "discrete", "continuous" or both; those that the algorithm learns from by default.

    Raises:
        AssertionError: a rule is broken; the message is that rule in one sentence.
    """
    _check_settings(algorithm)
    for kind in algorithm.actions if kinds is None else kinds:
        subject = _Subject(algorithm, kind)
        for check in (
            _check_prepare,
            _check_init,
            _check_update,
            _check_masks,
            _check_bootstrap,
            _check_rows_without_target,
            _check_training,
        ):
            check(subject)


class _Subject:
    """An algorithm on one kind of action, with a log, a batch and a state."""

    def __init__(self, algorithm: Algorithm, kind: str) -> None:
        self.algorithm, self.kind = algorithm, kind
        self.log = small_log(kind)
        self.scaling = Scaling.of(self.log)
        self.spec = Spec.of(self.log)

    def fail(self, rule: str) -> NoReturn:
        """Raise the AssertionError of a broken rule."""
        raise AssertionError(f"{self.algorithm.name}, {self.kind} actions: {rule}")

    @cached_property
    def prepared(self) -> Prepared:
        """What the algorithm makes of the log."""
        return self.prepare(self.algorithm)

    def prepare(self, algorithm: Algorithm) -> Prepared:
        """What an algorithm makes of the log, by a copy, so that nothing can be kept in the algorithm itself."""
        return copy.copy(algorithm).prepare(self.log, self.scaling, key=jax.random.key(0))

    @cached_property
    def given(self) -> PyTree:
        """As the loop hands it through."""
        return jax.tree.map(jnp.asarray, self.prepared.given)

    @cached_property
    def state(self) -> PyTree:
        """A fresh state, as the loop makes it."""
        members = initial_state(self.algorithm, self.spec, [0], self.given)
        return member_of(members, 0).algorithm

    @cached_property
    def batch(self) -> dict[str, Any]:
        """The first rows of the prepared log."""
        source = transition_source(self.prepared.log, self.scaling, columns=self.prepared.columns)
        return dict(source.sample(source.arrays, jnp.arange(ROWS) % source.count, jnp.int32(0)))

    def with_columns(self, **values: float) -> dict[str, Any]:
        """The batch with some fields the same number in every row."""
        return self.batch | {name: jnp.full(ROWS, value, jnp.float32) for name, value in values.items()}

    @property
    def inputs(self) -> dict[str, Any]:
        """The input settings as the compiled program takes them."""
        return {name: jnp.float32(getattr(self.algorithm, name)) for name in self.algorithm.input_settings()}

    def arguments(self, batch: Batch | None = None, update: int = STEPS["update"], **inputs: Any) -> tuple[Any, ...]:
        """The arguments of `compiled_update`, on the fresh state by default."""
        step = Step(jnp.int32(update), jnp.int32(STEPS["updates"]))
        return self.inputs | inputs, self.state, batch or self.batch, self.given, jax.random.key(0), step

    def after(self, batch: Batch, **inputs: Any) -> PyTree:
        """The state after one update of the fresh one, some input settings changed."""
        return compiled_update(self.algorithm.structure())(*self.arguments(batch, **inputs))[0]


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


def _check_prepare(subject: _Subject) -> None:
    algorithm, prepared = subject.algorithm, subject.prepared
    before = dict(vars(algorithm))
    algorithm.prepare(subject.log, subject.scaling, key=jax.random.key(0))
    if vars(algorithm) != before:
        subject.fail("`prepare` must leave the algorithm as it is and hand on what it solved as `given`.")
    for name, column in prepared.columns.items():
        if len(column) != prepared.log.num_transitions:
            subject.fail(
                f"a column that `prepare` adds must have one entry a row; `{name}` has {len(column)} for "
                f"{prepared.log.num_transitions} rows."
            )
    for name in algorithm.input_settings():
        value = getattr(algorithm, name)
        other = subject.prepare(algorithm.with_inputs({name: 0.5 * value if value else 0.5}))
        if not _prepared_alike(prepared, other):
            subject.fail(
                f"a setting that `prepare` reads must be static, for seeds and grids share what is prepared; `{name}` "
                "changes it."
            )


def _prepared_alike(one: Prepared, two: Prepared) -> bool:
    return (
        one.log.content_hash == two.log.content_hash
        and set(one.columns) == set(two.columns)
        and all(np.array_equal(column, two.columns[name]) for name, column in one.columns.items())
        and not _differ(one.given, two.given)
    )


def _check_init(subject: _Subject) -> None:
    def init(key: Key, given: PyTree) -> PyTree:
        return subject.algorithm.init(key, subject.spec, given)

    one, two = (_traced(init, jax.random.key(0), subject.given) for _ in range(2))
    if not _same_program(one, two):
        subject.fail(
            "`init` must be a function of its arguments alone; called twice, it computes two different things."
        )
    names = [jax.tree_util.keystr(where) for where, _ in jax.tree_util.tree_flatten_with_path(subject.state)[0]]
    for name, leaf in zip(names, one.out_avals, strict=True):
        if leaf.weak_type:
            subject.fail(f"every leaf of a state must be an array with a dtype of its own; {name} is a Python number.")


def _check_update(subject: _Subject) -> None:
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


def _check_purity(subject: _Subject, expected: Any, arguments: tuple[Any, ...]) -> None:
    changed = []

    def update(inputs: Any, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        mine, leaves = dict(batch), jax.tree.leaves((state, given))
        after = subject.algorithm.structure().with_inputs(inputs).update(state, mine, given, key, step)
        again = jax.tree.leaves((state, given))
        same = len(leaves) == len(again) and all(a is b for a, b in zip(leaves, again, strict=True))
        changed.append(not same or mine.keys() != batch.keys() or any(mine[n] is not batch[n] for n in batch))
        return after

    before = dict(vars(subject.algorithm))
    again = _traced(update, *arguments)
    if changed[0] or vars(subject.algorithm) != before:
        subject.fail("`update` must leave its arguments and the algorithm as they are; it changes one of them.")
    if not _same_program(expected, again):
        subject.fail(
            "`update` must be a function of its arguments alone; called twice with the same ones, it computes two "
            "different things."
        )


def _check_kept(subject: _Subject, after: PyTree, avals: Sequence[Any]) -> None:
    """A state keeps its structure, shapes and dtypes."""
    before = jax.tree_util.tree_flatten_with_path(subject.state)[0]
    if _structure(after) != _structure(subject.state):
        subject.fail("`update` must keep the structure of the state; it returns another.")
    for (where, old), new in zip(before, avals, strict=False):
        if (new.shape, new.dtype, new.weak_type) != (old.shape, old.dtype, False):
            kind = "a Python number" if new.weak_type else f"{new.dtype}{list(new.shape)}"
            subject.fail(
                f"`update` must keep the shapes and dtypes of the state; {jax.tree_util.keystr(where)} was "
                f"{old.dtype}{list(old.shape)} and becomes {kind}."
            )


def _check_masks(subject: _Subject) -> None:
    policy = subject.algorithm.policy(subject.state, subject.given)
    obs = subject.batch["obs"]
    if not isinstance(policy, DiscretePolicy):
        shape = np.shape(policy.mode(obs))
        if shape != (ROWS, subject.spec.action_size):
            subject.fail(f"a policy must give one action a row, {(ROWS, subject.spec.action_size)}; it gives {shape}.")
        return
    best = np.asarray(policy.mode(obs))
    mask = jnp.asarray(~np.eye(subject.spec.discrete_actions, dtype=bool)[best])
    probs = np.asarray(policy.probs(obs, action_mask=mask))
    drawn = np.asarray(policy.sample(obs, key=jax.random.key(0), action_mask=mask))
    rows = np.arange(ROWS)
    forbidden = probs[rows, best].any() or (drawn == best).any()
    if forbidden or (np.asarray(policy.mode(obs, action_mask=mask)) == best).any():
        subject.fail(
            "a policy must give an action that the mask forbids probability 0, and neither choose nor draw it."
        )
    if np.abs(probs.sum(1) - 1.0).max() > 1e-4:
        subject.fail("the probabilities of a policy must sum to 1 under a mask.")


def _check_bootstrap(subject: _Subject) -> None:
    """A row that terminated has no future: neither the discount nor what was seen after it matters."""
    if subject.algorithm.closed_form:
        return
    ended = subject.with_columns(terminated=1.0, truncated=0.0, td_weight=1.0)
    rule = "a row that terminated must not bootstrap"
    if "gamma" not in subject.algorithm.input_settings():
        if _differ(subject.after(ended), subject.after(ended | {"next_obs": 3.0 * ended["next_obs"] + 1.0})):
            subject.fail(f"{rule}; the next observation changes the update of rows that all terminated.")
        return

    def gamma_matters(batch: Batch) -> bool:
        return _differ(*(subject.after(batch, gamma=jnp.float32(gamma)) for gamma in (0.9, 0.3)))

    if gamma_matters(ended):
        subject.fail(f"{rule}; `gamma` changes the update of rows that all terminated.")
    inside = subject.with_columns(terminated=0.0, truncated=0.0, td_weight=1.0)
    cut = subject.with_columns(terminated=0.0, truncated=1.0, td_weight=1.0)
    if gamma_matters(inside) and not gamma_matters(cut):
        subject.fail(
            "a truncated row must bootstrap; `gamma` does not change the update of rows that all are truncated."
        )


def _check_rows_without_target(subject: _Subject) -> None:
    """What stands in a row of td_weight 0 moves no critic."""
    if subject.algorithm.closed_form or subject.algorithm.value(subject.state, subject.given) is None:
        return
    batch = subject.with_columns(terminated=0.0, truncated=0.0, td_weight=1.0)
    batch |= {"td_weight": batch["td_weight"].at[0].set(0.0)}
    other = {
        "reward": batch["reward"].at[0].set(100.0),
        "next_obs": batch["next_obs"].at[0].set(3.0),
    }

    def claims(batch: Batch) -> Any:
        value: Any = subject.algorithm.value(subject.after(batch), subject.given)
        obs, action = subject.batch["obs"], subject.batch["action"]
        return value.q(obs, action) if hasattr(value, "q") else value.v(obs)

    if _differ(claims(batch), claims(batch | other)):
        subject.fail(
            "a row of `td_weight` 0 must not move the critics; its reward or next observation changes their values."
        )


class _InterruptedError(Exception):
    """Ends a run after its first checkpoint."""


def _interrupt(done: int, updates: int, metrics: Mapping[str, Any]) -> None:
    if done < updates:
        raise _InterruptedError


def _check_training(subject: _Subject) -> None:
    """Seeds, resume, saving and loading."""
    algorithm, exact = subject.algorithm, jax.default_backend() == "cpu"

    def trained(seeds: list[int], **settings: Any) -> Any:
        every = {"log_every_updates": 2, "save_every_updates": 2, "batch_size": 64, "progress": False}
        return fit(algorithm, subject.log, updates=6, seeds=seeds, **every, **settings)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        among = trained([4, 1]).states[1]
        with contextlib.suppress(_InterruptedError):
            trained([1], out=folder, callbacks=[_interrupt])
        run = trained([1], out=folder)
        if _differ(among, run.states[0], tolerance=0.0 if exact else 1e-3):
            alone = trained([1]).states[0]
            if _differ(among, alone, tolerance=0.0 if exact else 1e-3):
                subject.fail("a seed must train alone as it does among others; its state differs.")
            subject.fail("a run that was interrupted must end as one that was not; its state differs.")
        try:
            loaded: Any = load(Path(folder), {algorithm.name: type(algorithm)})
        except CheckpointError as error:
            subject.fail(f"a run that was saved must be there to load, with the same settings; {error}")
    if loaded.algorithm != algorithm:
        subject.fail("a run that was saved must have the same settings when it is loaded.")
    if _differ(_acts(run.policy, subject), _acts(loaded.policy, subject)):
        subject.fail("a run that was saved must act the same when it is loaded; its policy differs.")


def _acts(policy: Any, subject: _Subject) -> PyTree:
    """What a policy does at the observations of the log."""
    obs, action = jnp.asarray(subject.log.observation), jnp.asarray(subject.log.action)
    if isinstance(policy, DiscretePolicy):
        return policy.probs(obs, action_mask=jnp.asarray(subject.log.action_mask))
    return policy.mode(obs), policy.log_prob(obs, action) if policy.has_density else None


def _traced(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function computes, found by calling it afresh."""
    return jax.make_jaxpr(lambda *inner: function(*inner))(*arguments)


def _same_program(one: Any, two: Any) -> bool:
    """Whether two traces are the same operations on the same constants."""
    texts = (re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)) for traced in (one, two))
    return len(set(texts)) == 1 and not _differ(list(one.consts), list(two.consts))


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree)


def _differ(one: PyTree, two: PyTree, *, tolerance: float = 0.0) -> bool:
    """Whether two pytrees differ: in structure, or in any bit, or by more than a tolerance."""
    if _structure(one) != _structure(two):
        return True
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    if tolerance:
        return not all(np.allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance) for a, b in pairs)
    return any(not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=False) for a, b in pairs)
