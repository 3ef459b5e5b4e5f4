"""CQL's penalty with a gradient by sampled candidates: the same value, and on average the same gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import random_continuous_log

import stitchrl as st
from stitchrl.algorithms.cql_continuous import _sampled_gradient, _whole_gradient, drawn_by_weight
from stitchrl.nn.critics import ContinuousCritics

ROWS, CRITICS, DRAWS = 6, 2, 2


def test_candidates_are_drawn_by_their_weight_in_the_penalty() -> None:
    # Weights 1 : 2 : 1, of one critic and one row: the borders are at 1/4 and 3/4.
    logits = jnp.log(jnp.asarray([1, 2, 1], jnp.float32))[None, :, None]
    uniform = jnp.asarray([0.0, 0.24, 0.26, 0.74, 0.76, 0.999], jnp.float32)[None, :, None]
    np.testing.assert_array_equal(drawn_by_weight(logits, uniform)[0, :, 0], [0, 0, 1, 1, 2, 2])
    # Each critic and row by its own weights; one candidate that has all the weight is always drawn.
    logits = jnp.full((2, 3, 2), -1e3, jnp.float32).at[0, 2, 0].set(0).at[0, 0, 1].set(0).at[1, 1].set(0)
    drawn = drawn_by_weight(logits, jnp.full((2, 4, 2), 0.999999, jnp.float32))
    np.testing.assert_array_equal(drawn[:, 0], [[2, 0], [1, 1]])


def test_the_sampled_gradient_is_the_whole_one_on_average() -> None:
    keys = jax.random.split(jax.random.key(0), 6)
    critics = ContinuousCritics.create(CRITICS, 4, 2, (5,), key=keys[0])
    part = {
        "obs": jax.random.normal(keys[1], (ROWS, 4)),
        "action": jax.random.uniform(keys[2], (ROWS, 2)),
        "candidates": jax.random.uniform(keys[3], (ROWS, 7, 2), minval=-1.0),
        "log_density": 2.0 * jax.random.normal(keys[4], (ROWS, 7)),
        "td_weight": jnp.ones(ROWS, jnp.float32).at[1].set(0.0),
        "return_weight": jnp.linspace(0.5, 2.0, ROWS, dtype=jnp.float32),
    }

    def value_and_grad(penalties, uniform):  # type: ignore[no-untyped-def]
        def loss(critics: ContinuousCritics) -> tuple[jax.Array, jax.Array]:
            _, penalty, surrogate = penalties(critics, part | {"uniform": uniform})
            return jnp.sum(surrogate), penalty

        return jax.value_and_grad(loss, has_aux=True)(critics)

    (value, penalty), whole = jax.jit(lambda: value_and_grad(_whole_gradient, None))()
    uniform = jax.random.uniform(keys[5], (2000, ROWS, CRITICS, DRAWS))
    (values, penalties), sampled = jax.jit(jax.vmap(lambda u: value_and_grad(_sampled_gradient, u)))(uniform)
    np.testing.assert_allclose(values, value, rtol=1e-5)
    np.testing.assert_allclose(penalties, jnp.broadcast_to(penalty, penalties.shape), rtol=1e-5)
    z = []
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(sampled), strict=True):
        error = np.asarray(found).std(0) / np.sqrt(len(uniform))
        clear = error > 1e-6  # the last bias cancels in every draw
        z.append(((np.asarray(found).mean(0) - np.asarray(expected)) / np.where(clear, error, 1))[clear])
        np.testing.assert_allclose(np.asarray(found).mean(0)[~clear], np.asarray(expected)[~clear], atol=1e-5)
    assert np.abs(np.concatenate([x.ravel() for x in z])).max() < 4.5
    assert np.concatenate([x.ravel() for x in z]).std() < 2


@pytest.mark.slow
def test_it_trains_and_says_the_same_of_the_penalty() -> None:
    log = random_continuous_log(20)
    runs = [
        st.fit(st.CQL(gradient_samples=m, samples=3, hidden_sizes=(8,)), log, updates=1, batch_size=16, progress=False)
        for m in (0, 2)
    ]
    first = [run.history[0] for run in runs]
    for name in ("loss/cql", "loss/critic", "loss/actor", "q/data_mean"):
        np.testing.assert_allclose(first[0][name], first[1][name], rtol=1e-4)
    gap = st.CQL(gradient_samples=2, samples=3, lagrange_gap=1.0, penalty="rho", hidden_sizes=(8,))
    assert np.isfinite(st.fit(gap, log, updates=5, batch_size=16, progress=False).history[-1]["cql/multiplier"])
