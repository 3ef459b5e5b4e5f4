"""What the checks of an algorithm use: small logs, one compiled update, and comparisons of two results."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.data.dataset import Dataset
from stitchrl.data.preferences import Preferences
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.feeds.feed import sequence_source, transition_source
from stitchrl.feeds.pairs import pair_source
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.memory import MemoryPolicy, nothing_yet
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.reading.read import read
from stitchrl.training.program import initial_state, member_of
from stitchrl.types import PyTree

__all__ = [
    "ROWS",
    "Subject",
    "acts",
    "claims",
    "compiled_update",
    "differ",
    "same_program",
    "small_log",
    "structure",
    "traced",
]

ROWS = 8
"""Rows of the batch of one update."""
STEPS = {"update": 1, "updates": 100}
"""The place in a run of single updates: the second of a hundred, at which a delayed actor is updated too."""


def small_log(kind: str = "discrete", *, reward: float | None = None) -> Dataset:
    """Twelve episodes of 1 to 5 steps with 3 actions, or with actions of 2 numbers in [-1, 1] where `kind` is "continuous".

    There are 8 observations of 3 numbers, numbered by `observation_id`. Every fourth episode is cut, and its last observation
    is known. Discrete actions have masks, of which the one after a cut is unknown, so that some rows have no target.

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
    """(input settings, state, batch, given, key, step) -> the update, compiled once per batch shape, as the loop compiles it.

    Args:
        structure: as `Algorithm.structure` gives it.
    """

    def update(
        inputs: Mapping[str, Any], state: PyTree, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[PyTree, Metrics]:
        return structure.with_inputs(inputs).update(state, batch, given, key, step)

    return jax.jit(update)


def small_preferences(log: Dataset) -> Preferences:
    """Six pairs of the episodes of `small_log`, of different lengths, with a log-probability of every action."""
    said = np.random.default_rng(2).normal(-1.0, 0.1, log.num_transitions).astype(np.float32)
    episodes = np.arange(log.num_episodes).reshape(-1, 2)
    return Preferences(dataclasses.replace(log, behavior_log_prob=said), episodes[:, 0], episodes[:, 1])


class Subject:
    """An algorithm on one kind of action, with a log, a batch and a state."""

    def __init__(self, algorithm: Algorithm, kind: str) -> None:
        self.algorithm, self.kind = algorithm, kind
        self.log = small_log(kind)
        self.preferences = small_preferences(self.log) if algorithm.learns_from == "preferences" else None
        if self.preferences is not None:
            self.log = self.preferences.segments
        self.scaling = Scaling.of(self.log)
        self.spec = Spec.of(self.log)

    def fail(self, rule: str) -> NoReturn:
        """Raise the AssertionError of a broken rule."""
        raise AssertionError(f"{self.algorithm.name}, {self.kind} actions: {rule}")

    @cached_property
    def prepared(self) -> Prepared:
        """The result of the algorithm's `prepare` on the log."""
        return self.prepare(self.algorithm)

    def prepare(self, algorithm: Algorithm) -> Prepared:
        """The result of `prepare` on the log, by a copy of the algorithm, so that nothing can be kept in the algorithm itself."""
        return copy.copy(algorithm).prepare(self.log, self.scaling, key=jax.random.key(0))

    @cached_property
    def given(self) -> PyTree:
        """What `prepare` solved, as the loop passes it on."""
        return jax.tree.map(jnp.asarray, self.prepared.given)

    @cached_property
    def state(self) -> PyTree:
        """A fresh state, as the loop makes it."""
        members = initial_state(self.algorithm, self.spec, [0], self.given)
        return member_of(members, 0).algorithm

    @cached_property
    def batch(self) -> dict[str, Any]:
        """The first rows of the prepared log, or the pieces of episodes that begin there; or pairs of segments."""
        log, columns, length = self.prepared.log, self.prepared.columns, self.algorithm.sequence_length
        if self.preferences is not None:
            source = pair_source(self.preferences, self.scaling)
        elif length:
            source = sequence_source(log, self.scaling, length, columns=columns)
        else:
            source = transition_source(log, self.scaling, columns=columns, n_steps=self.algorithm.target_steps or 1)
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


def acts(policy: Any, log: Dataset) -> PyTree:
    """What a policy does at the observations of a log."""
    obs, action = jnp.asarray(log.observation), jnp.asarray(log.action)
    if isinstance(policy, MemoryPolicy):  # two steps of an episode from each row
        first, carry = policy.step(policy.initial_carry(len(obs)), obs, *nothing_yet(policy, len(obs)))
        return first, policy.step(carry, obs[::-1], action, jnp.asarray(log.reward))
    if isinstance(policy, DiscretePolicy):
        mask = None if log.action_mask is None else jnp.asarray(log.action_mask)
        return policy.probs(obs, action_mask=mask)
    return policy.mode(obs), policy.log_prob(obs, action) if policy.has_density else None


def claims(value: Any, obs: Any, action: Any) -> Any:
    """What value functions say of these actions; of the observations, where they know no actions."""
    return value.q(jnp.asarray(obs), jnp.asarray(action)) if hasattr(value, "q") else value.v(jnp.asarray(obs))


def traced(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function computes, found by calling it afresh."""
    return jax.make_jaxpr(lambda *inner: function(*inner))(*arguments)


def same_program(one: Any, two: Any) -> bool:
    """Whether two traces are the same operations on the same constants."""
    texts = (re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)) for traced in (one, two))
    return len(set(texts)) == 1 and not differ(list(one.consts), list(two.consts))


def structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree)


def differ(one: PyTree, two: PyTree, *, tolerance: float = 0.0) -> bool:
    """Whether two pytrees differ: in structure, or in any bit, or by more than a tolerance."""
    if structure(one) != structure(two):
        return True
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    if tolerance:
        return not all(np.allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance) for a, b in pairs)
    return any(not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=False) for a, b in pairs)
