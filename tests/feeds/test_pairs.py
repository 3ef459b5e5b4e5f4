"""Batches of pairs: both sides of each pair, padded, scaled, and drawn by weight."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from worlds import random_continuous_log, tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.pairs import REFERENCE, pair_source, shuffled_pairs


def tiny_pairs(**more: np.ndarray) -> st.Preferences:
    """One decision preferred to three, and three to two."""
    return st.Preferences(tiny_log(), np.array([2, 0]), np.array([0, 1]), **more)


def test_a_batch_has_both_sides_of_each_pair() -> None:
    pairs = tiny_pairs()
    source = pair_source(pairs, Scaling.identity(2))
    batch = jax.jit(source.sample)(source.arrays, jnp.asarray([1, 0, 1]), jnp.int32(0))
    assert batch["obs"].shape == (2, 3, 3, 2)
    assert batch["action_mask"].shape == (2, 3, 3, 3)
    observations, actions = tiny_columns()["observation"], tiny_columns()["action"]
    for column, (one, other) in enumerate(((range(3), (3, 4)), ((5,), range(3)), (range(3), (3, 4)))):
        for side, rows in enumerate((list(one), list(other))):
            valid = np.asarray(batch["valid"][side, column])
            assert valid.tolist() == [1.0] * len(rows) + [0.0] * (3 - len(rows))
            np.testing.assert_array_equal(batch["obs"][side, column][: len(rows)], observations[rows])
            np.testing.assert_array_equal(batch["action"][side, column][: len(rows)], actions[rows])
    assert REFERENCE not in batch


def test_pairs_are_drawn_by_their_weights() -> None:
    count = 4000
    source = pair_source(tiny_pairs(weight=np.array([1.0, 3.0])), Scaling.identity(2))
    with source.open(iter([]), count, 1) as arrays:
        batch = jax.jit(source.draw, static_argnums=4)(
            arrays(0, 1), jax.random.key(0), jnp.int32(0), jnp.int32(0), count
        )
    second = float(np.mean(np.asarray(batch["valid"])[0].sum(axis=1) == 3))
    assert abs(second - 0.75) <= 5 * np.sqrt(0.75 * 0.25 / count)


def test_shuffled_pairs_come_once_a_pass() -> None:
    source = shuffled_pairs(tiny_pairs(), Scaling.identity(2))
    with source.open(iter([(0, 3)]), 2, 3) as arrays:
        held, draw = arrays(0, 3), jax.jit(source.draw, static_argnums=4)
        for update in range(3):
            batch = draw(held, jax.random.key(0), jnp.int32(update), jnp.int32(0), 2)
            assert sorted(np.asarray(batch["valid"])[0].sum(axis=1)) == [1.0, 3.0]


def test_a_logged_density_is_in_the_units_of_the_batch() -> None:
    log = random_continuous_log(4)
    said = dataclasses.replace(log, behavior_log_prob=np.linspace(-1.0, 1.0, log.num_transitions, dtype=np.float32))
    pairs = st.Preferences(said, np.array([0]), np.array([1]))
    scaling = dataclasses.replace(
        Scaling.identity(3), action_center=np.zeros(2, np.float32), action_half_width=np.array([5.0, 0.5], np.float32)
    )
    source = pair_source(pairs, scaling)
    batch = jax.jit(source.sample)(source.arrays, jnp.asarray([0]), jnp.int32(0))
    row = int(log.episode_start[0])
    assert said.behavior_log_prob is not None
    # A density of actions that are divided by 5 and by 0.5 is 2.5 times as high.
    expected = said.behavior_log_prob[row] + np.log(2.5)
    np.testing.assert_allclose(batch[REFERENCE][0, 0, 0], expected, rtol=1e-5)
