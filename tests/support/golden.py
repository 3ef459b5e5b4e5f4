"""What the golden tests share: stored official numbers, and runs of our updates on the same batches and draws.

The official numbers were made once by the scripts in scripts/golden, which say how; tests/golden holds them, with the
commits and settings in JSON files beside the arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec, Step

GOLDEN = Path(__file__).parents[1] / "golden"
HIDDEN = (16, 16)
UPDATES = 20
TOLERANCE = 1e-5
"""Largest difference of a parameter, relative to the larger of 1 and the parameter."""
CONTINUOUS = Spec.vectors(5, None, 3)
DISCRETE = Spec.vectors(5, 4)

Arrays = Mapping[str, np.ndarray]
Networks = Mapping[str, Callable[[Any], Any]]
"""How to find the networks of a state, by the names that the stored numbers have."""


@cache
def program(structure: Algorithm, spec: Spec) -> tuple[Any, Callable[..., Any]]:
    """A fresh state, and the compiled update (settings, state, batch, draws, number of the update) -> state.

    Number settings are its inputs, so that another value compiles nothing. This is the only place here that calls an
    algorithm.
    """

    @jax.jit
    def update(settings: Mapping[str, Any], state: Any, batch: Any, draws: Any, number: Any) -> Any:
        with handed_out(draws):
            step = Step(number, jnp.int32(UPDATES))
            return structure.with_inputs(settings).update(state, batch, None, jax.random.key(1), step)[0]

    return structure.init(jax.random.key(0), spec, None), update


def fresh_state(algorithm: Algorithm, spec: Spec) -> Any:
    """As the algorithm makes it."""
    return program(algorithm.structure(), spec)[0]


def states_after(
    algorithm: Algorithm,
    spec: Spec,
    start: Any,
    batches: Sequence[Arrays],
    draws: Sequence[Mapping[str, Sequence[np.ndarray]]] | None = None,
) -> list[Any]:
    """States after each batch.

    Args:
        algorithm: what to train.
        spec: sizes.
        start: the first state.
        batches: one an update.
        draws: for each update the random numbers it takes, "normal", "uniform" and "randint", in order; None if it takes
            none.
    """
    _, update = program(algorithm.structure(), spec)
    settings = {name: np.float32(getattr(algorithm, name)) for name in algorithm.input_settings()}
    states, state = [], start
    for number, batch in enumerate(batches):
        fields = {name: field for name, field in batch.items() if name != "choice"}
        state = update(settings, state, fields, draws[number] if draws else {}, np.int32(number))
        states.append(state)
    return states


@contextmanager
def handed_out(draws: Mapping[str, Sequence[Any]]) -> Iterator[None]:
    """While it lasts, `normal`, `uniform` and `randint` of `jax.random` return these arrays in order; a key used again, the same.

    Raises AssertionError where another shape is asked for, or fewer arrays than there are.
    """
    waiting = {kind: list(draws.get(kind, ())) for kind in ("normal", "uniform", "randint")}
    seen: list[tuple[Any, Any]] = []  # keys are kept, so that none gets the identity of another

    def giver(kind: str) -> Callable[..., Any]:
        def give(key: Any, shape: Sequence[int] = (), *_: Any, **__: Any) -> Any:
            for known, array in seen:
                if known is key:
                    return array
            assert waiting[kind], f"The update draws more {kind} arrays than the official one; the next has {shape}."
            array = jnp.asarray(waiting[kind].pop(0))
            assert array.shape == tuple(shape), (array.shape, shape)
            seen.append((key, array))
            return array

        return give

    with (
        mock.patch.object(jax.random, "normal", giver("normal")),
        mock.patch.object(jax.random, "uniform", giver("uniform")),
        mock.patch.object(jax.random, "randint", giver("randint")),
    ):
        yield
    assert not any(waiting.values()), "The update draws fewer arrays than the official one."


# --- stored numbers and states ---------------------------------------------------------------------------------------


@cache
def stored(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def settings_of(run: str, file: str = "golden") -> dict[str, Any]:
    """The official settings of a run, by their official names; `file` tells them: "golden" or "weighted"."""
    return json.loads((GOLDEN / f"{file}.json").read_text())["runs"][run]


def stored_batches() -> list[dict[str, np.ndarray]]:
    """The batches of all runs; every row has a target."""
    columns = {**stored("batches"), "td_weight": np.ones((UPDATES, 32), np.float32)}
    return [{name: column[i] for name, column in columns.items()} for i in range(UPDATES)]


def discrete_batches(allowed: np.ndarray | None = None) -> list[dict[str, np.ndarray]]:
    """The same rows with discrete actions; all of them are allowed unless a mask (update, row, action) is given."""
    every = np.ones((UPDATES, 32, 4), bool)
    masks = every if allowed is None else allowed
    return [
        {**batch, "action": batch["choice"], "action_mask": mask, "next_action_mask": every[0]}
        for batch, mask in zip(stored_batches(), masks, strict=True)
    ]


def leaves(network: Any) -> list[Any]:
    """Weights and biases, layer by layer, or weights alone; of an ensemble, with its members on axis 0."""
    if not network.biases:
        return list(network.weights)
    return [leaf for pair in zip(network.weights, network.biases, strict=True) for leaf in pair]


def with_parameters(state: Any, networks: Networks, arrays: Arrays, at: str) -> Any:
    """The state with stored parameters: "at/name" for a network, "at/name.0", "at/name.1", ... for an ensemble."""
    for name, find in networks.items():
        single = f"{at}/{name}" in arrays
        shapes = [leaf.shape if single else leaf.shape[1:] for leaf in leaves(find(state))]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        if single:
            vectors = arrays[f"{at}/{name}"]
        else:
            members = leaves(find(state))[0].shape[0]
            vectors = np.stack([arrays[f"{at}/{name}.{i}"] for i in range(members)])
        assert vectors.shape[-1] == ends[-1]
        pieces = np.split(vectors, ends[:-1], axis=-1)
        new = [jnp.asarray(p.reshape(*p.shape[:-1], *s)) for p, s in zip(pieces, shapes, strict=True)]
        state = eqx.tree_at(lambda s, find=find: leaves(find(s)), state, new)
    return state


def differences(state: Any, networks: Networks, arrays: Arrays, at: str) -> dict[str, float]:
    """The largest difference from stored parameters for each network, relative to the larger of 1 and the parameter."""
    expected = with_parameters(state, networks, arrays, at)
    return {
        name: max(relative(a, b) for a, b in zip(leaves(find(state)), leaves(find(expected)), strict=True))
        for name, find in networks.items()
    }


def relative(ours: Any, theirs: Any) -> float:
    """The largest difference of two arrays, relative to the larger of 1 and the second array's entry."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))))
