"""Streams: the endless shuffled order, batches read ahead, and that they give the numbers of a log in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import SETTINGS, TINY, StopHereError, stop_after
from worlds import assert_trees_equal, random_continuous_log, random_log

import stitchrl as st
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import StreamSource, shuffled_source
from stitchrl.feeds.shuffling import ShuffledRows
from stitchrl.feeds.streaming import prefetched


def test_a_pass_visits_every_row_once_in_another_order_each_time() -> None:
    order = ShuffledRows(5000, seed=3)
    first, second = order.rows(0, 5000), order.rows(5000, 10_000)
    assert sorted(first) == sorted(second) == list(range(5000))
    assert (first != second).any()
    assert (ShuffledRows(5000, seed=4).rows(0, 5000) != first).any()
    assert abs(np.corrcoef(first, np.arange(5000))[0, 1]) < 0.05


def test_rows_are_a_function_of_their_position_alone() -> None:
    order = ShuffledRows(700_001, seed=1)  # three buffers, a last block that is not full
    assert len(np.unique(order.rows(0, 700_001))) == 700_001
    whole = order.rows(0, 1_500_000)
    for start, stop in ((0, 10), (262_140, 262_150), (524_288, 700_001), (699_990, 700_020), (1_400_000, 1_400_500)):
        np.testing.assert_array_equal(order.rows(start, stop), whole[start:stop])


def test_a_buffer_holds_whole_blocks() -> None:
    rows, first = ShuffledRows(600_000).buffer(0)
    blocks, counts = np.unique(rows // 1024, return_counts=True)
    assert (first, len(blocks)) == (0, 2**18 // 1024)
    assert set(counts.tolist()) <= {1024, 600_000 % 1024}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "`count` of a shuffle must be at least 1; got 0"),
        ({"count": 9, "block_rows": 1000}, "`block_rows` of a shuffle must be at least 1024; got 1000"),
        ({"count": 9, "buffer_rows": 2**17}, "`buffer_rows` of a shuffle must be at least 262144; got 131072"),
    ],
)
def test_shuffles_that_cannot_be(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ShuffledRows(**settings)


def test_a_streamed_batch_is_the_batch_in_memory_with_masks_and_ends() -> None:
    log, scaling = random_log(900), Scaling.fit(random_log(900), reward_scale=0.5)
    key, zero = jax.random.key(0), jnp.int32(0)
    feeds = [StreamSource.of(log, scaling, seed=5), shuffled_source(log, scaling, seed=5)]
    batches = []
    for feed in feeds:
        with feed.open(iter([(0, 3), (3, 5)]), 16, 3) as take:
            take(0, 3)
            batches.append(feed.draw(take(3, 5), key, jnp.int32(1), zero, 16))
    assert batches[0].keys() == batches[1].keys() >= {"action_mask", "next_action_mask", "td_weight", "truncated"}
    for name, column in batches[0].items():
        np.testing.assert_allclose(column, batches[1][name], rtol=1e-6, err_msg=name)
    rows = ShuffledRows(log.num_transitions, 5).rows(64, 80)
    np.testing.assert_array_equal(batches[0]["action"], log.action[rows])


def test_a_streamed_log_without_masks_gives_the_numbers_of_the_log_in_memory() -> None:
    log = random_log(12, with_masks=False)
    runs = [st.fit(st.CQL(**TINY), log, **SETTINGS | how) for how in ({"sampling": "shuffled"}, {"stream": True})]
    assert_trees_equal(runs[1].states, runs[0].states)


def test_a_stream_continues_where_it_was(tmp_path: Path) -> None:
    log, bc = random_log(12), st.BC(**TINY)
    settings = SETTINGS | {"stream": True, "save_every_updates": 20}
    with pytest.raises(StopHereError):
        st.fit(bc, log, out=tmp_path, callbacks=[stop_after(3)], **settings)
    resumed = st.fit(bc, log, out=tmp_path, **settings)
    assert_trees_equal(resumed.states, st.fit(bc, log, **settings).states)


def test_a_memory_mapped_log_streams(tmp_path: Path) -> None:
    log = random_continuous_log(300)
    np.save(tmp_path / "obs.npy", log.observation_table)
    mapped = dataclasses.replace(log, observation_table=np.load(tmp_path / "obs.npy", mmap_mode="r"))
    runs = [st.fit(st.TD3BC(**TINY), each, **SETTINGS | {"stream": True}) for each in (log, mapped)]
    assert_trees_equal(runs[0].states, runs[1].states)


def test_an_exception_of_the_prefetcher_is_raised_where_its_result_is_asked_for() -> None:
    def produce(first: int, end: int) -> int:
        if first == 2:
            raise OSError("the disk is gone")
        return first

    with prefetched(produce, iter([(0, 1), (1, 2), (2, 3)])) as take:
        assert int(take(0, 1)) == 0
        assert int(take(1, 2)) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            take(2, 3)


def test_leaving_early_ends_the_prefetcher() -> None:
    made: list[int] = []
    with prefetched(lambda first, end: made.append(first) or first, iter((i, i + 1) for i in range(10**9))) as take:  # type: ignore[func-returns-value]
        take(0, 1)
    count = len(made)
    assert count < 10
    assert not [t for t in __import__("threading").enumerate() if t.name == "stitchrl-prefetch"]


@pytest.mark.parametrize("chosen", [{"sampling": "sorted"}, {"sampling": ""}])
def test_unknown_sampling_is_refused(chosen: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="`sampling` of fit must be 'uniform', 'shuffled' or a rule"):
        st.fit(st.BC(**TINY), random_log(4), **SETTINGS | chosen)
