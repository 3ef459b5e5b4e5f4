"""How often rows are drawn, in memory and streamed."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import (
    full_columns,
    random_log,
    tiny_log,
)

import stitchrl as st
from stitchrl.data.sampling import Sampling, alias_table
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.feeds.feed import StreamSource, shuffled_source, transition_source
from stitchrl.feeds.shuffling import ShuffledRows

PLAIN = Scaling.identity(2)


def implied(keep: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The chance of each row by the tables."""
    chance = keep.astype(np.float64)
    np.add.at(chance, other, 1 - keep.astype(np.float64))
    return chance / len(keep)


@pytest.mark.parametrize("seed", range(60))
def test_alias_tables_are_the_weights_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(rng.integers(1, 50)) ** rng.integers(1, 12)
    weights[rng.random(len(weights)) < 0.3] = 0
    weights[rng.integers(len(weights))] += 0.1
    if seed % 2:  # ties, and rows of exactly their share
        weights = np.ceil(weights * 4)
    keep, other = alias_table(weights)
    np.testing.assert_allclose(implied(keep, other), weights / weights.sum(), atol=3e-7 / len(weights))


def test_alias_tables_of_equal_weights_keep_every_row() -> None:
    keep, _ = alias_table(np.full(7, 0.1))
    assert keep.tolist() == [1] * 7


RULES: dict[str, tuple[Sampling, list[float]]] = {
    "episode": (st.EpisodeSampling(), [1 / 9, 1 / 9, 1 / 9, 1 / 6, 1 / 6, 1 / 3]),
    "source": (st.StratifiedSampling("source"), [1 / 8, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 8]),
    # Two buckets, [0, 5) and [5, 10]: rows of returns 0 and 1 share one half, those of 10 the other.
    "return": (st.StratifiedSampling("return", buckets=2), [1 / 8, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 8]),
    "weight": (st.WeightedSampling("weight"), [1 / 21, 2 / 21, 3 / 21, 4 / 21, 5 / 21, 6 / 21]),
    "propensity": (st.WeightedSampling("inverse propensity"), [2 / 15, 4 / 15, 2 / 15, 1 / 15, 5 / 15, 1 / 15]),
    "top": (st.TopFractionSampling(0.3), [0, 0, 0, 1 / 2, 1 / 2, 0]),
}


def ruled_log() -> st.Dataset:
    """Returns 0, 10 and 1; sources a, b, a; weights 1 to 6; propensities 1/2, 1/4, 1/2, 1, 1/5, 1."""
    return dataclasses.replace(
        tiny_log(**full_columns()),
        reward=np.array([0, 0, 0, 4, 6, 1], np.float32),
        source=np.array(list("aaabba")),
        weight=np.arange(1, 7, dtype=np.float32),
        behavior_log_prob=np.log(np.array([1 / 2, 1 / 4, 1 / 2, 1, 1 / 5, 1], np.float32)),
    )


@pytest.mark.parametrize("name", RULES)
def test_rules_weigh_rows_as_by_hand(name: str) -> None:
    rule, shares = RULES[name]
    weights = rule.weights(ruled_log())
    np.testing.assert_allclose(weights / weights.sum(), shares, rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_batches_hold_rows_as_often_as_their_rule_says(name: str) -> None:
    rule, shares = RULES[name]
    source = transition_source(ruled_log(), PLAIN, sampling=rule)
    with source.open(iter([(0, 1)]), 60_000, 1) as take:
        batch = source.draw(take(0, 1), jax.random.key(0), jnp.int32(0), jnp.int32(0), 60_000)
    rows = np.asarray(batch["obs"])[:, 0].astype(int)
    counts = np.bincount(rows, minlength=6) / len(rows)
    np.testing.assert_allclose(counts, shares, atol=5 * np.sqrt(0.25 / 60_000))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_weighted_pass_visits_rows_in_proportion_and_never_more_than_one_off(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(0, 2, 300_001)
    weights[rng.random(len(weights)) < 0.2] = 0
    order = ShuffledRows(len(weights), seed, weights=weights)
    share = weights / weights.sum() * len(weights)
    visits = np.zeros(len(weights))
    for epoch in range(3):
        rows = order.rows(epoch * order.count, (epoch + 1) * order.count)
        once = np.bincount(rows, minlength=len(weights))
        assert once.sum() == order.count
        assert np.abs(once - share).max() < 1 + 1e-6
        visits += once
    np.testing.assert_allclose(np.corrcoef(visits, share)[0, 1], 1, atol=1e-3)
    # A function of the position alone: any piece asked for later is the same.
    whole = order.rows(0, order.count)
    np.testing.assert_array_equal(
        ShuffledRows(order.count, seed, weights=weights).rows(250_000, 300_001), whole[250_000:]
    )


@pytest.mark.parametrize("heavy", [slice(0, 1), slice(5_000, 5_400)])
def test_no_buffer_is_larger_than_asked_however_heavy_a_block(heavy: slice) -> None:
    count, asked = 1_000_000, 2**18
    weights = np.full(count, 1e-6)
    weights[heavy] = 1e6
    order = ShuffledRows(count, 4, weights=weights)
    firsts, position = [], 0
    while position < 2 * count:
        rows, first = order.buffer(position)
        assert first == position
        assert len(rows) == min(asked, count - position % count)
        firsts.append(first)
        position += len(rows)
    assert firsts == [0, asked, 2 * asked, 3 * asked, *(count + k * asked for k in range(4))]
    once = np.bincount(order.rows(0, count), minlength=count)
    share = weights / weights.sum() * count
    assert once.sum() == count
    assert np.abs(once - share).max() < 1 + 1e-6
    # A function of the position alone, across a buffer's edge too.
    again = ShuffledRows(count, 4, weights=weights).rows(asked - 5, asked + 5)
    np.testing.assert_array_equal(again, order.rows(0, count)[asked - 5 : asked + 5])


def test_equal_weights_visit_every_row_once_a_pass() -> None:
    order = ShuffledRows(5_001, 3, weights=np.full(5_001, 0.3))
    assert sorted(order.rows(0, 5_001).tolist()) == list(range(5_001))


@pytest.mark.parametrize("rule", [st.EpisodeSampling(), st.TopFractionSampling(0.3)])
def test_a_stream_by_a_rule_is_the_log_in_memory_fed_the_same_rows(rule: Sampling) -> None:
    log = random_log(40)
    made = []
    for make in (shuffled_source, StreamSource.of):
        source = make(log, Scaling.of(log), sampling=rule, n_steps=3)
        with source.open(iter([(0, 4)]), 32, 4) as take:
            arrays = take(0, 4)
            made.append(source.draw(arrays, jax.random.key(0), jnp.int32(2), jnp.int32(0), 32))
    assert set(made[0]) == set(made[1])
    for name in made[0]:
        np.testing.assert_array_equal(np.asarray(made[0][name]), np.asarray(made[1][name]), err_msg=name)


def test_rules_that_a_log_cannot_serve() -> None:
    bare = tiny_log()
    for rule, role in ((st.StratifiedSampling("source"), "source"), (st.WeightedSampling("weight"), "weight")):
        with pytest.raises(DataError, match=f"needs a column with the role `{role}`"):
            rule.weights(bare)
    with pytest.raises(DataError, match="one is above 0"):
        st.WeightedSampling("weight").weights(tiny_log(weight=np.zeros(6, np.float32)))
    for make in (
        lambda: st.StratifiedSampling("ward"),
        lambda: st.StratifiedSampling(buckets=0),
        lambda: st.WeightedSampling("age"),
        lambda: st.TopFractionSampling(0.0),
    ):
        with pytest.raises(ConfigurationError, match="must be"):
            make()
    with pytest.raises(ConfigurationError, match=r"`sampling` of fit must be 'uniform', 'shuffled' or a rule"):
        st.fit(st.BC(), bare, updates=1, sampling="by episode")
