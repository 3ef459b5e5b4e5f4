"""What a batch over n steps and a piece of an episode holds, in memory and streamed; runs over n steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import StopHereError, stop_at
from worlds import (
    assert_trees_equal,
    full_columns,
    next_observations,
    random_continuous_log,
    random_log,
    schema_of,
    tiny_log,
)

import stitchrl as st
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.feeds.batches import NStepTransitions, window_end
from stitchrl.feeds.feed import StreamSource, sequence_source, shuffled_source, transition_source
from stitchrl.feeds.shuffling import ShuffledRows
from stitchrl.feeds.streaming import ShuffledReader, read_sequences, read_transitions

PLAIN = Scaling.identity(2)


def n_step(log: st.Dataset, n: int) -> dict[str, np.ndarray]:
    arrays = transition_source(log, PLAIN, n_steps=n).arrays | {"window_end": jnp.asarray(window_end(log))}
    batch = NStepTransitions(n)(arrays, jnp.arange(log.num_transitions), jnp.int32(0))
    return {name: np.asarray(value) for name, value in batch.items()}


def test_three_steps_by_hand() -> None:
    log = tiny_log(next_observation=next_observations())  # episodes of 3, 2 and 1 rows
    batch = n_step(log, 3)
    assert batch["steps"].tolist() == [3, 2, 1, 2, 1, 1]
    r = log.reward
    expected = [[r[0], r[1], r[2]], [r[1], r[2], 0], [r[2], 0, 0], [r[3], r[4], 0], [r[4], 0, 0], [r[5], 0, 0]]
    np.testing.assert_array_equal(batch["rewards"], expected)
    assert batch["terminated"].tolist() == log.terminated[[2, 2, 2, 4, 4, 5]].astype(float).tolist()
    np.testing.assert_array_equal(batch["next_obs"], next_observations()[[2, 2, 2, 4, 4, 5]])
    np.testing.assert_array_equal(batch["obs"], log.observation)
    reward, discount = st.IQL(gamma=0.5).td_return({k: jnp.asarray(v) for k, v in batch.items()})
    np.testing.assert_allclose(reward[0], r[0] + 0.5 * r[1] + 0.25 * r[2])
    # Episode 7 terminates: no bootstrap; episode 8 is cut: gamma^2 from its first row, gamma from its second.
    assert np.asarray(discount).tolist() == [0, 0, 0, 0.25, 0.5, 0]


def test_n_steps_stop_at_a_gap() -> None:
    elsewhere = next_observations()
    elsewhere[0] = [50, 60]  # rows are missing after row 0
    batch = n_step(tiny_log(next_observation=elsewhere), 3)
    assert batch["steps"].tolist() == [1, 2, 1, 2, 1, 1]
    assert batch["next_obs"][0].tolist() == [50, 60]


def cut_log() -> st.Dataset:
    """An episode of 4 steps that terminates, one of 4 that is cut, what followed unknown, and one of 1 cut likewise."""
    columns = {
        "episode": np.array([0, 0, 0, 0, 1, 1, 1, 1, 2]),
        "observation": np.stack([np.arange(9), 10 + np.arange(9)], axis=1).astype(np.float32),
        "action": np.array([0, 1, 2, 0, 1, 2, 0, 1, 2], np.int32),
        "reward": np.array([1, 2, 4, 8, 16, 32, 64, 128, 256], np.float32),
        "terminated": np.arange(9) == 3,
        "truncated": np.isin(np.arange(9), [7, 8]),
    }
    return st.read(columns, schema_of(columns))


@pytest.mark.parametrize("how", ["in memory", "streamed"])
def test_a_window_ends_at_the_last_row_that_can_bootstrap(how: str) -> None:
    """By hand: row 7 has no next observation, so windows that reach it end at row 6, whose target is row 7's value."""
    log, rows = cut_log(), np.arange(9)
    batch = n_step(log, 3) if how == "in memory" else read_transitions(log, PLAIN, rows, 3)
    assert batch["steps"].tolist() == [3, 3, 2, 1, 3, 2, 1, 1, 1]
    assert batch["rewards"].tolist() == [
        [1, 2, 4], [2, 4, 8], [4, 8, 0], [8, 0, 0], [16, 32, 64], [32, 64, 0], [64, 0, 0], [128, 0, 0], [256, 0, 0],
    ]  # fmt: skip
    assert batch["td_weight"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 0]  # only rows that have no target at all lose it
    assert batch["terminated"].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert batch["next_obs"][[0, 4, 5, 6]].tolist() == [[3, 13], [7, 17], [7, 17], [7, 17]]
    given = {name: jnp.asarray(value) for name, value in batch.items()}
    reward, discount = st.IQL(gamma=0.5).td_return(given)
    assert reward.tolist() == [3, 6, 8, 8, 48, 64, 64, 128, 256]
    assert discount.tolist() == [0.125, 0, 0, 0, 0.125, 0.25, 0.5, 0.5, 0.5]


def test_a_part_of_a_log_is_held_without_the_observations_of_the_rest() -> None:
    log = random_log(40)
    part = log.select_episodes([1, 7, 30])
    own = len(np.unique(np.concatenate([part.observation_index, part.next_observation_index[part.can_bootstrap]])))
    assert own <= 2 * part.num_transitions < len(log.observation_table) / 4
    for make, held in (
        (transition_source, lambda source: source.arrays),
        (shuffled_source, lambda source: source.extra),
    ):
        arrays = held(make(part, Scaling.of(part)))
        assert part.num_transitions <= len(arrays["observations"]) <= own + 1
        assert {len(column) for name, column in arrays.items() if name != "observations"} == {part.num_transitions}
        obs = np.asarray(arrays["observations"][arrays["observation_index"]])
        np.testing.assert_allclose(obs, Scaling.of(part).observations(part.observation), rtol=1e-6)


def test_one_step_is_what_it_was() -> None:
    log = tiny_log(next_observation=next_observations())
    one, plain = n_step(log, 1), transition_source(log, PLAIN)
    batch = plain.sample(plain.arrays, jnp.arange(6), jnp.int32(0))
    for name, value in batch.items():
        np.testing.assert_array_equal(one[name], np.asarray(value), err_msg=name)
    stepped, simple = (
        st.IQL().td_return({k: jnp.asarray(v) for k, v in given.items()}) for given in (one, dict(batch))
    )
    np.testing.assert_allclose(stepped[0], simple[0], rtol=1e-6)
    np.testing.assert_allclose(stepped[1], simple[1], rtol=1e-6)


def test_streamed_rows_of_n_steps_are_those_in_memory() -> None:
    log = tiny_log(**full_columns())
    order = np.array([5, 0, 3, 3, 1, 4, 2])
    streamed = read_transitions(log, PLAIN, order, 2)
    source = transition_source(log, PLAIN, n_steps=2)
    held = source.sample(source.arrays, jnp.asarray(order), jnp.int32(0))
    assert set(streamed) == set(held)
    for name, value in streamed.items():
        np.testing.assert_array_equal(value, np.asarray(held[name]), err_msg=name)


def test_a_log_without_masks_streams_one_all_true_row() -> None:
    log = random_log(40, with_masks=False)
    read = read_transitions(log, Scaling.of(log), np.arange(20), 2)
    assert read["action_mask"].shape == read["next_action_mask"].shape == (1, 3)
    reader = ShuffledReader(log, Scaling.of(log), ShuffledRows(log.num_transitions), n_steps=2)
    for updates in (1, 3):
        made = reader.batches(2, 2 + updates, 8)
        assert made["action_mask"].shape == (updates, 1, 3)
        assert made["obs"].shape == (updates, 8, 3)
    source = StreamSource.of(log, Scaling.of(log))
    shapes = []
    with source.open(iter([(0, 4), (4, 5)]), 8, 4) as take:
        for span in ((0, 4), (4, 5)):
            arrays = take(*span)
            shapes.append({name: value.shape for name, value in arrays.items()})
            batch = source.draw(arrays, jax.random.key(0), jnp.int32(0), jnp.int32(0), 8)
            for name in ("action_mask", "next_action_mask"):
                assert batch[name].shape == (8, 3)
                assert batch[name].dtype == bool
                assert np.asarray(batch[name]).all()
    assert shapes[0] == shapes[1]  # a shorter span compiles nothing


@pytest.mark.parametrize("n_steps", [1, 2])
def test_next_masks_are_read_for_the_rows_asked_for_only(n_steps: int) -> None:
    log = tiny_log(**full_columns())
    read = read_transitions(log, PLAIN, np.array([5, 0, 1, 3]), n_steps)
    assert "next_action_mask" not in vars(log)  # never made for the whole log
    everything, held = [True] * 3, log.action_mask.tolist()
    expected = {1: [everything, held[1], held[2], held[4]], 2: [everything, held[2], everything, held[4]]}
    # At two steps the window of row 3 ends with it: row 4 is cut, and what was allowed after it is unknown.
    assert read["next_action_mask"].tolist() == expected[n_steps]
    assert read["action_mask"].tolist() == [held[i] for i in (5, 0, 1, 3)]


def test_a_log_too_long_for_device_memory_is_refused() -> None:
    log = tiny_log()
    long = dataclasses.replace(log)
    object.__setattr__(long, "reward", np.broadcast_to(np.float32(0), 2**31))  # the columns of such a log do not fit
    wide = dataclasses.replace(log, observation_table=np.broadcast_to(np.float32(0), (2**31, 2)))
    for each in (long, wide):
        for make in (transition_source, shuffled_source):
            with pytest.raises(DataError, match=r"up to 2,147,483,647 rows .* this one has 2,147,483,648"):
                make(each, PLAIN)


@pytest.mark.slow
def test_n_step_values_on_a_chain_are_the_exact_ones() -> None:
    # One action, 5 states in a row, reward only at the end: V(first) = gamma^4 whatever n is.
    steps, gamma = 5, 0.9
    columns = {
        "episode": np.repeat(np.arange(40), steps),
        "observation": np.tile(np.eye(steps, dtype=np.float32), (40, 1)),
        "action": np.zeros(40 * steps, np.int32),
        "reward": np.tile([0, 0, 0, 0, 1], 40).astype(np.float32),
        "terminated": np.tile(np.arange(steps) == steps - 1, 40),
    }
    log = st.read(columns)
    found = {}
    for n in (1, 3):
        settings = st.IQL(gamma=gamma, expectile=0.5, learning_rate=1e-2, target_rate=0.1, hidden_sizes=(16,))
        run = st.fit(settings, log, updates=700, n_steps=n, batch_size=32, standardize=False, log_every_updates=350)
        found[n] = np.asarray(run.values[0].v(np.eye(steps, dtype=np.float32)))
    for n, value in found.items():
        np.testing.assert_allclose(value, gamma ** np.arange(4, -1, -1), atol=0.05, err_msg=f"n_steps={n}")


# --- pieces of episodes -----------------------------------------------------------------------------------


def test_sequences_end_with_their_episode() -> None:
    log = tiny_log(**full_columns())
    source = sequence_source(log, PLAIN, 3, columns={"own": np.arange(6.0, dtype=np.float32)})
    batch = source.sample(source.arrays, jnp.array([0, 1, 4, 5]), jnp.int32(0))
    rows = np.array([[0, 1, 2], [1, 2, 2], [4, 4, 4], [5, 5, 5]])
    assert np.asarray(batch["valid"]).tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(batch["obs"], log.observation[rows])
    np.testing.assert_array_equal(batch["action"], log.action[rows])
    np.testing.assert_array_equal(batch["action_mask"], log.action_mask[rows])
    np.testing.assert_array_equal(batch["own"], rows)
    assert np.asarray(batch["position"]).tolist() == [[0, 1, 2], [1, 2, 2], [1, 1, 1], [0, 0, 0]]


def test_streamed_sequences_are_those_in_memory() -> None:
    """Over several buffers and passes; with and without masks, discrete and continuous."""
    for log in (random_log(40), random_continuous_log(40), tiny_log(**full_columns())):
        scaling, count = Scaling.of(log), log.num_transitions
        own = {"own": np.arange(count, dtype=np.float32)}
        streamed = StreamSource.of(log, scaling, seed=3, length=4, columns=own)
        held = shuffled_source(log, scaling, seed=3, length=4, columns=own)
        spans = [(0, 5), (5, 10), (10, 15)]
        args = (jax.random.key(0), jnp.int32(0))
        size = max(4, count // 4)
        with streamed.open(iter(spans), size, 5) as ours, held.open(iter(spans), size, 5) as theirs:
            for first, end in spans:
                a, b = ours(first, end), theirs(first, end)
                for k in range(end - first):
                    one = streamed.draw(a, args[0], jnp.int32(k), args[1], size)
                    other = held.draw(b, args[0], jnp.int32(k), args[1], size)
                    assert set(one) == set(other)
                    for name, column in one.items():
                        np.testing.assert_array_equal(column, other[name], err_msg=name)
                        assert column.dtype == other[name].dtype


def test_long_sequences_are_read_in_parts_of_a_buffer() -> None:
    """What is held never has many more rows than a buffer, however long the pieces; and every start comes once a pass."""
    log = random_log(400)
    order = ShuffledRows(log.num_transitions, 1)
    reader = ShuffledReader(log, Scaling.of(log), order, length=2**18 // 100)
    seen = [reader.batches(k, k + 1, 50) for k in range(log.num_transitions // 50)]
    assert reader._held is not None
    assert len(reader._held[2]["reward"]) <= 100
    found = np.concatenate([batch["obs"][0, :, 0] for batch in seen])
    rows = order.rows(0, len(found))
    np.testing.assert_array_equal(found, read_sequences(log, Scaling.of(log), rows, 1)["obs"][:, 0])
    assert len(np.unique(rows)) == len(rows)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reward_shift_is_training_on_shifted_rewards(stream: bool, tmp_path: object) -> None:
    log, iql = random_log(40), st.IQL(hidden_sizes=(8,))
    by_hand = dataclasses.replace(log, reward=log.reward + np.float32(1.5))
    settings = {"updates": 20, "batch_size": 16, "n_steps": 3, "reward_scale": 2.0, "stream": stream, "progress": False}
    shifted = st.fit(iql, log, reward_shift=1.5, out=tmp_path / "a", **settings)
    assert_trees_equal(shifted.states, st.fit(iql, by_hand, **settings).states)
    # A critic of shifted rewards has nothing to say in the log's units; nor has one that was read back.
    assert shifted.values == [None]
    assert st.load(tmp_path / "a").values == [None]
    with pytest.raises(RunDirectoryError, match=r"reward_shift 1\.5 where yours has None"):
        st.fit(iql, log, out=tmp_path / "a", **settings)
    with pytest.raises(ConfigurationError, match="`reward_shift` of fit must be a finite number; got nan"):
        st.fit(iql, log, reward_shift=float("nan"), **settings)


@pytest.mark.parametrize(
    "algorithm",
    [st.CQL(hidden_sizes=(8,)), *(pytest.param(a(hidden_sizes=(8,)), marks=pytest.mark.slow) for a in (st.DQN, st.BC))],
    ids=lambda algorithm: algorithm.name,
)
@pytest.mark.parametrize("stream", [False, True])
def test_rules_and_n_steps_resume_bit_for_bit_and_name_their_run(stream: bool, algorithm: Any, tmp_path: Path) -> None:
    log = random_log(40)
    settings = {
        "sampling": st.EpisodeSampling(), "n_steps": 3, "stream": stream, "batch_size": 16, "save_every_updates": 10,
        "log_every_updates": 10, "progress": False,
    }  # fmt: skip
    whole = st.fit(algorithm, log, updates=30, **settings)
    with pytest.raises(StopHereError):
        st.fit(algorithm, log, updates=30, out=tmp_path, callbacks=[stop_at(10)], **settings)
    for other, named in (({"sampling": "uniform"}, "sampling"), ({"n_steps": 2}, "n_steps")):
        with pytest.raises(RunDirectoryError, match=f"holds another run, with {named} "):
            st.fit(algorithm, log, updates=30, out=tmp_path, **settings | other)
    assert st.load(tmp_path).updates == 10
    resumed = st.fit(algorithm, log, updates=30, out=tmp_path, **settings)
    assert_trees_equal(resumed.states, whole.states)
    assert resumed.history == whole.history
    by_row = st.fit(algorithm, log, updates=30, **settings | {"sampling": "uniform"})
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (by_row.states, whole.states)), strict=True))
