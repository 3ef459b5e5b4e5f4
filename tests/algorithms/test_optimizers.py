"""Optimisers: Adam, schedules and clipping by hand, and that every algorithm has them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import CASES, model
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.optimizers import Trainable, apply_gradients, polyak


def steps_of(optimizer: optax.GradientTransformation, gradients: Any) -> np.ndarray:
    """The change of a parameter of two numbers at each of these gradients."""
    apply = jax.jit(lambda gradient, state, w: apply_gradients(optimizer, gradient, state, w))
    w = jnp.zeros(2, jnp.float32)
    state, path = optimizer.init(w), [np.zeros(2)]
    for gradient in gradients:
        w, state = apply(jnp.asarray(gradient, jnp.float32), state, w)
        path.append(np.asarray(w, float))
    return np.diff(path, axis=0)


def adam_by_hand(gradients: Any, rates: Any) -> np.ndarray:
    m, v, steps = np.zeros(2), np.zeros(2), []
    for t, (gradient, rate) in enumerate(zip(np.asarray(gradients, float), rates, strict=True), 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        steps.append(-rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return np.array(steps)


HALF = 0.5 * math.sqrt(0.5)


@pytest.mark.parametrize(
    ("settings", "decay", "shares"),
    [
        # Under a constant gradient every step of Adam is the step size, against the gradient's sign.
        ({}, None, [1, 1, 1, 1, 1, 1]),
        ({"warmup_updates": 4}, None, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"warmup_updates": 1}, None, [1, 1, 1, 1, 1, 1]),
        # (1 + cos(pi k / 4)) / 2, then 0 for good.
        ({"decay_updates": 4}, None, [1, 0.5 + HALF, 0.5, 0.5 - HALF, 0, 0]),
        ({"warmup_updates": 2, "decay_updates": 4}, None, [0.5, 0.5 + HALF, 0.5, 0.5 - HALF, 0, 0]),
        # A network's own length of decay goes first; 0 is off.
        ({"decay_updates": 4}, 2, [1, 0.5, 0, 0, 0, 0]),
        ({"decay_updates": 4}, 0, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_step_sizes_by_hand(settings: dict[str, int], decay: int | None, shares: list[float]) -> None:
    optimizer = st.BC(**settings).adam(0.1, decay_updates=decay)
    found = steps_of(optimizer, [[2.0, -0.5]] * 6)
    np.testing.assert_allclose(found, 0.1 * np.array(shares)[:, None] * [-1, 1], rtol=1e-4, atol=1e-6)


def test_gradients_are_shortened_to_the_largest_norm_and_keep_their_direction() -> None:
    # Lengths 5, 0.5 and 1: only the first is cut, to (.6, .8). Adam remembers, so later steps show it.
    gradients, cut = [[3, 4], [0.4, -0.3], [1, 0]], [[0.6, 0.8], [0.4, -0.3], [1, 0]]
    found = steps_of(st.BC(max_gradient_norm=1.0).adam(0.1), gradients)
    np.testing.assert_allclose(found, adam_by_hand(cut, [0.1] * 3), rtol=1e-3, atol=1e-6)
    free = steps_of(st.BC().adam(0.1), gradients)
    np.testing.assert_allclose(free, adam_by_hand(gradients, [0.1] * 3), rtol=1e-3, atol=1e-6)
    assert not np.allclose(found, free, rtol=0.05)
    both = steps_of(st.BC(max_gradient_norm=1.0, warmup_updates=2).adam(0.1), gradients)
    np.testing.assert_allclose(both, adam_by_hand(cut, [0.05, 0.1, 0.1]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("rate", "expected"), [(0.25, [1.5, -0.25]), (1.0, [3.0, -1.0]), (0.5, [2.0, -0.5])])
def test_polyak(rate: float, expected: list[float]) -> None:
    # target (1, 0), online (3, -1).
    target, online = ({"w": jnp.asarray(values, jnp.float32)} for values in ([1, 0], [3, -1]))
    np.testing.assert_allclose(polyak(target, online, rate)["w"], expected, rtol=1e-6)


def test_apply_gradients_is_one_step_of_the_optimiser_and_a_trainable_makes_it() -> None:
    optimizer, parameters = optax.sgd(0.1), {"w": jnp.asarray([1, 2], jnp.float32)}
    gradients = {"w": jnp.asarray([10, -5], jnp.float32)}
    moved, _ = apply_gradients(optimizer, gradients, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(moved["w"], [0.0, 2.5], rtol=1e-6)
    adam = st.BC().adam(0.1)
    pair = Trainable.create(parameters, adam)
    assert_trees_equal(pair, Trainable(parameters, adam.init(parameters)))
    moved = apply_gradients(adam, gradients, pair.optimizer_state, parameters)
    assert_trees_equal(pair.step(adam, gradients), Trainable(*moved))


MOVED_FIRST = {
    "BC": "actor",
    "IQL": "value",
    "CQL": "critics",
    "TD3BC": "critics",
    "DQN": "critics",
}


def moments(state: Any) -> list[float]:
    """The length of the first moment of each Adam in a state."""

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    nodes = [node for node in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(node)]
    return [math.sqrt(sum(float((np.asarray(leaf) ** 2).sum()) for leaf in jax.tree.leaves(node.mu))) for node in nodes]


OPTIMISED = ["BC discrete", "IQL discrete", "CQL discrete", "CQL continuous", "TD3BC continuous", "DQN discrete"]
"""FilteredBC has the update of BC."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ("IQL discrete", "TD3BC continuous") else [pytest.mark.slow]) for n in OPTIMISED],
)
def test_every_optimiser_warms_up_and_clips(name: str) -> None:
    case = CASES[name]
    gentle = case.with_settings(warmup_updates=10, max_gradient_norm=1e-2)
    batch, field = case.batch(), MOVED_FIRST[case.name]
    full, small = (c.update(c.state(), batch)[0] for c in (case, gentle))
    # The first step of a warm-up over 10 updates is a tenth of the step size, whatever the gradient's length.
    networks = [
        jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(model(x, field))])
        for x in (case.state(), full, small)
    ]
    old, far, near = (np.asarray(network, float) for network in networks)
    clear = np.abs(far - old) > 0.0099
    assert clear.any()
    assert np.median((near - old)[clear] / (far - old)[clear]) == pytest.approx(0.1, rel=0.02)
    assert np.abs(near - old).max() <= 1e-3 * 1.001
    # Adam's first moment is a tenth of the gradient it saw.
    assert len(moments(full)) == len(moments(small))
    assert max(moments(full)) > 1e-3 * 1.01
    assert 0.9e-3 < max(moments(small)) <= 1e-3 * 1.001
